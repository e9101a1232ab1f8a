"""Codes of known levels for the rows of a batch: what `levels.py` learns from all rows, looked up again."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import polars as pl

from polars_glmm.columns.named import nameless
from polars_glmm.errors import DataChangedError
from polars_glmm.frames.levels import BEYOND_INT64, combine
from polars_glmm.frames.table import Table
from polars_glmm.linalg.pattern import distinct
from polars_glmm.typing import BoolVec, CodeVec, IntVec

from .recipe import FactorRecipe

_DENSE = 8
"""A table over the range of whole numbers is used where it has at most this many entries a level."""


class Lookup(Protocol):
    """Codes of values that are all known."""

    def __call__(self, series: pl.Series) -> IntVec: ...


class KeyCoder:
    """Codes of the rows' keys in the level order of a factor.

    Raises DataChangedError for a key that the levels do not hold.
    """

    def __init__(self, factor: FactorRecipe) -> None:
        self._factor = factor
        table = Table({key: factor.levels[key] for key in factor.keys})
        own = [table.levels(key) for key in factor.keys]
        self._sizes = [part.n_levels for part in own]
        self._lookups = [_lookup(table.at(key, part.first)) for key, part in zip(factor.keys, own, strict=True)]
        self._pairs: list[IntVec] = []
        combined = own[0]
        for part in own[1:]:
            pairs = combined.codes.astype(np.int64) * part.n_levels + part.codes
            self._pairs.append(distinct(pairs))
            combined = combine([combined, part])

    def codes(self, series: dict[str, pl.Series]) -> CodeVec:
        """Codes (m,) of the rows of a batch."""
        found = self._codes(series)
        if len(found) and int(found.min()) < 0:
            i = int(np.argmin(found))
            values = ", ".join(f"{key} = {series[key][i]!r}" for key in self._factor.keys)
            msg = f"The source changed while it was read: group {values} was not there before."
            raise DataChangedError(msg)
        return found.astype(np.int32, copy=False)

    def _codes(self, series: dict[str, pl.Series]) -> IntVec:
        parts = [look(series[key]) for key, look in zip(self._factor.keys, self._lookups, strict=True)]
        combined = parts[0]
        for part, size, known in zip(parts[1:], self._sizes[1:], self._pairs, strict=True):
            lost = (combined < 0) | (part < 0)
            combined = _search(known, combined.astype(np.int64) * size + part)
            combined[lost] = -1
        return combined


def _lookup(levels: pl.Series) -> Lookup:
    """How values of one key column find their place in its sorted levels."""
    levels, dtype = nameless(levels), levels.dtype
    if dtype == pl.String or isinstance(dtype, pl.Categorical):
        return _Labels(levels)
    if dtype == pl.Boolean or isinstance(dtype, pl.Enum) or dtype.is_temporal():
        return _Whole(_physical(levels))
    if dtype.is_integer() and dtype not in BEYOND_INT64:
        return _Whole(levels.to_numpy())
    return _Joined(levels)


def _physical(series: pl.Series) -> IntVec:
    return (series.cast(pl.UInt8) if series.dtype == pl.Boolean else series.to_physical()).to_numpy()


class _Whole:
    """Whole numbers, and what is stored as such: by a table where they are dense, by bisection where not."""

    def __init__(self, levels: IntVec) -> None:
        self._levels = levels.astype(np.int64)
        low, high = int(self._levels[0]), int(self._levels[-1])
        self._low, self._table = low, None
        if high - low < _DENSE * len(levels) + (1 << 12):
            table = np.full(high - low + 1, -1, dtype=np.int32)
            table[self._levels - low] = np.arange(len(levels), dtype=np.int32)
            self._table = table

    def __call__(self, series: pl.Series) -> IntVec:
        values = series.to_numpy() if series.dtype.is_integer() else _physical(series)
        values = values.astype(np.int64, copy=False)
        if self._table is None:
            return _search(self._levels, values)
        place = values - self._low
        inside = (place >= 0) & (place < len(self._table))
        return _gather(self._table, place, inside)


class _Labels:
    """Text, through a private set of categories that begins with the levels."""

    def __init__(self, levels: pl.Series) -> None:
        self._dtype = pl.Categorical(pl.Categories.random())
        physical = levels.cast(pl.String).cast(self._dtype).to_physical().to_numpy().astype(np.int64)
        self._place = np.full(int(physical.max()) + 1, -1, dtype=np.int32)
        self._place[physical] = np.arange(len(levels), dtype=np.int32)
        self._known = levels.cast(pl.String).cast(self._dtype)  # keeps the categories alive

    def __call__(self, series: pl.Series) -> IntVec:
        physical = series.cast(pl.String).cast(self._dtype).to_physical().to_numpy().astype(np.int64)
        return _gather(self._place, physical, physical < len(self._place))


class _Joined:
    """Anything else that Polars can join by."""

    def __init__(self, levels: pl.Series) -> None:
        self._levels = levels.rename("__glmm_key").to_frame().with_row_index("__glmm_code")

    def __call__(self, series: pl.Series) -> IntVec:
        keys = series.rename("__glmm_key").to_frame()
        found = keys.join(self._levels, on="__glmm_key", how="left", maintain_order="left")["__glmm_code"]
        return found.cast(pl.Int64).fill_null(-1).to_numpy()


def _gather(table: CodeVec, place: IntVec, inside: BoolVec) -> IntVec:
    """table[place], −1 where the place is outside."""
    if inside.all():
        return table[place].astype(np.int64)
    return np.where(inside, table[np.where(inside, place, 0)], -1).astype(np.int64)


def _search(levels: IntVec, values: IntVec) -> IntVec:
    """Positions in sorted levels, −1 where a value is none of them."""
    place = np.minimum(np.searchsorted(levels, values), len(levels) - 1)
    return np.where(levels[place] == values, place, -1)
