"""Numbers far from 1: huge means, huge counts, covariates with a huge mean. A shift or a unit changes no answer.

Each is compared with the same model on the shifted data, where one can compute without loss, or with dense algebra.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from polars_glmm import IdentifiabilityError
from tests.hard import independent
from tests.hard.attempt import attempt, codes, correlation, fixed, names, refused, silent, variance

FAR = 1e8


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(14)
    g = np.repeat(np.arange(30), 8)
    far = FAR + rng.normal(size=240)  # rounded to 1.5e-8; what is left after the shift is exact
    near = far - FAR
    b, s = rng.normal(size=30), 0.6 * rng.normal(size=30)
    eta = 1 + 0.5 * near + b[g] + s[g] * near
    return pl.DataFrame(
        {
            "g": g,
            "near": near,
            "far": far,
            "y": eta + 0.8 * rng.normal(size=240),
            "c": rng.poisson(np.exp(1 + 0.6 * eta)),
            "k": (rng.random(240) < 1 / (1 + np.exp(-eta))).astype(int),
        }
    )


RESPONSES = [("y", "gaussian", "reml"), ("y", "gaussian", "ml"), ("c", "poisson", None), ("k", "binomial", None)]


@pytest.mark.parametrize(("response", "family", "method"), RESPONSES)
def test_a_fixed_covariate_far_from_zero(frame: pl.DataFrame, response: str, family: str, method: str | None) -> None:
    """y ~ x with x = 1e8 + noise: slope, error and likelihood are those of the noise (the shift has determinant 1)."""
    far = attempt(frame, f"{response} ~ far + (1 | g)", family=family, method=method)
    near = attempt(frame, f"{response} ~ near + (1 | g)", family=family, method=method)
    silent(near)
    silent(far)
    assert far.loglik == pytest.approx(near.loglik, abs=1e-6)
    assert fixed(far, "far") == pytest.approx(fixed(near, "near"), rel=1e-6)
    assert fixed(far, "far", "std_error") == pytest.approx(fixed(near, "near", "std_error"), rel=1e-5)
    assert fixed(far) == pytest.approx(fixed(near) - FAR * fixed(near, "near"), rel=1e-6)
    assert fixed(far, column="std_error") == pytest.approx(FAR * fixed(near, "near", "std_error"), rel=1e-4)
    assert variance(far, "g") == pytest.approx(variance(near, "g"), rel=1e-5)
    fitted = [fit.augment(frame)["fitted"].to_numpy() for fit in (far, near)]
    assert np.abs(fitted[0] - fitted[1]).max() < 1e-5 * (1 + np.abs(fitted[1]).max())


@pytest.mark.parametrize(("response", "family", "method"), RESPONSES)
def test_a_correlated_slope_far_from_zero(frame: pl.DataFrame, response: str, family: str, method: str | None) -> None:
    """(x | g) with x = 1e8 + noise: the same model; intercepts and slopes become collinear, none collapses."""
    far = attempt(frame, f"{response} ~ far + (far | g)", family=family, method=method)
    near = attempt(frame, f"{response} ~ near + (near | g)", family=family, method=method)
    silent(near)
    silent(far)
    assert far.loglik == pytest.approx(near.loglik, abs=1e-5)
    assert variance(far, "g", "far") == pytest.approx(variance(near, "g", "near"), rel=1e-4)
    assert variance(far, "g", "far", "std_error") == pytest.approx(variance(near, "g", "near", "std_error"), rel=1e-3)
    assert variance(far, "g") == pytest.approx(FAR**2 * variance(near, "g", "near"), rel=1e-4)
    assert correlation(far, "g", "Intercept", "far") == pytest.approx(-1, abs=1e-6)
    slopes = [fit.ranef("g")[f"g_{name}"].to_numpy() for fit, name in ((far, "far"), (near, "near"))]
    assert np.abs(slopes[0] - slopes[1]).max() < 1e-4
    fitted = [fit.augment(frame)["fitted"].to_numpy() for fit in (far, near)]
    assert np.abs(fitted[0] - fitted[1]).max() < 1e-4 * (1 + np.abs(fitted[1]).max())


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("bar", ["(0 + {} | g)", "({} || g)"])
@pytest.mark.parametrize("centre", [3.0, 100.0, 1e8])
@pytest.mark.slow
def test_an_uncorrelated_slope_is_another_model_when_shifted(
    frame: pl.DataFrame, bar: str, method: str, centre: float
) -> None:
    """(0+x|g) and (x||g): centring x would change the model, so it must not be done (276.59 against 292.88)."""
    x = centre + frame["near"].to_numpy()
    y, z = frame["y"].to_numpy(), np.c_[np.ones(240), x]
    fit = attempt(frame.with_columns(x=x), f"y ~ x + {bar.format('x')}", method=method)
    spread = independent.effects(z, frame["g"])
    scaled = np.c_[np.ones(240), (x - centre)]  # the same span, and the same determinant
    lone = bar.startswith("(0")

    def loglik(t: np.ndarray) -> float:
        variances = np.exp(2 * t)
        sigma = np.diag([0.0 if lone else variances[2], variances[1] / centre**2])
        v = independent.covariance(spread, sigma) + variances[0] * np.eye(240)
        return independent.gaussian_loglik(y, scaled, v, reml=method == "reml")

    starts = [[0.0, 0.0, 0.0], [0.0, 0.5, -3.0], [0.0, -3.0, 0.5]]
    reached = independent.best(loglik, *(start[: 2 if lone else 3] for start in starts))
    assert fit.loglik == pytest.approx(reached, abs=1e-4)
    if lone:
        silent(fit)
        residual, slope = fit.dispersion()["estimate"][0] ** 2, variance(fit, "g", "x")
        v = independent.covariance(spread, np.diag([0.0, slope])) + residual * np.eye(240)
        beta, error = independent.gls(y, scaled, v)
        assert fixed(fit, "x") == pytest.approx(beta[1], rel=1e-5)
        assert fixed(fit, "x", "std_error") == pytest.approx(error[1], rel=1e-4)
    elif centre == FAR:
        names(fit, "redundant_terms", "g", "x")  # to the last digit, 1e8 + noise is an intercept
        assert variance(fit, "g", "x", "std_error") is None
    else:
        assert "redundant_terms" not in codes(fit)


def test_a_slope_without_intercept_far_from_zero_for_counts(frame: pl.DataFrame) -> None:
    """(0 + x | g), x = 1e8 + noise, in a Poisson model: as good as a random intercept."""
    fit = attempt(frame, "c ~ near + (0 + far | g)", family="poisson")
    silent(fit)
    same = attempt(frame, "c ~ near + (1 | g)", family="poisson")
    assert fit.loglik == pytest.approx(same.loglik, abs=1e-4)
    assert fixed(fit, "near", "std_error") == pytest.approx(fixed(same, "near", "std_error"), rel=1e-4)
    assert FAR**2 * variance(fit, "g", "far") == pytest.approx(variance(same, "g"), rel=1e-4)


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("formula", ["{} ~ near + (1 | g)", "{} ~ near + (near | g)", "{} ~ 1 + (near || g)"])
def test_a_response_far_from_zero(frame: pl.DataFrame, formula: str, method: str) -> None:
    """y + 1e7: the intercept moves, nothing else does (raw sums of squares would lose 5e-5 of the deviance)."""
    frame = frame.with_columns(far_y=pl.col("y") + 1e7).with_columns(near_y=pl.col("far_y") - 1e7)
    far, near = (attempt(frame, formula.format(name), method=method) for name in ("far_y", "near_y"))
    silent(near)
    silent(far)
    assert far.loglik == pytest.approx(near.loglik, abs=1e-8)
    assert fixed(far) == pytest.approx(fixed(near) + 1e7, abs=1e-6)
    assert far.varcorr()["estimate"].to_list() == pytest.approx(near.varcorr()["estimate"].to_list(), rel=1e-6)
    assert far.fixef()["std_error"].to_list() == pytest.approx(near.fixef()["std_error"].to_list(), rel=1e-6)
    if method == "reml":
        assert far.fixef()["df"].to_list() == pytest.approx(near.fixef()["df"].to_list(), rel=1e-3)


@pytest.mark.parametrize("mean", [10.0, 1e4, 1e7])
def test_a_response_far_from_zero_without_an_intercept(frame: pl.DataFrame, mean: float) -> None:
    """Without 1 in the span of X a shift is no reparametrisation: the groups carry the mean, their variance its square.

    In a balanced design V has the eigenvalues σ² (within groups) and σ² + 8τ² (their means).
    """
    y, x = frame["y"].to_numpy() + mean, frame["near"].to_numpy()
    fit = attempt(frame.with_columns(y=y), "y ~ 0 + near + (1 | g)", method="ml")
    silent(fit)
    g = frame["g"].to_numpy()
    means = [np.bincount(g, v) / 8 for v in (x, y)]
    within = [x - means[0][g], (y - mean) - (means[1] - mean)[g]]

    def loglik(tau2: float, sigma2: float) -> float:
        between = sigma2 + 8 * tau2
        xx = within[0] @ within[0] / sigma2 + 8 * means[0] @ means[0] / between
        xy = within[0] @ within[1] / sigma2 + 8 * means[0] @ means[1] / between
        b = xy / xx
        rss = ((within[1] - b * within[0]) ** 2).sum() / sigma2 + 8 * ((means[1] - b * means[0]) ** 2).sum() / between
        return -0.5 * (240 * np.log(2 * np.pi) + 210 * np.log(sigma2) + 30 * np.log(between) + rss)

    at = [variance(fit, "g"), fit.dispersion()["estimate"][0] ** 2]
    assert fit.loglik == pytest.approx(loglik(*at), abs=1e-4)
    assert independent.best(lambda t: loglik(*np.exp(t)), np.log(at)) < fit.loglik + 1e-4
    slope = within[0] @ within[1] / (within[0] @ within[0])
    assert fixed(fit, "near") == pytest.approx(slope, rel=0.05 if mean < 100 else 1e-5)


# ------------------------------------------------------------------------------------------ huge counts


def test_counts_of_a_million() -> None:
    """Poisson means of 1e6: exp must not overflow, and the estimates are those of log y with known variances."""
    rng = np.random.default_rng(15)
    g = np.repeat(np.arange(20), 6)
    x = rng.normal(size=120)
    y = rng.poisson(1e6 * np.exp(0.2 * x + 0.5 * rng.normal(size=20)[g]))
    fit = attempt(pl.DataFrame({"g": g, "x": x, "y": y}), "y ~ x + (1 | g)", family="poisson")
    silent(fit)
    z = independent.indicators(g)
    sd = variance(fit, "g", column="std_dev")
    loglik = lambda t: independent.laplace_loglik(independent.POISSON, y, t[0] + t[1] * x, z, np.exp(t[2]) * np.eye(20))
    at = [fixed(fit), fixed(fit, "x"), np.log(sd)]
    assert fit.loglik == pytest.approx(loglik(at), abs=1e-5)
    assert independent.best(loglik, at) < fit.loglik + 1e-4
    within = x - (z @ (z.T @ (y * x) / (z.T @ y)))
    assert fixed(fit, "x", "std_error") == pytest.approx((y @ within**2) ** -0.5, rel=1e-2)
    assert fixed(fit, column="std_error") == pytest.approx(sd / np.sqrt(20), rel=1e-2)


def test_trials_of_a_million() -> None:
    """Binomial with 1e6 trials in a row."""
    rng = np.random.default_rng(16)
    g = np.repeat(np.arange(15), 4)
    y = rng.binomial(1_000_000, 1 / (1 + np.exp(2 - 0.7 * rng.normal(size=15)[g])))
    frame = pl.DataFrame({"g": g, "y": y, "n": 1_000_000})
    fit = attempt(frame, "y ~ 1 + (1 | g)", family="binomial", trials="n")
    silent(fit)
    z, sd = independent.indicators(g), variance(fit, "g", column="std_dev")
    family = independent.binomial(1e6)
    loglik = lambda t: independent.laplace_loglik(family, y, np.full(60, t[0]), z, np.exp(t[1]) * np.eye(15))
    assert fit.loglik == pytest.approx(loglik([fixed(fit), np.log(sd)]), abs=1e-4)
    begin = np.round([fixed(fit), np.log(sd)], 6)  # so that rounding of the fit does not decide how long this takes
    assert independent.best(loglik, list(begin)) < fit.loglik + 1e-4


def test_a_million_copies_of_a_row() -> None:
    """frequency = 1e6 sharpens the estimates a thousandfold and moves none of them."""
    frame = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0, 1.0, 2.0], "y": [1, 2, 2, 5, 1, 4]})
    once = attempt(frame, "y ~ x", family="poisson")
    often = attempt(frame.with_columns(f=1_000_000), "y ~ x", family="poisson", frequency="f")
    silent(often)
    assert often.n_obs == 6_000_000
    assert often.loglik == pytest.approx(1e6 * once.loglik, rel=1e-9)
    assert fixed(often, "x") == pytest.approx(fixed(once, "x"), abs=1e-6)
    assert fixed(often, "x", "std_error") == pytest.approx(fixed(once, "x", "std_error") / 1e3, rel=1e-5)


# ------------------------------------------------------------------------------------------ perfect fits


@pytest.mark.parametrize("formula", ["y ~ near", "y ~ near + (1 | g)", "y ~ near + (near | g)"])
@pytest.mark.parametrize("method", ["reml", "ml"])
def test_a_response_that_the_fixed_effects_give_exactly(frame: pl.DataFrame, formula: str, method: str) -> None:
    """No residual: the likelihood has no maximum, and every number after σ → 0 would be rounding."""
    with refused(IdentifiabilityError, "response", "exact"):
        attempt(frame.with_columns(y=2 + 3 * pl.col("near")), formula, method=method)


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_a_response_that_the_groups_give_exactly(frame: pl.DataFrame, method: str) -> None:
    """A value per group and a slope: nothing is left within groups."""
    exact = frame.with_columns(y=2 + 3 * pl.col("near") + pl.col("g").cast(float).sqrt())
    with refused(IdentifiabilityError, "response", "exact"):
        attempt(exact, "y ~ near + (1 | g)", method=method)


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("noise", [1e-3, 1e-5])
def test_a_nearly_perfect_fit_is_right(frame: pl.DataFrame, noise: float, method: str) -> None:
    """Twin: residuals of a thousandth or a hundred-thousandth of the spread between groups are fitted as any other."""
    rng = np.random.default_rng(17)
    g, x = frame["g"].to_numpy(), frame["near"].to_numpy()
    y = 2 + 3 * x + np.sqrt(g) + noise * rng.normal(size=240)
    fit = attempt(frame.with_columns(y=y), "y ~ near + (1 | g)", method=method)
    silent(fit)
    assert fixed(fit, "near") == pytest.approx(3, abs=noise)
    inner = lambda v: v - (np.bincount(g, v) / np.bincount(g))[g]
    xc, yc = inner(x), inner(y)
    slope = xc @ yc / (xc @ xc)
    rss = ((yc - slope * xc) ** 2).sum()
    sigma = np.sqrt(rss / (240 - 30 - (method == "reml")))
    assert fit.dispersion()["estimate"][0] == pytest.approx(sigma, rel=1e-4)
    assert fixed(fit, "near") == pytest.approx(slope, abs=1e-6)
    assert fixed(fit, "near", "std_error") == pytest.approx(sigma / np.sqrt(xc @ xc), rel=1e-3)


@pytest.mark.parametrize("family", ["gamma", "inverse_gaussian"])
@pytest.mark.parametrize("formula", ["y ~ near", "y ~ near + (1 | g)"])
def test_a_perfect_fit_of_a_dispersion(frame: pl.DataFrame, family: str, formula: str) -> None:
    """As above, for the families whose dispersion goes to zero."""
    with refused(IdentifiabilityError, "response", "exact"):
        attempt(frame.with_columns(y=(1 + 0.3 * pl.col("near")).exp()), formula, family=family)


@pytest.mark.parametrize("family", ["gaussian", "gamma", "inverse_gaussian"])
@pytest.mark.parametrize("formula", ["y ~ near + (1 | g)", "y ~ 1", "y ~ 1 + (1 | g)"])
def test_a_constant_response_is_refused(frame: pl.DataFrame, family: str, formula: str) -> None:
    """Nothing varies, so nothing can be estimated; a lone dispersion without variation neither."""
    with refused(IdentifiabilityError, "response", "constant"):
        attempt(frame.with_columns(y=pl.lit(3.0)), formula, family=family)
    with refused(IdentifiabilityError, "response", "constant"):
        attempt(frame.with_columns(y=pl.lit(3)), formula, family=family)


def test_a_constant_count_is_fine(frame: pl.DataFrame) -> None:
    """Twin: a Poisson model has a variance of its own; three in every row is a mean of three, and no variance."""
    fit = attempt(frame.with_columns(y=pl.lit(3)), "y ~ near + (1 | g)", family="poisson")
    assert codes(fit) == {"singular"}
    assert fixed(fit) == pytest.approx(np.log(3), abs=1e-6)
    assert fixed(fit, "near") == pytest.approx(0, abs=1e-6)
    assert fit.loglik == pytest.approx(240 * (3 * np.log(3) - 3 - np.log(6)), abs=1e-8)


def test_a_saturated_count_model() -> None:
    """A Poisson GLM with a parameter for every row reproduces the counts; its deviance is zero."""
    frame = pl.DataFrame({"f": ["a", "b", "c"], "y": [1, 5, 9]})
    fit = attempt(frame, "y ~ 0 + f", family="poisson")
    silent(fit)
    assert fit.fixef()["estimate"].to_list() == pytest.approx(np.log([1, 5, 9]).tolist(), abs=1e-6)
    assert fit.fixef()["std_error"].to_list() == pytest.approx([1, 5**-0.5, 1 / 3], rel=1e-4)
    assert fit.glance()["deviance_residual"][0] == pytest.approx(0, abs=1e-8)
