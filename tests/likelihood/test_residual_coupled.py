"""Correlated residuals beside levels that know each other, or share rows: V = τMM' + ωZAZ' + R written out."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm.errors import ModelError
from tests.likelihood.test_membership import TERM, G, dense_gaussian, shares
from tests.likelihood.test_residual import values_of

PUPILS, YEARS, TOWNS = 50, 4, 5
NEAR = np.eye(TOWNS) + 0.5 * (np.abs(np.subtract.outer(np.arange(TOWNS), np.arange(TOWNS))) == 1)
FORMULAS = {
    "members": (f"y ~ x + (1 | {TERM})", False),
    "known": ("y ~ x + (1 | town)", True),
    "both": (f"y ~ x + (1 | {TERM}) + (1 | town)", True),
}


@cache
def pupils() -> pl.DataFrame:
    """Pupils of two schools in a town, tested once a year."""
    rng = np.random.default_rng(3)
    a, b, u = rng.integers(0, G, PUPILS), rng.integers(0, G, PUPILS), rng.uniform(0.2, 0.9, PUPILS)
    town = np.arange(PUPILS) % TOWNS
    errors = np.zeros((PUPILS, YEARS))
    errors[:, 0] = rng.normal(size=PUPILS)
    for i in range(1, YEARS):
        errors[:, i] = 0.6 * errors[:, i - 1] + 0.8 * rng.normal(size=PUPILS)
    own = shares(a, b, u, 1.0 - u) @ rng.normal(size=G) + rng.normal(size=TOWNS)[town]
    x = rng.normal(size=(PUPILS, YEARS))
    every = lambda v: np.repeat(v, YEARS)
    columns = {
        "pupil": every(np.arange(PUPILS)), "t": np.tile(np.arange(YEARS), PUPILS), "a": every(a), "b": every(b),
        "u": every(u), "v": every(1.0 - u), "town": [f"f{k}" for k in every(town)], "x": x.ravel(),
        "y": (1.0 + 0.5 * x + own[:, None] + errors).ravel(),
    }  # fmt: skip
    frame = pl.DataFrame(columns).with_columns(pl.col("a", "b").cast(pl.String).str.zfill(2))
    return frame.sample(fraction=1.0, shuffle=True, seed=1)


def relation() -> pl.DataFrame:
    """Towns beside each other, and one without rows."""
    pairs = [(f"f{i}", f"f{j}", NEAR[i, j]) for i in range(TOWNS) for j in range(i + 1) if NEAR[i, j]]
    pairs += [("empty", "empty", 1.0), ("empty", "f0", 0.3)]
    return pl.DataFrame(pairs, schema=["level", "other_level", "value"], orient="row")


@cache
def fitted(name: str) -> Any:
    formula, known = FORMULAS[name]
    more = {"known": {"town": relation()}} if known else {}
    return polars_glmm.fit(pupils(), formula, residual="ar1(t | pupil)", **more)


def dense(fit: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """y, X, V and R at the estimates."""
    frame = pupils()
    pupil, t = (frame[name].to_numpy() for name in ("pupil", "t"))
    found = dict(zip(*fit.varcorr().select("group", "estimate").to_dict(as_series=False).values(), strict=True))
    a, b = (frame[name].cast(pl.Int64).to_numpy() for name in "ab")
    m = shares(a, b, frame["u"].to_numpy(), frame["v"].to_numpy())
    z = np.eye(TOWNS)[frame["town"].str.slice(1).cast(pl.Int64).to_numpy()]
    lag = np.abs(t[:, None] - t)
    r = found["Residual"] * np.where(pupil[:, None] == pupil, fit.estimate.residual.values[0] ** lag, 0.0)
    v = r + found.get("mm(a, b)", 0.0) * m @ m.T + found.get("town", 0.0) * z @ NEAR @ z.T
    return frame["y"].to_numpy(), np.column_stack([np.ones(len(t)), frame["x"].to_numpy()]), v, r


@pytest.mark.parametrize("name", FORMULAS)
def test_the_likelihood_is_the_dense_one_and_the_estimate_its_optimum(name: str) -> None:
    fit = fitted(name)
    y, x, v, r = dense(fit)
    assert fit.loglik == pytest.approx(dense_gaussian(v, y, x, reml=True), abs=1e-8)
    formula, known = FORMULAS[name]
    more: dict[str, Any] = {"known": {"town": relation()}} if known else {}
    found = polars_glmm.objective(pupils(), formula, residual="ar1(t | pupil)", **more)
    at = np.array(list(values_of(fit, found.names).values()))
    assert np.abs(found.gradient(at)[2:]).max() < 1e-3
    away = 1.1 * at + 0.02
    ends = [[found.loglik(away + s * 1e-5 * unit) for s in (1.0, -1.0)] for unit in np.eye(len(at))]
    assert_allclose(found.gradient(away), [(up - down) / 2e-5 for up, down in ends], rtol=1e-5, atol=1e-5)
    inverse = np.linalg.inv(v)
    p = inverse - inverse @ x @ np.linalg.solve(x.T @ inverse @ x, x.T @ inverse)
    assert_allclose(fit.augment(pupils(), leverage=True)["leverage"], 1.0 - np.diag(r @ p), rtol=0, atol=1e-9)


def test_effects_are_those_of_the_covariance_between_rows_and_levels() -> None:
    """b̂ = ωAZ'V⁻¹(y − Xβ̂), of a town without rows too; scores of the rows of the fit are these."""
    fit = fitted("known")
    y, x, v, _ = dense(fit)
    omega = float(fit.varcorr()["estimate"][0])
    z = np.eye(TOWNS)[pupils()["town"].str.slice(1).cast(pl.Int64).to_numpy()]
    told = omega * NEAR @ z.T @ np.linalg.solve(v, y - x @ fit.estimate.beta)
    found = fit.ranef()
    own = dict(found.select("level", "estimate").rows())
    assert_allclose([own[f"f{k}"] for k in range(TOWNS)], told, rtol=1e-7, atol=1e-9)
    assert own["empty"] == pytest.approx(0.3 * np.linalg.solve(NEAR, told)[0], rel=1e-7)
    again = dict(fit.score(pupils()).select("level", "estimate").rows())
    assert_allclose([again[level] for level in own], list(own.values()), rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_a_town_left_out_is_foretold_by_its_neighbours() -> None:
    fit = fitted("known")
    rest = polars_glmm.fit(
        pupils().filter(pl.col("town") != "f2"), FORMULAS["known"][0], residual="ar1(t | pupil)",
        known={"town": relation()},
    )  # fmt: skip
    own = fit.influence().filter(level="f2")
    assert own["loglik"][0] == pytest.approx(rest.loglik, abs=1e-6)
    assert np.isfinite(own["elpd"][0])


def test_groups_across_sets_of_levels_are_refused() -> None:
    moved = pupils().with_columns(a=pl.when(pl.col("t") > 1).then(pl.lit("00")).otherwise("a"))
    with pytest.raises(ModelError, match="in the same levels, by the same weights"):
        polars_glmm.fit(moved, FORMULAS["members"][0], residual="ar1(t | pupil)")
