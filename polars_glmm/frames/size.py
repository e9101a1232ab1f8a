"""How much memory the rows of a model take while it is learned and fitted, before anything is read."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.levels import is_label
from polars_glmm.frames.table import require_columns
from polars_glmm.spec.functions import SIGNATURES
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.syntax import Expression, FunctionCall, Name, Number
from polars_glmm.spec.terms import FixedTerm

_NUMBER = 8
_COPIES = 4.5
"""Of every design column at the worst moment: as learned, for computing, sorted, in blocks, and while moving."""
_HEAD = 6.0
"""Numbers a row takes besides: response, codes, order, offsets."""
_SPLINE = 4


class RowRoom(NamedTuple):
    """How many rows a frame has, and the bytes they take at the worst moment (beyond `limit` a lower bound may do)."""

    n_rows: int
    needed: int


def count_rows(frame: pl.LazyFrame | EngineFrame) -> int:
    """How many rows a frame has."""
    if isinstance(frame, EngineFrame):
        return frame.count_rows()
    return int(frame.select(pl.len()).collect().item())


def room_for(spec: ModelSpec, frame: pl.LazyFrame | EngineFrame, limit: int) -> RowRoom:
    """The rows of a frame and what they need; raises ColumnError for a column that the frame does not have."""
    n_rows = count_rows(frame)
    return RowRoom(n_rows, n_rows * row_bytes(spec, frame, most=limit // max(n_rows, 1)))


def may_fit(spec: ModelSpec, frame: pl.LazyFrame, limit: int) -> bool:
    """Whether the rows, counted in one query, would fit if categorical columns had two levels each."""
    return count_rows(frame) * row_bytes(spec, frame, most=-1) <= limit


def row_bytes(spec: ModelSpec, frame: pl.LazyFrame | EngineFrame, *, most: int) -> int:
    """Bytes a row takes at the worst moment; beyond `most` a lower bound may do, and nothing is read for it.

    Raises ColumnError for a column that the frame does not have.
    """
    schema = frame.collect_schema()
    used = spec.columns()
    require_columns(used, schema.names(), spec.beside_columns)
    terms = [term for part in spec.predictors for term in part.fixed]
    terms += [term for random in spec.random for term in random.design]
    labelled = sorted({name for term in terms for f in term.factors if (name := _labelled(f, schema)) is not None})
    least = _bytes(len(used), terms, dict.fromkeys(labelled, 2))
    if not labelled or least > most:
        return least
    if isinstance(frame, EngineFrame):
        return _bytes(len(used), terms, frame.count_labels(labelled))
    found = frame.select(column(name).cast(pl.String).approx_n_unique() for name in labelled).collect()
    return _bytes(len(used), terms, dict(zip(labelled, found.row(0), strict=True)))


def _bytes(n_used: int, terms: list[FixedTerm], levels: dict[str, int]) -> int:
    columns = sum(prod(_width(factor, levels) for factor in term.factors) for term in terms)
    return int(_NUMBER * (n_used + _HEAD + _COPIES * columns))


def _labelled(factor: Expression, schema: pl.Schema) -> str | None:
    """The column whose labels make the columns of a factor."""
    match factor:
        case Name(name) if name in schema and _has_labels(schema[name]):
            return name
        case FunctionCall(function="C", arguments=((_, Name(name)), *_)) if (
            schema[name].is_numeric() or _has_labels(schema[name])
        ):
            return name
        case _:
            return None


def _has_labels(dtype: pl.DataType) -> bool:
    """Whether columns of this dtype are factors; C() makes one of numbers too, and other dtypes are refused."""
    return dtype == pl.Boolean or is_label(dtype)


def _width(factor: Expression, levels: dict[str, int]) -> int:
    """How many columns a factor makes, about."""
    match factor:
        case Name(name) | FunctionCall(function="C", arguments=((_, Name(name)), *_)):
            return max(levels.get(name, 2) - 1, 1)
        case FunctionCall() if SIGNATURES[factor.function].kind == "learned":
            given = [int(value.value) for _, value in factor.arguments if isinstance(value, Number)]
            return max([1 if factor.function in ("scale", "center", "standardize", "ave") else _SPLINE, *given])
        case _:
            return 1
