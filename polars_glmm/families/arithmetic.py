"""Elementwise functions and operators by name, on arrays and numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10,
    "log1p": np.log1p, "sqrt": np.sqrt, "abs": np.abs, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "floor": np.floor, "ceil": np.ceil, "round": np.round, "negative": np.negative, "I": np.asarray,
}  # fmt: skip
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow,
}  # fmt: skip


class ArrayAlgebra:
    """Arithmetic on arrays and numbers as IEEE has it: 1/0 is infinite, log(-1) is none."""

    def function(self, name: str, x: Any) -> Any:
        with np.errstate(all="ignore"):
            return FUNCTIONS[name](x)

    def binary(self, symbol: str, left: Any, right: Any) -> Any:
        if symbol in ("/", "**"):  # whole numbers to negative powers, and a number over a number
            left = np.asarray(left, dtype=np.float64)
        with np.errstate(all="ignore"):
            return OPERATORS[symbol](left, right)
