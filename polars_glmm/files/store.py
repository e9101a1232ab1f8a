"""The numbers of a file: arrays as rows of one Parquet table, and tables by level, alike ones under each other."""

from __future__ import annotations

from io import BytesIO
from itertools import count
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from polars_glmm.files import claims, dtypes

ARRAYS = "arrays.parquet"
_KINDS = {"float64": np.float64, "int64": np.int64, "bool": np.bool_}


class TableRows(NamedTuple):
    """Rows of a table of the file."""

    table: int
    start: int
    height: int


class Store:
    """What is to be written: arrays by place, tables by schema."""

    def __init__(self) -> None:
        self._arrays: list[tuple[str, npt.NDArray[Any]]] = []
        self._tables: dict[str, tuple[int, list[pl.DataFrame]]] = {}
        self._heights: list[int] = []

    def keep(self, name: str, array: npt.NDArray[Any]) -> int:
        """Keep an array; its place."""
        self._arrays.append((name, array))
        return len(self._arrays) - 1

    def place(self, table: pl.DataFrame) -> TableRows:
        """Keep a table; where it lies. Tables of one schema lie in one file."""
        schema = repr(list(table.schema.items()))
        number, parts = self._tables.setdefault(schema, (len(self._tables), []))
        if not parts:
            self._heights.append(0)
        start = self._heights[number]
        parts.append(table)
        self._heights[number] += table.height
        return TableRows(number, start, table.height)

    def members(self) -> tuple[dict[str, bytes], dict[str, Any]]:
        """The Parquet files by name, and what the manifest says of them."""
        files, told = {}, {}
        tables = [(f"levels_{number}.parquet", pl.concat(parts)) for number, parts in self._tables.values()]
        for name, table in [(ARRAYS, self._array_table()), *tables]:
            files[name] = as_parquet(table)
            told[name] = {"rows": table.height, "columns": [[c.name, dtypes.encode(c.dtype)] for c in table]}
        return files, told

    def _array_table(self) -> pl.DataFrame:
        arrays = [array for _, array in self._arrays]
        values = [np.ravel(array).astype(np.float64) for array in arrays]
        axes = [np.argsort([-stride for stride in array.strides], kind="stable").tolist() for array in arrays]
        return pl.DataFrame(
            {
                "name": pl.Series([name for name, _ in self._arrays], dtype=pl.String),
                "dtype": pl.Series([array.dtype.name for array in arrays], dtype=pl.String),
                "shape": pl.Series([list(array.shape) for array in arrays], dtype=pl.List(pl.Int64)),
                "axes": pl.Series(axes, dtype=pl.List(pl.Int64)),
                "values": pl.Series([pl.Series(one) for one in values], dtype=pl.List(pl.Float64)),
            }
        )


class Contents:
    """What was read: arrays and tables by place."""

    def __init__(self, arrays: pl.DataFrame, tables: list[pl.DataFrame]) -> None:
        self._arrays, self._tables = arrays.rows(named=False), tables
        self._values = arrays["values"]

    def fetch(self, place: int) -> npt.NDArray[Any]:
        """The array. Raises ValueError where there is none."""
        if not 0 <= place < len(self._arrays):
            msg = f"there is no array {place}"
            raise ValueError(msg)
        _, kind, shape, axes, _ = self._arrays[place]
        values = self._values[place].to_numpy()
        if kind not in _KINDS or min(shape, default=0) < 0 or sorted(axes) != list(range(len(shape))):
            msg = f"array {place} has no shape"
            raise ValueError(msg)
        if prod(shape) != len(values):
            msg = f"array {place} has {len(values)} numbers for a shape of {shape}"
            raise ValueError(msg)
        made = values.astype(_KINDS[kind]).reshape(shape)
        back = np.argsort(axes).tolist()
        return np.ascontiguousarray(made.transpose(axes)).transpose(back) if axes else made

    def table(self, placed: TableRows) -> pl.DataFrame:
        """Rows of a table. Raises ValueError where there are none."""
        if not 0 <= placed.table < len(self._tables):
            msg = f"there is no table {placed.table}"
            raise ValueError(msg)
        whole = self._tables[placed.table]
        if not 0 <= placed.start <= placed.start + placed.height <= whole.height:
            msg = f"table {placed.table} has no rows {placed.start} to {placed.start + placed.height}"
            raise ValueError(msg)
        return whole.slice(placed.start, placed.height)

    @classmethod
    def of(cls, members: dict[str, bytes], told: Any, most: int) -> Contents:
        """The tables of a file. Raises ValueError where they are not what the manifest says."""
        tables = []
        for number in count():
            name = f"levels_{number}.parquet"
            if name not in told:
                break
            tables.append(_read(members[name], told[name], most))
        return cls(_read(members[ARRAYS], told[ARRAYS], most), tables)


def as_parquet(table: pl.DataFrame) -> bytes:
    """A table in plain dtypes that every reader of Parquet knows."""
    file = BytesIO()
    plain = pl.DataFrame([dtypes.to_stored(column) for column in table]) if table.width else table
    plain.write_parquet(file, compression="zstd", compression_level=1, statistics=False)
    return file.getvalue()


def _read(data: bytes, told: Any, most: int) -> pl.DataFrame:
    """A table with its dtypes; refused before it is decoded where it would take more than its size allows."""
    table = pl.read_parquet(BytesIO(claims.check(data, told["rows"], most)), use_statistics=False)
    return typed(table, told["columns"])


def typed(table: pl.DataFrame, told: Any) -> pl.DataFrame:
    """A table as it was kept, with its dtypes. Raises ValueError where its columns are not those told."""
    named = [(str(name), dtypes.decode(text)) for name, text in told]
    if table.columns != [name for name, _ in named]:
        msg = "its columns are not those of the manifest"
        raise ValueError(msg)
    return pl.DataFrame([dtypes.from_stored(own, dtype) for own, (_, dtype) in zip(table, named, strict=True)])
