"""What a word of the command line names as data: a file, a pattern, a folder, a table of a database, a data set."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

from polars_glmm import datasets
from polars_glmm.errors import DatasetError, counted, enumerate_names, suggest
from polars_glmm.frames.elsewhere import on_engine
from polars_glmm.frames.engine import EngineFrame

DATASET, DATABASE = "dataset:", "duckdb:"
NULLS = ("NA",)
"""What stands for a missing value in a csv file when nobody says, beside an empty field: what R writes."""
_PACKED = (".gz", ".zst")
_PATTERN = frozenset("*?[")
_OPEN: list[Any] = []
"""Connections of relations in use: before version 2 DuckDB closes one that nobody holds."""

Opened = pl.DataFrame | pl.LazyFrame | EngineFrame


def scan_csv(path: str, nulls: Sequence[str] = NULLS) -> pl.LazyFrame:
    """A csv file whose dtypes are inferred from all of its rows."""
    return pl.scan_csv(path, infer_schema_length=None, null_values=list(nulls))


READERS: dict[str, Callable[[str], pl.LazyFrame]] = {
    ".csv": scan_csv,
    ".parquet": lambda path: pl.scan_parquet(path, hive_partitioning=_partitioned(path)),
    ".pq": lambda path: pl.scan_parquet(path, hive_partitioning=_partitioned(path)),
    ".ipc": lambda path: pl.scan_ipc(path, hive_partitioning=_partitioned(path)),
    ".arrow": lambda path: pl.scan_ipc(path, hive_partitioning=_partitioned(path)),
    ".feather": lambda path: pl.scan_ipc(path, hive_partitioning=_partitioned(path)),
    ".ndjson": lambda path: pl.scan_ndjson(path, infer_schema_length=None),
    ".jsonl": lambda path: pl.scan_ndjson(path, infer_schema_length=None),
}


def opened(name: str, nulls: Sequence[str] | None = None) -> Opened:
    """The data behind a word; files lazily, by their suffix.

    nulls   what stands for a missing value in a csv file; None: `NULLS`
    Raises DatasetError for what is not there or cannot be read.
    """
    kind = "" if name.startswith((DATASET, DATABASE)) else _suffix(name)
    if nulls is not None and kind != ".csv":
        msg = f"--null-values is for csv files; {name!r} has null values of its own."
        raise DatasetError(msg)
    if name.startswith(DATASET):
        return datasets.load(name.removeprefix(DATASET))
    if name.startswith(DATABASE):
        return _table(name)
    place = _place(name, kind)
    try:
        frame = READERS[kind](place) if nulls is None else scan_csv(place, nulls)
        frame.collect_schema()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise unreadable(name, error) from error
    return frame


def what_was_read(name: str, frame: Opened, columns: Iterable[str]) -> str:
    """One line about data: rows, and dtype and missing values of `columns`; nothing about a data set.

    Raises DatasetError for a file that cannot be read to its end.
    """
    if isinstance(frame, pl.DataFrame):
        return ""
    schema = frame.collect_schema()
    used = [column for column in dict.fromkeys(columns) if column in schema]
    if isinstance(frame, EngineFrame):
        told = [f"{column} {schema[column]}" for column in used]
        return f"reading {name}: {counted(frame.count_rows(), 'row', grouped=True)}; {', '.join(told)}"
    try:
        counts = frame.select(pl.len().alias(""), *(pl.col(f"^{_escaped(one)}$").null_count() for one in used))
        n, *nulls = counts.collect(engine="streaming").row(0)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise unreadable(name, error) from error
    missing = [f" ({k:,} null)" if k else "" for k in nulls]
    told = [f"{column} {schema[column]}{k}" for column, k in zip(used, missing, strict=True)]
    return f"read {name}: {counted(n, 'row', grouped=True)}; {', '.join(told)}"


def unreadable(name: str, error: Exception) -> DatasetError:
    """What is wrong with a file, in the first line that Polars has to say; its advice is for callers in Python."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return DatasetError(f"{name!r} cannot be read: {first.rstrip('.')}.")


def _suffix(name: str) -> str:
    """The suffix that tells the format: of a folder that of its first file, of a packed file the one before."""
    path = Path(name)
    if path.is_dir():
        endings = sorted({_ending(file) for file in path.rglob("*") if file.is_file() and _format(file) in READERS})
        if not endings:
            msg = f"{name!r}: the folder has no file of a format that is known ({_known()})."
            raise DatasetError(msg)
        if len(endings) > 1:
            msg = f"{name!r}: the folder has files of {enumerate_names(endings)}: name those you mean by a pattern."
            raise DatasetError(msg)
        return _format(Path(f"any{endings[0]}"))
    if (kind := _format(path)) not in READERS and name.endswith(("/", os.sep)):
        raise DatasetError(f"{name!r}: there is no such folder.")
    if kind not in READERS:
        msg = f"{name!r}: the suffix says the format; known are {_known()}, {DATASET}NAME and {DATABASE}FILE?TABLE."
        raise DatasetError(msg)
    return kind


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in _PACKED else suffix


def _ending(path: Path) -> str:
    return "".join(path.suffixes[-2:]) if path.suffix.lower() in _PACKED else path.suffix


def _known() -> str:
    return enumerate_names(sorted(READERS), limit=len(READERS))


def _place(name: str, kind: str) -> str:
    """A file, or the pattern of files. Raises DatasetError where there is none."""
    path = Path(name)
    if path.is_dir():
        ending = next(_ending(file) for file in path.rglob("*") if file.is_file() and _format(file) == kind)
        return str(Path(glob.escape(name)) / "**" / f"*{ending}")
    if path.is_file():
        return name
    if _PATTERN & set(name):
        if not glob.glob(name, recursive=True):  # noqa: PTH207  patterns may be absolute
            msg = f"{name!r}: no file fits this pattern."
            raise DatasetError(msg)
        return name
    msg = f"{name!r}: there is no such file."
    raise DatasetError(msg)


def _partitioned(place: str) -> bool:
    """Whether files stand in folders that name a column and its value, as part=0."""
    files = glob.glob(place, recursive=True) if _PATTERN & set(place) else [place]  # noqa: PTH207
    return any("=" in folder for file in files[:1] for folder in Path(file).parts[:-1])


def _table(name: str) -> EngineFrame:
    """A table or view of a DuckDB file, opened for reading only."""
    file, _, table = name.removeprefix(DATABASE).partition("?")
    if not Path(file).is_file():
        msg = f"{name!r}: there is no such file."
        raise DatasetError(msg)
    try:
        duckdb = import_module("duckdb")
    except ImportError as error:
        msg = f"{name!r} needs DuckDB: pip install duckdb."
        raise DatasetError(msg) from error
    try:
        connection = duckdb.connect(file, read_only=True)
        known = [row[0] for row in connection.execute("select table_name from information_schema.tables").fetchall()]
    except duckdb.Error as error:
        raise unreadable(name, error) from error
    if not table and len(known) == 1:
        table = known[0]
    if table not in known:
        msg = f"{name!r}: name a table of the file, as {DATABASE}{file}?TABLE; it has {enumerate_names(known)}."
        raise DatasetError(msg + suggest(table, known))
    _OPEN.append(connection)
    found = on_engine(connection.table('"' + table.replace('"', '""') + '"'))
    assert found is not None  # a relation is a frame of an engine
    return found


def _escaped(name: str) -> str:
    import re  # noqa: PLC0415  for one line on a terminal

    return re.escape(name)
