"""A file that was written over, or cut off, since it was scanned is a DataChangedError with the remedy in every verb.

Polars 1.x reads on by what the file said of itself before: errors about pages, about thrift, or a panic.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import DataChangedError


def rows(n: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    g, x = rng.integers(0, 30, n), rng.normal(size=n)
    y = x + rng.normal(size=30)[g] + rng.normal(size=n)
    return pl.DataFrame({"y": y, "x": x, "g": g, "c": rng.poisson(np.exp(0.3 * x)), "k": rng.integers(0, 2, n)})


def by_key(scan: pl.LazyFrame) -> Any:
    return polars_glmm.fit(scan, "y ~ x + (1 | g)", by="k")


def counts(scan: pl.LazyFrame) -> Any:
    return polars_glmm.fit(scan, "c ~ x + (1 | g)", family="poisson")


VERBS: dict[str, Callable[[pl.LazyFrame], Any]] = {
    "sums": lambda scan: polars_glmm.fit(scan, "y ~ x + (1 | g)"),
    "rows": counts,
    "by": by_key,
    "explain": lambda scan: polars_glmm.explain(scan, "y ~ x + (1 | g)"),
    "explain by": lambda scan: polars_glmm.explain(scan, "y ~ x + (1 | g)", by="k"),
    "objective": lambda scan: polars_glmm.objective(scan, "y ~ x + (1 | g)"),
    "products": lambda scan: polars_glmm.products(scan, "y ~ x + (1 | g)"),
}


@pytest.mark.parametrize(
    ("verb", "change"), [*((verb, "other rows") for verb in VERBS), ("sums", "fewer columns"), ("by", "cut off")]
)
def test_a_parquet_file_that_was_written_over_is_named_as_such(tmp_path: Path, verb: str, change: str) -> None:
    path = tmp_path / "rows.parquet"
    rows(3000, 1).write_parquet(path)
    scan = pl.scan_parquet(path)
    scan.select("y").collect()  # what the file says of itself is known now
    if change == "other rows":
        rows(4000, 2).write_parquet(path)
    elif change == "fewer columns":
        rows(3000, 2).select("y").write_parquet(path)
    else:
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataChangedError, match="written over since it was scanned: scan it anew"):
        VERBS[verb](scan)


def test_an_error_of_the_query_itself_stays_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows(300, 1).with_columns(y=pl.lit("one")).write_parquet(path)
    with pytest.raises(pl.exceptions.InvalidOperationError, match="conversion"):
        polars_glmm.fit(pl.scan_parquet(path).with_columns(pl.col("y").cast(pl.Float64)), "y ~ x")
