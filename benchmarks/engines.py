"""Models of rows in a Parquet file: by DuckDB, by Polars, and the bare SQL of the same sums.

`python benchmarks/engines.py [ROWS]`: 1e6 if not given; seconds, once each, and differences of log-likelihoods.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import duckdb
import numpy as np
import polars as pl

import polars_glmm

T = TypeVar("T")
SLOPE, COUNTS = "y ~ x + (1 + x | g)", "c ~ f + d + (1 | h)"
BARE = """select g, count(*), sum(x), sum(y), sum(x * x), sum(x * y), sum(y * y) from read_parquet('{}') group by g"""
CELLS = """select h, f, d, c, count(*) from read_parquet('{}') group by h, f, d, c"""


def rows(n: int) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    g, h, x = rng.integers(0, max(n // 200, 2), n), rng.integers(0, 50, n), rng.normal(size=n)
    u = rng.normal(size=(g.max() + 1, 2))
    f, d = rng.integers(0, 4, n), rng.integers(0, 7, n)
    return pl.DataFrame(
        {
            "g": g, "h": h, "x": x, "y": 1 + x + u[g, 0] + 0.3 * u[g, 1] * x + rng.normal(size=n),
            "f": pl.Series(f).cast(pl.String), "d": d, "c": rng.poisson(np.exp(0.1 * f - 0.05 * d)),
        }
    )  # fmt: skip


def timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    made = work()
    return time.perf_counter() - began, made


def main() -> None:
    n = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.parquet")
        rows(n).write_parquet(path)
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
