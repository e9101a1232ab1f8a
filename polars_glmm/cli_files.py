"""Files that the command line writes, by their suffixes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

WRITERS: dict[str, Callable[[pl.DataFrame, Path], None]] = {
    "parquet": lambda table, path: table.write_parquet(path),
    "csv": lambda table, path: flat(table).write_csv(path),
    "json": lambda table, path: table.write_json(path),
}
SINKS: dict[str, Callable[[pl.LazyFrame, Path], None]] = {
    ".csv": lambda rows, path: rows.sink_csv(path),
    ".parquet": lambda rows, path: rows.sink_parquet(path),
    ".ipc": lambda rows, path: rows.sink_ipc(path),
    ".ndjson": lambda rows, path: rows.sink_ndjson(path),
}
"""Formats of predictions, which are written while they are read."""


def write(frames: Mapping[str, pl.DataFrame], folder: Path, form: str) -> None:
    """Write all tables into `folder`: first beside it, then each moved into place, so that none is ever half there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".glmm-", dir=folder) as scratch:
        files = [(Path(scratch) / f"{name}.{form}", table) for name, table in frames.items()]
        for path, table in files:
            WRITERS[form](table, path)
        for path, _ in files:
            path.replace(folder / path.name)


def flat(table: pl.DataFrame) -> pl.DataFrame:
    """The table with nested columns as JSON text, for CSV."""
    nested = [name for name, dtype in table.schema.items() if dtype.is_nested()]
    return table.with_columns(
        pl.Series(name, [json.dumps(value) for value in table[name].to_list()], dtype=pl.String) for name in nested
    )
