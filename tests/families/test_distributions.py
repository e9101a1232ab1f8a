"""Laws of the distributions behind thresholds and event times: tails, intervals, derivatives, far from the middle."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.families.distributions import DISTRIBUTIONS, Distribution, Surface, log1mexp
from polars_glmm.families.links import LINKS

each = pytest.mark.parametrize("dist", DISTRIBUTIONS.values(), ids=lambda dist: dist.link.name)
Z = np.array([-25.0, -6.0, -1.3, -0.2, 0.0, 0.4, 1.1, 3.0, 5.5])
CENTRES = np.array([-25.0, -7.0, -2.5, -0.4, 0.0, 0.05, 0.9, 2.2, 4.5])
"""Not far where a density falls like exp(−exp): there it is the mirror that is asked for."""
WIDTHS = (1e-8, 1e-4, 0.03, 0.19, 0.21, 0.6, 3.0, 11.0)


def centres_of(dist: Distribution) -> np.ndarray:
    return -CENTRES if dist.link.name == "loglog" else CENTRES


def by_panels(dist: Distribution, c: float, d: float) -> float:
    """log ∫ f over an interval by 4,000 panels of 12 nodes, scaled by the largest density met."""
    t, weights = np.polynomial.legendre.leggauss(12)
    edges = c + d * (np.linspace(0.0, 1.0, 4001) - 0.5)
    half = 0.5 * d / 4000
    log_f = dist.log_density((0.5 * (edges[1:] + edges[:-1]))[:, None] + half * t, 0)[0]
    most = log_f.max()
    return float(most + np.log(np.sum(np.exp(log_f - most) * weights) * half))


@each
def test_the_density_integrates_to_one_and_is_the_slope_of_the_cdf(dist: Distribution):
    f, cdf_slope, sf_slope = np.exp(dist.log_density(Z, 0)[0]), dist.log_cdf(Z, 1)[1], dist.log_sf(Z, 1)[1]
    assert_allclose(cdf_slope * np.exp(dist.log_cdf(Z, 0)[0]), f, rtol=1e-11, atol=1e-300)
    assert_allclose(-sf_slope * np.exp(dist.log_sf(Z, 0)[0]), f, rtol=1e-11, atol=1e-300)
    whole = np.logaddexp(dist.log_cdf(np.zeros(1), 0)[0], dist.log_sf(np.zeros(1), 0)[0])
    assert_allclose(whole, 0.0, atol=1e-15)


@each
def test_derivatives_of_densities_are_differences(dist: Distribution):
    h, found = 1e-3, dist.log_density(Z, 3)
    for k in range(3):
        slope = (dist.log_density(Z + h, 3)[k] - dist.log_density(Z - h, 3)[k]) / (2 * h)
        assert_allclose(found[k + 1], slope, rtol=2e-5, atol=2e-5)


@each
@pytest.mark.parametrize("d", WIDTHS)
def test_an_interval_is_the_integral_of_the_density(dist: Distribution, d):
    centres = centres_of(dist)
    found = dist.log_interval(centres, np.full_like(centres, d), 0)[0, 0]
    assert_allclose(found, [by_panels(dist, float(c), d) for c in centres], rtol=1e-11, atol=2e-12)


@each
@pytest.mark.parametrize("d", WIDTHS)
def test_derivatives_of_intervals_are_differences(dist: Distribution, d):
    centres = centres_of(dist)
    width = np.full_like(centres, d)
    found = dist.log_interval(centres, width, 3)
    assert set(found) == {(i, j) for i in range(4) for j in range(4 - i)}

    def at(c, w) -> Surface:
        return dist.log_interval(c, w, 2)

    for axis, step in ((0, 2e-4), (1, 1e-3 * d)):
        h = (step, 0.0) if axis == 0 else (0.0, step)
        ends = [at(centres + m * h[0], width + m * h[1]) for m in (-2, -1, 1, 2)]
        for i, j in ends[0]:
            a, b, c, e = (end[i, j] for end in ends)
            slope = (8.0 * (c - b) - (e - a)) / (12.0 * step)
            exact = found[i + 1 - axis, j + axis]
            noise = 1e-12 * np.maximum(np.abs(ends[0][i, j]), 1.0) / step
            assert np.all(np.abs(slope - exact) <= 1e-6 * np.abs(exact) + noise + 1e-9), (axis, i, j)


@each
@pytest.mark.parametrize("d", [1e-9, 1e-3, 0.5, 2.0])
def test_shifts_of_narrow_intervals_are_shifts_of_the_density(dist: Distribution, d):
    """As the interval closes, log[F(u) − F(l)] − log d becomes log f(c), third derivative included."""
    centres = centres_of(dist)
    found = dist.log_interval(centres, np.full_like(centres, d), 3)
    density = dist.log_density(centres, 3)
    mean = [by_panels_of(dist, k, centres, d) for k in range(1, 4)]
    for k in range(1, 4):
        assert_allclose(found[k, 0], mean[k - 1], rtol=1e-7, atol=1e-9)
        if d == 1e-9:
            assert_allclose(found[k, 0], density[k], rtol=1e-9, atol=1e-12)


def by_panels_of(dist: Distribution, k: int, centres: np.ndarray, d: float) -> np.ndarray:
    """The k-th derivative in the centre as a cumulant under the density within the interval."""
    t, weights = np.polynomial.legendre.leggauss(60)
    edges = np.linspace(-0.5, 0.5, 41)
    inner = (0.5 * (edges[1:] + edges[:-1])[:, None] + t / 80.0).ravel()
    share = np.tile(weights / 80.0, 40)
    z = centres + d * inner[:, None]
    f, f1, f2, f3 = dist.log_density(z, 3)
    p = share[:, None] * np.exp(f - f.max(axis=0))
    p /= p.sum(axis=0)
    mean = (p * f1).sum(axis=0)
    if k == 1:
        return mean
    away = f1 - mean
    if k == 2:
        return (p * (f2 + away**2)).sum(axis=0)
    return (p * (f3 + 3.0 * f2 * away + away**3)).sum(axis=0)


@pytest.mark.parametrize("d", [1e-12, 1e-6, 0.3, 40.0])
@pytest.mark.parametrize("c", [-300.0, -40.0, 0.5, 40.0, 300.0])
def test_logistic_intervals_to_their_last_digits(c, d):
    with localcontext() as context:
        context.prec = 400
        low, high = Decimal(c) - Decimal(d) / 2, Decimal(c) + Decimal(d) / 2
        exact = float((1 / (1 + (-high).exp()) - 1 / (1 + (-low).exp())).ln())
    found = DISTRIBUTIONS["logit"].log_interval(np.array([c]), np.array([d]), 0)[0, 0]
    assert_allclose(found, exact, rtol=4e-16, atol=4e-16)


@each
@pytest.mark.parametrize("at", [-300.0, 300.0])
def test_all_is_finite_far_out(dist: Distribution, at):
    z = np.array([at])
    for derivatives in (dist.log_density(z, 3), dist.log_cdf(z, 3), dist.log_sf(z, 3)):
        assert np.all(np.isfinite(derivatives))
    for d in (1e-9, 1e-3, 1.0, 40.0):
        found = dist.log_interval(z, np.array([d]), 3)
        assert np.all(np.isfinite(np.array(list(found.values()))))
        if dist.log_concave:
            assert found[2, 0] <= 1e-8 * max(1.0, abs(float(found[1, 0][0])))


@each
def test_an_interval_without_width_has_no_probability(dist: Distribution):
    found = dist.log_interval(np.zeros(3), np.array([0.0, -1.0, 0.5]), 3)
    assert found[0, 0][0] == found[0, 0][1] == -np.inf
    assert np.isfinite(found[0, 0][2])
    assert all(np.all(part[:2] == 0.0) for key, part in found.items() if any(key))
    assert set(dist.log_interval(np.zeros(1), np.ones(1), 1)) == {(0, 0), (1, 0), (0, 1)}


@each
def test_means_and_spreads_are_those_of_draws(dist: Distribution):
    z = dist.link.forward((np.arange(200_000) + 0.5) / 200_000)
    if dist.mean is None:
        assert dist.sd is None
        return
    assert_allclose([z.mean(), z.std()], [dist.mean, dist.sd], atol=2e-3)


def test_the_logarithm_of_one_less_an_exponential_keeps_its_digits():
    for d in (1e-12, 0.5, 0.7, 40.0):
        with localcontext() as context:
            context.prec = 60
            exact = float((1 - (-Decimal(d)).exp()).ln())
        assert_allclose(log1mexp(np.array([d]), 0)[0], exact, rtol=1e-15)


def test_the_log_log_links_mirror_each_other():
    eta = np.array([-3.0, 0.2, 5.0, 30.0])
    for k, (a, b) in enumerate(zip(LINKS["loglog"].log(eta, 3), LINKS["cloglog"].log_complement(-eta, 3), strict=True)):
        assert_allclose(a, (-1) ** k * b, rtol=1e-15)
