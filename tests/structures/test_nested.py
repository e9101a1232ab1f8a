"""The law of nested families: what holds a smaller family of covariance matrices is not fitted worse than it."""

import warnings
from functools import cache

import numpy as np
import polars as pl
import pytest

import polars_glmm  # noqa: F401  the namespace
from polars_glmm import FitWarning, IdentifiabilityError

WITHIN = {
    "none": ("id", "diag", "us", "rr(1)", "ar1"),
    "id": ("homcs", "homtoep", "ar1", "diag", "toep"),
    "homcs": ("cs", "homtoep"),
    "diag": ("cs", "us", "toep", "hetar1"),
    "cs": ("us", "toep"),
    "homtoep": ("toep",),
    "ar1": ("hetar1", "homtoep"),
    "hetar1": ("toep",),
    "toep": ("us",),
    "rr(1)": ("rr(2)",),
    "rr(2)": ("us",),
}
"""Families, and those that hold each of them."""
FAMILIES = ("gaussian", "binomial", "poisson", "nbinom2", "ordinal")
SLACK = 1e-6


def simulated(seed: int, family: str) -> pl.DataFrame:
    """Rows of 6 to 30 groups with effects of 3 or 4 levels whose covariance has any rank, often none."""
    rng = np.random.default_rng(seed)
    groups, per, m = int(rng.integers(6, 31)), int(rng.integers(3, 13)), int(rng.integers(3, 5))
    n = groups * per
    g = np.repeat(np.arange(groups), per)
    f = np.where(rng.random() < 0.5, np.tile(np.arange(m), n // m + 1)[:n], rng.integers(0, m, n))
    x, half = rng.normal(size=n), rng.normal(size=(m, m))
    half[:, int(rng.integers(0, m + 1)) :] = 0.0
    half *= rng.choice([0.0, 0.3, 0.7, 1.2])
    eta = 0.3 + 0.4 * x + (rng.normal(size=(groups, m)) @ half.T)[g, f]
    mean = np.exp(np.minimum(eta, 5.0))
    levels = [f"l{k}" for k in range(m)]
    y: pl.Series
    if family == "ordinal":
        cut = np.digitize(eta + rng.logistic(size=n), [-1.0, 0.5, 1.5])
        y = pl.Series([f"c{k}" for k in cut], dtype=pl.Enum([f"c{k}" for k in sorted(set(cut.tolist()))]))
    elif family == "gaussian":
        y = pl.Series(eta + rng.normal(size=n))
    elif family == "binomial":
        y = pl.Series((rng.random(n) < 1.0 / (1.0 + np.exp(-eta))).astype(int))
    else:
        y = pl.Series(rng.poisson(mean if family == "poisson" else mean * rng.gamma(2.0, 0.5, n)))
    return pl.DataFrame({"g": g, "x": x, "f": pl.Series([levels[k] for k in f], dtype=pl.Enum(levels)), "y": y})


@cache
def loglik(seed: int, family: str, structure: str) -> tuple[float, bool]:
    """ℓ and whether the fit converged; NaN where the design determines no answer."""
    name, _, rank = structure.partition("(")
    term = f"{name}(0 + f | g, d={rank[:-1]})" if rank else f"{name}(0 + f | g)"
    formula = "y ~ x" if structure == "none" else f"y ~ x + {term}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        try:
            fit = simulated(seed, family).glmm.fit(
                formula, family=family, **({"method": "ml"} if family == "gaussian" else {})
            )
        except IdentifiabilityError:
            return np.nan, True
    return fit.loglik, fit.converged


def broken(seed: int, family: str) -> list[str]:
    """Pairs of families of which the larger one is fitted worse."""
    return [
        f"{small} {low[0]:.6f} in {large} {high[0]:.6f}"
        for small, larger in WITHIN.items()
        for large in larger
        if (high := loglik(seed, family, large))[0] < (low := loglik(seed, family, small))[0] - SLACK
    ]


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("seed", "family", "small", "large"),
    [(0, "gaussian", "homtoep", "toep"), (1, "gaussian", "diag", "hetar1"), (1, "binomial", "diag", "cs"),
     (1, "poisson", "homtoep", "toep"), (19, "binomial", "hetar1", "toep")],
)  # fmt: skip
def test_a_larger_family_is_not_fitted_worse(seed, family, small, large):
    (low, there), (high, converged) = loglik(seed, family, small), loglik(seed, family, large)
    assert high >= low - SLACK
    assert there
    assert converged


def test_a_residual_variance_of_nothing_leaves_the_density_of_the_rows():
    """One row for each effect, ar1(): ℓ is that of y ~ N(Xβ, Σ), here to the trace that φ is held at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        frame = simulated(53, "gaussian")
        fit = frame.glmm.fit("y ~ x + ar1(0 + f | g)", method="ml")
    sigma = fit.estimate.factors[0].covariances[0] + fit.estimate.phi**2 * np.eye(4)
    e = frame["y"].to_numpy() - fit.estimate.beta[0] - fit.estimate.beta[1] * frame["x"].to_numpy()
    f, g = frame["f"].to_physical().to_numpy(), frame["g"].to_numpy()
    blocks = [(e[g == k], sigma[np.ix_(f[g == k], f[g == k])]) for k in np.unique(g)]
    twice = sum(np.linalg.slogdet(2.0 * np.pi * v)[1] + r @ np.linalg.solve(v, r) for r, v in blocks)
    assert len(blocks[0][0]) == 3
    assert fit.converged
    assert fit.loglik == pytest.approx(-0.5 * twice, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(12))
def test_no_family_is_fitted_worse_than_one_within_it(seed, family):
    assert broken(seed, family) == []
    assert all(loglik(seed, family, one)[1] for one in ("cs", "toep", "hetar1", "homtoep", "us"))
