"""A source is read as often as explain says, and no fit is made of two samples of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control, Memory
from polars_glmm.columns.nodes import Reference
from polars_glmm.columns.operators import Expressions
from polars_glmm.design.sums import outline as lazy_learn
from polars_glmm.design.sums import summarise as sums
from polars_glmm.design.sums.queries import SumQueries
from polars_glmm.errors import DataChangedError, UnknownLevelError
from polars_glmm.frames.facts import Fact, of_labels, of_values
from polars_glmm.frames.held import repeatable
from tests.sources.kinds import KINDS, rows
from tests.streaming.same import quietly

DISK = Control(memory=Memory(limit=1))
MODELS: list[tuple[str, dict[str, Any]]] = [
    ("y ~ x + (1 | g)", {}),
    ("y ~ gappy + f + (1 | g) + (1 | h)", {}),
    ("y ~ bs(scale(x), df=4) + poly(x, 2) + (x | g)", {}),
    ("y ~ x + f + (1 | g)", {"frequency": "trials", "precision": "w"}),
    ("y ~ x + f + (1 | g)", {"control": DISK}),
    ("y ~ x + (1 | g)", {"control": Control(keep="rows")}),
    ("y ~ x + (1 | g)", {"fixed": {"x": 1.0}}),
    ("count ~ gappy + f + (1 | g)", {"family": "poisson"}),
    ("count ~ f + (1 | g) + (1 | h)", {"family": "poisson"}),
    ("count ~ scale(x) + f + (1 | g)", {"family": "poisson", "control": DISK}),
    ("count ~ x + (1 | g)", {"family": "poisson", "control": Control(keep="rows")}),
    ("share ~ x + (1 | g)", {"family": "binomial", "trials": "trials"}),
    ("share ~ f + (1 | g)", {"family": "binomial", "trials": "trials", "control": DISK}),
    ("y ~ x", {"by": "key"}),
    ("count ~ f", {"by": ["key"], "family": "poisson"}),
]  # fmt: skip


@pytest.mark.one_in(6)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("formula", "arguments"), MODELS, ids=str)
def test_a_source_that_must_not_be_read_twice_is_read_once(kind: str, formula: str, arguments: dict[str, Any]) -> None:
    data, count = rows(), [0]
    want = quietly(data, formula, **{k: v for k, v in arguments.items() if k != "control"})
    fit = quietly(KINDS[kind](data, count), formula, **arguments)
    assert count == [1]
    np.testing.assert_allclose(fit.glance()["loglik"], want.glance()["loglik"], rtol=1e-8)
    if "by" not in arguments:
        count[0] = 0
        asked = {k: v for k, v in arguments.items() if k != "fixed"}
        plan = polars_glmm.explain(KINDS[kind](data, count), formula, **asked).plan
        assert (count[0], plan.scans) == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_products_and_objectives_read_once(kind: str) -> None:
    data, count = rows(), [0]
    formula = "y ~ scale(x) + f + (1 | g) + (1 | h)"
    made = polars_glmm.products(KINDS[kind](data, count), formula).fit()
    assert count == [1]
    assert made.loglik == pytest.approx(quietly(data, formula).loglik, rel=1e-9)
    part = polars_glmm.products(KINDS[kind](data, count), like=polars_glmm.products(data, formula))
    assert (count, part.n_obs) == ([2], data.height)
    objective = polars_glmm.objective(KINDS[kind](data, count), formula)
    assert (count, objective.names) == ([3], polars_glmm.objective(data, formula).names)


def test_a_source_that_is_gone_is_said_to_have_changed() -> None:
    fit = quietly(KINDS["once only"](rows(), [0]), "y ~ x + (1 | g)")
    with pytest.raises(DataChangedError, match="no longer be read"):
        fit.data()


def test_a_file_that_was_written_over_since_it_was_scanned(tmp_path: Path) -> None:
    """Polars panics at a Parquet file that is shorter than it was."""
    path = tmp_path / "rows.parquet"
    rows().write_parquet(path)
    scanned = pl.scan_parquet(path)
    assert quietly(scanned, "y ~ x + (1 | g)").n_obs == rows().height
    rows().head(20).select("y", "x", "g").write_parquet(path)
    with pytest.raises(DataChangedError, match="scan it anew"):
        quietly(scanned, "y ~ x + (1 | g)")


def test_an_error_of_a_step_comes_through_as_it_is() -> None:
    def fails(_: pl.DataFrame) -> pl.DataFrame:
        msg = "my own"
        raise ValueError(msg)

    for formula, family in (("y ~ x + (1 | g)", "gaussian"), ("count ~ f + (1 | g)", "poisson")):
        with pytest.raises(ValueError, match="my own"):
            polars_glmm.fit(rows().lazy().map_batches(fails), formula, family=family)


# other rows each time ------------------------------------------------------------------------------------------------


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("formula", "arguments"), MODELS, ids=str)
def test_every_number_of_a_fit_of_a_random_query_comes_from_one_sample(formula: str, arguments: dict[str, Any]) -> None:
    data, seen, rng = rows(600), [], np.random.default_rng(1)

    def sample(batch: pl.DataFrame) -> pl.DataFrame:
        seen.append(batch[rng.permutation(batch.height)[:300]])
        return seen[-1]

    fit = quietly(data.lazy().map_batches(sample), formula, **arguments)
    (only,) = seen
    want = quietly(only, formula, **{k: v for k, v in arguments.items() if k != "control"})
    np.testing.assert_allclose(fit.glance()["loglik"], want.glance()["loglik"], rtol=1e-8)


def exact(n: int = 3000) -> pl.DataFrame:
    """A response that any sample fits with the same coefficients, and no mixture of two."""
    rng = np.random.default_rng(2)
    g, f, x = rng.integers(0, 12, n), rng.integers(0, 3, n), rng.normal(size=n)
    y = 2.0 * x + 3.0 * (f == 1) - (f == 2) + rng.normal(size=12)[g] + 1e-3 * rng.normal(size=n)
    return pl.DataFrame({"y": y, "x": x, "f": np.array(["a", "b", "c"])[f], "g": g})


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "sampled",
    [
        lambda rows: rows.filter(pl.int_range(pl.len()).shuffle() < 1500),
        lambda rows: rows.select(pl.struct(pl.all()).sample(1500).alias("row")).unnest("row"),
        lambda rows: rows.with_columns(k=pl.int_range(pl.len()).shuffle()).sort("k").head(1500),
    ],
)
def test_a_random_query_gives_the_coefficients_of_any_sample(sampled: Callable[[pl.LazyFrame], pl.LazyFrame]) -> None:
    for formula in ("y ~ x + f + (1 | g)", "y ~ center(x) + f + (1 | g)"):
        for _ in range(3):
            fit = quietly(sampled(exact().lazy()), formula)
            np.testing.assert_allclose(fit.fixef()["estimate"][1:], [2.0, 3.0, -1.0], atol=1e-3)
            assert fit.n_obs == 1500


REPEATABLE: list[tuple[bool, Callable[[pl.LazyFrame], pl.LazyFrame]]] = [
    (True, lambda q: q),
    (True, lambda q: q.filter(pl.col("f") == "shuffle()").with_columns(python=pl.col("x") + 1)),
    (True, lambda q: q.rename({"x": ".shuffle()"})),
    (True, lambda q: q.join(q.group_by("g").agg(m=pl.mean("y")), on="g").sort("y")),
    (True, lambda q: q.unique()),
    (False, lambda q: q.map_batches(lambda rows: rows)),
    (False, lambda q: q.with_columns(pl.col("x").map_batches(lambda s: s))),
    (False, lambda q: q.with_columns(pl.col("g").map_elements(lambda k: k, return_dtype=pl.Int64))),
    (False, lambda q: q.group_by("g").map_groups(lambda rows: rows, schema=None)),
    (False, lambda q: q.filter(pl.int_range(pl.len()).shuffle(seed=3) < 9)),
    (False, lambda q: q.select(pl.all().sample(fraction=0.5, seed=1))),
    (False, lambda q: q.unique("g")),
    (False, lambda q: q.group_by("g").agg(pl.sum("y")).head(3)),
    (False, lambda q: pl.concat([q, q.map_batches(lambda rows: rows)])),
    (False, lambda q: q.rename({"x": '"'}).filter(pl.int_range(pl.len()).shuffle() < 9)),
    (False, lambda q: KINDS["one at a time"](q.collect(), [0])),
]


@pytest.mark.parametrize(("expected", "make"), REPEATABLE)
def test_a_plan_tells_whether_it_may_run_twice(expected: bool, make: Callable[[pl.LazyFrame], pl.LazyFrame]) -> None:
    assert repeatable(make(exact(50).lazy())) is expected


def test_draws_stand_beside_the_rows_they_were_drawn_for() -> None:
    data = exact()
    fit = quietly(data, "y ~ x + f + (1 | g)")
    shuffled = data.lazy().filter(pl.int_range(pl.len()).shuffle() < 1500)
    drawn = fit.simulate(shuffled, rng=1, random="conditional").collect()
    assert (drawn["sim_1"] - drawn["y"]).abs().max() < 0.02


# files that change between two readings ------------------------------------------------------------------------------


def changing(path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, more: pl.DataFrame) -> None:
    """Rows are added to a file after the first call of a function."""
    written(monkeypatch, where, name, lambda: pl.concat([pl.read_csv(path), more]).write_csv(path))


def written(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, change: Callable[[], None]) -> None:
    """A source is changed after the first call of a function."""
    original, done = getattr(where, name), []

    def then_changed(*args: Any, **options: Any) -> Any:
        found = original(*args, **options)
        if not done:
            done.append(True)
            change()
        return found

    monkeypatch.setattr(where, name, then_changed)


GROWN: list[tuple[str, dict[str, Any]]] = [
    ("y ~ x + f + (1 | g)", {}),
    ("y ~ center(x) + (1 | g)", {}),
    ("y ~ poly(x, 2) + f + (x | g)", {}),
    ("count ~ x + f + (1 | g)", {"family": "poisson", "control": DISK}),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("label", ["a", "new"])
@pytest.mark.parametrize(("formula", "arguments"), GROWN, ids=str)
def test_a_file_that_grows_while_it_is_fitted_is_fitted_as_it_was_at_one_time(
    formula: str, arguments: dict[str, Any], label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, data = tmp_path / "rows.csv", rows()
    data.write_csv(path)
    more = pl.read_csv(path).head(40).with_columns(f=pl.lit(label), x=pl.col("x") + 3.0, y=pl.col("y") - 2.0)
    changing(path, monkeypatch, lazy_learn.LazyVariables, "ask", more)
    fit = quietly(pl.scan_csv(path), formula, **arguments)
    want = quietly(pl.read_csv(path), formula, **{k: v for k, v in arguments.items() if k != "control"})
    assert want.n_obs == 440
    assert fit.loglik == pytest.approx(want.loglik, rel=1e-9)
    assert fit.fixef()["term"].to_list() == want.fixef()["term"].to_list()
    if not arguments:  # on disk the levels are counted after the change, in the file as it then stays
        assert any(note.code == "rows_collected" and "other rows" in note.text for note in fit.notes)


X, REVERSED = pl.col("x"), pl.col("f").reverse()
MOVED: list[tuple[str, str, pl.Expr]] = [
    ("scale(x)", "shift", X + 1e-3),
    ("scale(x)", "spread", (X - X.mean()) * 1.001 + X.mean()),
    ("scale(far)", "spread far from zero", (pl.col("far") - pl.col("far").mean()) * 1.001 + pl.col("far").mean()),
    ("poly(x, 2)", "mirrored", -X + 2 * X.mean()),
    ("bs(x, df=4)", "one row", X + pl.when(pl.int_range(pl.len()) == 7).then(0.1).otherwise(0.0)),
    ("ave(x, f)", "levels exchanged", REVERSED),
    ("ave(x, f) + x", "values exchanged", X.reverse()),
    ("f", "levels exchanged", pl.when(pl.col("f") == "a").then(pl.lit("z")).otherwise("f").alias("f")),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("family", ["gaussian", "poisson"])
@pytest.mark.parametrize(("term", "what", "change"), MOVED, ids=[f"{term} {what}" for term, what, _ in MOVED])
def test_values_that_change_while_they_are_read_are_read_as_at_one_time(
    family: str, term: str, what: str, change: pl.Expr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows in the same groups, and a column of theirs is another once something was learned of it."""
    path, lazy = tmp_path / "rows.csv", lazy_learn.LazyVariables
    data = rows().with_columns(far=X + 1e6)
    data.write_csv(path)
    name = change.meta.output_name() if "far" not in what else "far"
    reading = "means" if term.startswith("ave") else "ask"
    after = data.with_columns(change.alias(name))
    written(monkeypatch, lazy, reading, lambda: after.write_csv(path))
    y = "y" if family == "gaussian" else "count"
    fit = quietly(pl.scan_csv(path), f"{y} ~ {term} + (1 | g)", family=family, control=DISK)
    want = quietly(after, f"{y} ~ {term} + (1 | g)", family=family)
    assert fit.loglik == pytest.approx(want.loglik, rel=1e-9)
    np.testing.assert_allclose(fit.fixef()["estimate"], want.fixef()["estimate"], rtol=1e-6, atol=1e-9)
    assert any(note.code == "rows_collected" and "other rows" in note.text for note in fit.notes)


def test_parts_of_a_growing_file_are_summed_as_of_one_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, data = tmp_path / "rows.csv", rows()
    data.write_csv(path)
    first = polars_glmm.products(data, "y ~ x + f + (1 | g)")
    more = pl.read_csv(path).head(40).with_columns(f=pl.lit("new"))
    changing(path, monkeypatch, SumQueries, "look", more)
    with pytest.raises(UnknownLevelError, match="'new'"):
        polars_glmm.products(pl.scan_csv(path), like=first)
    again = polars_glmm.products(pl.scan_csv(path), "y ~ x + f + (1 | g)")
    assert again.fit().loglik == pytest.approx(quietly(pl.read_csv(path), "y ~ x + f + (1 | g)").loglik, rel=1e-9)


def test_facts_of_a_reading_hold_for_the_same_rows_only() -> None:
    data = exact(200)
    counted = data.group_by("f").agg(pl.len().alias("__glmm_count"))
    to = Expressions(dict(data.schema))
    x = of_values("x", Reference("x"), data["x"].to_numpy(), np.ones(200))
    other = pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("z")).otherwise("f")
    swapped = data.with_columns(f=other, x=pl.col("x") * (1.0 + 1e-6) + 1e-6)

    def now(fact: Fact, of: pl.DataFrame) -> float:
        value = fact.value if isinstance(fact.value, pl.Expr) else fact.value.compile(to)
        return of.select(value.sum()).item()

    assert len(x) == 3
    for fact in (of_labels(counted, "f"), *x[:2]):
        assert fact.holds(now(fact, data))
        assert fact.holds(now(fact, data.reverse()))
        assert not fact.holds(now(fact, swapped))


def test_sums_of_different_rows_are_not_put_together() -> None:
    data = rows()
    good = polars_glmm.products(data, "y ~ x + (1 | g)").moments
    (part,) = good.factors
    sums.require_one_sample(good)
    for wrong in (replace(part, mean=part.mean + 1e-3), replace(part, weight=part.weight * 1.001)):
        with pytest.raises(DataChangedError, match="one query than to another"):
            sums.require_one_sample(replace(good, factors=(wrong,)))
