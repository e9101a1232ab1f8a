"""Rows that stay with the executors of Spark: the fit of the rows in memory, whatever happens to files and workers."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control
from polars_glmm.cluster.spark_executors import SparkHolders, SparkThings
from polars_glmm.cluster.thing_files import homes
from polars_glmm.control import Rows
from polars_glmm.errors import ModelError

pytestmark = pytest.mark.skipif(
    "spark" not in os.environ.get("POLARS_GLMM_ENGINES", "").split(), reason="Spark was not asked for"
)
N = 3000
STAY = Control(rows=Rows(stay=True, compress=False), progress=False)
HERE = Control(rows=Rows(compress=False), progress=False)
NESTED = ("b ~ scale(x) + (1 | g) + (1 | h)", {"family": "binomial"})
DISPERSED = ("c ~ x + (1 | g)", {"family": "negative_binomial"})


def made() -> pl.DataFrame:
    rng = np.random.default_rng(9)
    g, x = rng.integers(0, 40, N), rng.normal(size=N) + 10
    h = g * 3 + rng.integers(0, 3, N)
    eta = 0.3 * (x - 10) + 0.7 * rng.normal(size=40)[g] + 0.4 * rng.normal(size=120)[h]
    frame = pl.DataFrame(
        {
            "g": [f"g{k}" for k in g],
            "h": h,
            "x": x,
            "c": rng.poisson(np.exp(eta) * rng.gamma(2.0, 0.5, N)),
            "b": (rng.random(N) < 1 / (1 + np.exp(-eta))).astype(int),
        }
    )
    k = pl.int_range(N)
    return frame.with_columns(
        g=pl.when(k % 811 == 3).then(None).otherwise("g"), x=pl.when(k % 400 == 7).then(float("nan")).otherwise("x")
    )


DATA = made()


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


def before_rounds(monkeypatch: pytest.MonkeyPatch, work: Callable[[SparkThings[Any], int], object]) -> list[int]:
    """Do something before every round, with its number; the rounds that there were."""
    rounds: list[int] = []
    plain = SparkThings.ask

    def ask(self: SparkThings[Any], question: Any) -> list[Any]:
        rounds.append(len(rounds))
        work(self, rounds[-1])
        return plain(self, question)

    monkeypatch.setattr(SparkThings, "ask", ask)
    return rounds


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
    here = polars_glmm.fit(DATA, formula, control=HERE, **options)
    rounds = before_rounds(
        monkeypatch, lambda things, number: (remove(context, number, 9), number % 5 or plain(things, partial(bool)))
    )
    there = polars_glmm.fit(frame, formula, control=STAY, **options)
    assert len(rounds) > 9
    assert there.loglik == pytest.approx(here.loglik, abs=1e-8)
    assert (there.n_obs, there.n_dropped, there.groups) == (here.n_obs, here.n_dropped, here.groups)
    tables = ("fixef", "varcorr", "ranef") if here.groups else ("fixef",)
    for table in tables:
        got, want = getattr(there, table)()["estimate"], getattr(here, table)()["estimate"]
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


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

    before_rounds(monkeypatch, interrupt)
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
