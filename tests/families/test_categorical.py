"""Laws of the categorical family: derivatives to the third order, probabilities, draws, two categories, far out."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from polars_glmm.errors import ModelError
from polars_glmm.families import Binomial, Categorical, Rows
from polars_glmm.families.categorical import probability_slopes, shares_of
from polars_glmm.families.densities import wanted_degrees
from tests.families.conftest import named
from tests.families.test_density import difference

LABELS = ("a", "b", "c", "d")
PLACES = [place for rank in range(1, 4) for place in combinations_with_replacement(range(3), rank)]


def family(n: int = 4, **named_arguments) -> Categorical:
    return Categorical(**named_arguments).of_categories(LABELS[:n])


def grid(magnitude: float = 2.0, n: int = 4):
    """Every category against a few points of all its predictors."""
    rng = np.random.default_rng(1)
    at = magnitude * rng.uniform(-1.0, 1.0, (n - 1, 6))
    y = np.repeat(np.arange(float(n)), at.shape[1])
    return Rows(y), tuple(np.tile(at, n))


@pytest.mark.parametrize("place", PLACES)
def test_each_derivative_is_the_difference_of_the_one_below(place):
    rows, at = grid()
    *below, k = place
    sign = -1.0 if len(place) == 2 else 1.0

    def moved(step):
        here = [one + step if j == k else one for j, one in enumerate(at)]
        return named(family().density(rows, tuple(here), 3))[tuple(below)]

    expected = sign * difference(moved, np.zeros(len(rows.y)), np.full(len(rows.y), 1e-3))
    assert_allclose(named(family().density(rows, at, 3))[place], expected, rtol=1e-8, atol=1e-11)


def test_probabilities_sum_to_one_and_are_the_density():
    rows, at = grid(5.0)
    log, p, rest = shares_of(at, rows.y)
    eta = np.stack([np.zeros(len(rows.y)), *at])
    assert_allclose(p, np.exp(eta) / np.exp(eta).sum(0), rtol=1e-13)
    assert_allclose(p.sum(0), 1.0, rtol=1e-14)
    assert_allclose(p + rest, 1.0, rtol=1e-14)
    assert_allclose(np.exp(log), p, rtol=1e-13)
    own = p[rows.y.astype(int), np.arange(len(rows.y))]
    assert_allclose(np.exp(family().density(rows, at, 0).f), own, rtol=1e-13)


def test_scores_and_curvature_have_the_moments_of_indicators():
    """E g = 0, E gg' = w = E w: Bartlett's identities, exact sums over the categories."""
    _, at = grid()
    at = tuple(one[:6] for one in at)
    p = shares_of(at, np.zeros(6)).p
    found = [family().density(Rows(np.full(6, float(k))), at, 2) for k in range(4)]
    for a in range(3):
        assert_allclose(sum(p[k] * found[k].g[a] for k in range(4)), 0.0, atol=1e-15)
        for b in range(a, 3):
            square = sum(p[k] * found[k].g[a] * found[k].g[b] for k in range(4))
            assert_allclose(square, found[0].w[a, b], rtol=1e-12)
            assert_allclose(family().expected(Rows(np.zeros(6)), at).w[a, b], found[1].w[a, b], rtol=1e-15)


@pytest.mark.parametrize("k", range(4))
def test_slopes_of_probabilities_are_differences(k):
    rows, at = grid()
    _, p, rest = shares_of(at, rows.y)
    for j, found in enumerate(probability_slopes(p, rest, k)):

        def moved(step, j=j):
            return shares_of(tuple(one + step * (i == j) for i, one in enumerate(at)), rows.y).p[k]

        assert_allclose(found, difference(moved, np.zeros(len(rows.y)), np.full(len(rows.y), 1e-3)), rtol=1e-8)


def test_two_categories_are_a_binomial_far_out_as_well():
    eta = np.array([-300.0, -35.0, -2.0, 0.0, 0.3, 7.0, 35.0, 300.0])
    for y in (0.0, 1.0):
        rows = Rows(np.full(len(eta), y))
        ours, theirs = (named(one.density(rows, (eta,), 3)) for one in (family(2), Binomial()))
        assert set(ours) == set(theirs)
        for place, value in theirs.items():
            assert_allclose(ours[place], value, rtol=2e-13, atol=1e-15)  # f of the binomial is a difference


def test_everything_is_finite_far_out():
    for magnitude in (20.0, 300.0):
        rows, at = grid(magnitude)
        for part in named(family().density(rows, at, 3)).values():
            assert np.isfinite(part).all()
    rows, at = grid(2000.0)
    assert not np.isnan(family().density(rows, at, 3).f).any()


def test_nodes_stand_before_the_rows_and_some_predictors_may_have_none():
    rows, at = grid()
    many = (np.stack([at[0], at[0] + 0.4, at[0] - 2.0]), at[1], at[2])
    whole = named(family().density(rows, many, 3))
    for q in range(3):
        for place, value in named(family().density(rows, (many[0][q], at[1], at[2]), 3)).items():
            assert_array_equal(whole[place][q], value)


@pytest.mark.parametrize("degrees", [(3, 3, 3), (3, 1, 1), (1, 3, 1), (3, 0, 1)])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_fewer_derivatives_are_some_of_all(order, degrees):
    rows, at = grid()
    whole, some = named(family().density(rows, at, 3)), named(family().density(rows, at, order, degrees))
    still = tuple(k for k in range(3) if degrees[k] < order)
    expected = {()} | {(k,) for k in range(3) if degrees[k] and order}
    for rank in range(2, order + 1):
        expected |= set(wanted_degrees(3, rank, degrees, still))
    assert set(some) == expected
    for place, value in some.items():
        assert_array_equal(value, whole[place])


def test_draws_have_the_probabilities():
    n = 40_000
    at = tuple(np.full(n, eta) for eta in (0.5, -0.3, 1.0))
    p = shares_of(tuple(one[:1] for one in at), np.zeros(1)).p[:, 0]
    drawn = family().simulate_categories(np.random.default_rng(3), at)
    shares = np.bincount(drawn.astype(int), minlength=4) / n
    assert np.all(np.abs(shares - p) < 5.0 * np.sqrt(p * (1.0 - p) / n))
    assert np.isnan(family().simulate_categories(np.random.default_rng(3), (np.array([np.nan]), 0.0, 0.0))).all()


def test_the_baseline_comes_first_and_names_nothing():
    assert [one.name for one in family().parameters] == ["b", "c", "d"]
    made = family(baseline="c")
    assert made.labels == ("c", "a", "b", "d")
    assert [one.name for one in made.parameters] == ["a", "b", "d"]
    assert made.plain == Categorical(baseline="c")
    assert made != made.plain
    assert Categorical(baseline=3).baseline == "3"
    assert Categorical(baseline=True).baseline == "true"
    with pytest.raises(ModelError, match=r"baseline='q' is no category of the response, which has 'a', 'b'"):
        family(baseline="q")
    with pytest.raises(ModelError, match="takes the label of a category, not float"):
        Categorical(baseline=1.5)
    with pytest.raises(ModelError, match="cannot be called 'mu'"):
        Categorical().of_categories(("mu", "b"))
    for wrong in ((), ("a",), ("a", "b", "a")):
        with pytest.raises(ModelError, match="two labels or more, each once"):
            Categorical().of_categories(wrong)
    with pytest.raises(ModelError, match="has no link 'probit'"):
        Categorical("probit")
