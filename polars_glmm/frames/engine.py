"""A frame that an engine holds (DuckDB, Ibis, Dask, Spark): what it is called, and its rows as they are read out."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from polars_glmm.errors import ModelError

BATCH = 1 << 17
_NAMES = {"duckdb": "DuckDB", "ibis": "Ibis", "dask": "Dask", "pyspark": "Spark", "pyspark[connect]": "Spark"}
_PLAIN = (pl.String, pl.Boolean, pl.Date, pl.Time, pl.Datetime, pl.Enum)


@dataclass(frozen=True, slots=True, eq=False)
class EngineFrame:
    """A lazy frame of narwhals on an engine, its dtypes as those of Polars, and the engine's name."""

    plan: Any
    schema: pl.Schema
    name: str

    @classmethod
    def of(cls, plan: Any) -> EngineFrame:
        """The frame of a lazy frame of narwhals. Raises ModelError for a stream, which has no end."""
        if getattr(plan.to_native(), "isStreaming", False):
            msg = "A streaming frame of Spark has no end: read its rows as a table, or fit them by batch."
            raise ModelError(msg)
        name = str(plan.implementation.value)
        return cls(plan, _schema(plan), _NAMES.get(name, name))

    def collect_schema(self) -> pl.Schema:
        return self.schema

    def count_rows(self) -> int:
        """How many rows there are now."""
        import narwhals.stable.v2 as nw  # noqa: PLC0415  for such frames only

        return int(self.plan.select(nw.len()).collect("polars").to_native().item())

    def count_labels(self, names: Sequence[str]) -> dict[str, int]:
        """How many different values columns have."""
        import narwhals.stable.v2 as nw  # noqa: PLC0415  for such frames only

        asked = ((name, self.plan.select(nw.col(name)).unique().select(nw.len())) for name in names)
        return {name: int(query.collect("polars").to_native().item()) for name, query in asked}

    def counted(self, keys: Sequence[str], count: str) -> pl.DataFrame:
        """Distinct values of columns, and the rows of each in a column `count`."""
        import narwhals.stable.v2 as nw  # noqa: PLC0415  for such frames only

        asked = self.plan.select(list(keys)).group_by(list(keys)).agg(nw.len().alias(count))
        found: pl.DataFrame = asked.collect("polars").to_native()
        return found.cast({**{key: self.schema[key] for key in keys}, count: pl.Int64()})

    def lazy(self, tally: list[int] | None = None) -> pl.LazyFrame:
        """The rows as a query of Polars, which reads the columns in use out whenever it runs.

        tally   gets the number of rows of every reading that went to the end
        """

        def scan(
            names: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            left, n = n_rows, 0
            with closing(self.rows(list(self.schema) if names is None else names, batch_size or BATCH)) as batches:
                for batch in batches:
                    n += batch.height
                    rows = batch if predicate is None else batch.filter(predicate)
                    if left is not None:
                        rows, left = rows.head(left), left - min(left, rows.height)
                    yield rows
                    if left == 0:
                        return
            if tally is not None:
                tally.append(n)

        return register_io_source(scan, schema=self.schema)

    def rows(self, names: Sequence[str], size: int = BATCH) -> Generator[pl.DataFrame]:
        """Columns, some rows at a time where the engine gives them so; what was opened is closed in any case."""
        for batch in _batches(self.plan.select(list(names)), size):
            yield batch.cast({name: self.schema[name] for name in names})


def _schema(plan: Any) -> pl.Schema:
    """The dtypes of Polars; asked of an empty answer where the names of the engine's types do not tell."""
    given: pl.Schema = plan.collect_schema().to_polars()
    found = pl.Schema({name: pl.Categorical() if _open(dtype) else dtype for name, dtype in given.items()})
    doubtful = [name for name, dtype in found.items() if not _plain(dtype)]
    told = (pl.Enum, pl.Categorical, pl.Int128)  # an empty answer does not know the categories
    asked = {name: found[name] if isinstance(found[name], told) else _asked(plan, name) for name in doubtful}
    return pl.Schema({name: asked.get(name, dtype) for name, dtype in found.items()})


def _open(dtype: pl.DataType) -> bool:
    """Whether an Enum is one whose categories are not known before it is read, as Dask's often are."""
    return isinstance(dtype, pl.Enum) and dtype.categories.to_list() in ([], ["__UNKNOWN_CATEGORIES__"])


def _plain(dtype: pl.DataType) -> bool:
    """Whether a dtype is what an engine's name of a type says; an interval may count months, which no Duration does."""
    return dtype.is_integer() or dtype.is_float() or dtype in _PLAIN


def _asked(plan: Any, name: str) -> pl.DataType:
    """The dtype of a column as it is read out; Object for what Polars has no dtype for, which models refuse."""
    import narwhals.stable.v2 as nw  # noqa: PLC0415  for such frames only

    try:
        empty: pl.DataFrame = plan.select(nw.col(name)).head(0).collect("polars").to_native()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return pl.Object()
    return empty.schema[name]


def _streams(table: Any) -> bool:
    """Whether Ibis can give batches of a table: that of before DuckDB 2 asks it for what is gone, and blocks it."""
    connection = getattr(table.get_backend(), "con", None)
    return not type(connection).__name__.startswith("DuckDB") or hasattr(connection, "fetch_record_batch")


def _batches(plan: Any, size: int) -> Iterator[pl.DataFrame]:
    """The rows as they come: in batches from an engine that streams Arrow, by partition from Dask, else all at once."""
    native = plan.to_native()
    opener = next((name for name in ("to_arrow_reader", "fetch_arrow_reader") if hasattr(native, name)), None)
    if opener is not None:  # DuckDB, by version; an open reader keeps its connection from all else
        with closing(getattr(native, opener)(size)) as reader:
            for batch in reader:
                yield pl.DataFrame(batch)
        return
    if hasattr(native, "to_pyarrow_batches") and _streams(native):  # Ibis
        with closing(native.to_pyarrow_batches(chunk_size=size)) as reader:
            for batch in reader:
                yield pl.DataFrame(batch)
        return
    if hasattr(native, "partitions"):  # Dask
        import narwhals.stable.v2 as nw  # noqa: PLC0415  for such frames only

        for part in native.partitions:
            yield nw.from_native(part.compute(), eager_only=True).to_polars()
        return
    yield plan.collect("polars").to_native()


def rows_of_part(native: Any, dtypes: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The rows of a part of an engine's frame, which is in memory, with the dtypes of that frame."""
    import narwhals.stable.v2 as nw  # noqa: PLC0415  for such frames only

    found: pl.DataFrame = nw.from_native(native, eager_only=True).to_polars()
    return found.select(list(dtypes)).cast(dict(dtypes))  # type: ignore[arg-type]
