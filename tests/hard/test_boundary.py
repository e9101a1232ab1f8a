"""Covariance matrices on the boundary: an answer, with a note that says what collapsed and null where no error exists.

The twins are the same designs with an effect that is there.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from polars_glmm import AGQ
from tests.hard import independent
from tests.hard.attempt import attempt, codes, correlation, fixed, names, silent, variance


def balanced(n_groups: int = 20, each: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Codes, and a covariate with the same values in every group."""
    return np.repeat(np.arange(n_groups), each), np.tile(np.linspace(-1, 1, each), n_groups)


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_true_variance_zero_gaussian(method: str) -> None:
    """Every group has the same mean, which is less spread than chance gives: the variance is estimated at zero."""
    rng = np.random.default_rng(1)
    g, x = balanced()
    noise = rng.normal(size=(20, 6))
    y = 1 + 2 * x + (noise - noise.mean(1, keepdims=True)).ravel()
    frame = pl.DataFrame({"g": g, "x": x, "y": y})
    fit = attempt(frame, "y ~ x + (1 | g)", method=method)
    assert codes(fit) == {"singular"}
    names(fit, "singular", "g", "Intercept", "zero")
    assert fit.singular
    assert fit.converged
    assert variance(fit, "g") == 0
    assert [variance(fit, "g", column=c) for c in ("std_error", "conf_low", "conf_high")] == [None] * 3
    assert fit.ranef()["estimate"].to_list() == [0.0] * 20
    flat = attempt(frame, "y ~ x", method=method)
    silent(flat)
    assert fit.loglik == pytest.approx(flat.loglik, abs=1e-8)
    assert fixed(fit, "x", "std_error") == pytest.approx(fixed(flat, "x", "std_error"), rel=1e-6)
    assert fit.dispersion()["estimate"][0] == pytest.approx(flat.dispersion()["estimate"][0], rel=1e-6)
    silent(attempt(frame.with_columns(y=pl.col("y") + pl.col("g") / 5), "y ~ x + (1 | g)", method=method))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("family", ["poisson", "binomial", "negative_binomial", "gamma"])
@pytest.mark.parametrize("method", ["laplace", AGQ(5)])
def test_true_variance_zero(family: str, method: str | AGQ) -> None:
    """The same responses in every group."""
    g, x = balanced(16, 6)
    within = {"poisson": [0, 1, 3, 2, 4, 6], "binomial": [0, 1, 0, 1, 1, 1]}.get(family, [0, 1, 9, 2, 1, 14])
    if family == "gamma":
        within = [0.5, 0.9, 0.7, 2.0, 1.1, 3.0]
    frame = pl.DataFrame({"g": g, "x": x, "y": np.tile(within, 16)})
    fit = attempt(frame, "y ~ x + (1 | g)", family=family, method=method)
    assert codes(fit) == {"singular"}
    names(fit, "singular", "g", "Intercept", "zero")
    assert variance(fit, "g") == 0
    assert variance(fit, "g", column="std_error") is None
    flat = attempt(frame, "y ~ x", family=family)
    silent(flat)
    assert fit.loglik == pytest.approx(flat.loglik, abs=1e-7)
    assert fixed(fit, "x", "std_error") == pytest.approx(fixed(flat, "x", "std_error"), rel=1e-4)
    other = 0 if family == "binomial" else 4 * pl.col("y")
    twin = frame.with_columns(y=pl.when(pl.col("g") < 5).then(other).otherwise("y"))
    silent(attempt(twin, "y ~ x + (1 | g)", family=family, method=method))


@pytest.mark.slow
@pytest.mark.one_in(2)
@pytest.mark.parametrize("sign", [1, -1])
def test_correlation_of_one(sign: int) -> None:
    """Every group's slope is its intercept: the correlation is ±1 and the note names the pair."""
    rng = np.random.default_rng(5)
    g, x = balanced(40, 6)
    b = rng.normal(size=40)
    y = 1 + x + b[g] * (1 + sign * x) + 0.7 * rng.normal(size=240)
    fit = attempt(pl.DataFrame({"g": g, "x": x, "y": y}), "y ~ x + (x | g)", method="ml")
    fixed_part, spread = np.c_[np.ones(240), x], independent.effects(np.c_[np.ones(240), x], g)

    def loglik(t: np.ndarray) -> float:
        root = independent.lower(t[:3], 2)
        v = independent.covariance(spread, root @ root.T) + t[3] ** 2 * np.eye(240)
        return independent.gaussian_loglik(y, fixed_part, v, reml=False)

    reached = independent.best(loglik, [1, sign, 0.1, 0.7], [1, sign, 0.0, 0.7])
    assert fit.loglik == pytest.approx(reached, abs=1e-5)
    assert codes(fit) == {"singular"}
    names(fit, "singular", "g", "Intercept", "x", "+1" if sign > 0 else "−1")
    assert correlation(fit, "g", "Intercept", "x") == pytest.approx(sign, abs=1e-9)
    pair = fit.varcorr().filter(pl.col("correlation").is_not_null())
    assert pair.select("correlation_low", "correlation_high").row(0) == (None, None)
    other = rng.normal(size=40)
    twin = pl.DataFrame({"g": g, "x": x, "y": 1 + x + b[g] + 0.8 * other[g] * x + 0.7 * rng.normal(size=240)})
    silent(attempt(twin, "y ~ x + (x | g)", method="ml"))


def test_rank_two_covariance_of_three_effects() -> None:
    """The third effect of every group is the sum of the other two: one combination has no variance, and is named."""
    rng = np.random.default_rng(6)
    g = np.repeat(np.arange(40), 10)
    x, w = rng.normal(size=(2, 400))
    b1, b2 = rng.normal(size=(2, 40))
    y = 1 + b1[g] + b2[g] * x + (b1 + b2)[g] * w + 0.7 * rng.normal(size=400)
    z = np.c_[np.ones(400), x, w]
    fit = attempt(pl.DataFrame({"g": g, "x": x, "w": w, "y": y}), "y ~ x + w + (x + w | g)", method="ml")
    spread = independent.effects(z, g)

    def loglik(t: np.ndarray) -> float:
        root = np.zeros((3, 3))
        root[np.tril_indices(3)] = t[:6]
        v = independent.covariance(spread, root @ root.T) + t[6] ** 2 * np.eye(400)
        return independent.gaussian_loglik(y, z, v, reml=False)

    sigma = fit.dispersion()["estimate"][0]
    variances = [variance(fit, "g", term) for term in ("Intercept", "x", "w")]
    covariances = {
        (a, b): correlation(fit, "g", a, b) * np.sqrt(variance(fit, "g", a) * variance(fit, "g", b))
        for a, b in (("Intercept", "x"), ("Intercept", "w"), ("x", "w"))
    }
    full = np.diag(variances)
    full[0, 1] = full[1, 0] = covariances["Intercept", "x"]
    full[0, 2] = full[2, 0] = covariances["Intercept", "w"]
    full[1, 2] = full[2, 1] = covariances["x", "w"]
    values, vectors = np.linalg.eigh(full)
    assert abs(values[0]) < 1e-8 * values[-1]
    at = independent.gaussian_loglik(y, z, independent.covariance(spread, full) + sigma**2 * np.eye(400), reml=False)
    assert fit.loglik == pytest.approx(at, abs=1e-7)
    for move in 0.02 * rng.normal(size=(12, 7)):
        root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T + independent.lower(move[:6], 3)
        t = np.append(np.linalg.cholesky(root @ root.T + 1e-14 * np.eye(3))[np.tril_indices(3)], sigma + move[6])
        assert loglik(t) < fit.loglik + 1e-6
    assert codes(fit) == {"singular"}
    names(fit, "singular", "g", "Intercept", "x", "w", "rank 2 of 3")
    direction = vectors[:, 0] / np.abs(vectors[:, 0]).max()
    assert np.abs(direction * np.sign(direction[2]) - [-1, -1, 1]).max() < 0.2
    assert fixed(fit, "x", "std_error") > 0
    b3 = rng.normal(size=40)
    twin = pl.DataFrame({"g": g, "x": x, "w": w, "y": y + (b3 - b1 - b2)[g] * w})
    silent(attempt(twin, "y ~ x + w + (x + w | g)", method="ml"))


def test_one_of_two_factors_without_variance() -> None:
    """Two crossed factors, one of them without effect: only that one is named, and it alone has a null error."""
    rng = np.random.default_rng(7)
    g, h = np.repeat(np.arange(20), 20), np.tile(np.arange(20), 20)
    cells = rng.normal(size=(20, 20))
    y = (cells - cells.mean(0)).ravel() + rng.normal(size=20)[g]
    fit = attempt(pl.DataFrame({"g": g, "h": h, "y": y}), "y ~ 1 + (1 | g) + (1 | h)")
    assert codes(fit) == {"singular"}
    names(fit, "singular", "h", "Intercept", "zero", absent=("g",))
    assert variance(fit, "h", column="std_error") is None
    assert variance(fit, "g", column="std_error") > 0
    alone = attempt(pl.DataFrame({"g": g, "h": h, "y": y}), "y ~ 1 + (1 | g)")
    assert fit.loglik == pytest.approx(alone.loglik, abs=1e-8)
    assert variance(fit, "g") == pytest.approx(variance(alone, "g"), rel=1e-5)
    assert variance(fit, "g", column="std_error") == pytest.approx(variance(alone, "g", column="std_error"), rel=1e-3)


def test_a_slope_without_variance_leaves_its_intercept() -> None:
    """(x || g) with parallel lines: the slope's variance is zero, the intercept's has its error."""
    rng = np.random.default_rng(8)
    g, x = balanced(30, 8)
    noise = rng.normal(size=(30, 8))
    noise -= (noise @ x[:8])[:, None] * x[:8] / (x[:8] @ x[:8])
    frame = pl.DataFrame({"g": g, "x": x, "y": rng.normal(size=30)[g] + noise.ravel()})
    fit = attempt(frame, "y ~ x + (x || g)")
    assert codes(fit) == {"singular"}
    names(fit, "singular", "g", "x", absent=("Intercept",))
    assert variance(fit, "g", "x") == 0
    assert variance(fit, "g", "x", "std_error") is None
    assert variance(fit, "g", "Intercept", "std_error") > 0
    alone = attempt(frame, "y ~ x + (1 | g)")
    assert fit.loglik == pytest.approx(alone.loglik, abs=1e-8)
    correlated = attempt(frame, "y ~ x + (x | g)")
    assert correlated.loglik == pytest.approx(alone.loglik, abs=1e-6)
    names(correlated, "singular", "g", "x")


def test_tiny_variance_is_not_zero() -> None:
    """A variance of a ten-thousandth of the residual's, with rows enough to see it, is estimated and not flagged."""
    rng = np.random.default_rng(9)
    each = 40000
    g = np.repeat(np.arange(10), each)
    b = 0.01 * np.linspace(-1.5, 1.5, 10)
    noise = rng.normal(size=(10, each))
    y = (noise - noise.mean(1, keepdims=True)).ravel() + b[g]
    frame = pl.DataFrame({"g": g, "y": y})
    fit = attempt(frame, "y ~ 1 + (1 | g)")
    silent(fit)
    sigma2 = ((noise - noise.mean(1, keepdims=True)) ** 2).sum() / (10 * (each - 1))
    assert fit.dispersion()["estimate"][0] ** 2 == pytest.approx(sigma2, rel=1e-7)
    assert variance(fit, "g") == pytest.approx(b.var(ddof=1) - sigma2 / each, rel=1e-5)  # ANOVA = REML when balanced
    units = attempt(frame.with_columns(y=1e-9 * pl.col("y")), "y ~ 1 + (1 | g)")
    silent(units)
    assert variance(units, "g") == pytest.approx(1e-18 * variance(fit, "g"), rel=1e-5)
    assert units.loglik == pytest.approx(fit.loglik + (len(y) - 1) * np.log(1e9), rel=1e-9)


def test_tiny_variance_of_counts() -> None:
    """Poisson means of 1e5 with a standard deviation of 1 % between groups: the sampling error is 0.1 %."""
    rng = np.random.default_rng(10)
    g = np.repeat(np.arange(12), 10)
    y = rng.poisson(1e5 * np.exp(0.01 * rng.normal(size=12))[g])
    fit = attempt(pl.DataFrame({"g": g, "y": y}), "y ~ 1 + (1 | g)", family="poisson")
    silent(fit)
    assert variance(fit, "g", column="std_dev") == pytest.approx(0.01, rel=0.6)
    z = independent.indicators(g)
    loglik = lambda t: independent.laplace_loglik(
        independent.POISSON, y, np.full(120, t[0]), z, np.exp(t[1]) * np.eye(12)
    )
    at = [fixed(fit), np.log(variance(fit, "g", column="std_dev"))]
    assert fit.loglik == pytest.approx(loglik(at), abs=1e-6)
    assert independent.best(loglik, at) < fit.loglik + 1e-5
