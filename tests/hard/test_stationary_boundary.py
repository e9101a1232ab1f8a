"""The law of a fit on the boundary: no covariance matrix nearby has a higher likelihood, whichever way it differs.

On the boundary the optimum is one among the matrices of its rank, so that it, and the standard errors there, depend
on nothing but the model: not on where a covariate is centred, and not on the route.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import AGQ, Fit

pytestmark = pytest.mark.slow

FAMILIES = ("binomial", "poisson", "gaussian")
MOVES = (3e-2, 3e-3)
"""Sizes of moves away from the optimum, relative to what a term contributes."""


def small_data(seed: int, r: int) -> pl.DataFrame:
    """Few rows in few levels, with one shared direction of random effects or none: most fits are singular."""
    rng = np.random.default_rng([97, seed, r])
    n, levels = int(rng.integers(30, 70)), int(rng.integers(3, 8))
    g = np.concatenate([np.arange(levels), rng.integers(0, levels, n - levels)])
    x = rng.normal(rng.uniform(-1, 1), 1, n)
    w = rng.normal(size=n)
    shared = rng.normal(size=levels) * rng.choice([0.0, 0.7, 1.5])
    weights = rng.normal(size=3)
    eta = 0.3 + shared[g] * (weights[0] + weights[1] * x + (weights[2] * w if r == 3 else 0.0)) / 1.5
    return pl.DataFrame(
        {
            "g": [f"g{k}" for k in g],
            "x": x,
            "w": w,
            "binomial": (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int),
            "poisson": rng.poisson(np.exp(np.clip(eta, -4, 3))),
            "gaussian": eta + rng.normal(size=n),
        }
    )


def formula(family: str, r: int) -> str:
    return f"{family} ~ 1 + (x | g)" if r == 2 else f"{family} ~ 1 + (x + w | g)"


def fitted(frame: pl.DataFrame, family: str, r: int, method: AGQ | None = None) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", polars_glmm.FitWarning)
        return polars_glmm.fit(frame, formula(family, r), family=family, method=method)


def highest_nearby(frame: pl.DataFrame, fit: Fit, family: str, r: int, method: AGQ | None = None) -> float:
    """The largest gain of the public objective by a small move of the covariance matrix, or of a fixed effect."""
    f = polars_glmm.objective(frame, formula(family, r), family=family, method=method)
    names = ["Intercept", "x", "w"][:r]
    sigma = covariance(fit, r)
    fixed = {"Intercept": fit.fixef()["estimate"][0]}
    if family == "gaussian":
        fixed["phi"] = fit.dispersion()["estimate"][0]
    spread = np.sqrt([1.0, *[float((frame[c] ** 2).mean()) for c in names[1:]]])

    def loglik(s: np.ndarray, **changed: float) -> float:
        s = s + 1e-10 * np.diag(np.maximum(np.diag(s), 1e-6))  # so that rounding leaves a covariance matrix
        sd = np.sqrt(np.diag(s))
        point = fixed | changed | {f"sd(g: {a})": v for a, v in zip(names, sd, strict=True)}
        for j in range(r):
            for k in range(j):
                cor = np.clip(s[j, k] / (sd[j] * sd[k]), -1.0, 1.0)
                point[f"cor(g: {names[k]}, {names[j]})"] = cor
        return f.loglik(point)

    # ℓ at the reported numbers through the same face, so that its way of writing a matrix cannot show as a gain
    here = max(fit.loglik, loglik(sigma))
    values, vectors = np.linalg.eigh(sigma * np.outer(spread, spread))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    gains = [loglik(sigma, **{k: v + m * s}) - here for k, v in fixed.items() for m in MOVES for s in (-1, 1)]
    rng = np.random.default_rng(3)
    size = max(float(np.sqrt(values[-1])), 0.1)
    directions = [*np.eye(r * r).reshape(-1, r, r), *rng.normal(size=(4, r, r))]
    for d in [d / np.linalg.norm(d) for d in directions]:
        for move in (m * s * size for m in MOVES for s in (-1, 1)):
            half = (root + move * d @ vectors) / spread[:, None]
            gains.append(loglik(half @ half.T) - here)
    return max(g for g in gains if np.isfinite(g))


def covariance(fit: Fit, r: int) -> np.ndarray:
    table = fit.varcorr().filter(pl.col("group") == "g")
    sigma = np.zeros((r, r))
    order = {name: i for i, name in enumerate(["Intercept", "x", "w"][:r])}
    for term, other, value in table.select("term", "other_term", "estimate").rows():
        i, j = order[term], order[other or term]
        sigma[i, j] = sigma[j, i] = value
    return sigma


def fits(frames: list[pl.DataFrame], family: str, r: int, method: AGQ | None, *, by: bool) -> list[Fit]:
    """A fit of each frame, alone or as the models of a key."""
    if not by:
        return [fitted(frame, family, r, method) for frame in frames]
    stacked = pl.concat([frame.with_columns(key=pl.lit(i)) for i, frame in enumerate(frames)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", polars_glmm.FitWarning)
        found = polars_glmm.fit(stacked, formula(family, r), family=family, method=method, by="key")
    return [found[i] for i in range(len(frames))]


def check_law(seeds: Sequence[int], family: str, r: int, method: AGQ | None = None, *, by: bool = False) -> int:
    """How many singular fits obeyed it."""
    frames = [small_data(seed, r) for seed in seeds]
    shifted = [frame.with_columns(pl.col("x") - 2.5) for frame in frames]
    met, broken = 0, []
    made, again = (fits(rows, family, r, method, by=by) for rows in (frames, shifted))
    all_fits = zip(frames, made, again, seeds, strict=True)
    for frame, fit, moved, seed in all_fits:
        if not (fit.singular and fit.converged and covariance(fit, r).max() < 50.0):
            continue
        met += 1
        gain = highest_nearby(frame, fit, family, r, method)
        same = abs(moved.loglik - fit.loglik) < 2e-6
        if same and moved.singular:
            ours, theirs = fit.fixef().row(0, named=True), moved.fixef().row(0, named=True)
            same = abs(theirs["estimate"] - ours["estimate"]) < 2e-3 * ours["std_error"]
            same = same and abs(theirs["std_error"] / ours["std_error"] - 1.0) < 5e-3
        if not (gain < 2e-6 and same):
            broken.append((seed, gain, fit.loglik, moved.loglik))
    assert not broken, f"{len(broken)} of {met} {family} fits of r = {r}: {broken}"
    return met


@pytest.mark.parametrize("by", [False, True], ids=["single", "by"])
@pytest.mark.parametrize("r", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_covariance_near_a_singular_fit_is_likelier(family: str, r: int, by: bool) -> None:
    assert check_law(range(6 if r == 2 else 3), family, r, by=by) >= 1


@pytest.mark.parametrize("by", [False, True], ids=["single", "by"])
def test_nor_by_quadrature_with_few_nodes(by: bool) -> None:
    """Values of few nodes depend on the root of Σ along which they lie: the objective takes that of the search."""
    assert check_law([23, 34, 50, 55], "binomial", 2, AGQ(nodes=5), by=by) >= 3


def test_a_search_that_steps_beyond_all_numbers_comes_back() -> None:
    fit = fitted(small_data(4, 3), "binomial", 3)
    assert fit.converged
    assert highest_nearby(small_data(4, 3), fit, "binomial", 3) < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("by", [False, True], ids=["single", "by"])
@pytest.mark.parametrize("r", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_covariance_near_any_of_many_singular_fits_is_likelier(family: str, r: int, by: bool) -> None:
    assert check_law(range(120 if r == 2 else 60), family, r, by=by) >= 20
