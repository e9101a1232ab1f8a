"""Nodes as SQL text: the same columns for a database that is sent the words and no frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polars_glmm.columns.operators import COMPARISONS, EXTREMES
from polars_glmm.errors import ModelError

QUOTES = {"duckdb": '"', "postgres": '"', "spark": "`"}
"""What stands around names, by dialect."""
_DOUBLE = {"duckdb": "DOUBLE", "postgres": "DOUBLE PRECISION", "spark": "DOUBLE"}
_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "exp": "exp({})".format, "exp2": "power(2e0, {})".format, "expm1": "(exp({}) - 1e0)".format,
    "log": "ln({})".format, "log2": "(ln({}) / ln(2e0))".format, "log10": "(ln({}) / ln(10e0))".format,
    "log1p": "ln(1e0 + {})".format, "sqrt": "sqrt({})".format, "abs": "abs({})".format, "sin": "sin({})".format,
    "cos": "cos({})".format, "tan": "tan({})".format, "floor": "floor({})".format, "ceil": "ceil({})".format,
    "negative": "(0e0 - {})".format, "I": "{}".format,
}  # fmt: skip


class Sql:
    """Text of a dialect; a value outside the domain of a function is what the database makes of it, often an error."""

    def __init__(self, dialect: str, table: str) -> None:
        self.dialect, self.table = dialect, table

    def name(self, column: str) -> str:
        """A quoted name."""
        mark = QUOTES[self.dialect]
        return f"{mark}{column.replace(mark, 2 * mark)}{mark}"

    def column(self, column: str) -> str:
        """A column of the table of rows."""
        return f"{self.table}.{self.name(column)}"

    def number(self, column: str) -> str:
        return f"CAST({self.column(column)} AS {_DOUBLE[self.dialect]})"

    def constant(self, value: float) -> str:
        return literal(value)

    def coded(self, column: str, kind: str, levels: tuple[Any, ...], weights: tuple[float, ...]) -> str:
        value, cases = self._label(column, kind), []
        for level, weight in zip(levels, weights, strict=True):
            cases.append(f"WHEN {value} = {self._level(level, kind)} THEN {literal(weight)}")
        return f"CASE {' '.join(cases)} ELSE 0e0 END" if cases else "0e0"

    def looked(self, column: str, kind: str, levels: tuple[Any, ...], values: tuple[float, ...]) -> str:
        value, cases = self._label(column, kind), []
        for level, number in zip(levels, values, strict=True):
            cases.append(f"WHEN {value} = {self._level(level, kind)} THEN {literal(number)}")
        return f"CASE {' '.join(cases)} END"

    def function(self, name: str, x: str) -> str:
        if name not in _FUNCTIONS:
            msg = f"{name}() is not the same in every database: make the column there, and use it in the formula."
            raise ModelError(msg)
        return _FUNCTIONS[name](x)

    def binary(self, symbol: str, left: Any, right: Any) -> str:
        a, b = (literal(side) if isinstance(side, float) else side for side in (left, right))
        if symbol in EXTREMES:
            return f"CASE WHEN {a} {'<=' if symbol == 'pmin' else '>='} {b} THEN {a} ELSE {b} END"
        if symbol in COMPARISONS:
            return f"CASE WHEN {a} {symbol.replace('==', '=').replace('!=', '<>')} {b} THEN 1e0 ELSE 0e0 END"
        return f"power({a}, {b})" if symbol == "**" else f"({a} {symbol} {b})"

    def piecewise(self, x: str, breaks: tuple[float, ...], pieces: tuple[tuple[float, ...], ...]) -> str:
        cases = [
            f"WHEN {x} < {literal(cut)} THEN {_polynomial(x, piece)}"
            for cut, piece in zip(breaks, pieces[:-1], strict=True)
        ]
        last = _polynomial(x, pieces[-1])
        return f"CASE {' '.join(cases)} ELSE {last} END" if cases else last

    def wrapped(self, x: str, low: float, high: float) -> str:
        period = literal(high - low)

        def rest(value: str) -> str:
            return f"({value} - floor({value} / {period}) * {period})"

        above = f"{literal(low)} + {rest(f'({x} - {literal(high)})')}"
        below = f"{literal(high)} - {rest(f'({literal(low)} - {x})')}"
        return f"CASE WHEN {x} > {literal(high)} THEN {above} WHEN {x} < {literal(low)} THEN {below} ELSE {x} END"

    def inside(self, x: str, low: float, high: float, value: str, otherwise: float | None) -> str:
        rest = "NULL" if otherwise is None else literal(otherwise)
        return f"CASE WHEN {x} >= {literal(low)} AND {x} <= {literal(high)} THEN {value} ELSE {rest} END"

    def elapsed(self, *_: Any) -> str:
        msg = "Times between dates are not the same in every database: make the column there, and use it."
        raise ModelError(msg)

    interval = elapsed

    def finite(self, x: str) -> str:
        """Whether a number is one."""
        return f"({x} - {x}) = 0e0"

    def _label(self, column: str, kind: str) -> str:
        if kind == "text":
            text = "STRING" if self.dialect == "spark" else "VARCHAR"
            return f"CAST({self.column(column)} AS {text})"
        return self.column(column) if kind == "boolean" else self.number(column)

    def _level(self, level: Any, kind: str) -> str:
        if kind == "text":
            return text_literal(str(level), self.dialect)
        return ("TRUE" if level else "FALSE") if kind == "boolean" else literal(float(level))


def literal(value: float) -> str:
    """A number that every dialect reads as a double with all its digits."""
    text = repr(float(value))
    text = text if "e" in text else f"{text}e0"
    return f"({text})" if value < 0 else text


def text_literal(text: str, dialect: str) -> str:
    """A quoted text."""
    if dialect == "spark":
        text = text.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{text}'"
    return "'" + text.replace("'", "''") + "'"


def _polynomial(x: str, piece: tuple[float, ...]) -> str:
    origin, width, *coefficients = piece
    t, value = f"(({x} - {literal(origin)}) / {literal(width)})", literal(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = f"({value} * {t} + {literal(coefficient)})"
    return value
