"""Nodes as expressions of narwhals, written so that every engine understands them alike."""

from __future__ import annotations

from functools import reduce
from operator import add, and_, or_
from typing import Any

from polars_glmm.columns.operators import Interpretation
from polars_glmm.errors import ModelError

_NOT_THERE = frozenset({"tan", "log1p", "expm1", "round"})
"""Functions that engines do not have, or round in other ways."""
_MOST_LEVELS = 500
"""Levels of which a sum of comparisons is written out."""


class NotThereError(ModelError):
    """An engine has no word for a part of the formula: its rows must be read out."""


class EngineExpressions(Interpretation):
    """As `Interpretation`, with (x − x) = 0 for the only test of a finite number, and text compared as it is stored.

    DuckDB answers `isnan` wrongly for Parquet files whose statistics leave NaN out; NaN and null are one on pandas.
    """

    def __init__(self) -> None:
        import narwhals.stable.v2 as nw  # noqa: PLC0415  for frames of engines only

        super().__init__(nw)

    def number(self, column: str) -> Any:
        return self.column(column).cast(self.engine.Float64)

    def _labels(self, column: str, kind: str) -> Any:
        if kind == "text":
            return self.column(column).cast(self.engine.String)
        return self.column(column) if kind == "boolean" else self.number(column)

    def coded(self, column: str, kind: str, levels: tuple[Any, ...], weights: tuple[float, ...]) -> Any:
        _require_few(column, levels)
        return super().coded(column, kind, levels, weights)

    def looked(self, column: str, kind: str, levels: tuple[Any, ...], values: tuple[float, ...]) -> Any:
        _require_few(column, levels)
        engine, value = self.engine, self._labels(column, kind)
        keys = [float(level) for level in levels] if kind == "number" else list(levels)
        own = [(value == key).cast(engine.Float64) * number for key, number in zip(keys, values, strict=True)]
        return engine.when(reduce(or_, [value == key for key in keys])).then(reduce(add, own))

    def function(self, name: str, x: Any) -> Any:
        if name in _NOT_THERE:
            msg = f"{name}() cannot be computed by the engine that holds the frame: make the column first."
            raise NotThereError(msg)
        return super().function(name, x)

    def extreme(self, first: Any, left: Any, right: Any) -> Any:
        when = self.engine.when
        return when(finite(left + right)).then(when(first).then(left).otherwise(right)).otherwise(left + right)

    def inside(self, x: Any, low: float, high: float, value: Any, otherwise: float | None) -> Any:
        chosen = self.engine.when((x >= low) & (x <= high)).then(value)
        return chosen if otherwise is None else self.otherwise_null(x, chosen.otherwise(otherwise))


def finite(x: Any) -> Any:
    """Whether a number is one: neither null nor NaN nor infinite."""
    return (x - x) == 0.0


def every(conditions: list[Any]) -> Any:
    """Whether all hold."""
    return reduce(and_, conditions)


def _require_few(column: str, levels: tuple[Any, ...]) -> None:
    if len(levels) > _MOST_LEVELS:
        msg = f"column {column!r} has {len(levels)} levels with a number each, too many for one query of an engine."
        raise NotThereError(msg)
