"""Models of rows in a Parquet file: by DuckDB, by Polars, and the bare SQL of the same sums.

`python benchmarks/engines.py [ROWS]`: 1e6 if not given; seconds, once each, and differences of log-likelihoods.
`python benchmarks/engines.py ROWS dask` (or spark): instead a Bernoulli intercept whose rows stay with two workers of
Dask, each one process and one thread, or with Spark of two threads: seconds until rows are divided, and of the rounds.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import duckdb
import numpy as np
import polars as pl

import polars_glmm
from polars_glmm.control import Rows

T = TypeVar("T")
Opened: TypeAlias = AbstractContextManager[tuple[Callable[[str], Any], Any]]
"""How a frame of a file is opened on a cluster, and the class of the things that stay there."""
ONE = polars_glmm.Control(rows=Rows(compress=False, processes=1))
STAY = polars_glmm.Control(rows=Rows(stay=True, compress=False), progress=False)
SLOPE, COUNTS = "y ~ x + (1 + x | g)", "c ~ f + d + (1 | h)"
BARE = """select g, count(*), sum(x), sum(y), sum(x * x), sum(x * y), sum(y * y) from read_parquet('{}') group by g"""
CELLS = """select h, f, d, c, count(*) from read_parquet('{}') group by h, f, d, c"""


def rows(n: int) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    g, h, x = rng.integers(0, max(n // 200, 2), n), rng.integers(0, 50, n), rng.normal(size=n)
    u = rng.normal(size=(g.max() + 1, 2))
    f, d = rng.integers(0, 4, n), rng.integers(0, 7, n)
    counts = rng.poisson(np.exp(0.1 * f - 0.05 * d))
    frame = pl.DataFrame(
        {
            "g": g, "h": h, "x": x, "y": 1 + x + u[g, 0] + 0.3 * u[g, 1] * x + rng.normal(size=n),
            "f": pl.Series(f).cast(pl.String), "d": d, "c": counts,
        }
    )  # fmt: skip
    return frame.with_columns(b=pl.Series(rng.random(n) < 1 / (1 + np.exp(-x - u[g, 0]))).cast(pl.Int8))


def timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    made = work()
    return time.perf_counter() - began, made


@contextmanager
def dask() -> Iterator[tuple[Callable[[str], Any], Any]]:
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    from polars_glmm.cluster.dask_workers import DaskThings

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        yield lambda path: dd.read_parquet(path).repartition(npartitions=4), DaskThings


@contextmanager
def spark() -> Iterator[tuple[Callable[[str], Any], Any]]:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    from pyspark.sql import SparkSession

    from polars_glmm.cluster.spark_executors import SparkThings

    build = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = build.config("spark.ui.showConsoleProgress", "false").getOrCreate()
    yield session.read.parquet, SparkThings
    context = session.sparkContext
    numbers = context.parallelize(range(2), 2)
    empty = [timed(lambda: context.runJob(numbers, iter, [0, 1]))[0] for _ in range(20)]
    print(f"a job of Spark that does nothing: median {statistics.median(empty):.3f} s, least {min(empty):.3f} s")
    session.stop()


def stay(cluster: Opened, n: int, path: str) -> None:
    rounds: list[tuple[float, float]] = []
    formula, family = "b ~ x + (1 | g)", "binomial"
    first = str(Path(path).with_name("first.parquet"))
    rows(2000).write_parquet(first)
    with cluster as (read, things):
        plain = things.ask

        def ask(self: object, question: Callable[[object], T]) -> list[T]:
            began = time.perf_counter()
            answers: list[T] = plain(self, question)
            rounds.append((began, time.perf_counter() - began))
            return answers

        things.ask = ask
        here, native = timed(lambda: polars_glmm.fit(
            pl.read_parquet(path), formula, family=family, control=ONE
        ))  # fmt: skip
        polars_glmm.fit(read(first), formula, family=family, control=STAY)  # what is imported once
        rounds.clear()
        began = time.perf_counter()
        there, engine = timed(lambda: polars_glmm.fit(read(path), formula, family=family, control=STAY))
        seconds = [taken for _, taken in rounds[1:]]  # the first asks what the parts hold
        print(f"Bernoulli intercept, {n:.0e} rows, {native.groups[0].n_levels} levels, load {os.getloadavg()[0]:.1f}; "
              f"in memory {here:.2f} s, with workers {there:.2f} s ({rounds[0][0] - began:.2f} before rounds); "
              f"{len(seconds)} rounds, median {statistics.median(seconds):.3f} s, least {min(seconds):.3f} s, "
              f"{len(seconds) / sum(seconds):.1f} a second; difference {engine.loglik - native.loglik:.1e} of "
              f"{native.loglik:.1f}")  # fmt: skip


def main() -> None:
    n = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.parquet")
        rows(n).write_parquet(path)
        if sys.argv[2:]:
            stay({"dask": dask, "spark": spark}[sys.argv[2]](), n, path)
            return
        for name, formula, family, sql in (
            ("gaussian slope", SLOPE, "gaussian", BARE), ("discrete poisson", COUNTS, "poisson", CELLS),
        ):  # fmt: skip
            scan, relation = pl.scan_parquet(path), duckdb.read_parquet(path)
            here, native = timed(lambda: polars_glmm.fit(scan, formula, family=family))  # noqa: B023  called at once
            there, engine = timed(lambda: polars_glmm.fit(relation, formula, family=family))  # noqa: B023  called at once
            bare, _ = timed(lambda: duckdb.sql(sql.format(path)).to_arrow_table())  # noqa: B023  called at once
            print(f"{name}, {n:.0e} rows: Polars {here:.2f} s, DuckDB {there:.2f} s, bare SQL {bare:.2f} s; "
                  f"difference {engine.loglik - native.loglik:.1e} of {native.loglik:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
