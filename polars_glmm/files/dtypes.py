"""Dtypes of Polars as JSON, and the plain ones in which Parquet keeps their values for any reader."""

from __future__ import annotations

from typing import Any

import polars as pl

PLAIN: dict[str, pl.DataType] = {
    str(dtype): dtype
    for dtype in (
        pl.Boolean(), pl.Int8(), pl.Int16(), pl.Int32(), pl.Int64(), pl.Int128(), pl.UInt8(), pl.UInt16(), pl.UInt32(),
        pl.UInt64(), pl.Float32(), pl.Float64(), pl.String(), pl.Binary(), pl.Date(), pl.Time(), pl.Null(),
        *(getattr(pl, name)() for name in ("UInt128", "Float16") if hasattr(pl, name)),
    )
}  # fmt: skip
"""Dtypes that their name says all of."""
_AS_TEXT = frozenset({"Int128", "UInt128"})
_DEEPEST = 16


def encode(dtype: pl.DataType) -> Any:
    """A dtype as JSON. Raises ValueError for one that has no values of its own, such as Object."""
    match dtype:
        case pl.Enum():
            return {"Enum": dtype.categories.to_list()}
        case pl.Categorical():
            own = dtype.categories
            return {"Categorical": [own.name(), own.namespace(), str(own.physical())]}
        case pl.Datetime():
            return {"Datetime": [dtype.time_unit, dtype.time_zone]}
        case pl.Duration():
            return {"Duration": dtype.time_unit}
        case pl.Decimal():
            return {"Decimal": [dtype.precision, dtype.scale]}
        case pl.Struct():
            return {"Struct": [[own.name, encode(_made(own.dtype))] for own in dtype.fields]}
        case pl.List():
            return {"List": encode(_made(dtype.inner))}
        case pl.Array():
            return {"Array": [encode(_made(dtype.inner)), dtype.size]}
    if str(dtype) in PLAIN:
        return str(dtype)
    msg = f"values of {dtype} cannot be stored"
    raise ValueError(msg)


def decode(text: Any, depth: int = 0) -> pl.DataType:
    """The dtype of `encode`. Raises ValueError for anything else."""
    if isinstance(text, str) and text in PLAIN:
        return PLAIN[text]
    if not isinstance(text, dict) or len(text) != 1 or depth > _DEEPEST:
        msg = f"{str(text)[:80]!r} is no dtype"
        raise ValueError(msg)
    [(kind, value)] = text.items()
    match kind, value:
        case "Enum", list() if all(isinstance(one, str) for one in value) and len({*value}) == len(value):
            return pl.Enum(value)
        case "Categorical", [str(name), str(namespace), ("UInt8" | "UInt16" | "UInt32") as physical]:
            if not name:
                return pl.Categorical()
            return pl.Categorical(pl.Categories(name, namespace, type(PLAIN[physical])))
        case "Datetime", [("ns" | "us" | "ms") as unit, None | str() as zone]:
            return pl.Datetime(unit, zone)
        case "Duration", "ns" | "us" | "ms":
            return pl.Duration(value)
        case "Decimal", [int(precision), int(scale)] if 0 <= scale <= precision <= 38:
            return pl.Decimal(precision, scale)
        case "Struct", list() if all(isinstance(one, list) and len(one) == 2 for one in value):
            return pl.Struct({str(name): decode(own, depth + 1) for name, own in value})
        case "List", _:
            return pl.List(decode(value, depth + 1))
        case "Array", [inner, int(size)] if 0 <= size <= 1 << 20:
            return pl.Array(decode(inner, depth + 1), size)
    msg = f"{str(text)[:80]!r} is no dtype"
    raise ValueError(msg)


def stored(dtype: pl.DataType) -> pl.DataType:
    """The plain dtype in which Parquet keeps the values: labels as text, durations and times as whole numbers."""
    match dtype:
        case pl.Enum() | pl.Categorical():
            return pl.String()
        case pl.Duration() | pl.Time():
            return pl.Int64()
        case pl.Datetime(time_zone=str()):
            return pl.Datetime(dtype.time_unit)
        case pl.Null():
            return pl.Boolean()
        case pl.Struct():
            return pl.Struct({own.name: stored(_made(own.dtype)) for own in dtype.fields})
        case pl.List() | pl.Array():
            return pl.List(stored(_made(dtype.inner)))
    return pl.String() if str(dtype) in _AS_TEXT else pl.Float32() if str(dtype) == "Float16" else dtype


def to_stored(series: pl.Series) -> pl.Series:
    """A column in the dtype in which it is kept."""
    return series.cast(stored(series.dtype))


def from_stored(series: pl.Series, dtype: pl.DataType) -> pl.Series:
    """A column as it was. Raises ValueError where what is kept is of another dtype."""
    wanted = stored(dtype)
    if series.dtype != wanted:
        msg = f"column {series.name[:80]!r} is {series.dtype}, the manifest says {wanted}"
        raise ValueError(msg)
    if dtype == pl.Null():
        return pl.Series(series.name, [None] * len(series), dtype=pl.Null)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return series.dt.replace_time_zone("UTC").dt.convert_time_zone(dtype.time_zone)
    return series.cast(dtype)


def _made(dtype: Any) -> pl.DataType:
    """A dtype as an object: inner ones may be classes."""
    made: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return made
