"""Gaussian models with a formula of phi: one answer on every route, whatever rows stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import Control, Fit, Memory, Rows
from polars_glmm.frames import counted

DISK = Control(memory=Memory(limit=1), rows=Rows(compress=False))
PHI = ["phi ~ f", "phi ~ 0 + f", "phi ~ x", "phi ~ f + x"]


def rows(n: int = 240, seed: int = 4) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    g, f = rng.integers(0, 12, n), rng.integers(0, 3, n)
    x = rng.normal(size=n)
    sd = np.exp(np.array([-0.6, 0.0, 0.7])[f] + 0.2 * x)
    w, times = rng.uniform(0.3, 3.0, n), rng.integers(1, 4, n)
    y = 2.0 + 0.5 * x + rng.normal(size=12)[g] + 0.4 * rng.normal(size=12)[g] * x + sd * rng.normal(size=n) / np.sqrt(w)
    return pl.DataFrame({"y": y, "x": x, "f": [f"f{k}" for k in f], "g": g, "w": w, "times": times})


def same(one: Fit, other: Fit) -> None:
    assert other.method == one.method
    assert other.loglik == pytest.approx(one.loglik, abs=1e-7)
    assert_allclose(other.fixef()["estimate"], one.fixef()["estimate"], rtol=1e-5, atol=1e-6)
    assert_allclose(other.fixef()["std_error"], one.fixef()["std_error"], rtol=2e-3)
    assert_allclose(other.varcorr()["estimate"], one.varcorr()["estimate"], rtol=1e-4)
    df = (fit.fixef().filter(parameter="mu")["df"].to_numpy() for fit in (other, one))
    assert_allclose(*df, rtol=5e-3)
    assert_allclose(other.ranef()["estimate"], one.ranef()["estimate"], atol=1e-5)


@pytest.mark.one_in(9)
@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("phi", PHI)
def test_every_route_has_the_answer_of_the_rows(phi: str, method: str, tmp_path: Path) -> None:
    frame = rows()
    formulas, options = ("y ~ x + (x | g)", phi), {"method": method, "precision": "w", "frequency": "times"}
    eager = frame.glmm.fit(*formulas, **options)
    assert eager.converged
    assert not eager.singular
    same(eager, frame.lazy().glmm.fit(*formulas, **options))
    same(eager, frame.lazy().glmm.fit(*formulas, control=DISK, **options))
    frame.write_parquet(tmp_path / "rows.parquet")
    same(eager, pl.scan_parquet(tmp_path / "rows.parquet").glmm.fit(*formulas, **options))
    repeated = frame.select(pl.all().exclude("times").repeat_by("times").explode(empty_as_null=False))
    same(eager, repeated.glmm.fit(*formulas, method=method, precision="w"))
    both = pl.concat([rows().with_columns(k=1), rows(seed=5).with_columns(k=2)])
    by_key = polars_glmm.fit(both, *formulas, by="k", **options)
    same(eager, by_key[1])


@pytest.mark.parametrize("method", ["ml", "reml"])
def test_equal_rows_are_counted(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counted, "_FEWEST_ROWS", 1)
    once = rows(120)
    many = pl.concat([once] * 4)
    formulas = ("y ~ x + (1 | g)", "phi ~ f + x")
    plan = many.glmm.explain(*formulas, method=method).plan
    assert (plan.route, plan.cells) == ("rows", 120)
    fit = many.glmm.fit(*formulas, method=method)
    same(once.with_columns(four=4).glmm.fit(*formulas, method=method, frequency="four"), fit)
    same(many.glmm.fit(*formulas, method=method, control=Control(rows=Rows(compress=False))), fit)


def test_predictions_know_the_variance_of_each_row_and_intervals_their_freedom() -> None:
    frame = rows()
    fit = frame.glmm.fit("y ~ x + (1 | g)", "phi ~ f", precision="w")
    levels = fit.fixef().filter(parameter="phi")["estimate"].to_numpy()
    phi = dict(zip(["f0", "f1", "f2"], np.exp(levels[0] + np.array([0.0, levels[1], levels[2]])), strict=True))
    assert_allclose(fit.predict(frame, kind="phi")["prediction"], [phi[f] for f in frame["f"]], rtol=1e-12)
    table = fit.fixef().filter(parameter="mu")
    at_zero = fit.predict(frame.head(1).with_columns(x=0.0), interval="confidence", random="none")
    assert_allclose(at_zero["prediction_low"], table["conf_low"][0], rtol=1e-9)


def test_a_sum_that_has_lost_its_digits_is_told_from_rows() -> None:
    """Levels far apart: of 16 digits sums of squares have 11 for the levels, and rows enough for the residuals."""
    frame = rows()
    far = frame.with_columns(y=pl.col("y") + 1e5 * pl.col("g"))
    near, moved = (data.glmm.fit("y ~ x + C(g)", "phi ~ f") for data in (frame, far))
    assert near.certificate.row_passes == 0 < moved.certificate.row_passes
    assert moved.loglik == pytest.approx(near.loglik, abs=1e-6)


@pytest.mark.parametrize("data", [rows(), rows().lazy()], ids=["eager", "lazy"])
def test_what_is_held_stays_and_the_rest_is_at_its_optimum(data: Any) -> None:
    formulas = ("y ~ x + (1 | g)", "phi ~ f")
    free = data.glmm.fit(*formulas)
    held = data.glmm.fit(*formulas, fixed={"sd(g: Intercept)": 0.5})
    assert held.varcorr()["std_dev"].item() == pytest.approx(0.5, rel=1e-12)
    assert held.loglik < free.loglik
    objective = polars_glmm.objective(rows(), *formulas)
    at = [*held.fixef().filter(parameter="mu")["estimate"], 0.5, *held.fixef().filter(parameter="phi")["estimate"]]
    assert objective.loglik(at) == pytest.approx(held.loglik, abs=1e-8)
    slopes = dict(zip(objective.names, objective.gradient(at), strict=True))
    assert max(abs(slope) for name, slope in slopes.items() if not name.startswith("sd(")) < 1e-4
