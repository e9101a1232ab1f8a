"""Models of frames that an engine holds: from its sums or counts, the same numbers as from the rows in Polars."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import duckdb
import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import ColumnError, Control, DataChangedError, Fit, FitWarning, FormulaError, ModelError
from polars_glmm.design.sums.outline import outline
from polars_glmm.design.sums.queries import SumQueries
from polars_glmm.design.sums.summarise import summarise
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_source import EngineSource
from polars_glmm.frames.source import Source
from polars_glmm.spec.call import Call

from .engines import ENGINES, as_parquet, as_table


def made(n: int = 3000, seed: int = 1) -> pl.DataFrame:
    """Rows with what engines differ in: NaN and null, quotes in labels, dates, Booleans, names that queries use."""
    rng = np.random.default_rng(seed)
    g, h, f = rng.integers(0, 40, n), rng.integers(0, 7, n), rng.choice(["a", "it's", 'say "b"'], n)
    x, u = rng.normal(size=n) + 100.0, rng.normal(size=(40, 2)) @ np.array([[1.0, 0.1], [0.0, 0.3]])
    y = 5 + 0.3 * (x - 100) + (f == "a") + u[g, 0] + u[g, 1] * (x - 100) + rng.normal(size=7)[h] + rng.normal(size=n)
    place = pl.int_range(pl.len())
    return pl.DataFrame(
        {
            "g": [f"g{k}" for k in g], "h": pl.Series(h, dtype=pl.UInt8), "x": x, "f": f, "y": y,
            "count": rng.integers(0, 3, n), "weight": rng.uniform(0.5, 2.0, n), "id": rng.integers(1, 4, n),
            "b": rng.random(n) < 0.5, "o": rng.normal(size=n), "c": rng.poisson(np.exp(0.2 + 0.3 * (f == "a"))),
        }
    ).with_columns(
        x=pl.when(place % 500 == 7).then(float("nan")).otherwise("x"),
        y=pl.when(place % 500 == 9).then(None).otherwise("y"),
        day=pl.date(2026, 1, 1) + pl.duration(days=pl.col("h").cast(pl.Int64)),
        money=pl.col("id").cast(pl.Decimal(10, 2)),
    )  # fmt: skip


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def rows_are_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often rows were read out of an engine."""
    seen: list[str] = []
    original = EngineFrame.rows

    def told(self: EngineFrame, *arguments: Any) -> Any:
        seen.append(self.name)
        return original(self, *arguments)

    monkeypatch.setattr(EngineFrame, "rows", told)
    return seen


def quietly(frame: Any, *formulas: str, **arguments: Any) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(frame, *formulas, **arguments)


def assert_alike(got: Fit, want: Fit) -> None:
    assert got.loglik == pytest.approx(want.loglik, abs=1e-8)
    assert got.fixef()["term"].to_list() == want.fixef()["term"].to_list()
    np.testing.assert_allclose(got.fixef()["estimate"], want.fixef()["estimate"], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(got.varcorr()["estimate"], want.varcorr()["estimate"], rtol=1e-5, atol=1e-6)
    assert (got.n_obs, got.n_dropped, got.groups) == (want.n_obs, want.n_dropped, want.groups)
    for name in [group.group for group in want.groups]:
        assert_frame_equal(got.ranef(name), want.ranef(name), rel_tol=1e-5, abs_tol=1e-5)


GAUSSIAN: dict[str, dict[str, Any]] = {
    "y ~ scale(x) + f + (x | g) + (1 | h)": {},
    "y ~ f * id + (1 | g:h)": {"frequency": "count"},
    "y ~ x + b + (1 | g/h)": {"precision": "weight"},
    "y ~ bs(x, df=4) + I(id**2) + (1 | day)": {"offset": "o"},
    "y ~ ave(x, f) + log(id) + pmin(x, 100) + (0 + f | h)": {"method": "ml"},
    "y ~ money + C(h) + poly(x, 2) + (1 | g)": {},
    "y ~ x + (1 | money) + (1 | day)": {"method": "ml"},
    "y ~ x + I(2 * x) + I(x > 100) + (1 | b)": {},
    "y ~ 0 + f": {},
}


@pytest.mark.one_in(6)
@pytest.mark.parametrize("formula", GAUSSIAN)
def test_a_gaussian_model_needs_sums_of_its_engine_only(
    formula: str, engine: str, tmp_path: Path, rows_are_read: list[str]
) -> None:
    frame = made()
    got = quietly(ENGINES[engine](frame, tmp_path), formula, **GAUSSIAN[formula])
    assert not rows_are_read
    want = quietly(frame, formula, **GAUSSIAN[formula])
    assert_alike(got, want)
    assert [note.code for note in got.notes] == [note.code for note in want.notes]


def test_products_of_an_engine_are_those_of_the_rows_and_add_up(engine: str, tmp_path: Path) -> None:
    frame, formula = made(), "y ~ x + f + (x | g)"
    (tmp_path / "a").mkdir()
    first, second = frame.head(1200), frame.tail(1800)
    one = polars_glmm.products(ENGINES[engine](first, tmp_path), formula)
    two = polars_glmm.products(ENGINES[engine](second, tmp_path / "a"), like=one)
    want = quietly(frame, formula)
    got = (one + two).fit()
    assert got.loglik == pytest.approx(want.loglik, abs=1e-8)
    assert got.n_obs == want.n_obs


def test_what_an_engine_cannot_sum_is_read_out_once(engine: str, tmp_path: Path, rows_are_read: list[str]) -> None:
    frame = made()
    relation = ENGINES[engine](frame, tmp_path)
    got = quietly(relation, "y ~ round(x) + (1 | g)")
    assert len(rows_are_read) == 1
    assert any(note.code == "rows_collected" and "round()" in note.text for note in got.notes)
    assert_alike(got, quietly(frame, "y ~ round(x) + (1 | g)"))
    parts = polars_glmm.products(relation, "y ~ round(x) + (1 | g)")
    assert parts.fit().loglik == pytest.approx(got.loglik, abs=1e-8)
    assert "until they are read out, once" in polars_glmm.explain(relation, "y ~ round(x) + (1 | g)").text


@pytest.mark.one_in(3)
@pytest.mark.parametrize("arguments", [{"family": "poisson"}, {"family": "poisson", "frequency": "count"}])
def test_equal_rows_are_counted_by_the_engine(
    arguments: dict[str, Any], engine: str, tmp_path: Path, rows_are_read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polars_glmm.frames.counted._FEWEST_ROWS", 100)
    frame, formula = made(), "c ~ f + id + (1 | h)"
    relation = ENGINES[engine](frame, tmp_path)
    got = quietly(relation, formula, **arguments)
    assert not rows_are_read
    assert_alike(got, quietly(frame, formula, **arguments))
    assert any(note.code == "rows_compressed" for note in got.notes)
    told = polars_glmm.explain(relation, formula, **arguments)
    assert "which counts them" in told.text
    assert told.plan.stays


def test_rows_that_do_not_repeat_are_read_out_once(engine: str, tmp_path: Path, rows_are_read: list[str]) -> None:
    frame, formula = made(), "c ~ x + (1 | g)"
    got = quietly(ENGINES[engine](frame, tmp_path), formula, family="poisson")
    assert len(rows_are_read) == 1
    assert_alike(got, quietly(frame, formula, family="poisson"))


def test_many_columns_are_multiplied_here_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame, formula = made(), "y ~ x + f + (1 | g)"
    monkeypatch.setattr("polars_glmm.design.sums.parts.MANY_COLUMNS", 2)
    got = quietly(as_parquet(frame, tmp_path), formula)
    assert_alike(got, quietly(frame, formula))


def test_explain_says_who_sums(engine: str, tmp_path: Path) -> None:
    told = polars_glmm.explain(ENGINES[engine](made(), tmp_path), "y ~ x + f + (x | g)")
    assert "rows stay with DuckDB, which sums them" in told.text
    want = polars_glmm.explain(made(), "y ~ x + f + (x | g)")
    assert told.frame.filter(pl.col("part").is_in(["rows", "fixed", "random"])).equals(
        want.frame.filter(pl.col("part").is_in(["rows", "fixed", "random"]))
    )


@pytest.mark.slow
def test_values_that_are_none_are_named_without_a_row(engine: str, tmp_path: Path) -> None:
    frame = made()
    broken = {
        "infinite": (frame.with_columns(x=pl.when(pl.int_range(pl.len()) == 3).then(np.inf).otherwise("x")), "x", {}),
        "not finite": (frame, "log(id - 1)", {}),
        "it must be a whole number": (frame.with_columns(count=pl.lit(0.5)), "x", {"frequency": "count"}),
        "it must be not negative": (frame.with_columns(weight=pl.lit(-1.0)), "x", {"precision": "weight"}),
        "Every row has a missing value": (frame.with_columns(x=pl.lit(None, dtype=pl.Float64)), "x", {}),
        "12 rows have a missing value in .y. and .x.. missing": (frame, "x", {"missing": "error"}),
    }
    for number, (said, (rows, term, arguments)) in enumerate(broken.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ColumnError, match=said.replace("(", r"\(")) as caught:
            quietly(ENGINES[engine](rows, folder), f"y ~ {term} + (1 | g)", **arguments)
        assert "row 3" not in str(caught.value)
    with pytest.raises(ColumnError, match="no column 'z'"):
        quietly(ENGINES[engine](frame, tmp_path), "y ~ z + (1 | g)")
    with pytest.raises(FormulaError):
        quietly(ENGINES[engine](frame, tmp_path), "y ~ x + (1 | g")


def test_an_engine_without_rows_is_refused() -> None:
    with pytest.raises(ColumnError, match="no rows"):
        quietly(as_table(made().head(0)), "y ~ x + (1 | g)")


def test_a_table_that_changes_between_two_queries_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = duckdb.connect()
    connection.register("given", made().to_arrow())
    connection.execute("create table kept as select * from given")
    original = SumQueries._grouped

    def changing(self: SumQueries, *arguments: Any) -> Any:
        connection.execute("insert into kept select * from given limit 10")
        return original(self, *arguments)

    monkeypatch.setattr(SumQueries, "_grouped", changing)
    with pytest.raises(DataChangedError):
        quietly(connection.table("kept"), "y ~ x + f + (x | g) + (1 | h)")


def test_labels_that_change_after_they_were_learned_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = duckdb.connect()
    connection.register("given", made().to_arrow())
    connection.execute("create table kept as select * from given")
    original = SumQueries.look

    def changing(self: SumQueries) -> Any:
        connection.execute("update kept set f = 'a' where h = 3")
        return original(self)

    monkeypatch.setattr(SumQueries, "look", changing)
    with pytest.raises(DataChangedError):
        quietly(connection.table("kept"), "y ~ x + f + (1 | g)")


def test_the_connection_is_free_after_a_fit_and_after_one_that_failed() -> None:
    relation = as_table(made())
    quietly(relation, "c ~ x + (1 | g)", family="poisson")
    with pytest.raises(polars_glmm.GlmmError):
        quietly(relation, "y ~ x + (1 | g)", family="poisson")
    assert quietly(relation, "y ~ x + (1 | g)").n_obs > 0


def test_an_engine_keeps_no_rows_here_unless_asked() -> None:
    relation, formula = as_table(made()), "y ~ x + (1 | g)"
    assert quietly(relation, formula).rows is None
    assert quietly(relation, formula, control=Control(keep="rows")).rows is not None
    kept = quietly(relation, formula)
    again = kept.update("y ~ x + f + (1 | g)")
    assert again.loglik == pytest.approx(quietly(made(), "y ~ x + f + (1 | g)").loglik, abs=1e-8)


def test_polars_through_narwhals_is_one_more_engine() -> None:
    """The seam itself, without an engine's own ways; sums are those of Polars to the last digits but two."""
    frame = made()
    spec = Call(("y ~ scale(x) + f + (x | g) + (1 | h)",)).spec().resolve(frozenset(frame.columns))
    native, through = Source.of(spec, frame.lazy()), EngineSource.on(spec, EngineFrame.of(nw.from_native(frame.lazy())))
    one, two = (summarise(outline(spec, source), source).moments for source in (native, through))
    np.testing.assert_allclose(two.second, one.second, rtol=1e-12, atol=1e-9)
    for a, b in zip(one.factors, two.factors, strict=True):
        np.testing.assert_allclose(b.second, a.second, rtol=1e-11, atol=1e-9)


def test_a_stream_without_end_is_refused() -> None:
    class Stream:
        isStreaming = True  # noqa: N815

    class Plan:
        def to_native(self) -> Stream:
            return Stream()

    with pytest.raises(ModelError, match="no end"):
        EngineFrame.of(Plan())
