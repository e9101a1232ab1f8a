"""The rows a model is learned from: the columns it uses, complete, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NoReturn

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns, is_pattern, nameless
from polars_glmm.columns.nodes import Node, Product
from polars_glmm.columns.operators import DAY, Arrays
from polars_glmm.errors import ColumnError, ModelError, counted, enumerate_names, suggest
from polars_glmm.frames.levels import Levels, code
from polars_glmm.spec.members import NO_GAPS, Gaps
from polars_glmm.typing import BoolVec, CodeVec, IntVec, Vec


@dataclass(slots=True, eq=False)
class Table:
    """Complete rows of a frame. Columns become arrays when first asked for, once.

    series   the columns in use
    rows     (n,) positions in the user's frame, or None where no row was left out
    """

    series: dict[str, pl.Series]
    rows: IntVec | None = None
    dtypes: dict[str, pl.DataType] = field(default_factory=dict)
    _numbers: dict[str, Vec] = field(default_factory=dict)
    _physical: dict[str, IntVec] = field(default_factory=dict)
    _levels: dict[str, Levels] = field(default_factory=dict)
    _codes: dict[str, tuple[CodeVec, dict[Any, int]]] = field(default_factory=dict)
    _values: dict[Node, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in filter(is_pattern, self.series):
            self.series[name] = nameless(self.series[name])
        if not self.dtypes:  # making the dtype of an Enum costs 15 µs: once
            self.dtypes = {name: series.dtype for name, series in self.series.items()}

    @property
    def n_rows(self) -> int:
        return len(next(iter(self.series.values())))

    def dtype(self, column: str) -> pl.DataType:
        return self.dtypes[column]

    def row(self, i: int) -> int:
        """Position in the user's frame of row i."""
        return int(i if self.rows is None else self.rows[i])

    def number(self, column: str) -> Vec:
        """A numeric or Boolean column as float64."""
        if column not in self._numbers:
            self._numbers[column] = as_float(self.series[column])
        return self._numbers[column]

    def elapsed(self, column: str) -> Vec:
        """A column of durations in days."""
        days: Vec = as_float(self.series[column].dt.total_microseconds()) / DAY
        return days

    def levels(self, column: str) -> Levels:
        """A key column as codes."""
        if column not in self._levels:
            if not self._physical:
                self._physical = _physical(self.series, self.dtypes)
            self._levels[column] = code(column, self.series[column], self.dtypes[column], self._physical.get(column))
        return self._levels[column]

    def at(self, column: str, rows: IntVec) -> pl.Series:
        """The values of a column in some rows."""
        return self.series[column][pl.Series(rows.astype(np.uint32))].alias(column)

    def values(self, column: str) -> list[Any]:
        """The levels of a column as Python values, in level order."""
        return self.at(column, self.levels(column).first).to_list()

    def codes(self, column: str) -> tuple[CodeVec, dict[Any, int]]:
        """Codes of a column and the code of each level."""
        if column not in self._codes:
            known = {value: k for k, value in enumerate(self.values(column))}
            if self.dtypes[column].is_numeric():  # a Decimal of 0.1 is not the float of its name
                known = {float(value): k for value, k in known.items()}
            self._codes[column] = self.levels(column).codes, known
        return self._codes[column]

    def evaluate(self, node: Node) -> Any:
        """The column of a node (n,), or a number; factors of products are computed once."""
        if node not in self._values:
            if isinstance(node, Product):
                self._values[node] = reduce(np.multiply, [self.evaluate(factor) for factor in node.factors])
            else:
                self._values[node] = node.evaluate(Arrays(self))
        return self._values[node]

    def keep(self, mask: BoolVec) -> Table:
        """The table of the rows where mask is True."""
        kept = pl.DataFrame([one.alias(name) for name, one in self.series.items()]).filter(pl.Series(mask))
        rows = np.flatnonzero(mask)
        series = {one.name: one for one in kept.iter_columns()}
        return Table(series, rows if self.rows is None else self.rows[rows], self.dtypes)


def _physical(series: dict[str, pl.Series], dtypes: dict[str, pl.DataType]) -> dict[str, IntVec]:
    """Physical integers of all Enum, date and time columns in one query: one query costs as much as one column."""
    names = [name for name, dtype in dtypes.items() if isinstance(dtype, pl.Enum) or dtype.is_temporal()]
    if not names:
        return {}
    taken = pl.DataFrame([series[name].alias(name) for name in names]).select(pl.all().to_physical())
    return {one.name: one.to_numpy() for one in taken.iter_columns()}


def as_float(series: pl.Series) -> Vec:
    """A numeric column as float64, without a copy where it is that already."""
    return (series if series.dtype == pl.Float64 else series.cast(pl.Float64)).to_numpy()


def collect(frame: pl.DataFrame | pl.LazyFrame, used: Sequence[str], remedy: str = "") -> Table:
    """The used columns in memory; a LazyFrame is projected to them and collected once.

    Raises ColumnError for a column the frame does not have, naming what comes near and `remedy`, and for a frame
    without rows.
    """
    names = frame.columns if isinstance(frame, pl.DataFrame) else frame.collect_schema().names()
    require_columns(used, names, remedy)
    taken = frame if isinstance(frame, pl.DataFrame) else frame.select(columns(used)).collect()
    if taken.height == 0:
        raise ColumnError(NO_ROWS)
    series = {name: taken.get_column(name) for name in used}
    refuse_objects(used, {name: own.dtype for name, own in series.items()})
    return Table(series)


NO_ROWS = "The frame has no rows."


def require_columns(used: Sequence[str], names: Sequence[str], remedy: str = "") -> None:
    """Raise ColumnError for a used column that is not among the frame's names, with what else it may be."""
    known = set(names)
    absent = [name for name in used if name not in known]
    if absent:
        msg = f"The frame has no column {enumerate_names(absent, 'or')}.{suggest(absent[0], names)}"
        if not suggest(absent[0], names):
            msg += f" Its columns are {enumerate_names(names, limit=12)}."
        raise ColumnError(msg + remedy)


def refuse_objects(used: Sequence[str], schema: Mapping[str, pl.DataType]) -> None:
    """Raise ColumnError for a used column of Python objects, which no query can compare, count or compute with."""
    for name in used:
        if schema[name] == pl.Object:
            msg = f"column {name!r} is Object: values are numbers, Boolean, text, categories, dates or times. Cast it."
            raise ColumnError(msg)


def incomplete(table: Table, optional: Gaps = NO_GAPS) -> tuple[BoolVec | None, tuple[str, ...]]:
    """Rows with a null or NaN in any column (None if there are none), and the columns that have them.

    Of two ends a row has one at least, of a slot that is used a key and a weight. Raises ColumnError for an infinite
    value.
    """
    ends, slots = optional.ends, _numeric_weights(table, optional.slots)
    in_slots = frozenset(name for pair in slots for name in pair)
    missing: BoolVec | None = None
    where: list[str] = []
    for name, series in table.series.items():
        own = None
        if name not in in_slots and (ends is None or name not in ends):
            own = _missing(name, series, table.dtypes[name])
        if own is not None:
            where.append(name)
            missing = own if missing is None else missing | own
    if ends is not None and ends[0] is not None and (both := _open(table, (ends[0], ends[1]))).any():
        where += (ends[0], ends[1])
        missing = both if missing is None else missing | both
    for key, weight in slots:
        for name, own in zip((key, weight), _slot_missing(table, key, weight), strict=True):
            if own.any():
                where += [name] if name not in where else []
                missing = own if missing is None else missing | own
    return missing, tuple(where)


def _numeric_weights(table: Table, slots: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Slots whose weights are numbers; of others it is said where they are read."""
    return tuple(pair for pair in slots if table.dtypes[pair[1]].is_numeric())


def _slot_missing(table: Table, key: str, weight: str) -> tuple[BoolVec, BoolVec]:
    """Rows that lack the key of a slot with a weight, and those that lack the weight of a slot with a key."""
    gaps = [_missing(name, table.series[name], table.dtypes[name]) for name in (key, weight)]
    without_key, without_weight = (np.zeros(table.n_rows, dtype=np.bool_) if gap is None else gap for gap in gaps)
    used = ~without_weight & (as_float(table.series[weight]) != 0.0)
    return without_key & used, without_weight & ~without_key


def _open(table: Table, ends: tuple[str, str]) -> BoolVec:
    """Rows without either end."""
    gaps = []
    for name in ends:
        series = table.series[name]
        gap = series.is_null()
        gaps.append(gap | series.is_nan().fill_null(value=False) if table.dtypes[name].is_float() else gap)
    return (gaps[0] & gaps[1]).to_numpy()


def _missing(name: str, series: pl.Series, dtype: pl.DataType) -> BoolVec | None:
    own: BoolVec | None = None
    if series.null_count():
        own = series.is_null().to_numpy()
    if dtype.is_float():
        values = series.to_numpy()  # nulls become NaN
        with np.errstate(all="ignore"):
            total = float(values.sum())
        if not np.isfinite(total):
            infinite = np.isinf(values)
            if infinite.any():
                rows = np.flatnonzero(infinite)
                refuse_infinite(name, int(rows[0]), len(rows))
            nan = np.isnan(values)
            own = nan if nan.any() else own
    return own


def refuse_infinite(column: str, row: int, n: int) -> NoReturn:
    """Raise ColumnError for a column with n infinite values, the first in `row`."""
    msg = (
        f"column {column!r} is infinite in row {row} ({n} in all, rows count from 0). "
        "Filter these rows or replace the values."
    )
    raise ColumnError(msg)


def refuse_not_finite(text: str, value: float, row: int, at: dict[str, Any], n: int) -> NoReturn:
    """Raise ColumnError for a function without a finite value in n rows, first in `row` with the columns `at`."""
    what = "not a number" if np.isnan(value) else "infinite"
    where = ", ".join(f"{name} = {one!r}" for name, one in at.items())
    msg = (
        f"{text} is {what} in row {row} ({where}); {counted(n, 'row')} in all, counted from 0. "
        "Filter these rows, or change the formula."
    )
    raise ColumnError(msg)


def rows_without_columns(n: int) -> pl.DataFrame:
    """n rows and no column. Raises ModelError where Polars is too old for such a frame to have rows."""
    try:
        return pl.DataFrame(height=n)
    except TypeError as error:
        msg = "A grid without any column needs a later version of Polars: name a column, or take fixef()."
        raise ModelError(msg) from error
