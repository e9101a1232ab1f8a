"""Files that the command line reads and writes, by their suffixes."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from polars_glmm import datasets
from polars_glmm.errors import DatasetError, counted, enumerate_names

DATASET = "dataset:"
NULLS = ("NA",)
"""What stands for a missing value in a csv file when nobody says, beside an empty field: what R writes."""


def scan_csv(path: Path, nulls: Sequence[str] = NULLS) -> pl.LazyFrame:
    """A csv file whose dtypes are inferred from all of its rows."""
    return pl.scan_csv(path, infer_schema_length=None, null_values=list(nulls))


READERS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    ".csv": scan_csv,
    ".parquet": pl.scan_parquet,
    ".pq": pl.scan_parquet,
    ".ipc": pl.scan_ipc,
    ".arrow": pl.scan_ipc,
    ".feather": pl.scan_ipc,
    ".ndjson": lambda path: pl.scan_ndjson(path, infer_schema_length=None),
    ".jsonl": lambda path: pl.scan_ndjson(path, infer_schema_length=None),
}
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


def read(name: str, nulls: Sequence[str] | None = None) -> pl.DataFrame | pl.LazyFrame:
    """The data behind `dataset:NAME` (a frame), or behind a path (lazily), by its suffix.

    nulls   what stands for a missing value in a csv file; None: `NULLS`
    """
    path = Path(name)
    if nulls is not None and (name.startswith(DATASET) or path.suffix.lower() != ".csv"):
        msg = f"--null-values is for csv files; {name!r} has null values of its own."
        raise DatasetError(msg)
    if name.startswith(DATASET):
        return datasets.load(name.removeprefix(DATASET))
    if (reader := READERS.get(path.suffix.lower())) is None:
        known = enumerate_names(sorted(READERS), limit=len(READERS))
        msg = f"{name!r}: the suffix says the format; known are {known}, and {DATASET}NAME."
        raise DatasetError(msg)
    if not path.is_file():
        msg = f"{name!r}: there is no such file."
        raise DatasetError(msg)
    try:
        frame = reader(path) if nulls is None else scan_csv(path, nulls)
        frame.collect_schema()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _unreadable(name, error) from error
    return frame


def what_was_read(name: str, frame: pl.DataFrame | pl.LazyFrame, columns: Iterable[str]) -> str:
    """One line about a file: its rows, and dtype and missing values of `columns`; nothing about a data set.

    Raises DatasetError for a file that cannot be read to its end.
    """
    if isinstance(frame, pl.DataFrame):
        return ""
    try:
        schema = frame.collect_schema()
        used = [column for column in dict.fromkeys(columns) if column in schema]
        counts = frame.select(pl.len().alias(""), *(pl.col(f"^{re.escape(column)}$").null_count() for column in used))
        n, *nulls = counts.collect(engine="streaming").row(0)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _unreadable(name, error) from error
    missing = [f" ({k:,} null)" if k else "" for k in nulls]
    told = [f"{column} {schema[column]}{k}" for column, k in zip(used, missing, strict=True)]
    return f"read {name}: {counted(n, 'row', grouped=True)}; {', '.join(told)}"


def _unreadable(name: str, error: Exception) -> DatasetError:
    """What is wrong with a file, in the first line that Polars has to say; its advice is for callers in Python."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return DatasetError(f"{name!r} cannot be read: {first.rstrip('.')}.")


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
