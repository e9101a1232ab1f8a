"""Frames of pandas, PyArrow and DuckDB are fitted as the same rows in Polars, and get their predictions back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute
import pytest
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import ColumnError, Control, FitCollection, Memory, ModelError, datasets, fit

GAUSSIAN = ("Reaction ~ Days + (Days | Subject)", "sleepstudy", {})
COUNTS = ("TICKS ~ YEAR + cHEIGHT + (1 | BROOD)", "grouseticks", {"family": "poisson"})
SHARES = ("incidence ~ period + (1 | herd)", "cbpp", {"family": "binomial", "trials": "size"})


_OPEN: list[duckdb.DuckDBPyConnection] = []
"""Connections of relations in use: before version 2 DuckDB closes one that nobody holds."""


def as_duckdb(frame: pl.DataFrame) -> Any:
    connection = duckdb.connect()
    _OPEN.append(connection)
    connection.register("frame", frame.to_arrow())
    connection.execute("create table kept as select * from frame")
    return connection.table("kept")


ELSEWHERE: dict[str, Callable[[pl.DataFrame], Any]] = {
    "pandas": lambda frame: frame.to_pandas(),
    "pyarrow": lambda frame: frame.to_arrow(),
    "duckdb": as_duckdb,
}


@pytest.fixture(params=ELSEWHERE)
def library(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Without Enums and Categoricals, which libraries keep in their own ways: levels come in the order of text."""
    return frame.with_columns(pl.col(pl.Enum, pl.Categorical).cast(pl.String))


def test_update_takes_a_frame_of_any_library(library: str) -> None:
    frame = plain(datasets.load("sleepstudy"))
    want = polars_glmm.fit(frame.head(90), GAUSSIAN[0])
    found = want.update(frame=ELSEWHERE[library](frame))
    assert found.loglik == pytest.approx(polars_glmm.fit(frame, GAUSSIAN[0]).loglik, rel=1e-9)


@pytest.mark.parametrize("model", [GAUSSIAN, COUNTS, SHARES], ids=["gaussian", "poisson", "binomial"])
def test_a_fit_is_that_of_the_same_rows(library: str, model: tuple[str, str, dict[str, str]]) -> None:
    formula, name, arguments = model
    frame = plain(datasets.load(name))
    want = polars_glmm.fit(frame, formula, **arguments)  # type: ignore[arg-type]
    got = polars_glmm.fit(ELSEWHERE[library](frame), formula, **arguments)  # type: ignore[arg-type]
    assert got.loglik == pytest.approx(want.loglik, abs=1e-8)
    assert got.fixef()["term"].to_list() == want.fixef()["term"].to_list()
    np.testing.assert_allclose(got.fixef()["estimate"], want.fixef()["estimate"], rtol=1e-7)


@pytest.mark.parametrize("keep", ["rows", "source", "none"])
def test_an_engine_is_read_for_fit_explain_and_objective(keep: str) -> None:
    frame = plain(datasets.load("grouseticks"))
    relation, formula = as_duckdb(frame), COUNTS[0]
    fit = polars_glmm.fit(relation, formula, family="poisson", control=Control(keep=keep))  # type: ignore[arg-type]
    assert fit.n_obs == frame.height
    assert polars_glmm.explain(relation, formula, family="poisson").frame.height
    objective = polars_glmm.objective(relation, formula, family="poisson")
    assert objective.names[0] == "Intercept"


def test_a_model_for_each_key(library: str) -> None:
    frame = plain(datasets.load("grouseticks"))
    want = polars_glmm.fit(frame, "TICKS ~ cHEIGHT + (1 | BROOD)", family="poisson", by="YEAR")
    got = polars_glmm.fit(ELSEWHERE[library](frame), "TICKS ~ cHEIGHT + (1 | BROOD)", family="poisson", by="YEAR")
    np.testing.assert_allclose(got.glance()["loglik"], want.glance()["loglik"], atol=1e-8)


def test_predictions_stand_beside_the_rows_and_the_index_of_pandas() -> None:
    frame = datasets.load("sleepstudy")
    fit = polars_glmm.fit(frame, GAUSSIAN[0])
    rows = frame.to_pandas().sample(frac=1.0, random_state=1)
    before = rows.copy(deep=True)
    made = fit.predict(rows, std_error=True)  # type: ignore[type-var]
    assert isinstance(made, pd.DataFrame)
    assert list(made.columns) == [*before.columns, "prediction", "prediction_std_error"]
    pd.testing.assert_frame_equal(made[list(before.columns)], before)
    pd.testing.assert_frame_equal(rows, before)
    want = fit.predict(frame)["prediction"].to_numpy()
    np.testing.assert_array_equal(made["prediction"].to_numpy(), want[before.index.to_numpy()])


@pytest.mark.parametrize("verb", ["predict", "augment", "with_ranef", "simulate"])
def test_verbs_answer_in_the_library_of_the_rows(verb: str) -> None:
    frame = datasets.load("sleepstudy")
    fit = polars_glmm.fit(frame, GAUSSIAN[0])
    arguments = {"rng": 1} if verb == "simulate" else {}
    want = getattr(fit, verb)(frame, **arguments)
    table = getattr(fit, verb)(frame.to_arrow(), **arguments)
    assert isinstance(table, pa.Table)
    assert table.column_names == want.columns
    np.testing.assert_array_equal(pl.DataFrame(table).select(pl.selectors.float()), want.select(pl.selectors.float()))
    added = getattr(fit, verb)(frame.to_pandas(), **arguments)
    assert list(added.columns) == want.columns


def test_a_collection_answers_in_the_library_of_the_rows() -> None:
    frame = plain(datasets.load("grouseticks"))
    fits = polars_glmm.fit(frame, "TICKS ~ cHEIGHT + (1 | BROOD)", family="poisson", by="YEAR")
    made = fits.predict(frame.to_pandas())  # type: ignore[type-var]
    np.testing.assert_array_equal(made["prediction"], fits.predict(frame)["prediction"])


def test_categories_keep_the_order_that_pandas_declares() -> None:
    frame = plain(datasets.load("cbpp")).to_pandas()
    frame["period"] = pd.Categorical(frame["period"], categories=["3", "1", "2", "4"])
    fit = polars_glmm.fit(frame, SHARES[0], family="binomial", trials="size")
    assert fit.fixef()["term"].to_list() == ["Intercept", "period[T.1]", "period[T.2]", "period[T.4]"]


def test_categories_of_pandas_are_categories_whatever_they_are_of() -> None:
    frame = plain(datasets.load("sleepstudy"))
    whole = frame.with_columns(pl.col("Days").cast(pl.Int64), pl.col("Subject").cast(pl.Int64))
    want = polars_glmm.fit(whole, "Reaction ~ C(Days) + (1 | Subject)")
    own = whole.to_pandas()
    own["Days"], own["Subject"] = pd.Categorical(own["Days"]), pd.Categorical(own["Subject"])
    fit = polars_glmm.fit(own, "Reaction ~ Days + (1 | Subject)")
    assert fit.loglik == pytest.approx(want.loglik, abs=1e-9)
    assert fit.fixef()["term"][1] == "Days[T.1]"
    for new in (own, whole.to_pandas()):  # as categories, and as the numbers they were made of
        np.testing.assert_allclose(fit.predict(new)["prediction"], want.predict(whole)["prediction"], rtol=1e-9)
    cut = own.assign(x=pd.cut(whole["Days"].to_numpy(), [-1, 4, 9]))
    assert polars_glmm.fit(cut, "Reaction ~ x + (1 | Subject)").fixef()["term"][1] == "x[T.(4, 9]]"


KEPT_OTHERWISE = {
    "sparse": lambda days: pd.arrays.SparseArray(days.astype(float)),
    "long double": lambda days: days.astype(np.longdouble),
    "run-end encoded": lambda days: pd.arrays.ArrowExtensionArray(pyarrow.compute.run_end_encode(pa.array(days))),
}


@pytest.mark.parametrize("kind", KEPT_OTHERWISE)
def test_numbers_are_numbers_however_pandas_keeps_them(kind: str) -> None:
    frame = plain(datasets.load("sleepstudy"))
    own = frame.to_pandas()
    own["Days"] = KEPT_OTHERWISE[kind](frame["Days"].to_numpy())
    fit = polars_glmm.fit(own, GAUSSIAN[0])
    assert fit.loglik == pytest.approx(polars_glmm.fit(frame, GAUSSIAN[0]).loglik, abs=1e-9)


def test_what_no_column_holds_is_refused_where_it_is_used() -> None:
    own = plain(datasets.load("sleepstudy")).to_pandas().assign(other=1j)
    assert polars_glmm.fit(own, GAUSSIAN[0]).n_obs == 180
    with pytest.raises(ColumnError, match="'other' is Object"):
        polars_glmm.fit(own, "Reaction ~ other + (1 | Subject)")
    with pytest.raises(ColumnError, match="several columns of one name"):
        polars_glmm.fit(pd.concat([own, own[["Days"]]], axis=1), GAUSSIAN[0])


def test_what_duckdb_has_and_polars_has_not_is_refused_where_it_is_used() -> None:
    sleep = plain(datasets.load("sleepstudy"))  # noqa: F841  DuckDB finds it by name
    relation = duckdb.sql("select *, to_hours(Days::int) as interval, map{'a': Days} as map from sleep")
    assert polars_glmm.fit(relation, GAUSSIAN[0]).n_obs == 180
    for formula, words in (
        ("Reaction ~ interval + (1 | Subject)", "'interval' is Object"),
        ("Reaction ~ C(interval) + (1 | Subject)", "'interval' is Object"),
        ("Reaction ~ Days + (1 | map)", "one plain value in each row"),
    ):
        with pytest.raises(ColumnError, match=words):
            polars_glmm.fit(relation, formula)


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_a_key_that_is_nan_is_missing(library: str) -> None:
    """As a null is: it has no model (NaN had one of its own), and no prediction."""
    frame = plain(datasets.load("sleepstudy"))
    frame = frame.with_columns(key=pl.when(pl.col("Days") > 5).then(float("nan")).otherwise(pl.col("Days") % 2.0))
    many = polars_glmm.fit(ELSEWHERE[library](frame), "Reaction ~ Days", by="key")
    assert many.status()["key"].to_list() == [0.0, 1.0]
    made = many.predict(frame)
    assert made["prediction"].is_null().to_list() == (frame["Days"] > 5).to_list()
    for part in (frame, frame.lazy()):
        assert part.glmm.fit("Reaction ~ Days", by="key").status().height == 2


def test_missing_values_of_every_library_are_missing(library: str) -> None:
    frame = datasets.load("sleepstudy").with_columns(
        Days=pl.when(pl.int_range(pl.len()) % 50 == 3).then(None).otherwise(pl.col("Days"))
    )
    want = polars_glmm.fit(frame, GAUSSIAN[0])
    got = polars_glmm.fit(ELSEWHERE[library](frame), GAUSSIAN[0])
    assert (got.n_dropped, got.n_obs) == (want.n_dropped, want.n_obs) == (4, 176)
    assert got.loglik == pytest.approx(want.loglik, abs=1e-8)


def test_rows_of_an_engine_larger_than_memory_go_by_the_disk() -> None:
    rng = np.random.default_rng(3)
    frame = pl.DataFrame({"g": rng.integers(0, 200, 20_000), "x": rng.normal(size=20_000)})
    frame = frame.with_columns(y=pl.Series(rng.poisson(np.exp(0.3 * frame["x"].to_numpy()))))
    want = polars_glmm.fit(frame, "y ~ x + (1 | g)", family="poisson")
    small = Control(memory=Memory(limit=1_000_000))
    got = polars_glmm.fit(as_duckdb(frame), "y ~ x + (1 | g)", family="poisson", control=small)
    assert got.loglik == pytest.approx(want.loglik, abs=1e-6)


def test_rows_in_no_order_get_no_draws_beside_them() -> None:
    frame = datasets.load("sleepstudy")
    fit = polars_glmm.fit(frame, GAUSSIAN[0])
    with pytest.raises(ModelError, match=r"not to duckdb\.DuckDBPyRelation: take the rows out first"):
        fit.simulate(as_duckdb(frame), rng=1)


@pytest.mark.parametrize("nothing", [[1, 2], {"x": [1.0]}, np.ones((3, 2)), None, 7])
def test_what_is_no_frame_is_refused(nothing: object) -> None:
    with pytest.raises(ModelError, match="pass a frame of Polars, pandas, PyArrow"):
        polars_glmm.fit(nothing, "y ~ x")  # type: ignore[arg-type]


def test_narwhals_is_imported_for_other_frames_only() -> None:
    code = (
        "import polars_glmm, sys; from polars_glmm import datasets;"
        "f = datasets.load('sleepstudy'); fit = polars_glmm.fit(f, 'Reaction ~ Days + (1 | Subject)'); fit.predict(f);"
        "print('narwhals' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("kind", ["pandas", "pyarrow", "duckdb"])
def test_the_verbs_that_answer_with_tables_take_every_frame(kind: str) -> None:
    sleep = datasets.load("sleepstudy").with_columns(pl.col("Subject").cast(pl.String))
    frame = ELSEWHERE[kind](sleep)
    mixed = fit(sleep, "Reaction ~ Days + (Days | Subject)")
    for ask in (
        lambda rows: mixed.predictions(rows, by="Days"),
        lambda rows: mixed.slopes(rows),
        lambda rows: mixed.score(rows),
        lambda rows: mixed.distribution(rows, [200.0, 300.0], average=True),
        lambda rows: mixed.check("uniformity", rows, rng=1),
    ):
        made, expected = (ask(rows).lazy().collect() for rows in (frame, sleep))
        assert_frame_equal(made, expected, check_dtypes=False, rel_tol=1e-9)
    with pytest.raises(ModelError, match=r"score\(\) takes a frame of Polars, pandas"):
        mixed.score(3)  # type: ignore[type-var]


def test_a_table_of_counts_and_each_key_take_every_frame() -> None:
    epil = datasets.load("epil2").with_columns(pl.col("trt").cast(pl.String))
    two = fit(epil, "y ~ Base + (1 | subject)", family="poisson", by="trt")
    assert isinstance(two, FitCollection)
    assert_frame_equal(two.predictions(epil.to_pandas()), two.predictions(epil), rel_tol=1e-9)
    one = two["placebo"]
    assert_frame_equal(one.count_table(epil.to_arrow()), one.count_table(epil), rel_tol=1e-9)
