"""What a word of the command line names as data: a file, a pattern, a folder, a table of a database, a data set."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from polars_glmm import datasets
from polars_glmm.columns.named import columns
from polars_glmm.errors import DatasetError, GlmmError, counted, enumerate_names, suggest
from polars_glmm.frames.elsewhere import on_engine
from polars_glmm.frames.engine import EngineFrame

if TYPE_CHECKING:
    from polars_glmm.result.collection import FitCollection
    from polars_glmm.result.fitted import Fit
    from polars_glmm.result.products import Products

DATASET, DATABASE = "dataset:", "duckdb:"
NULLS = ("NA",)
"""What stands for a missing value in a csv file when nobody says, beside an empty field: what R writes."""
_CSV = frozenset({".csv", ".tsv"})
_NO_TEXT = frozenset("\ufffd\0\r")
_NO_UTF8 = "is not UTF-8: convert the file, as by iconv -f LATIN1 (or UTF-16) -t UTF-8"
_NO_LINES = "does not end: lines end with a line feed, and these with a carriage return alone"
_SAID = {
    "found more fields": "a line has more fields than the first one has names, as where rows have names of their own "
    "(in R: write.csv(d, row.names = FALSE))",
    "CSV malformed": "a quotation mark is not closed, or stands within a field",
    'could not parse `"': "a quotation mark is not closed, or stands within a field",
    "schema lengths differ": "its files have different numbers of columns, or something else between their fields",
    "schema names differ": "its files name their columns in another order, or otherwise",
}
"""What Polars says of a csv file, and what it means."""
_PACKED = (".gz", ".zst")
_PATTERN = frozenset("*?[")
_FIRST_ROWS = 1000
"""Rows in which a column that has any value nearly always has one."""
_AGAIN = "_duplicated_0"
"""What Polars adds to a name that stood before in the first line of a csv file."""
_OPEN: list[Any] = []
"""Connections of relations in use: before version 2 DuckDB closes one that nobody holds."""

Opened = pl.DataFrame | pl.LazyFrame | EngineFrame


class Csv(NamedTuple):
    """How a csv file is written, where somebody says so.

    nulls           what stands for a missing value; None: `NULLS`
    separator       between fields; None: a comma, in a .tsv file a tab
    decimal_comma   numbers are written as 1,5
    """

    nulls: Sequence[str] | None = None
    separator: str | None = None
    decimal_comma: bool = False


COMMAS = Csv()


def scan_csv(path: str, csv: Csv = COMMAS, labels: Collection[str] = ()) -> pl.LazyFrame:
    """Csv files whose dtypes are inferred from all of their rows; the columns `labels` are text.

    A column without a value, in a file or in all, says nothing of its dtype: it is that of the others, or numbers.
    """
    named = dict.fromkeys(labels, pl.String())
    frame = _scanned(path, csv, named)
    texts = [name for name, dtype in frame.collect_schema().items() if dtype == pl.String and name not in named]
    if not texts:
        return frame
    files = glob.glob(path, recursive=True) if _PATTERN & set(path) and not Path(path).is_file() else [path]  # noqa: PTH207
    empty = {file: _empty(_all_text(file, csv).head(_FIRST_ROWS), texts) for file in files}
    doubtful = sorted(set().union(*empty.values()))
    found = {name: dtype for name in doubtful if (dtype := _dtype_of_others(name, empty, csv)) is not None}
    return _scanned(path, csv, {**named, **found}) if found else frame


def _scanned(path: str, csv: Csv, dtypes: Mapping[str, pl.DataType]) -> pl.LazyFrame:
    return pl.scan_csv(path, infer_schema_length=None, schema_overrides=dict(dtypes), **_written(path, csv))


def _all_text(path: str, csv: Csv) -> pl.LazyFrame:
    return pl.scan_csv(path, infer_schema=False, **_written(path, csv))


def _written(path: str, csv: Csv) -> dict[str, Any]:
    """How a file is written, in words of Polars."""
    tabs = _format(Path(path)) == ".tsv"
    return {
        "null_values": list(NULLS if csv.nulls is None else csv.nulls),
        "separator": csv.separator or ("\t" if tabs else ","),
        "decimal_comma": csv.decimal_comma,
    }


def _empty(rows: pl.LazyFrame, names: Sequence[str]) -> set[str]:
    """The columns without a value; all of them where there is no row, or not even a first line."""
    try:
        here = [name for name in names if name in rows.collect_schema()]
        counts = rows.select(columns(here)).count().collect(engine="streaming")
    except pl.exceptions.NoDataError:
        return set(names)
    return {name for name in here if not counts[name].item()}


def _dtype_of_others(name: str, empty: Mapping[str, set[str]], csv: Csv) -> pl.DataType | None:
    """The dtype of a column that has no value in some files, from the others; None where it is text, or not plain."""
    others = [file for file, names in empty.items() if name not in names or not _empty(_all_text(file, csv), [name])]
    dtypes = {_scanned(file, csv, {}).collect_schema().get(name, pl.String()) for file in others}
    if dtypes <= {pl.Int64(), pl.Float64()}:
        return pl.Int64() if dtypes == {pl.Int64()} else pl.Float64()
    return dtypes.pop() if len(dtypes) == 1 and pl.String() not in dtypes else None


def _parquet(place: str) -> pl.LazyFrame:
    """The columns of the first file, of all files; later ones may have more."""
    return pl.scan_parquet(place, hive_partitioning=_partitioned(place), extra_columns="ignore")


READERS: dict[str, Callable[[str], pl.LazyFrame]] = {
    ".csv": scan_csv,
    ".tsv": scan_csv,
    ".parquet": _parquet,
    ".pq": _parquet,
    ".ipc": lambda path: pl.scan_ipc(path, hive_partitioning=_partitioned(path)),
    ".arrow": lambda path: pl.scan_ipc(path, hive_partitioning=_partitioned(path)),
    ".feather": lambda path: pl.scan_ipc(path, hive_partitioning=_partitioned(path)),
    ".ndjson": lambda path: pl.scan_ndjson(path, infer_schema_length=None),
    ".jsonl": lambda path: pl.scan_ndjson(path, infer_schema_length=None),
}


def opened(name: str, csv: Csv = COMMAS, labels: Collection[str] = ()) -> Opened:
    """The data behind a word; files lazily, by their suffix.

    csv      how a csv file is written
    labels   columns that a model has as text, so that digits in a csv file are labels there too
    Raises DatasetError for what is not there or cannot be read.
    """
    kind = "" if name.startswith((DATASET, DATABASE)) else _suffix(name)
    if csv != COMMAS and kind not in _CSV:
        option = "null-values" if csv.nulls is not None else "separator" if csv.separator else "decimal-comma"
        msg = f"--{option} is for csv files; {name!r} says itself what its values are."
        raise DatasetError(msg)
    if name.startswith(DATASET):
        return datasets.load(name.removeprefix(DATASET))
    if name.startswith(DATABASE):
        return _table(name)
    place = _place(name, kind)
    try:
        frame = scan_csv(place, csv, labels) if kind in _CSV else READERS[kind](place)
        names = frame.collect_schema().names()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise unreadable(name, error) from error
    if kind in _CSV and any(set(one) & _NO_TEXT for one in names):
        msg = f"{name!r} cannot be read: its first line {_NO_UTF8 if chr(13) not in ''.join(names) else _NO_LINES}."
        raise DatasetError(msg)
    if kind in _CSV and len(names) == 1 and (other := next((one for one in ";\t|" if one in names[0]), None)):
        msg = f"{name!r} has one column, {names[0]!r}: say what is between its fields, as in --separator {other!r}."
        raise DatasetError(msg)
    return frame


def labels_of(model: Fit | FitCollection | Products) -> set[str]:
    """The columns that a model has as text: groups, keys, categorical effects, and the categories of a response."""
    outcomes = getattr(model, "outcomes", None)
    if outcomes is None:
        recipes, keys = [model.recipe], []  # type: ignore[union-attr]  # only a collection has outcomes
    else:
        recipes, keys = [one.recipe for one in (*outcomes.batches, *outcomes.singles.values())], [model.keys]  # type: ignore[union-attr]
    found: dict[str, Any] = {}
    for recipe in recipes:
        found |= {known.column: known.dtype for known in recipe.categoricals.values()}
        found |= {recipe.response.name: recipe.response.dtype}
    for table in (*keys, *(factor.levels for recipe in recipes for factor in recipe.factors)):
        found |= dict(table.schema)
    return {name for name, dtype in found.items() if isinstance(dtype, pl.String | pl.Categorical | pl.Enum)}


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
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise unreadable(name, error) from error
    missing = [f" ({k:,} null)" if k else "" for k in nulls]
    twice = [", the first of several of that name" if f"{one}{_AGAIN}" in schema else "" for one in used]
    told = [f"{column} {schema[column]}{k}{t}" for column, k, t in zip(used, missing, twice, strict=True)]
    return f"read {name}: {counted(n, 'row', grouped=True)}; {', '.join(told)}"


def unreadable(name: str, error: Exception) -> DatasetError:
    """What is wrong with a file, in the first line that Polars has to say; its advice is for callers in Python."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if "invalid utf-8" in first:
        first = f"it {_NO_UTF8}"
    first = next((meaning for text, meaning in _SAID.items() if text in first), first)
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
    where = " Addresses are not read: fetch the file first." if "://" in name else ""
    msg = f"{name!r}: there is no such file.{where}"
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
        known = _tables(connection)
    except duckdb.Error as error:
        raise unreadable(name, error) from error
    if not table and len(known) == 1:
        table = next(iter(known))
    if table not in known:
        msg = f"{name!r}: name a table of the file, as {DATABASE}{file}?TABLE; it has {enumerate_names([*known])}."
        raise DatasetError(msg + suggest(table, [*known]))
    _OPEN.append(connection)
    found = on_engine(connection.table(known[table]))
    assert found is not None  # a relation is a frame of an engine
    return found


def errors_of_data() -> tuple[type[Exception], ...]:
    """What this package, Polars, files and a database that was opened raise of data and models."""
    known = sys.modules.get("duckdb")
    return (GlmmError, pl.exceptions.PolarsError, OSError, *(() if known is None else (known.Error,)))


def _tables(connection: Any) -> dict[str, str]:
    """Tables and views of a database, and how they are written in SQL; those of another schema have it in front."""
    asked = "select table_schema, table_name, table_schema = current_schema() from information_schema.tables"
    found = {}
    for schema, table, plain in connection.execute(asked).fetchall():
        quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, table))
        found[table if plain else f"{schema}.{table}"] = quoted
    return found


def _escaped(name: str) -> str:
    import re  # noqa: PLC0415  for one line on a terminal

    return re.escape(name)
