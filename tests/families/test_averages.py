"""Averages over a normal linear predictor: closed forms, an adaptive integral, derivatives against differences."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, special, stats

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.errors import ModelError
from polars_glmm.families import Binomial, Gamma, Gaussian, InverseGaussian, NegativeBinomial, Poisson, Rows
from polars_glmm.families.averages import (
    Averaged,
    averaged_cdf,
    averaged_density,
    averaged_mean,
    natural_jacobian,
    random_variance,
)
from polars_glmm.families.links import LINKS

PLACES = [(-2.52, 4.57), (0.3, 0.5), (1.0, 10.0), (-8.0, 3.0), (2.0, 50.0), (0.7, 0.0)]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["logit", "cloglog", "cauchit", "probit"])
@pytest.mark.parametrize(("eta", "sd"), PLACES)
def test_the_average_mean_is_the_integral(name: str, eta: float, sd: float) -> None:
    link = LINKS[name]

    def integrand(z: float) -> float:
        return float(link.inverse(np.array([eta + sd * z]))[0]) * float(stats.norm.pdf(z))

    middle = [float(np.clip(-eta / sd, -8.0, 8.0))] if sd else None
    expected = integrate.quad(integrand, -9.0, 9.0, points=middle, limit=800, epsabs=1e-14, epsrel=1e-13)[0]
    assert_allclose(averaged_mean(link, np.array([eta]), np.array([sd**2])).value, expected, rtol=1e-12)


def test_closed_forms() -> None:
    eta, v = np.array([-1.0, 0.4]), np.array([0.3, 2.0])
    assert_allclose(averaged_mean(LINKS["identity"], eta, v).value, eta)
    assert_allclose(averaged_mean(LINKS["log"], eta, v).value, np.exp(eta + v / 2))
    assert_allclose(averaged_mean(LINKS["sqrt"], eta, v).value, eta**2 + v)
    assert_allclose(averaged_mean(LINKS["probit"], eta, v).value, special.ndtr(eta / np.sqrt(1 + v)))


@pytest.mark.parametrize("name", ["identity", "log", "sqrt", "probit", "logit", "cloglog", "cauchit"])
def test_derivatives_are_those_of_the_average(name: str) -> None:
    link, eta, v, h = LINKS[name], np.array([-1.2, 0.3, 2.0]), np.array([0.2, 1.0, 9.0]), 1e-5

    def value(eta: np.ndarray, v: np.ndarray) -> np.ndarray:
        return averaged_mean(link, eta, v).value

    found = averaged_mean(link, eta, v)
    assert_allclose(found.d_eta, (value(eta + h, v) - value(eta - h, v)) / (2 * h), rtol=1e-7, atol=1e-9)
    assert_allclose(found.d_variance, (value(eta, v + h) - value(eta, v - h)) / (2 * h), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", ["inverse", "inverse_squared"])
def test_a_mean_with_a_pole_has_no_average(name: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        averaged_mean(LINKS[name], np.ones(1), np.ones(1))


CASES = [
    (Poisson(), None), (NegativeBinomial(), 1.5), (Binomial(), None), (Binomial("cloglog"), None), (Gamma(), 0.3),
    (InverseGaussian(), 0.2), (Gaussian(), 2.0), (Gaussian("log"), 7.0),
]  # fmt: skip
RESPONSES = [(3.0, 1.0, 1.0), (0.0, -1.0, 2.0), (200.0, 4.0, 0.5), (1e4, 8.0, 1.5), (2.0, 0.0, 0.0)]
"""Response, eta, sd: from a likelihood far wider than the random effects to one far narrower."""


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("model", "phi"), CASES)
@pytest.mark.parametrize(("y", "eta", "sd"), RESPONSES)
def test_the_average_distribution_is_the_integral(model, phi: float | None, y: float, eta: float, sd: float) -> None:
    if not model.discrete:
        y = max(y, 0.4)
    trials = np.array([max(20.0, 1.2 * y)]) if model.takes_trials else None
    rows = Rows(np.array([y]), None if trials is None else np.round(trials))
    z = np.linspace(-9.0, 9.0, 200_001)
    weights = np.exp(-0.5 * z * z) / np.exp(-0.5 * z * z).sum()
    at, v = eta + sd * z, np.array([sd**2])
    with np.errstate(over="ignore"):
        zeta = None if phi is None else np.log(phi)
        predictors = (at,) if zeta is None else (at, zeta)
        density = np.exp(model.density(rows, predictors, 0).f + model.constant(rows)) @ weights
        below = model.cdf(rows, model.mean(at), phi) @ weights
    lower = averaged_cdf(model, rows, np.array([eta]), v, phi)
    assert_allclose(lower, below, rtol=1e-7, atol=1e-9)
    assert_allclose(lower + averaged_cdf(model, rows, np.array([eta]), v, phi, upper=True), 1.0, rtol=1e-9)
    assert_allclose(averaged_density(model, rows, np.array([eta]), v, phi), density, rtol=1e-7, atol=1e-300)


def test_a_gaussian_stays_gaussian() -> None:
    rows, v = Rows(np.array([1.0, -3.0]), precision=np.array([1.0, 4.0])), np.array([2.0, 0.5])
    total = np.sqrt(v + 1.7**2 / np.array([1.0, 4.0]))
    found = averaged_cdf(Gaussian(), rows, np.zeros(2), v, 1.7)
    assert_allclose(found, special.ndtr(rows.y / total), rtol=1e-12)


def test_average_probabilities_sum_to_one_and_to_the_distribution() -> None:
    y = np.arange(400.0)
    eta, v = np.full(400, 0.5), np.full(400, 1.2)
    p = averaged_density(Poisson(), Rows(y), eta, v, None)
    assert_allclose(np.cumsum(p), averaged_cdf(Poisson(), Rows(y), eta, v, None), rtol=1e-10)
    assert p @ y == pytest.approx(np.exp(0.5 + 0.6), rel=1e-3)  # the tail beyond 400 is left out


def test_the_jacobian_is_in_the_order_of_a_report() -> None:
    """By differences of the mean in beta, and in every entry of two covariance matrices."""
    rng = np.random.default_rng(3)
    x, z, other = rng.normal(size=(3, 5)), rng.normal(size=(2, 5)), rng.normal(size=(2, 5))
    beta, link = np.array([0.2, -0.5, 0.3]), LINKS["logit"]
    vech, variances = np.array([1.1, 0.4, 0.9]), np.array([0.3, 0.6])

    def at(report: np.ndarray) -> Averaged:
        a, b, c = report[4:7]
        v = random_variance(z, np.array([[a, b], [b, c]])) + random_variance(other, np.diag(report[7:9]))
        return averaged_mean(link, report[:3] @ x, v)

    report = np.concatenate([beta, [0.0], vech, variances, [2.0]])
    terms = [(z, STRUCTURES["us"].vech(2)), (other, STRUCTURES["diag"].vech(2))]
    found = natural_jacobian(at(report), x, terms, n_gamma=1, n_phi=1)
    assert found.shape == (10, 5)
    for k, step in enumerate(1e-6 * np.eye(10)):
        assert_allclose(found[k], (at(report + step).value - at(report - step).value) / 2e-6, atol=1e-8)
