"""Keys of new data against learned keys: the same label, number or moment matches, whatever dtype carries it."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import polars as pl

from polars_glmm.columns.named import as_found
from polars_glmm.errors import ColumnError
from polars_glmm.frames.levels import is_label

TimeUnit = Literal["ms", "us", "ns"]


class KeyPair(NamedTuple):
    """One key column on both sides of a join, brought to one dtype.

    Values that the learned dtype cannot hold become null in `found`: they match nothing, as an unseen level should.
    """

    found: pl.Expr
    learned: pl.Expr


def match_key(column: str, found: pl.DataType, learned: pl.DataType) -> KeyPair:
    """Expressions that make `column` of new data (dtype `found`) comparable with the levels of the fit (`learned`).

    String, Categorical and Enum match by label, and whole numbers match the labels that write them, as in a fixed
    effect: so do pandas's categories and the numbers they were made of. Numbers match by value (1 matches 1.0, never
    1.5); Datetime and Duration by moment whatever the time unit.

    Raises ColumnError for dtypes without a common meaning.
    """
    key = as_found(column)
    if found == learned:
        return KeyPair(key, key)
    if found == pl.Null:
        return KeyPair(key.cast(learned), key)
    if (is_label(found) or found.is_integer()) and is_label(learned):
        return KeyPair(key.cast(pl.String), key.cast(pl.String))
    if found.is_numeric() and learned.is_numeric():
        return _match_numbers(key, found, learned)
    if isinstance(found, pl.Datetime) and isinstance(learned, pl.Datetime):
        if (found.time_zone is None) == (learned.time_zone is None):
            moment = pl.Datetime(_finer(found, learned), learned.time_zone)
            return KeyPair(key.cast(moment), key.cast(moment))
    elif isinstance(found, pl.Duration) and isinstance(learned, pl.Duration):
        span = pl.Duration(_finer(found, learned))
        return KeyPair(key.cast(span), key.cast(span))
    msg = (
        f"column {column!r} is {found} here, but the model learned its levels as {learned}: "
        f"they cannot be compared. Cast the column to {learned} first."
    )
    raise ColumnError(msg)


def _match_numbers(key: pl.Expr, found: pl.DataType, learned: pl.DataType) -> KeyPair:
    if found.is_integer() and learned.is_integer():
        return KeyPair(key.cast(learned, strict=False), key)
    if found.is_float() and learned.is_integer():
        whole = pl.when(key == key.floor()).then(key)
        return KeyPair(whole.cast(learned, strict=False), key)
    return KeyPair(key.cast(pl.Float64), key.cast(pl.Float64))


def _finer(one: pl.Datetime | pl.Duration, other: pl.Datetime | pl.Duration) -> TimeUnit:
    return max(one.time_unit, other.time_unit, key=get_args(TimeUnit).index)
