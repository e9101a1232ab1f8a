"""Differences taken on paper against exact sums and 60-digit arithmetic."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special

from polars_glmm.families import Gamma, NegativeBinomial, Poisson, Rows
from polars_glmm.families.special import (
    coth_rest,
    digamma_rest,
    digamma_rest_bend,
    log1p_rest,
    normal_tail,
    rising,
    rising_bend,
    stirling_rest,
)
from tests.families.conftest import named


@pytest.mark.parametrize("x", [1e-9, 1e-3, 0.049, 0.051, 0.3, 7.0, 1e8])
def test_log1p_rest_to_its_last_digits(x):
    with localcontext() as context:
        context.prec = 60
        d = Decimal(x)
        exact = float((1 + d).ln() - d / (1 + d))
    at = np.array([x])
    assert_allclose(log1p_rest(at, np.log1p(at), at / (1.0 + at)), exact, rtol=2e-14)


@pytest.mark.parametrize("t", [1e-9, 1e-3, 0.249, 0.251, 1.0, 9.0])
def test_coth_rest_to_the_digits_that_matter_beside_half_t(t):
    with localcontext() as context:
        context.prec = 60
        d = Decimal(t)
        exact = float(d / (d.exp() - 1) - 1 + d / 2)
    at = np.array([t])
    assert_allclose(coth_rest(at, at / np.expm1(at)), exact, rtol=1e-14, atol=1e-15 * t)


@pytest.mark.parametrize("a", [0.3, 2.0, 15.9, 16.1, 100.0, 1e6, 1e12])
def test_stirling_rests_satisfy_the_recurrences_of_the_gamma_function(a):
    """log Γ(a+1) = log Γ(a) + log a and ψ(a+1) = ψ(a) + 1/a, with the leading terms in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        d = Decimal(a)
        step = float((d + Decimal("0.5")) * ((d + 1) / d).ln() - 1)
        digamma_step = float(((d + 1) / d).ln() - (1 / d + 1 / (d + 1)) / 2)
    assert_allclose(stirling_rest(a) - stirling_rest(a + 1.0), step, rtol=1e-6 if a > 1e3 else 2e-9, atol=2e-14 / a)
    drop = digamma_rest(a) / a - digamma_rest(a + 1.0) / (a + 1.0)
    assert_allclose(drop, -digamma_step + 0.0, rtol=1e-6 if a > 1e3 else 2e-9, atol=2e-14 / a**2)
    arrays = np.array([a, 3.0, 40.0])
    assert_allclose(stirling_rest(arrays), [stirling_rest(float(b)) for b in arrays], rtol=1e-15)
    assert_allclose(digamma_rest(arrays), [digamma_rest(float(b)) for b in arrays], rtol=1e-15)


def test_the_normal_tail_and_its_curvatures():
    """Against scipy's log_ndtr, the asymptotic series far out, and their own differences between."""
    x = np.array([-30.0, -3.0, 0.0, 1.0, 4.4, 4.6, 8.0, 20.0, 300.0])
    log, hazard, slope, bend = normal_tail(x, 3)
    assert_allclose(log, special.log_ndtr(-x), rtol=1e-13)
    assert_allclose(hazard[-1] - 300.0, 1 / 300 - 2 / 300**3, rtol=1e-7)
    assert_allclose(1.0 - slope[-1], 300.0**-2 - 6 * 300.0**-4, rtol=1e-7)
    assert_allclose(bend[-1], 2 * 300.0**-3 - 24 * 300.0**-5 + 300 * 300.0**-7, rtol=1e-8)
    h = 2e-3
    for name, derivative, sign in (("log", hazard, -1.0), ("hazard", slope, 1.0), ("slope", bend, 1.0)):
        at = [getattr(normal_tail(x[:-1] + k * h, 3), name) for k in (-2, -1, 1, 2)]
        assert_allclose(
            sign * (8 * (at[2] - at[1]) - (at[3] - at[0])) / (12 * h), derivative[:-1], rtol=1e-7, atol=1e-10
        )


LARGE = [(0.0, 1.2), (1.0, 1.2), (2.0, -3.0), (7.0, 2.0), (40.0, 3.0), (1000.0, 6.5)]


def negative_binomial(y: int, eta: Decimal, zeta: Decimal) -> Decimal:
    """log p + log y! − the part that stays at phi = inf is not taken out: the plain formula, in many digits."""
    phi, mu = zeta.exp(), eta.exp()
    total = sum(((1 + k / phi).ln() for k in range(y)), Decimal(0))
    return total + y * eta - (y + phi) * (1 + mu / phi).ln()


@pytest.mark.parametrize("zeta", [-8.0, -1.0, 0.5, 4.0, 10.0, 20.0, 30.0])
@pytest.mark.parametrize("phi_of_rows", ["one number", "a column"])
@pytest.mark.slow
def test_negative_binomial_loses_no_digits_in_the_size(zeta, phi_of_rows):
    """f and its derivatives in log phi against 90-digit arithmetic, from a tiny size to one beyond 1e13."""
    for y, eta in LARGE:
        with localcontext() as context:
            context.prec = 90
            e, z, h = Decimal(eta), Decimal(zeta), Decimal("1e-15")
            at = {(i, j): negative_binomial(int(y), e + i * h, z + j * h) for i in (-1, 0, 1) for j in (-1, 0, 1)}
            f = float(at[0, 0])
            f_zeta = float((at[0, 1] - at[0, -1]) / (2 * h))
            g_zeta = float((at[1, 1] - at[1, -1] - at[-1, 1] + at[-1, -1]) / (4 * h * h))
            f_zeta2 = float((at[0, 1] - 2 * at[0, 0] + at[0, -1]) / h**2)
            bends = [at[i, 1] - 2 * at[i, 0] + at[i, -1] for i in (-1, 1)]
            g_zeta2 = float((bends[1] - bends[0]) / (2 * h**3))
            wide = [negative_binomial(int(y), e, z + j * h) for j in (-2, 2)]
            f_zeta3 = float((wide[1] - 2 * at[0, 1] + 2 * at[0, -1] - wide[0]) / (2 * h**3))
            second = [at[1, j] - 2 * at[0, j] + at[-1, j] for j in (-1, 1)]
            w_zeta = float(-(second[1] - second[0]) / (2 * h**3))
            phi, mu = float(z.exp()), float(e.exp())
        column = np.array([eta])
        size = zeta if phi_of_rows == "one number" else np.array([zeta])
        result = named(NegativeBinomial().density(Rows(np.array([y])), (column, size), 3, (3, 3)))
        share = mu / (mu + phi)
        assert_allclose(result[()], f, rtol=2e-14, atol=2e-14 * (1.0 + y * abs(eta) + y * abs(zeta)))
        pull = y * share + min(mu * share, phi) + y * min(y / phi, 1.0)
        assert_allclose(result[1,], f_zeta, rtol=1e-13, atol=1e-13 * pull)
        assert_allclose(-result[0, 1], g_zeta, rtol=1e-11, atol=1e-14 * share * (y + mu))
        assert_allclose(result[0, 0, 1], w_zeta, rtol=1e-11, atol=1e-13 * share * (y + mu))
        assert_allclose(result[1, 1], -f_zeta2, rtol=1e-11, atol=1e-12 * pull)
        assert_allclose(result[0, 1, 1], -g_zeta2, rtol=1e-11, atol=1e-12 * share * (y + mu))
        assert_allclose(result[1, 1, 1], -f_zeta3, rtol=1e-11, atol=1e-12 * pull)


def test_negative_binomial_becomes_poisson_as_its_size_grows():
    y, eta = np.array([0.0, 1.0, 4.0, 60.0]), np.array([0.2, -3.0, 2.0, 4.0])
    limit = Poisson().density(Rows(y), (eta,), 3)
    far = named(NegativeBinomial().density(Rows(y), (eta, 34.0), 3, (3, 3)))
    for place, part in named(limit).items():
        assert_allclose(far[place], part, rtol=1e-11)
    for place, part in far.items():
        assert 1 not in place or np.all(np.abs(part) < 1e-10)
    near = NegativeBinomial().density(Rows(y), (eta, 9.0), 3)
    mu = np.exp(eta)
    first_order = ((y - mu) ** 2 - y) / 2.0 * math.exp(-9.0)
    assert_allclose(near.f - limit.f, first_order, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("phi", [1e-3, 0.7, 30.0, 1e7])
def test_the_table_of_sums_and_the_series_are_one_function(phi):
    y = np.array([0.0, 1.0, 2.0, 17.0, 60.0])
    table, series = rising(y, phi), rising(y, np.full(5, phi))
    for a, b in zip((*table, *rising_bend(y, phi)), (*series, *rising_bend(y, np.full(5, phi))), strict=True):
        assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    huge = np.array([1e6, 3.0])
    for a, b in zip(rising(huge, phi), rising(huge, np.full(2, phi)), strict=True):
        assert_allclose(a, b, rtol=1e-12)
    exact = math.fsum(math.log1p(k / phi) for k in range(60))
    assert_allclose(table[0][-1], exact, rtol=1e-14)


@pytest.mark.parametrize("zeta", [-30.0, -12.0, 0.0, 5.0])
def test_gamma_keeps_its_digits_at_a_small_dispersion(zeta):
    """With y = mu the density in y is ½ log(ν/2π) − 1/(12ν) + …, and its slope in zeta −½ − 1/(12ν) + …"""
    shape = math.exp(-zeta)
    result = named(Gamma().density(Rows(np.ones(1)), (np.zeros(1), zeta), 3, (3, 3)))
    if shape > 100.0:
        assert_allclose(result[()], 0.5 * math.log(shape / (2 * math.pi)) - 1 / (12 * shape), rtol=1e-9)
        assert_allclose(result[1,], -0.5 - 1 / (12 * shape), rtol=1e-9)
        assert_allclose(result[1, 1], 1 / (12 * shape), rtol=1e-5)
        assert_allclose(result[1, 1, 1], 1 / (12 * shape), rtol=1e-5)
    else:
        assert_allclose(result[()], shape * math.log(shape) - shape - special.gammaln(shape), rtol=1e-13)
        assert_allclose(result[1,], -shape * (math.log(shape) - special.digamma(shape)), rtol=1e-12)


@pytest.mark.parametrize("a", [0.3, 3.0, 15.99, 16.01, 300.0])
def test_the_bends_of_the_rest_of_digamma_are_its_differences_in_the_logarithm(a):
    h = 1e-3
    near = [digamma_rest(a * math.exp(k * h)) for k in (-2, -1, 1, 2)]
    first, second = digamma_rest_bend(a)
    assert_allclose(first, (8 * (near[2] - near[1]) - (near[3] - near[0])) / (12 * h), rtol=1e-8)
    near = [digamma_rest_bend(a * math.exp(k * h))[0] for k in (-2, -1, 1, 2)]
    assert_allclose(second, (8 * (near[2] - near[1]) - (near[3] - near[0])) / (12 * h), rtol=1e-7)
