"""The two interpreters of design nodes: NumPy arrays, and expressions of a frame engine."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import polars as pl

from polars_glmm.columns import named
from polars_glmm.columns.named import as_found
from polars_glmm.families import arithmetic
from polars_glmm.families.arithmetic import ArrayAlgebra
from polars_glmm.families.base import BETWEEN, LEFT, RIGHT, SEEN
from polars_glmm.typing import CodeVec, Vec

_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
EXTREMES = frozenset({"pmin", "pmax"})
COMPARISONS = frozenset(_COMPARED)
_OPERATORS = arithmetic.OPERATORS | _COMPARED

_ENGINE_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exp": lambda x: x.exp(),
    "exp2": lambda x: (x * float(np.log(2.0))).exp(),
    "expm1": lambda x: 2.0 * (x / 2).sinh() * (x / 2).exp() if hasattr(x, "sinh") else x.exp() - 1.0,
    "log": lambda x: x.log(),
    "log2": lambda x: x.log(2.0),
    "log10": lambda x: x.log10() if hasattr(x, "log10") else x.log(10.0),
    "log1p": lambda x: x.log1p() if hasattr(x, "log1p") else (1.0 + x).log(),
    "sqrt": lambda x: x.sqrt(),
    "abs": lambda x: x.abs(),
    "sin": lambda x: x.sin(),
    "cos": lambda x: x.cos(),
    "tan": lambda x: x.tan(),
    "floor": lambda x: x.floor(),
    "ceil": lambda x: x.ceil(),
    "round": lambda x: x.round(0),
    "negative": lambda x: 0.0 - x,
    "I": lambda x: x,
}
DAY = 86_400e6
"""Microseconds."""
FUNCTIONS = frozenset(arithmetic.FUNCTIONS)
OPERATORS = frozenset(_OPERATORS) | EXTREMES
"""Names that a node may have, whatever it is computed with."""


class Data(Protocol):
    """Columns of a fit as arrays without missing values."""

    def number(self, column: str) -> Vec: ...
    def elapsed(self, column: str) -> Vec: ...
    def codes(self, column: str) -> tuple[CodeVec, dict[Any, int]]: ...


class Arrays(ArrayAlgebra):
    """NumPy: columns come from the rows of a fit; weights of levels are gathered by code."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def number(self, column: str) -> Any:
        return self.data.number(column)

    def constant(self, value: float) -> Any:
        return value

    def coded(self, column: str, kind: str, levels: tuple[Any, ...], weights: tuple[float, ...]) -> Any:  # noqa: ARG002
        codes, known = self.data.codes(column)
        table = np.zeros(len(known))
        for level, weight in zip(levels, weights, strict=True):
            if level in known:
                table[known[level]] = weight
        return table[codes]

    def looked(self, column: str, kind: str, levels: tuple[Any, ...], values: tuple[float, ...]) -> Any:  # noqa: ARG002
        codes, known = self.data.codes(column)
        given = dict(zip(levels, values, strict=True))
        table = np.full(len(known), np.nan)
        for level, code in known.items():
            table[code] = given.get(level, np.nan)
        return table[codes]

    def binary(self, symbol: str, left: Any, right: Any) -> Any:
        if symbol in EXTREMES:
            return (np.minimum if symbol == "pmin" else np.maximum)(left, right)
        if symbol in COMPARISONS:
            return np.asarray(_COMPARED[symbol](left, right), dtype=np.float64)
        return super().binary(symbol, left, right)

    def piecewise(self, x: Any, breaks: tuple[float, ...], pieces: tuple[tuple[float, ...], ...]) -> Any:
        table = np.array(pieces).T  # (2 + degree + 1, pieces)
        k = np.searchsorted(np.array(breaks), x, side="right")
        t = (x - table[0][k]) / table[1][k]
        value = table[-1][k]
        for row in table[-2:1:-1]:
            value = value * t + row[k]
        return value

    def wrapped(self, x: Any, low: float, high: float) -> Any:
        period = high - low
        above = low + np.mod(x - high, period)
        below = high - np.mod(low - x, period)
        return np.where(x > high, above, np.where(x < low, below, x))

    def inside(self, x: Any, low: float, high: float, value: Any, otherwise: float | None) -> Any:
        return np.where((x >= low) & (x <= high), value, np.nan if otherwise is None else otherwise)

    def elapsed(self, column: str) -> Any:
        return self.data.elapsed(column)

    def interval(self, lower: Any, upper: Any, field: str, least: float) -> Any:
        below, above = np.isfinite(lower) & (lower != least), np.isfinite(upper)
        if field == "status":
            seen = np.where(lower == upper, SEEN, BETWEEN)
            return np.where(below & above, seen, np.where(below, RIGHT, np.where(above, LEFT, np.nan)))
        first, second, known = (lower, upper, below) if field == "value" else (upper, lower, above)
        return np.where(known, first, second)


class Interpretation:
    """Expressions of Polars, or of Narwhals for any other engine."""

    def __init__(self, engine: ModuleType | None = None) -> None:
        self.engine: Any = engine if engine is not None else pl

    def column(self, name: str) -> Any:
        """The values of a column of the frame."""
        return as_found(name) if self.engine is pl else self.engine.col(name)

    def number(self, column: str) -> Any:
        return self.column(column).cast(self.engine.Float64).fill_nan(None)

    def constant(self, value: float) -> Any:
        return self.engine.lit(float(value))

    def coded(self, column: str, kind: str, levels: tuple[Any, ...], weights: tuple[float, ...]) -> Any:
        engine, value = self.engine, self._labels(column, kind)
        parts = []
        for level, weight in zip(levels, weights, strict=True):
            part = (value == (float(level) if kind == "number" else level)).cast(engine.Float64)
            parts.append(part if weight == 1.0 else part * weight)
        if not parts:
            return self.otherwise_null(value, engine.lit(0.0))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def looked(self, column: str, kind: str, levels: tuple[Any, ...], values: tuple[float, ...]) -> Any:
        keys = [float(level) for level in levels] if kind == "number" else list(levels)
        value = self._labels(column, kind)
        return value.replace_strict(keys, list(values), default=None, return_dtype=self.engine.Float64)

    def _labels(self, column: str, kind: str) -> Any:
        """A categorical column as the labels of its kind."""
        engine, value = self.engine, self.column(column)
        if kind == "text":
            return value.cast(engine.String)
        return value.cast(engine.Boolean) if kind == "boolean" else value.cast(engine.Float64).fill_nan(None)

    def function(self, name: str, x: Any) -> Any:
        return _ENGINE_FUNCTIONS[name](x)

    def binary(self, symbol: str, left: Any, right: Any) -> Any:
        if symbol in EXTREMES:
            return self.extreme(left <= right if symbol == "pmin" else left >= right, left, right)
        value = _OPERATORS[symbol](left, right)
        return value.cast(self.engine.Float64) if symbol in COMPARISONS else value

    def extreme(self, first: Any, left: Any, right: Any) -> Any:
        """`left` where it is the one sought, else `right`; null or NaN where either is, as arithmetic gives it."""
        both = left + right
        when = self.engine.when
        usual = when(first).then(left).otherwise(right)
        return when((left * 0.0 + right * 0.0).is_null() | left.is_nan() | right.is_nan()).then(both).otherwise(usual)

    def piecewise(self, x: Any, breaks: tuple[float, ...], pieces: tuple[tuple[float, ...], ...]) -> Any:
        value = self.polynomial(x, pieces[-1])
        for cut, piece in zip(reversed(breaks), reversed(pieces[:-1]), strict=True):
            value = self.engine.when(x < cut).then(self.polynomial(x, piece)).otherwise(value)
        return self.otherwise_null(x, value)

    def polynomial(self, x: Any, piece: tuple[float, ...]) -> Any:
        origin, width, *coefficients = piece
        while len(coefficients) > 1 and coefficients[-1] == 0.0:
            coefficients.pop()
        if len(coefficients) == 1:
            return self.engine.lit(float(coefficients[0]))
        t = (x - origin) / width
        value = t * coefficients[-1] + coefficients[-2]
        for coefficient in reversed(coefficients[:-2]):
            value = value * t + coefficient
        return value

    def wrapped(self, x: Any, low: float, high: float) -> Any:
        period = high - low
        above = low + self.remainder(x - high, period)
        below = high - self.remainder(low - x, period)
        when = self.engine.when
        return when(x > high).then(above).otherwise(when(x < low).then(below).otherwise(x))

    def remainder(self, x: Any, period: float) -> Any:
        return x - (x / period).floor() * period

    def inside(self, x: Any, low: float, high: float, value: Any, otherwise: float | None) -> Any:
        within = (x >= low) & (x <= high)
        return (
            self.engine.when(within)
            .then(value)
            .otherwise(
                self.engine.lit(None) if otherwise is None else self.otherwise_null(x, self.engine.lit(otherwise))
            )
        )

    def elapsed(self, column: str) -> Any:
        return self.column(column).dt.total_microseconds().cast(self.engine.Float64) / DAY

    def interval(self, lower: Any, upper: Any, field: str, least: float) -> Any:
        when, lit = self.engine.when, self.engine.lit
        below, above = (lower.is_finite() & (lower != least)).fill_null(False), upper.is_finite().fill_null(False)  # noqa: FBT003
        if field == "status":
            seen = when(lower == upper).then(lit(SEEN)).otherwise(lit(BETWEEN))
            open_above = when(below).then(lit(RIGHT)).otherwise(when(above).then(lit(LEFT)))
            return when(below & above).then(seen).otherwise(open_above)
        first, second, known = (lower, upper, below) if field == "value" else (upper, lower, above)
        return when(known).then(first).otherwise(second)

    def otherwise_null(self, x: Any, value: Any) -> Any:
        """`value` where x is known, else null: branches without x would hide that it is missing."""
        return self.engine.when(~x.is_null()).then(value)


class Expressions(Interpretation):
    """As `Interpretation` for Polars, without what only new rows need: NaN stays NaN, labels are compared as stored."""

    def __init__(self, dtypes: Mapping[str, pl.DataType]) -> None:
        super().__init__()
        self.dtypes = dtypes

    def number(self, column: str) -> pl.Expr:
        value = named.column(column)
        return value if self.dtypes[column] == pl.Float64 else value.cast(pl.Float64)

    def coded(self, column: str, kind: str, levels: tuple[Any, ...], weights: tuple[float, ...]) -> pl.Expr:
        value = self.number(column) if kind == "number" else named.column(column)
        total: pl.Expr | None = None
        for level, weight in zip(levels, weights, strict=True):
            part = (value == (float(level) if kind == "number" else level)).cast(pl.Float64)
            part = part if weight == 1.0 else part * weight
            total = part if total is None else total + part
        return pl.lit(0.0) if total is None else total

    def otherwise_null(self, x: pl.Expr, value: pl.Expr) -> pl.Expr:  # noqa: ARG002  # x is known in every row
        return value
