"""Grids to predict on: every combination of what is asked for, everything else held."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import ModelError, UnknownLevelError, datasets

TICKS, SLEEP = datasets.load("grouseticks"), datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def ticks() -> Any:
    return polars_glmm.fit(TICKS, "TICKS ~ YEAR + cHEIGHT + (1 | LOCATION)", family="poisson")


def test_what_is_asked_varies_and_the_rest_is_held(ticks: Any) -> None:
    found = polars_glmm.grid(ticks, cHEIGHT=[-10, 10], YEAR=["97", "95"])
    assert found.columns == ["cHEIGHT", "YEAR"]
    assert found.rows() == [(-10.0, "97"), (-10.0, "95"), (10.0, "97"), (10.0, "95")]
    assert found["YEAR"].dtype == TICKS["YEAR"].dtype
    held = polars_glmm.grid(ticks)
    assert held["YEAR"].to_list() == ["95", "96", "97"]
    assert held["cHEIGHT"].to_list() == pytest.approx([TICKS["cHEIGHT"].mean()] * 3, abs=1e-9)


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_statistics_are_those_of_the_rows_that_were_used(lazy: bool) -> None:
    frame = SLEEP.with_columns(x=pl.col("Days") ** 1.5, Reaction=pl.when(pl.col("Days") < 8).then("Reaction"))
    used = frame.filter(pl.col("Reaction").is_not_null())["x"]
    fit = polars_glmm.fit(frame.lazy() if lazy else frame, "Reaction ~ x + (1 | Subject)")
    mean, sd = float(used.mean()), float(used.std())  # type: ignore[arg-type]
    for name, want in {
        "mean": [mean],
        "sd": [mean - sd, mean, mean + sd],
        "median": [used.median()],
        "quartiles": [used.quantile(q, "linear") for q in (0.25, 0.5, 0.75)],
        "min": [used.min()],
        "max": [used.max()],
        "range": [used.min(), used.max()],
        "levels": used.unique().sort().to_list(),
    }.items():
        assert polars_glmm.grid(fit, x=name)["x"].to_list() == pytest.approx(want, rel=1e-12)


def test_every_kind_of_factor_has_its_levels_back() -> None:
    frame = SLEEP.with_columns(late=pl.col("Days") > 4, week=pl.col("Days") // 4)
    fit = polars_glmm.fit(frame, "Reaction ~ late + C(week) + (1 | Subject)")
    found = polars_glmm.grid(fit)
    assert found["late"].to_list() == [False] * 3 + [True] * 3
    assert found["week"].to_list() == [0, 1, 2] * 2
    assert found["week"].dtype == frame["week"].dtype
    assert polars_glmm.grid(fit, late=True, week=2).rows() == [(True, 2)]
    assert fit.predict(found, random="none")["prediction"].null_count() == 0


def test_a_grid_can_be_predicted_on_with_groups(ticks: Any) -> None:
    found = polars_glmm.grid(ticks, LOCATION=["1", "3"], YEAR="96")
    assert found["LOCATION"].dtype == TICKS["LOCATION"].dtype
    assert ticks.predict(found)["prediction"].null_count() == 0
    everywhere = polars_glmm.grid(ticks, LOCATION="levels", YEAR="96")
    assert everywhere.height == TICKS["LOCATION"].n_unique()
    slope = polars_glmm.fit(SLEEP, "Reaction ~ 1 + (Days | Subject)")
    assert polars_glmm.grid(slope).columns == ["Days"]  # random effects multiply it
    names = polars_glmm.grid(ticks, {"cHEIGHT": np.array([1.0, 2.0])}, YEAR="95")
    assert names["cHEIGHT"].to_list() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"height": 1}, ModelError, "no.* column of the model|is not a column"),
        ({"YEAR": "98"}, UnknownLevelError, "'98'"),
        ({"YEAR": ["95", "95"]}, ModelError, "more than once"),
        ({"cHEIGHT": [1.0, 1.0]}, ModelError, "more than once"),
        ({"cHEIGHT": "mode"}, ModelError, "none of 'mean'"),
        ({"cHEIGHT": []}, ModelError, "not a number"),
        ({"cHEIGHT": ["a"]}, ModelError, "its values are numbers"),
        ({"LOCATION": "nowhere"}, UnknownLevelError, "nowhere"),
    ],
)
def test_what_a_grid_cannot_have_is_named(ticks: Any, asked: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        polars_glmm.grid(ticks, **asked)


def test_a_grid_that_is_hardly_meant_is_refused(ticks: Any) -> None:
    with pytest.raises(ModelError, match="rows"):
        polars_glmm.grid(ticks, cHEIGHT=np.arange(20_000.0), LOCATION="levels", YEAR="levels")
