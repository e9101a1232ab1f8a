"""Families with zeros of their own: every law of a density in all its predictors, and what mixing two laws gives."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from polars_glmm.errors import ModelError
from polars_glmm.families import Binomial, Gamma, Gaussian, NegativeBinomial, Poisson, Rows
from polars_glmm.families.base import beyond_mean
from polars_glmm.families.registry import FAMILIES
from polars_glmm.families.zero_inflated import ZeroInflated, takes_zeros
from tests.families.conftest import HELD, named, responses
from tests.families.five_points import STEPS, next_ones

MODELS = [
    ZeroInflated(family(link, **HELD.get(name, {})))
    for name, family in FAMILIES.items()
    for link in family.links
    if takes_zeros(family(link)) and name != "gompertz"
]
COUNTS = [family for family in MODELS if family.discrete]
each = pytest.mark.parametrize("family", MODELS, ids=repr)
ZETAS, ZS = (-0.7, 0.9), (-3.0, 0.2, 2.5)


def rows_of(family) -> Rows:
    y, _, precision = responses(family.base)
    y = np.append(y[y > 0.0], 0.0)
    return Rows(y, None, None if precision is None else np.ones(len(y)))


def etas(family) -> np.ndarray:
    low, high = family.link.domain(family.mean_range)
    tried = np.array([-2.0, -0.4, 0.3, 1.7, 4.0])
    return tried[(tried > low) & (tried < high)]


def places(family, eta=None) -> list[tuple[float, ...]]:
    """Points in all predictors."""
    further = [ZETAS] if family.has_phi else []
    return list(product(etas(family) if eta is None else eta, *further, ZS))


def further_at(family, at):
    """Parameters beyond the mean, on their own scales."""
    pairs = zip(family.parameters[1:], at[1:], strict=True)
    return beyond_mean([float(one.link.inverse(np.float64(value))) for one, value in pairs])


def finite(density) -> bool:
    return all(np.isfinite(value).all() for value in named(density).values())


@pytest.mark.slow
@each
def test_rows_split_by_zero_have_the_density_of_the_definition(family):
    rows, n = rows_of(family), family.n_parameters
    for at in places(family):
        for order in range(4):
            for degrees in ((order,) * n, (order,) + (1,) * (n - 1), (order,) + (0,) * (n - 1)):
                eta = np.full(len(rows.y), at[0])
                if not finite(family.density(rows, (eta, *at[1:]), 3, (3,) * n)):
                    continue  # a generalized Poisson ends
                split = named(family.density(rows, (eta, *at[1:]), order, degrees))
                whole = named(family.definition(rows, (eta, *at[1:]), order, degrees))
                assert split.keys() == whole.keys()
                for place, value in whole.items():
                    close = 1e-9 * (1.0 + np.abs(value) + np.abs(whole[()]))
                    assert np.all(np.abs(split[place] - value) <= close), (place, at, split[place], value)


@pytest.mark.one_in(8)
@each
def test_each_derivative_is_the_difference_of_the_one_below(family):
    rows, n = rows_of(family), family.n_parameters
    for at in places(family):
        vectors = [np.full(len(rows.y), value) for value in at]
        here = named(family.density(rows, tuple(vectors), 3, (3,) * n))
        if not all(np.isfinite(value).all() for value in here.values()):
            continue  # a generalized Poisson ends
        for k in range(n):
            h = 1e-3 * (min(1.0, abs(at[0])) if k == 0 else 1.0)
            near = []
            for times in STEPS:
                moved = [v + times * h * (j == k) for j, v in enumerate(vectors)]
                near.append(named(family.density(rows, tuple(moved), 3, (3,) * n)))
            if not all(np.isfinite(value).all() for one in near for value in one.values()):
                continue
            for one in next_ones(here, near, k, h):
                scale = 1.0 + np.abs(one.wanted) + np.abs(one.below) + np.abs(rows.y)
                assert np.all(np.abs(one.slope - one.wanted) <= 2e-7 * scale), (one.place, at)


@pytest.mark.one_in(3)
@each
def test_a_density_is_finite_far_from_zero_in_every_predictor(family):
    rows, n = rows_of(family), family.n_parameters
    far = [300.0 if family.link.outside(np.array([300.0]), family.mean_range) is None else 3.0]
    for at in product(*([(-far[0], far[0], 0.4)] * n)):
        if family.link.outside(np.array([at[0]]), family.mean_range) is not None and at[0] < 0:
            continue
        for which in (family.base, family):
            own = at[: which.n_parameters]
            rest = rows if which is family else Rows(rows.y[rows.y > 0], None, None)
            found = named(which.density(rest, (np.full(len(rest.y), own[0]), *own[1:]), 3))
            bad = {place for place, value in found.items() if not np.isfinite(value).all()}
            if which is family.base:
                excused = bad
        assert bad <= excused or (not family.hurdle and not bad), (at, bad)


@pytest.mark.parametrize("family", COUNTS, ids=repr)
def test_probabilities_of_counts_sum_to_one_and_to_their_distribution(family):
    y = np.arange(0.0, 3000.0)
    rows = Rows(y)
    for at in places(family, eta=[0.4, 1.2]):
        if family.link.outside(np.array([at[0]]), family.mean_range) is not None:
            continue
        p = np.exp(family.density(rows, (np.full(len(y), at[0]), *at[1:]), 0).f + family.constant(rows))
        mu = family.mean(np.full(len(y), at[0]))
        phi = further_at(family, at)
        if "generalized" in family.name:  # does not sum to one exactly
            continue
        assert_allclose(p.sum(), 1.0, rtol=1e-9)
        assert_allclose(np.cumsum(p), family.cdf(rows, mu, phi), rtol=1e-8)
        assert_allclose(1.0 - np.cumsum(p)[:20], family.cdf(rows, mu, phi, upper=True)[:20], rtol=1e-6, atol=1e-10)
        mean = (p * y).sum()
        assert_allclose(mean, family.expectation(mu, phi)[0][0], rtol=1e-7)
        assert_allclose((p * (y - mean) ** 2).sum(), family.variance(mu, phi)[0], rtol=1e-6)
        assert_allclose(p[0], family.zero_probability(mu, phi)[0], rtol=1e-9)


@each
def test_draws_have_the_mean_and_the_zeros_of_the_law(family):
    rng, n = np.random.default_rng(4), 40_000
    at = places(family, eta=etas(family)[-2:-1])[0]
    mu = family.mean(np.full(n, at[0]))
    phi = further_at(family, at)
    y = family.simulate(rng, mu, phi, Rows(np.zeros(n)))
    zero = family.zero_probability(mu, phi)[0]
    assert abs(np.mean(y == 0.0) - zero) < 5.0 * np.sqrt(zero * (1.0 - zero) / n)
    sd = np.sqrt(family.variance(mu, phi)[0])
    if not np.isfinite(sd):
        return  # times with heavy tails have no mean to compare
    assert abs(y.mean() - family.expectation(mu, phi)[0][0]) < 5.0 * sd / np.sqrt(n)


def test_a_hurdle_is_a_binary_law_and_one_of_what_is_above():
    family, rows = ZeroInflated(Gamma("log")), Rows(np.array([0.0, 2.0]))
    found = family.density(rows, (np.full(2, 0.3), 0.1, -0.8), 2, (2, 2, 2))
    own = Gamma("log").density(Rows(rows.y[1:]), (np.full(1, 0.3), 0.1), 2)
    zero = Binomial().density(Rows(np.array([1.0, 0.0])), (np.full(2, -0.8),), 2)
    assert_allclose(found.f, zero.f + np.array([0.0, own.f[0]]), rtol=1e-14)
    assert_array_equal(found.w[0, 2], 0.0)
    assert_allclose(found.w[2, 2], zero.w[0, 0], rtol=1e-14)


@pytest.mark.parametrize("z", [-40.0, -1e10, -1e150])
def test_without_inflation_a_family_is_itself(z):
    family, rows = ZeroInflated(NegativeBinomial()), Rows(np.array([0.0, 1.0, 7.0]))
    eta = np.array([-1.0, 0.2, 1.1])
    found, own = family.density(rows, (eta, 0.4, z), 2), NegativeBinomial().density(rows, (eta, 0.4), 2)
    assert_allclose(found.f, own.f, rtol=1e-14)
    assert_allclose(found.w[0, 0], own.w[0, 0], rtol=1e-12)


def test_families_whose_zeros_are_responses_like_any_other_refuse():
    with pytest.raises(ModelError, match="hurdle"):
        ZeroInflated(Gaussian())
    assert not takes_zeros(ZeroInflated(Poisson()))
