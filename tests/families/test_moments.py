"""Sums, integrals and draws: the density is one, its score is zero on average, its curvature is as expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special, stats

from polars_glmm.families import (
    Binomial,
    Gamma,
    Gaussian,
    NegativeBinomial,
    Poisson,
    Rows,
    TruncatedNegativeBinomial,
)
from polars_glmm.families.mean_family import MeanFamily
from polars_glmm.typing import Vec
from tests.families.conftest import named, predictors

MEANS = {"real": (-1.5, 0.4, 2.0), "positive": (0.3, 1.0, 4.0), "unit": (0.05, 0.5, 0.9)}
DISPERSIONS = {
    "beta": 8.0, "beta_binomial": 3.0, "generalized_poisson": 1.8, "truncated_negative_binomial": 2.0,
    "weibull": 1.3, "loglogistic": 5.0,
}  # fmt: skip
"""phi by the name of a family; elsewhere 0.35."""
TRIALS, PRECISION = 7.0, 1.7


def dispersed(family: MeanFamily) -> float | None:
    return DISPERSIONS.get(family.name, 0.35) if family.has_phi else None


def log_dispersion(family: MeanFamily) -> float | None:
    phi = dispersed(family)
    return None if phi is None else float(np.log(phi))


class Support(NamedTuple):
    """Rows over the whole support with the weight each point has in a sum or integral."""

    rows: Rows
    weight: Vec


def support(family: MeanFamily) -> Support:
    """All counts that matter, or a trapezoidal grid (spectrally exact here) on y, or on log y for y > 0."""
    match family.name:
        case "binomial" | "beta_binomial":
            y = np.arange(TRIALS + 1.0)
            return Support(Rows(y, np.full_like(y, TRIALS)), np.ones_like(y))
        case "poisson" | "negative_binomial" | "negative_binomial1" | "generalized_poisson":
            y = np.arange(600.0)
            return Support(Rows(y), np.ones_like(y))
        case "truncated_poisson" | "truncated_negative_binomial" | "truncated_negative_binomial1":
            y = np.arange(1.0, 600.0)
            return Support(Rows(y), np.ones_like(y))
        case "student_t":
            at = np.linspace(-30.0, 30.0, 20_001)
            y, weight = np.sinh(at), np.cosh(at) * (at[1] - at[0])
        case "beta":
            at = np.linspace(-100.0, 36.0, 20_001)
            y = special.expit(at)
            weight = y * special.expit(-at) * (at[1] - at[0])
        case "tweedie":
            log_y = np.linspace(-60.0, 8.0, 20_001)
            y = np.append(0.0, np.exp(log_y))
            return Support(Rows(y), np.append(1.0, y[1:] * (log_y[1] - log_y[0])))
        case "gaussian":
            y = np.linspace(-12.0, 12.0, 4001)
            weight = np.full_like(y, y[1] - y[0])
        case _:
            log_y = np.linspace(-30.0, 12.0, 20_001)
            y = np.exp(log_y)
            weight = y * (log_y[1] - log_y[0])
    return Support(Rows(y, precision=np.full_like(y, PRECISION) if family.takes_precision else None), weight)


@pytest.fixture
def points(family: MeanFamily) -> tuple[Support, Vec, float | None]:
    """Support, eta (3, 1) at means of the range, zeta."""
    mu = np.array(MEANS[family.mean_range])
    if family.name == "gaussian" and family.link.name == "log":
        mu = np.abs(mu)
    return support(family), family.link.forward(mu)[:, None], log_dispersion(family)


def broad(eta: Vec, rows: Rows) -> Vec:
    return np.broadcast_to(eta, (eta.shape[0], rows.y.size))


def probabilities(family: MeanFamily, points: tuple[Support, Vec, float | None]) -> Vec:
    (rows, weight), eta, zeta = points
    return np.exp(family.density(rows, predictors(broad(eta, rows), zeta), 0).f + family.constant(rows)) * weight


def test_the_density_with_its_constant_sums_to_one(family, points):
    assert_allclose(probabilities(family, points).sum(axis=1), 1.0, rtol=1e-11)


def test_mean_and_variance_are_those_of_the_density(family, points):
    (rows, _), eta, _ = points
    p = probabilities(family, points)
    trials = TRIALS if family.takes_trials else 1.0
    mean, mu, phi = (p * rows.y).sum(axis=1), family.mean(eta[:, 0]), dispersed(family)
    expectation, slope = family.expectation(mu, phi)
    assert_allclose(mean, trials * expectation, rtol=1e-10)
    assert family.mu_is_mean == bool(np.array_equal(expectation, mu))
    above, below = (family.expectation(mu + h, phi)[0] for h in (1e-6, -1e-6))
    assert_allclose(slope, (above - below) / 2e-6, rtol=1e-7)
    variance = (p * (rows.y - mean[:, None]) ** 2).sum(axis=1)
    one = rows.each(lambda part: part[0])
    if not family.takes_precision:
        one = one._replace(precision=None)
    assert_allclose(variance, trials**2 * family.response_variance(one, mu, phi), rtol=1e-9)


@pytest.mark.one_in(3)
def test_scores_average_to_zero_and_curvature_to_the_expected_one(family, points):
    (rows, _), eta, zeta = points
    p = probabilities(family, points)
    result = named(family.density(rows, predictors(broad(eta, rows), zeta), 2))
    one = rows.each(lambda part: part[:1])
    expected = family.expected(one, predictors(eta, zeta)).w[0, 0]
    assert_allclose((p * result[0,]).sum(axis=1), 0.0, atol=1e-10 * float(np.max(expected)) + 1e-12)
    curvature = (p * result[0, 0]).sum(axis=1)
    assert_allclose((p * result[0,] ** 2).sum(axis=1), curvature, rtol=1e-9)
    if family.knows_information:
        assert_allclose(curvature, expected[:, 0], rtol=1e-9)
    else:  # a working weight: of the size of the curvature
        assert np.all((expected[:, 0] > 0.1 * curvature) & (expected[:, 0] < 10.0 * curvature))
    if family.has_phi:
        assert_allclose((p * result[1,]).sum(axis=1), 0.0, atol=1e-9)
    if family.canonical:
        assert_allclose(result[0, 0], np.broadcast_to(expected, result[0, 0].shape), rtol=1e-9)


def test_expected_curvature_has_the_derivatives_it_says(family, points):
    (rows, _), eta, zeta = points
    one = rows.each(lambda part: part[:1])
    expected = named(family.expected(one, predictors(eta, zeta)))
    h = 1e-3 * np.minimum(np.abs(eta), 0.3)

    def difference(at: Callable[[Vec], Vec], h: Vec) -> Vec:
        return (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)

    slope = difference(lambda d: family.expected(one, predictors(eta + d, zeta)).w[0, 0], np.where(h == 0.0, 1e-3, h))
    assert_allclose(expected[0, 0, 0], slope, rtol=1e-7, atol=1e-9)
    if family.has_phi:
        slope = difference(lambda d: family.expected(one, (eta, zeta + d)).w[0, 0], np.full_like(eta, 1e-3))
        assert_allclose(expected[0, 0, 1], slope, rtol=1e-9)
    else:
        assert (0, 0, 1) not in expected


SCIPY = {
    "gaussian": lambda r, mu, phi: stats.norm.logpdf(r.y, mu, phi / np.sqrt(PRECISION)),
    "binomial": lambda r, mu, phi: stats.binom.logpmf(r.y, TRIALS, mu),
    "poisson": lambda r, mu, phi: stats.poisson.logpmf(r.y, mu),
    "gamma": lambda r, mu, phi: stats.gamma.logpdf(r.y, PRECISION / phi, scale=mu * phi / PRECISION),
    "inverse_gaussian": lambda r, mu, phi: stats.invgauss.logpdf(r.y, mu * phi / PRECISION, scale=PRECISION / phi),
    "negative_binomial": lambda r, mu, phi: stats.nbinom.logpmf(r.y, phi, phi / (phi + mu)),
    "negative_binomial1": lambda r, mu, phi: stats.nbinom.logpmf(r.y, mu / phi, 1.0 / (1.0 + phi)),
    "beta": lambda r, mu, phi: stats.beta.logpdf(r.y, mu * phi, (1.0 - mu) * phi),
    "beta_binomial": lambda r, mu, phi: stats.betabinom.logpmf(r.y, TRIALS, mu * phi, (1.0 - mu) * phi),
    "lognormal": lambda r, mu, phi: stats.lognorm.logpdf(r.y, phi, scale=np.exp(mu)),
    "truncated_poisson": lambda r, mu, phi: stats.poisson.logpmf(r.y, mu) - np.log(stats.poisson.sf(0, mu)),
    "truncated_negative_binomial": lambda r, mu, phi: (
        stats.nbinom.logpmf(r.y, phi, phi / (phi + mu)) - np.log(stats.nbinom.sf(0, phi, phi / (phi + mu)))
    ),
    "truncated_negative_binomial1": lambda r, mu, phi: (
        stats.nbinom.logpmf(r.y, mu / phi, 1.0 / (1.0 + phi)) - np.log(stats.nbinom.sf(0, mu / phi, 1.0 / (1.0 + phi)))
    ),
    "student_t": lambda r, mu, phi: stats.t.logpdf(r.y, 4.0, mu, phi),
    "generalized_poisson": lambda r, mu, phi: _consul_jain(r.y, mu / np.sqrt(phi), 1.0 - 1.0 / np.sqrt(phi)),
    "tweedie": lambda r, mu, phi: _mixed_gammas(r.y, mu, phi, 1.5),
    "exponential": lambda r, mu, phi: stats.expon.logpdf(r.y, scale=mu),
    "weibull": lambda r, mu, phi: stats.weibull_min.logpdf(r.y, phi, scale=mu),
    "loglogistic": lambda r, mu, phi: stats.fisk.logpdf(r.y, phi, scale=mu),
}


def _consul_jain(y: Vec, theta: Vec, rate: float) -> Vec:
    """θ(θ + λy)^(y−1) exp(−θ − λy)/y!, as Consul and Jain write it."""
    return np.log(theta) + (y - 1.0) * np.log(theta + rate * y) - theta - rate * y - special.gammaln(y + 1.0)


def _mixed_gammas(y: Vec, mu: Vec, phi: float, p: float) -> Vec:
    """Poisson many gamma amounts, summed up to 200 of them."""
    rate, a, scale = mu ** (2 - p) / (phi * (2 - p)), (2 - p) / (p - 1), phi * (p - 1) * mu ** (p - 1)
    j = np.arange(1.0, 200.0)[:, None, None]
    terms = stats.poisson.logpmf(j, rate) + stats.gamma.logpdf(np.maximum(y, 1e-300), a * j, scale=scale)
    return np.where(y > 0.0, special.logsumexp(terms, axis=0), -rate)


def test_scipy_has_the_same_log_density_constants_included(family, points):
    (rows, _), eta, zeta = points
    middle = slice(rows.y.size // 3, rows.y.size // 3 + 60) if family.takes_precision else slice(0, 60)
    rows = rows.each(lambda part: part[middle])
    ours = family.density(rows, predictors(broad(eta, rows), zeta), 0).f + family.constant(rows)
    assert_allclose(ours, SCIPY[family.name](rows, family.mean(eta), dispersed(family)), rtol=1e-9, atol=1e-10)


def test_draws_have_the_mean_and_variance(family, points):
    _, eta, _ = points
    n = 60_000
    mu = np.broadcast_to(family.mean(eta), (3, n))
    phi = dispersed(family)
    rows = Rows(
        np.empty(n),
        np.full(n, TRIALS) if family.takes_trials else None,
        np.full(n, PRECISION) if family.takes_precision else None,
    )
    y = family.simulate(np.random.default_rng(20), mu, phi, rows)
    assert y.shape == mu.shape
    assert not family.outside_support(rows._replace(y=y)).any()
    trials = TRIALS if family.takes_trials else 1.0
    one = rows.each(lambda part: part[0])
    variance = trials**2 * family.response_variance(one, mu[:, 0], phi)
    expectation = family.expectation(mu[:, 0], phi)[0]
    assert np.all(np.abs(y.mean(axis=1) - trials * expectation) < 4.5 * np.sqrt(variance / n))
    kurtosis = stats.kurtosis(y, axis=1)
    assert np.all(np.abs(y.var(axis=1) / variance - 1.0) < 5.0 * np.sqrt((kurtosis + 2.0) / n))
    if family.has_phi:
        estimate = family.start_phi(rows._replace(y=y[1]), mu[1])
        assert phi is not None
        assert abs(estimate / phi - 1.0) < 0.1


def test_deviance_is_twice_the_gap_to_a_mean_at_the_response(family):
    y = np.array([0.5, 1.0, 2.0, 6.0]) if family.mean_range != "unit" else np.array([1.0, 2.0, 5.0, 6.0])
    y = y if family.takes_precision else np.ceil(y)
    y = y / 8.0 if family.name == "beta" else y
    n, w = (
        np.full(4, size) if takes else None
        for size, takes in ((7.0, family.takes_trials), (1.7, family.takes_precision))
    )
    rows = Rows(y, n, w)
    mu = np.array([0.4, 0.6, 0.7, 0.8])
    phi = 0.3
    zeta = np.log(phi) if family.has_phi else None

    def log_density(mean: Vec) -> Vec:
        return family.density(rows, predictors(family.link.forward(mean), zeta), 0).f

    squared = dict.fromkeys(("gaussian", "lognormal"), phi**2)
    scale = {**squared, **dict.fromkeys(("gamma", "inverse_gaussian", "tweedie"), phi)}.get(family.name, 1.0)
    if family.mu_is_mean or family.residual or family.of_times:
        best = family.at_response(rows)
    else:  # a count of one is likeliest at a mean of zero
        best = family.mu_of_mean(y, phi)
        least = family.expectation(np.full(4, 1e-12), phi)[0]
        assert_allclose(family.expectation(best, phi)[0], np.maximum(y, least), rtol=1e-9)
    gap = np.maximum(2.0 * scale * (log_density(best) - log_density(mu)), 0.0)
    assert_allclose(family.unit_deviance(rows, mu, phi), gap, rtol=1e-9, atol=1e-12)
    saturated = family.saturated(rows)
    if saturated is not None:
        assert_allclose(saturated, log_density(y if n is None else y / n) + family.constant(rows), rtol=1e-11)


def test_deviance_and_saturated_likelihood_at_the_edges_of_the_support():
    rows = Rows(np.array([0.0, 7.0]), np.full(2, 7.0))
    assert_allclose(Binomial().saturated(rows), 0.0, atol=1e-14)
    assert_allclose(Binomial().unit_deviance(rows, np.array([0.2, 0.2]), None), [-14 * np.log(0.8), -14 * np.log(0.2)])
    assert_allclose(Binomial().unit_deviance(rows, np.array([0.0, 1.0]), None), 0.0)
    assert_allclose(Poisson().saturated(Rows(np.zeros(1))), 0.0)
    assert_allclose(Poisson().unit_deviance(Rows(np.zeros(1)), np.array([1.5]), None), 3.0)
    assert Gaussian().saturated(rows) is Gamma().saturated(rows) is None
    y, mu = np.array([0.0, 2.0, 9.0]), np.array([1.0, 2.5, 3.0])
    poisson = Poisson().unit_deviance(Rows(y), mu, None)
    assert_allclose(NegativeBinomial().unit_deviance(Rows(y), mu, np.inf), poisson)
    assert_allclose(NegativeBinomial().unit_deviance(Rows(y), mu, 1e9), poisson, rtol=1e-7)


def test_without_a_mean_there_is_no_draw(family):
    impossible = {"real": np.nan, "positive": -1.0, "unit": 1.5}[family.mean_range]
    mu = np.array([0.5, impossible, np.nan])
    rows = Rows(np.ones(3), np.full(3, 7.0) if family.takes_trials else None)
    y = family.simulate(np.random.default_rng(1), mu, 0.5 if family.has_phi else None, rows)
    assert np.isnan(y).tolist() == [False, True, True]


def test_a_size_without_end_draws_poisson_counts():
    mu = np.full(40_000, 3.0)
    y = NegativeBinomial().simulate(np.random.default_rng(3), mu, np.inf, Rows(mu))
    assert abs(y.var() / 3.0 - 1.0) < 0.04
    assert_allclose(NegativeBinomial().variance(mu[:2], np.inf), 3.0)


def test_starts_are_inside_the_domain(family):
    counts = {"binomial": [0.0, 3.0, 7.0], "beta_binomial": [0.0, 3.0, 7.0]}
    y = {**counts, "gaussian": [-1.0, 0.0, 3.0]}.get(family.name, [0.0, 1.0, 30.0])
    y = np.array(y) + (0.01 if family.name in {"gamma", "inverse_gaussian"} or family.of_times else 0.0)
    y = y / 31.0 + 0.01 if family.name == "beta" else y + 1.0 if family.name.startswith("truncated") else y
    rows = Rows(y, np.full(3, 7.0) if family.takes_trials else None)
    eta = family.start(rows)
    outside = family.link.outside(eta, family.mean_range)
    assert outside is None or not outside.any()
    zeta = 0.0 if family.has_phi else None
    assert all(np.isfinite(part).all() for part in named(family.density(rows, predictors(eta, zeta), 2)).values())
    phi = family.start_phi(rows, family.mean(eta))
    assert phi > 0.0 if family.has_phi else np.isnan(phi)


IMPOSSIBLE = {
    "gaussian": [np.nan, np.inf],
    "binomial": [-1.0, 0.5, 8.0, np.nan],
    "poisson": [-1.0, 0.5, np.inf, np.nan],
    "negative_binomial": [-1.0, 0.5, np.inf, np.nan],
    "gamma": [0.0, -1.0, np.inf, np.nan],
    "inverse_gaussian": [0.0, -1.0, np.inf, np.nan],
    "negative_binomial1": [-1.0, 0.5, np.inf, np.nan],
    "generalized_poisson": [-1.0, 0.5, np.inf, np.nan],
    "beta": [0.0, 1.0, -0.5, 2.0, np.nan],
    "beta_binomial": [-1.0, 0.5, 8.0, np.nan],
    "lognormal": [0.0, -1.0, np.inf, np.nan],
    "truncated_poisson": [0.0, 0.5, np.inf, np.nan],
    "truncated_negative_binomial": [0.0, 0.5, np.inf, np.nan],
    "truncated_negative_binomial1": [0.0, 0.5, np.inf, np.nan],
    "student_t": [np.nan, np.inf],
    "tweedie": [-1.0, np.inf, np.nan],
    "exponential": [0.0, -1.0, np.inf, np.nan],
    "weibull": [0.0, -1.0, np.inf, np.nan],
    "loglogistic": [0.0, -1.0, np.inf, np.nan],
}


def test_impossible_responses_are_known(family):
    wrong, right = np.array(IMPOSSIBLE[family.name]), np.array([1.0, 2.0, 7.0])
    right = right / 8.0 if family.name == "beta" else right
    y = np.concatenate([wrong, right])
    rows = Rows(y, np.full(y.size, 7.0) if family.takes_trials else None)
    assert family.outside_support(rows).tolist() == [True] * wrong.size + [False] * right.size


def test_without_trials_a_success_is_one():
    assert Binomial().outside_support(Rows(np.array([0.0, 1.0, 2.0]))).tolist() == [False, False, True]


@pytest.mark.one_in(3)
def test_the_distribution_function_sums_the_density_from_both_sides(family, points):
    (rows, _), eta, _ = points
    phi = dispersed(family)
    mu = family.mean(broad(eta, rows))
    lower, upper = family.cdf(rows, mu, phi), family.cdf(rows, mu, phi, upper=True)
    below = np.cumsum(probabilities(family, points), axis=1)
    if not family.discrete:  # the trapezoid puts half of a point's weight on either side
        below -= np.where((rows.y == 0.0) & (family.name == "tweedie"), 0.0, 0.5) * probabilities(family, points)
    assert_allclose(lower, below, atol=1e-12 if family.discrete else 1e-4)
    assert_allclose(lower + upper, 1.0, rtol=1e-12)


def test_the_distribution_function_ends_where_the_support_does(family, points):
    _, eta, _ = points
    mu, phi = family.mean(eta[:, 0]), dispersed(family)
    trials, precision = np.full(3, TRIALS), np.full(3, PRECISION)
    for y, below in ((-1e9, 0.0), (1e9, 1.0)):
        rows = Rows(np.full(3, y), trials if family.takes_trials else None, precision)
        assert_allclose(family.cdf(rows, mu, phi), below, atol=1e-15)
        assert_allclose(family.cdf(rows, mu, phi, upper=True), 1.0 - below, atol=1e-15)


def test_tails_keep_their_digits() -> None:
    """Against scipy.stats, where the other tail is 1 to rounding."""
    y, mu = np.array([60.0]), np.array([4.0])
    assert_allclose(Poisson().cdf(Rows(y), mu, None, upper=True), stats.poisson.sf(60, 4.0), rtol=1e-12)
    assert_allclose(Binomial().cdf(Rows(y, y + 10), np.array([0.1]), None, upper=True), stats.binom.sf(60, 70, 0.1))
    assert_allclose(Gaussian().cdf(Rows(y), mu, 2.0, upper=True), stats.norm.sf(28.0), rtol=1e-12)
    assert_allclose(Gamma().cdf(Rows(y), mu, 0.2, upper=True), stats.gamma.sf(60.0, 5.0, scale=0.8), rtol=1e-12)
    nb = stats.nbinom.sf(400, 3.0, 3.0 / 7.0)
    assert_allclose(NegativeBinomial().cdf(Rows(np.array([400.0])), mu, 3.0, upper=True), nb, rtol=1e-9)
    assert_allclose(NegativeBinomial().cdf(Rows(y), mu, np.inf, upper=True), stats.poisson.sf(60, 4.0), rtol=1e-12)


@pytest.mark.parametrize(("eta", "zeta"), [(-1.0, 0.3), (-18.0, -17.0), (-30.0, -31.0)])
def test_curvature_of_counts_above_zero_is_the_expected_one_up_to_the_logarithmic_series(eta, zeta):
    family, rows = TruncatedNegativeBinomial(), Rows(np.arange(1.0, 3000.0))
    at = np.full(len(rows.y), eta)
    found = family.density(rows, (at, zeta), 2)
    p = np.exp(found.f + family.constant(rows))
    expected = family.expected(Rows(np.ones(1)), (np.array([eta]), zeta)).w[0, 0]
    assert_allclose(expected, [np.sum(p * found.w[0, 0])], rtol=1e-8)
