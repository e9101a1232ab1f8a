"""Likelihoods that bend both ways, and links that end: the search finds the hill all the same."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.hard.attempt import attempt, codes

pytestmark = pytest.mark.slow

MOST_EVALUATIONS = 100


@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_inverse_gaussian_slopes_beside_another_factor(seed: int, phi: float) -> None:
    """Its log density is not concave for large responses: the start's curvature has directions of negative sign."""
    rng = np.random.default_rng(seed)
    n = 300
    g, h, x = rng.integers(0, 30, n), rng.integers(0, 6, n), rng.normal(size=n)
    mu = np.exp(0.5 + 0.4 * x + rng.normal(0, 0.8, 30)[g] + rng.normal(0, 0.8, 6)[h])
    frame = pl.DataFrame({"y": rng.wald(mu, 1.0 / phi), "x": x, "g": g, "h": h})
    fit = attempt(frame, "y ~ x + (x | g) + (1 | h)", family="inverse_gaussian")
    assert "not_converged" not in codes(fit)
    assert fit.certificate.evaluations < MOST_EVALUATIONS


@pytest.mark.parametrize("seed", [8, 18, 20, 24])
def test_binomial_with_a_log_link_starts_inside_its_domain(seed: int) -> None:
    """Large random effects put probabilities above 1: the search begins with smaller ones."""
    rng = np.random.default_rng(seed)
    n = 160
    g, h, x = rng.integers(0, 9, n), rng.integers(0, 5, n), rng.uniform(-1, 1, n)
    eta = -1.2 + 0.15 * x + rng.normal(0, 0.15, 9)[g] + rng.normal(0, 0.105, 5)[h] + x * rng.normal(0, 0.075, 9)[g]
    trials = rng.integers(1, 8, n)
    frame = pl.DataFrame(
        {"y": rng.binomial(trials, np.clip(np.exp(eta), 0.02, 0.98)), "n": trials, "x": x, "g": g, "h": h}
    )
    for formula in ("y ~ x + (x | g) + (1 | h)", "y ~ x + (x | g)"):
        fit = attempt(frame, formula, family="binomial", link="log", trials="n")
        assert fit.loglik > attempt(frame, "y ~ x", family="binomial", link="log", trials="n").loglik - 1e-6
