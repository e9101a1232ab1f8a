"""Rows that stay with the executors of Spark: the fit of the rows in memory, whatever happens to files and workers."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import polars_glmm
from polars_glmm.cluster.spark_executors import SparkHolders, SparkThings
from polars_glmm.cluster.thing_files import homes
from polars_glmm.errors import ModelError
from tests.engines.staying import DATA, STAY, assert_same_fit, before_rounds

pytestmark = pytest.mark.skipif(
    "spark" not in os.environ.get("POLARS_GLMM_ENGINES", "").split(), reason="Spark was not asked for"
)
NESTED = ("b ~ scale(x) + (1 | g) + (1 | h)", {"family": "binomial"})
DISPERSED = ("o ~ x + (1 | g)", {"family": "negative_binomial"})


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("spark") / "rows.parquet"
    DATA.write_parquet(path)
    build = importlib.import_module("pyspark.sql").SparkSession.builder.master("local[2]")
    for name, value in (("ui.enabled", False), ("sql.shuffle.partitions", 4), ("ui.showConsoleProgress", False)):
        build = build.config(f"spark.{name}", str(value).lower())
    return build.getOrCreate().read.parquet(str(path))


def kept(context: Any) -> set[str]:
    """What fits keep on the disks of executors."""
    return {path for found in context.parallelize(range(4), 4).map(seen).collect() for path in found}


def seen(_: object) -> list[str]:
    return [str(path) for home in homes() for path in home.glob("polars-glmm-*/*")]


def remove(context: Any, number: int, every: int) -> None:
    if number % every == every - 1:
        for path in kept(context):
            Path(path).unlink()


@pytest.fixture
def nothing_left(frame: Any) -> Iterator[None]:
    yield
    context = frame.sparkSession.sparkContext
    assert not kept(context)
    assert not context._jsc.getPersistentRDDs()


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("formula", "options"), [NESTED, DISPERSED, ("b ~ x", {"family": "binomial"})])
def test_rows_that_stay_give_the_fit_of_rows_in_memory(
    formula: str, options: dict[str, Any], frame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of all parts are lost, and rounds run twice, now and then."""
    context, plain = frame.sparkSession.sparkContext, SparkThings.ask

    def lost_and_repeated(things: SparkThings[Any], number: int) -> None:
        remove(context, number, 9)
        if number % 5 == 0:
            plain(things, partial(bool))

    rounds = before_rounds(monkeypatch, SparkThings, lost_and_repeated)
    assert_same_fit(frame, formula, options)
    assert len(rounds) > 9


@pytest.mark.usefixtures("nothing_left")
def test_errors_end_with_nothing_left(frame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(polars_glmm, "__version__", "0.0.1")
        with pytest.raises(ModelError, match=r"worker \S+ has polars_glmm .*, this process polars_glmm 0\.0\.1"):
            polars_glmm.fit(frame, "c ~ x + (1 | g)", family="poisson", control=STAY)
    with pytest.raises(ModelError, match="cross"):
        polars_glmm.fit(frame, "c ~ x + (1 | g) + (1 | b)", family="poisson", control=STAY)

    def interrupt(things: SparkThings[Any], number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    before_rounds(monkeypatch, SparkThings, interrupt)
    with pytest.raises(KeyboardInterrupt):
        polars_glmm.fit(frame, "c ~ x + (1 | g)", family="poisson", control=STAY)


def test_explain_says_that_rows_stay(frame: Any) -> None:
    said = polars_glmm.explain(frame, "c ~ x + (1 | g)", family="poisson", control=STAY)
    assert said.plan.route == "workers"
    assert "rows stay with the workers of Spark" in str(said)


def test_executors_tell_their_memory(frame: Any) -> None:
    memory = SparkHolders(frame.sparkSession.sparkContext).memory
    assert memory is not None
    assert memory > 1 << 20
