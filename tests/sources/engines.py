"""Frames of engines in one process, made of a frame of Polars."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import narwhals.stable.v2 as nw
import polars as pl

OPEN: list[duckdb.DuckDBPyConnection] = []
"""Connections of relations in use: before version 2 DuckDB closes one that nobody holds."""


def as_table(frame: pl.DataFrame) -> duckdb.DuckDBPyRelation:
    """A table of a connection of its own."""
    connection = duckdb.connect()
    OPEN.append(connection)
    connection.register("given", frame.to_arrow())
    connection.execute("create table kept as select * from given")
    return connection.table("kept")


def as_parquet(frame: pl.DataFrame, folder: Path) -> duckdb.DuckDBPyRelation:
    """A Parquet file, whose statistics leave NaN out, read by DuckDB."""
    path = folder / "rows.parquet"
    frame.write_parquet(path)
    connection = duckdb.connect()
    OPEN.append(connection)
    return connection.read_parquet(str(path))


ENGINES: dict[str, Callable[[pl.DataFrame, Path], Any]] = {
    "duckdb": lambda frame, _: as_table(frame),
    "parquet": as_parquet,
}
"""Engines of the ordinary tests; others are tried by themselves (tests/engines)."""


def rows_of(found: Any) -> pl.DataFrame:
    """The rows of a frame of any library."""
    made = nw.from_native(found)
    return made.collect("polars").to_native() if isinstance(made, nw.LazyFrame) else made.to_polars()
