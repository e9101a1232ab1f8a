"""Laws of every family × link: one line of log density, and everything that follows from it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from polars_glmm.families import Binomial, Density, Gamma, Gaussian, InverseGaussian, NegativeBinomial, Poisson, Rows
from polars_glmm.families.mean_family import MeanFamily
from polars_glmm.typing import Vec

DERIVATIVES = [("f", "g", 1.0), ("g", "w", -1.0), ("w", "dw", 1.0)]
ZETA_DERIVATIVES = [("f", "f_zeta"), ("g", "g_zeta"), ("w", "w_zeta")]


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


@pytest.mark.parametrize(("below", "name", "sign"), DERIVATIVES)
@pytest.mark.parametrize("compute", ["density", "definition"])
def test_each_derivative_in_eta_is_the_difference_of_the_one_below(family, case, below, name, sign, compute):
    _, rows, eta, zeta = case()
    evaluate = getattr(family, compute)
    h = step(family, eta)
    expected = sign * difference(lambda e: getattr(evaluate(rows, e, zeta, 3), below), eta, h)
    result = evaluate(rows, eta, zeta, 3)
    noise = 1e-13 * (1.0 + np.abs(getattr(result, below)) + np.abs(rows.y)) / h
    assert np.all(np.abs(getattr(result, name) - expected) <= 3e-9 * np.abs(expected) + noise)


@pytest.mark.parametrize(("below", "name"), ZETA_DERIVATIVES)
@pytest.mark.parametrize("compute", ["density", "definition"])
def test_each_derivative_in_zeta_is_a_difference_in_zeta(family, case, below, name, compute):
    _, rows, eta, zeta = case()
    evaluate = getattr(family, compute)
    result = getattr(evaluate(rows, eta, zeta, 3), name)
    if not family.has_phi:
        assert result is None
        return
    base = getattr(evaluate(rows, eta, zeta, 3), below)
    expected = difference(lambda z: getattr(evaluate(rows, eta, z, 3), below), np.full_like(eta, zeta), 1e-3)
    assert np.all(np.abs(result - expected) <= 3e-9 * np.abs(expected) + 1e-10 * (1.0 + np.abs(base) + np.abs(rows.y)))


@pytest.mark.parametrize("magnitude", [0.0, 1.0, 5.0, 20.0, 300.0])
def test_everything_is_finite_far_out(family, case, magnitude):
    _, rows, eta, zeta = case(magnitude)
    if not eta.size:
        pytest.skip("no such eta in the domain")
    for part in family.density(rows, eta, zeta, 3):
        assert part is None or np.isfinite(part).all()
    for part in family.expected(rows, eta, zeta):
        assert part is None or np.isfinite(part).all()


def test_a_search_that_runs_away_meets_no_warning_and_no_nan_in_the_density(family, case):
    _, rows, eta, zeta = case(1000.0)
    if eta.size:
        assert not np.isnan(family.density(rows, eta, zeta, 3).f).any()
        assert not np.isnan(family.expected(rows, eta, zeta).w).all()


FUSED = [
    Gaussian(), Binomial(), Binomial("probit"), Binomial("cloglog"), Poisson(), Gamma(), InverseGaussian(),
    NegativeBinomial(),
]  # fmt: skip


def fused_and_defined(family: MeanFamily, rows: Rows, eta: Vec, zeta: float | Vec | None) -> None:
    """Equal to 1e-12 of the size of the terms that a row adds up: its density, its response, its weight."""
    defined, fused = family.definition(rows, eta, zeta, 3), family.density(rows, eta, zeta, 3)
    terms = np.abs(rows.y) if rows.trials is None else rows.trials
    for name, a, b in zip(Density._fields, defined, fused, strict=True):
        if a is None:
            assert b is None
            continue
        size = np.abs(a) if name in {"w", "dw"} and family.name != "binomial" else np.abs(a) + terms
        if name == "f":
            size = size + np.abs(rows.y * eta)
        if "zeta" in name:  # the definition has differences of terms of this size, the kernel has not
            size = size + defined.w
        assert np.all(np.abs(a - b) <= 1e-12 * size), name


@pytest.mark.parametrize("family", FUSED, ids=repr)
def test_a_fused_kernel_equals_the_definition(family, case):
    assert family.link.name in family.kernels
    _, rows, eta, zeta = case()
    fused_and_defined(family, rows, eta, zeta)
    fused_and_defined(family, rows, eta, None if zeta is None else np.linspace(-2.0, 2.0, eta.size))


def test_all_fused_kernels_are_in_the_list(family):
    assert (family in FUSED) == (family.link.name in family.kernels)


@pytest.mark.parametrize("family", [Binomial(), Binomial("probit"), Binomial("cloglog")], ids=repr)
def test_weights_keep_their_digits_in_both_tails(family):
    eta = np.array([-35.0, -20.0, -10.0, 2.0, 3.0]) if family.link.name == "cloglog" else np.linspace(-35, 35, 71)
    if family.link.name == "probit":
        eta = eta / 4.0
    for y in (0.0, 1.0):
        rows = Rows(np.full_like(eta, y))
        assert_allclose(family.density(rows, eta, None, 3).w, family.definition(rows, eta, None, 3).w, rtol=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_a_lower_order_is_the_beginning_of_a_higher_one(family, case, order):
    _, rows, eta, zeta = case()
    full, part = family.density(rows, eta, zeta, 3), family.density(rows, eta, zeta, order)
    orders = {"f": 0, "g": 1, "w": 2, "dw": 3, "f_zeta": 1, "g_zeta": 2, "w_zeta": 3}
    for name, needed in orders.items():
        if needed > order or ("zeta" in name and not family.has_phi):
            assert getattr(part, name) is None, name
        else:
            assert_array_equal(getattr(part, name), getattr(full, name))


def test_without_zeta_parts_the_rest_is_the_same(family, case):
    _, rows, eta, zeta = case()
    full, part = (family.density(rows, eta, zeta, 3, zeta_parts=wanted) for wanted in (True, False))
    for name in ("f", "g", "w", "dw"):
        assert_array_equal(getattr(part, name), getattr(full, name))
    assert part.f_zeta is part.g_zeta is part.w_zeta is None


def test_quadrature_nodes_are_a_leading_axis(family, case):
    _, rows, eta, zeta = case()
    shifts = np.array([[1.0], [0.99], [1.01]])
    stacked = family.density(rows, eta * shifts, zeta, 3)
    weights = family.expected(rows, eta * shifts, zeta)
    for q, shift in enumerate(shifts[:, 0]):
        alone = family.density(rows, eta * shift, zeta, 3)
        for a, b in zip(stacked, alone, strict=True):
            if b is not None:
                assert a.shape == (3, eta.size)
                assert_allclose(a[q], b, rtol=1e-14, atol=1e-300)
        assert_allclose(weights.w[q], family.expected(rows, eta * shift, zeta).w, rtol=1e-14)


def test_nothing_that_is_handed_in_is_written_to(family, case):
    _, rows, eta, zeta = case()
    copies = [None if part is None else part.copy() for part in (*rows, eta)]
    zetas = None if zeta is None else np.full_like(eta, zeta)
    family.density(rows, eta, zetas, 3)
    family.definition(rows, eta, zetas, 3)
    family.expected(rows, eta, zetas)
    for before, after in zip(copies, (*rows, eta), strict=True):
        assert before is None or np.array_equal(before, after)
    assert zeta is None or np.all(zetas == zeta)


def test_a_constant_zeta_is_a_column_of_equal_ones(family, case):
    _, rows, eta, zeta = case()
    if zeta is None:
        pytest.skip("no phi")
    one, many = family.density(rows, eta, zeta, 3), family.density(rows, eta, np.full_like(eta, zeta), 3)
    for a, b in zip(one, many, strict=True):
        assert_allclose(a, b, rtol=1e-12, atol=1e-12)


OUTSIDE = [
    (Poisson("identity"), -0.5), (Poisson("sqrt"), -0.5), (Gamma("inverse"), -1.0), (Gamma("identity"), 0.0),
    (InverseGaussian("inverse_squared"), -2.0), (Binomial("log"), 0.1), (Binomial("identity"), 1.0),
    (Binomial("identity"), -0.1), (Poisson("identity"), float("nan")),
]  # fmt: skip


@pytest.mark.parametrize(("family", "eta"), OUTSIDE, ids=repr)
def test_outside_the_domain_the_log_density_is_minus_infinity_and_flat(family, eta):
    rows, inside = Rows(np.array([1.0, 1.0])), family.link.interior(family.mean_range)
    zeta = 0.1 if family.has_phi else None
    result = family.density(rows, np.array([eta, inside]), zeta, 3)
    assert result.f[0] == -np.inf
    assert np.isfinite(result.f[1])
    for part in result[1:]:
        assert part is None or (part[0] == 0.0 and np.isfinite(part).all())
    for part in family.expected(rows, np.array([eta, inside]), zeta):
        assert part is None or (part[0] == 0.0 and np.isfinite(part).all())


def test_a_bernoulli_is_a_binomial_of_one_trial(case):
    for link in Binomial.links:
        family = Binomial(link)
        eta = np.linspace(-3.0, -0.1, 9) if link == "log" else np.linspace(0.05, 0.95, 9)
        y = np.arange(9.0) % 2.0
        alone, counted = (family.density(Rows(y, n), eta, None, 3) for n in (None, np.ones(9)))
        for a, b in zip(alone[:4], counted[:4], strict=True):
            assert_allclose(a, b, rtol=1e-14, atol=1e-16)
        assert_allclose(family.constant(Rows(y, np.ones(9))), family.constant(Rows(y)), atol=1e-15)


@pytest.mark.parametrize("family", [Binomial(), Binomial("probit"), Binomial("cloglog"), Poisson()], ids=repr)
def test_the_density_is_linear_in_the_response_so_that_equal_rows_collapse_to_their_mean(family):
    """k rows at one eta are one row at their mean response, k times."""
    eta = np.array([-5.5, -1.0, 0.2, 6.0])
    rows = [Rows(np.full(4, y)) for y in (0.0, 1.0, 1.0)]
    apart = [family.density(row, eta, None, 3) for row in rows]
    together = family.density(Rows(np.full(4, 2.0 / 3.0)), eta, None, 3)
    for name in ("f", "g", "w", "dw"):
        assert_allclose(getattr(together, name), sum(getattr(part, name) for part in apart) / 3.0, rtol=1e-12)


def test_a_dispersion_without_zeta_is_an_error():
    with pytest.raises(ValueError, match="gamma has a dispersion"):
        Gamma().density(Rows(np.ones(2)), np.zeros(2), None, 0)
