"""Laws of every family × link: one line of log density, and everything that follows from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from polars_glmm.families import Binomial, Gamma, Gaussian, InverseGaussian, Lognormal, NegativeBinomial, Poisson, Rows
from polars_glmm.families.mean_family import MeanFamily
from polars_glmm.typing import Vec
from tests.families.conftest import MODELS, named, predictors

PLACES = [(), (0,), (1,), (0, 0), (0, 1), (1, 1), (0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)]
STEPS = [(below, (*below, k)) for below in PLACES for k in (0, 1) if (*below, k) in PLACES]
"""Derivatives and those one order below them; the last index says in which predictor."""
with_phi = pytest.mark.parametrize("family", [family for family in MODELS if family.has_phi], ids=repr)
ALL = (3, 3)
"""Degrees of two predictors that both move."""


def difference(at: Callable[[Vec], Vec], x: Vec, h: Vec) -> Vec:
    """Five-point difference: error h⁴/30 of the fifth derivative."""
    return (8.0 * (at(x + h) - at(x - h)) - (at(x + 2.0 * h) - at(x - 2.0 * h))) / (12.0 * h)


def step(family: MeanFamily, eta: Vec) -> Vec:
    """Small beside the distance to the border of the domain, where derivatives run away."""
    low, high = family.link.domain(family.mean_range)
    near = np.minimum(np.minimum(np.abs(eta - low), np.abs(high - eta)), 1.0)
    if family.link.name == "inverse":
        near = np.minimum(np.abs(eta), near)
    return 1e-3 * near


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("below", "place"), STEPS)
@pytest.mark.parametrize("compute", ["density", "definition"])
def test_each_derivative_is_the_difference_of_the_one_below(family, case, below, place, compute):
    one = case()
    evaluate, sign = getattr(family, compute), -1.0 if len(place) == 2 else 1.0

    def at(eta: Vec, zeta: Vec | float) -> dict[tuple[int, ...], Vec]:
        return named(evaluate(one.rows, predictors(eta, None if one.zeta is None else zeta), 3, ALL))

    result = at(one.eta, one.zeta)
    if not family.has_phi and 1 in place:
        assert place not in result
        return
    if place[-1]:
        moving, h = np.full_like(one.eta, one.zeta), 1e-4 if family.of_times else 1e-3
        expected = sign * difference(lambda z: at(one.eta, z)[below], moving, h)
        noise = 1e-10 * (1.0 + np.abs(result[below]) + np.abs(one.rows.y))
    else:
        h = step(family, one.eta)
        expected = sign * difference(lambda e: at(e, one.zeta)[below], one.eta, h)
        noise = 1e-13 * (1.0 + np.abs(result[below]) + np.abs(one.rows.y)) / h
    assert np.all(np.abs(result[place] - expected) <= 3e-9 * np.abs(expected) + noise)


def reached(family, magnitude: float) -> bool:
    """Whether the domain of the link has an eta so far from 0."""
    outside = family.link.outside(np.array([-magnitude, magnitude]), family.mean_range)
    return outside is None or not outside.all()


@pytest.mark.parametrize(
    ("family", "magnitude"),
    [
        pytest.param(family, magnitude, id=f"{family!r}-{magnitude}")
        for family in MODELS
        for magnitude in (0.0, 1.0, 5.0, 20.0, 300.0)
        if reached(family, magnitude)
    ],
)
def test_everything_is_finite_far_out(family, case, magnitude):
    one = case(magnitude)
    for part in named(family.density(one.rows, one.at, 3, ALL)).values():
        assert np.isfinite(part).all()
    for part in named(family.expected(one.rows, one.at)).values():
        assert np.isfinite(part).all()


def test_a_search_that_runs_away_meets_no_warning_and_no_nan_in_the_density(family, case):
    one = case(1000.0)
    if one.eta.size:
        assert not np.isnan(family.density(one.rows, one.at, 3).f).any()
        assert not np.isnan(family.expected(one.rows, one.at).w[0, 0]).all()


FUSED = [
    Gaussian(), Binomial(), Binomial("probit"), Binomial("cloglog"), Poisson(), Gamma(), InverseGaussian(),
    NegativeBinomial(), Lognormal(),
]  # fmt: skip


def fused_and_defined(family: MeanFamily, rows: Rows, at: tuple[Vec | float, ...]) -> None:
    """Equal to 1e-12 of the size of the terms that a row adds up: its density, its response, its weight."""
    defined, fused = named(family.definition(rows, at, 3, ALL)), named(family.density(rows, at, 3, ALL))
    terms = np.abs(rows.y) if rows.trials is None else rows.trials
    assert set(defined) == set(fused)
    for place, a in defined.items():
        size = np.abs(a) if place in {(0, 0), (0, 0, 0)} and family.name != "binomial" else np.abs(a) + terms
        if not place:
            size = size + np.abs(rows.y * at[0])
        if 1 in place:  # the definition has differences of terms of this size, the kernel has not
            size = size + defined[0, 0] + (np.exp(np.abs(at[1])) if place.count(1) > 1 else 0.0)
        assert np.all(np.abs(a - fused[place]) <= 1e-12 * size), place


@pytest.mark.parametrize("family", FUSED, ids=repr)
def test_a_fused_kernel_equals_the_definition(family, case):
    assert family.link.name in family.kernels
    one = case()
    fused_and_defined(family, one.rows, one.at)
    fused_and_defined(
        family, one.rows, predictors(one.eta, None if one.zeta is None else np.linspace(-2.0, 2.0, one.eta.size))
    )


def test_all_fused_kernels_are_in_the_list(family):
    assert (family in FUSED) == (family.link.name in family.kernels)


@pytest.mark.parametrize("family", [Binomial(), Binomial("probit"), Binomial("cloglog")], ids=repr)
def test_weights_keep_their_digits_in_both_tails(family):
    eta = np.array([-35.0, -20.0, -10.0, 2.0, 3.0]) if family.link.name == "cloglog" else np.linspace(-35, 35, 71)
    if family.link.name == "probit":
        eta = eta / 4.0
    for y in (0.0, 1.0):
        rows = Rows(np.full_like(eta, y))
        fused, defined = (evaluate(rows, (eta,), 3).w[0, 0] for evaluate in (family.density, family.definition))
        assert_allclose(fused, defined, rtol=1e-12)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_lower_order_is_the_beginning_of_a_higher_one(family, case, order):
    one = case()
    for most in (0, 1, 3):
        degrees = (3, most)
        full, part = (named(family.density(one.rows, one.at, o, degrees)) for o in (3, order))
        assert set(part) == {place for place in full if len(place) <= order}
        for place, values in part.items():
            assert_array_equal(values, full[place])


def test_a_predictor_that_stands_still_spares_derivatives_and_changes_no_other(family, case):
    one = case()
    full = named(family.density(one.rows, one.at, 3, ALL))
    for most in (0, 1):
        part = named(family.density(one.rows, one.at, 3, (3, most)))
        assert set(part) == {place for place in full if place.count(1) <= most}
        for place, values in part.items():
            assert_array_equal(values, full[place])


def test_quadrature_nodes_are_a_leading_axis(family, case):
    one = case()
    shifts = np.array([[1.0], [0.99], [1.01]])
    zetas = None if one.zeta is None else one.zeta * shifts * np.ones_like(one.eta)
    stacked = named(family.density(one.rows, predictors(one.eta * shifts, zetas), 3, ALL))
    weights = family.expected(one.rows, predictors(one.eta * shifts, zetas)).w[0, 0]
    for q, shift in enumerate(shifts[:, 0]):
        at = predictors(one.eta * shift, None if zetas is None else zetas[q])
        for place, b in named(family.density(one.rows, at, 3, ALL)).items():
            assert stacked[place].shape == (3, one.eta.size)
            assert_allclose(stacked[place][q], b, rtol=1e-12, atol=1e-13)
        assert_allclose(weights[q], family.expected(one.rows, at).w[0, 0], rtol=1e-14)


@with_phi
def test_nodes_of_phi_alone_are_a_leading_axis_too(family, case):
    one = case()
    zetas = one.zeta * np.array([[1.0], [0.9]]) * np.ones_like(one.eta)
    stacked = named(family.density(one.rows, (one.eta, zetas), 3, ALL))
    for q, zeta in enumerate(zetas):
        for place, b in named(family.density(one.rows, (one.eta, zeta), 3, ALL)).items():
            assert_allclose(stacked[place][q], b, rtol=1e-12, atol=1e-13)


def test_nothing_that_is_handed_in_is_written_to(family, case):
    one = case()
    arrays = tuple(part for part in one.rows if isinstance(part, np.ndarray))
    given = (*arrays, *predictors(one.eta, None if one.zeta is None else np.full_like(one.eta, one.zeta)))
    copies = [np.copy(part) for part in given]
    at = given[len(arrays) :]
    family.density(one.rows, at, 3, ALL)
    family.definition(one.rows, at, 3, ALL)
    family.expected(one.rows, at)
    for before, after in zip(copies, given, strict=True):
        assert before is None or np.array_equal(before, after)


@with_phi
def test_a_constant_zeta_is_a_column_of_equal_ones(family, case):
    one = case()
    number, column = (
        named(family.density(one.rows, (one.eta, zeta), 3, ALL)) for zeta in (one.zeta, np.full_like(one.eta, one.zeta))
    )
    for place, values in number.items():
        assert_allclose(values, column[place], rtol=1e-12, atol=1e-12)


OUTSIDE = [
    (Poisson("identity"), -0.5), (Poisson("sqrt"), -0.5), (Gamma("inverse"), -1.0), (Gamma("identity"), 0.0),
    (InverseGaussian("inverse_squared"), -2.0), (Binomial("log"), 0.1), (Binomial("identity"), 1.0),
    (Binomial("identity"), -0.1), (Poisson("identity"), float("nan")),
]  # fmt: skip


@pytest.mark.parametrize(("family", "eta"), OUTSIDE, ids=repr)
def test_outside_the_domain_the_log_density_is_minus_infinity_and_flat(family, eta):
    rows, inside = Rows(np.array([1.0, 1.0])), family.link.interior(family.mean_range)
    at = predictors(np.array([eta, inside]), 0.1 if family.has_phi else None)
    result = named(family.density(rows, at, 3, ALL))
    assert result[()][0] == -np.inf
    assert np.isfinite(result.pop(())[1])
    for part in (*result.values(), *named(family.expected(rows, at)).values()):
        assert part[0] == 0.0
        assert np.isfinite(part).all()


def test_a_bernoulli_is_a_binomial_of_one_trial(case):
    for link in Binomial.links:
        family = Binomial(link)
        eta = np.linspace(-3.0, -0.1, 9) if link == "log" else np.linspace(0.05, 0.95, 9)
        y = np.arange(9.0) % 2.0
        alone, counted = (named(family.density(Rows(y, n), (eta,), 3)) for n in (None, np.ones(9)))
        for place, values in alone.items():
            assert_allclose(values, counted[place], rtol=1e-14, atol=1e-16)
        assert_allclose(family.constant(Rows(y, np.ones(9))), family.constant(Rows(y)), atol=1e-15)


@pytest.mark.parametrize("family", [Binomial(), Binomial("probit"), Binomial("cloglog"), Poisson()], ids=repr)
def test_the_density_is_linear_in_the_response_so_that_equal_rows_collapse_to_their_mean(family):
    """k rows at one eta are one row at their mean response, k times."""
    eta = np.array([-5.5, -1.0, 0.2, 6.0])
    rows = [Rows(np.full(4, y)) for y in (0.0, 1.0, 1.0)]
    apart = [named(family.density(row, (eta,), 3)) for row in rows]
    together = named(family.density(Rows(np.full(4, 2.0 / 3.0)), (eta,), 3))
    for place, values in together.items():
        assert_allclose(values, sum(part[place] for part in apart) / 3.0, rtol=1e-12)


def test_a_dispersion_without_zeta_is_an_error():
    with pytest.raises(ValueError, match="gamma has a dispersion"):
        Gamma().density(Rows(np.ones(2)), (np.zeros(2),), 0)
