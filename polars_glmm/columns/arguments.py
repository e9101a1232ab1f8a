"""Arguments of a formula's functions: which parameter each one is, and the constants they hold."""

from __future__ import annotations

from typing import Any

from polars_glmm.errors import FormulaError
from polars_glmm.spec.syntax import Binary, Expression, Flag, FunctionCall, Listing, Number, Text, Unary, render


def constants(call: FunctionCall, bound: dict[str, Expression]) -> dict[str, Any]:
    """The values of all bound arguments; every one must be a constant."""
    return {name: constant(call, value) for name, value in bound.items()}


def constant(call: FunctionCall, node: Expression) -> Any:
    """A number, text, flag or list of them. Raises FormulaError for anything that depends on a column."""
    match node:
        case Number(value=value) | Text(value=value) | Flag(value=value):
            return value
        case Listing(items=items):
            return [constant(call, item) for item in items]
        case Unary("-", operand):
            return -_number(call, operand)
        case Unary("+", operand):
            return _number(call, operand)
        case Binary("/", left, right) if _number(call, right) != 0:
            return _number(call, left) / _number(call, right)
        case _:
            msg = f"{render(call)}: the argument {render(node)!r} is not a constant."
            raise FormulaError(msg)


def _number(call: FunctionCall, node: Expression) -> float:
    value = constant(call, node)
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{render(call)}: {render(node)!r} is not a number."
        raise FormulaError(msg)
    return value


def whole(call: FunctionCall, name: str, value: Any, least: int) -> int:
    """A whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        msg = f"{render(call)}: {name} is a whole number of at least {least}, not {value!r}."
        raise FormulaError(msg)
    return value
