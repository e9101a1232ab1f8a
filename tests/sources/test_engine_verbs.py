"""predict, augment, with_ranef and SQL where an engine holds the rows: a plan there, the numbers of Polars."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import ColumnError, Fit, FitWarning, ModelError

from .engines import ENGINES, OPEN, as_table, rows_of


@cache
def learned() -> pl.DataFrame:
    rng, n = np.random.default_rng(2), 1500
    frame = pl.DataFrame(
        {
            "i": np.arange(n), "g": [f"g'{k}" for k in rng.integers(0, 30, n)], "h": rng.integers(0, 6, n),
            "x": rng.normal(size=n) + 3, "f": rng.choice(["a", "it's", "c"], n), "t": rng.integers(1, 6, n),
            "b": rng.random(n) < 0.5, "c": rng.poisson(2.0, n), "z": rng.gamma(2.0, 1.0, n),
        }
    )  # fmt: skip
    y = pl.Series(rng.normal(size=n)) + frame["x"] + frame["h"]
    return frame.with_columns(y=y, s=pl.Series(rng.binomial(frame["t"].to_numpy(), 0.4)))


def to_score() -> pl.DataFrame:
    """Rows with a null and a NaN, a level that no fit has seen, and keys that are null."""
    i, when = pl.col("i"), pl.when
    return learned().with_columns(
        x=when(i == 3).then(None).when(i == 4).then(float("nan")).otherwise("x"),
        g=when(i == 5).then(pl.lit("nobody")).when(i == 6).then(None).otherwise("g"),
        f=when(i == 7).then(None).otherwise("f"),
    )


MODELS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "gaussian": (("y ~ poly(x, 2) + f * b + (1 + x | g) + (1 | h)",), {}),
    "phi": (("y ~ bs(x, df=4) + (1 | g)", "phi ~ f"), {}),
    "poisson": (("c ~ log(x + 20) + f + (1 | g/h)",), {"family": "poisson"}),
    "binomial": (("s ~ scale(x) + (1 | g)",), {"family": "binomial", "trials": "t"}),
    "cloglog": (("s ~ scale(x) + (1 | g)",), {"family": "binomial", "trials": "t", "link": "cloglog"}),
    "gamma": (("z ~ x + (1 | h)",), {"family": "gamma", "link": "log"}),
    "aliased": (("y ~ x + I(2 * x) + f + (1 | h)",), {}),
}


@cache
def fitted(name: str) -> Fit:
    formulas, arguments = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(learned(), *formulas, **arguments)


def assert_columns(got: pl.DataFrame, want: pl.DataFrame, names: list[str], atol: float = 1e-9) -> None:
    got = got.sort("i")
    assert got.columns == want.columns
    for name in names:
        one, two = got[name].fill_nan(None), want[name]
        assert one.is_null().to_list() == two.is_null().to_list(), name
        np.testing.assert_allclose(one.drop_nulls().to_numpy(), two.drop_nulls().to_numpy(), rtol=1e-9, atol=atol)


@pytest.mark.one_in(6)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ENGINES)
def test_predictions_are_a_plan_with_the_numbers_of_polars(model: str, engine: str, tmp_path: Path) -> None:
    fit, rows = fitted(model), to_score()
    relation = ENGINES[engine](rows, tmp_path)
    for asked in ({"new_levels": "zero"}, {"new_levels": "null", "kind": "link"}, {"random": "none"}):
        made = fit.predict(relation, **asked)  # type: ignore[arg-type]
        assert isinstance(made, duckdb.DuckDBPyRelation)
        assert_columns(rows_of(made), fit.predict(rows, **asked), ["prediction"])  # type: ignore[arg-type]
    if model in ("phi", "gamma"):
        assert_columns(rows_of(fit.predict(relation, kind="phi")), fit.predict(rows, kind="phi"), ["prediction"])


@pytest.mark.one_in(4)
@pytest.mark.parametrize("model", MODELS)
def test_residuals_and_modes_stand_beside_the_rows(model: str) -> None:
    fit, rows = fitted(model), to_score()
    relation = as_table(rows)
    known = rows.filter(pl.col("g").is_null() | (pl.col("g") != "nobody"))
    got = rows_of(fit.augment(relation))
    want = fit.augment(known)
    assert_columns(got.join(known.select("i"), on="i"), want, want.columns[rows.width :], atol=1e-7)
    modes = fit.with_ranef(rows)
    assert_columns(rows_of(fit.with_ranef(relation)), modes, modes.columns[rows.width :])


def test_residuals_are_null_where_a_level_is_not_known() -> None:
    row = rows_of(fitted("gaussian").augment(as_table(to_score()))).filter(pl.col("i") == 5)
    assert row["fitted"].to_list() == row["resid"].to_list() == [None]


@pytest.mark.one_in(6)
@pytest.mark.parametrize("model", MODELS)
def test_the_sql_of_a_fit_scores_a_table(model: str) -> None:
    fit, rows = fitted(model), to_score()
    connection = duckdb.connect()
    connection.register("given", rows.to_arrow())
    connection.execute('create table "my ""rows" as select * from given')
    for asked in ({}, {"new_levels": "null"}, {"random": "none", "kind": "link"}):
        sql, tables = fit.to_sql('my "rows', **asked)  # type: ignore[arg-type]
        for name, table in tables.items():
            connection.register(name, table.to_arrow())
        want = fit.predict(rows, **{"new_levels": "zero", **asked})  # type: ignore[arg-type]
        assert_columns(pl.DataFrame(connection.sql(sql).to_arrow_table()), want, ["prediction"])


def test_sql_is_written_in_the_words_of_a_dialect() -> None:
    fit = fitted("binomial")
    assert "`x`" in fit.to_sql("rows", dialect="spark").sql
    assert "DOUBLE PRECISION" in fit.to_sql("rows", dialect="postgres").sql
    with pytest.raises(ModelError, match="dialect='oracle' is not known"):
        fit.to_sql("rows", dialect="oracle")  # type: ignore[arg-type]


def test_what_a_plan_cannot_hold_is_refused_at_the_call() -> None:
    fit, relation = fitted("gaussian"), as_table(to_score())
    with pytest.raises(ModelError, match=r"new_levels='zero' or new_levels='null'.*unseen"):
        fit.predict(relation)  # type: ignore[type-var]
    for asked in ({"std_error": True}, {"interval": "confidence"}, {"random": "integrate"}):
        with pytest.raises(ModelError, match="take the rows out first"):
            fit.predict(relation, new_levels="zero", **asked)  # type: ignore[arg-type, type-var]
    with pytest.raises(ModelError, match="take the rows out first"):
        fit.simulate(relation, rng=1)  # type: ignore[type-var]
    with pytest.raises(ModelError, match="leverage=True is computed here"):
        fit.augment(relation, leverage=True)  # type: ignore[type-var]
    with pytest.raises(ColumnError, match="already has 'i'"):
        fit.predict(relation, new_levels="zero", name="i")  # type: ignore[type-var]
    with pytest.raises(ColumnError, match="needs 'x'"):
        fit.predict(as_table(to_score().drop("x")), new_levels="zero")  # type: ignore[type-var]
    with pytest.raises(ColumnError, match="cannot be compared"):
        fit.predict(as_table(to_score().with_columns(h=pl.lit("1"))), new_levels="zero")  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("formula", "options", "said"),
    [
        ("cens(y, lower=-1, upper=4) ~ x + (1 | h)", {}, "censored responses"),
        ("y ~ x + (1 | h)", {"residual": "ar1(i | h)"}, "all rows of a group"),
    ],
)
def test_residuals_that_a_plan_cannot_write_are_refused(formula: str, options: dict[str, Any], said: str) -> None:
    fit = polars_glmm.fit(learned().head(300), formula, **options)
    with pytest.raises(ModelError, match=f"{said}.*take the rows out first"):
        fit.augment(as_table(to_score()))  # type: ignore[type-var]


def test_sql_has_no_probabilities_of_ordered_categories() -> None:
    fit, rows = polars_glmm.fit(learned(), "t ~ x + h", family="cumulative"), learned()
    with pytest.raises(ModelError, match=r"probabilities of a cumulative response.*kind='link'"):
        fit.to_sql("rows")
    sql, tables = fit.to_sql("kept", kind="link")
    as_table(rows)
    for name, table in tables.items():
        OPEN[-1].register(name, table.to_arrow())
    got = pl.DataFrame(OPEN[-1].sql(sql).to_arrow_table())
    assert_columns(got, fit.predict(rows, kind="link"), ["prediction"])


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "duckdb"])
def test_levels_that_no_fit_has_seen_are_listed_with_their_rows(kind: str) -> None:
    rows = to_score().with_columns(f=pl.when(pl.col("i") < 3).then(pl.lit("new")).otherwise("f"))
    frame: Any = {"polars": rows, "lazy": rows.lazy(), "pandas": rows.to_pandas(), "duckdb": as_table(rows)}[kind]
    found = fitted("gaussian").unseen(frame)
    want = {"variable": ["f", "g"], "part": ["fixed", "random"], "level": ["new", "nobody"], "n_rows": [3, 1]}
    assert_frame_equal(found, pl.DataFrame(want))
    assert fitted("gaussian").unseen(learned()).height == 0
