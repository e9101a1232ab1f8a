"""A factor of a formula met with data: an arithmetic node, or the columns of a variable with all constants learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Literal

import numpy as np
import polars as pl

from polars_glmm.columns import contrasts
from polars_glmm.columns.arguments import constant, constants
from polars_glmm.columns.coding import Column, Variable
from polars_glmm.columns.nodes import Arithmetic, Coded, Constant, Function, Looked, Node, Reference
from polars_glmm.columns.operators import EXTREMES
from polars_glmm.columns.transforms import Input, LearnedColumns, learn_transform
from polars_glmm.errors import ColumnError, FormulaError, brief
from polars_glmm.frames.levels import combine, is_label
from polars_glmm.frames.limits import require_levels
from polars_glmm.frames.missing import nothing_but_null
from polars_glmm.frames.table import Table, refuse_not_finite
from polars_glmm.spec.functions import SIGNATURES, bind
from polars_glmm.spec.syntax import (
    COMPARISONS,
    POWERS,
    Binary,
    Expression,
    Flag,
    FunctionCall,
    Listing,
    Name,
    Number,
    Text,
    Unary,
    render,
)  # fmt: skip
from polars_glmm.typing import Vec

from .recipe import Categorical
from .text_numbers import refused


@dataclass(slots=True, eq=False)
class Variables:
    """The variables of a model by their text, each learned once.

    weights      counts of identical rows, which learned constants respect
    categoricals the categorical columns met on the way
    """

    table: Table
    weights: Vec | None = None
    known: dict[str, Variable] = field(default_factory=dict)
    categoricals: dict[str, Categorical] = field(default_factory=dict)

    def count_rows(self) -> int:
        """Rows that the variables stand for, or a few more."""
        return self.table.n_rows

    def learn(self, node: Expression) -> Variable:
        """The variable of one factor of a term."""
        text = render(node)
        if text not in self.known:
            self.known[text] = self._variable(node, text)
        return self.known[text]

    def arithmetic(self, node: Expression) -> Node:
        """A single numeric column. Raises ColumnError for columns without numbers, FormulaError for what is none."""
        match node:
            case Name(name):
                self._require_number(name)
                return Reference(name)
            case Number(value):
                return Constant(float(value))
            case Unary("-", operand):
                return Function("negative", self.arithmetic(operand))
            case Unary(operand=operand):
                return self.arithmetic(operand)
            case Binary(operator, left, right):
                symbol = "**" if operator in POWERS else operator
                return Arithmetic(symbol, self.arithmetic(left), self.arithmetic(right))
            case FunctionCall() if SIGNATURES[node.function].kind == "elementwise":
                return self._elementwise(node)
            case FunctionCall() if SIGNATURES[node.function].kind == "learned":
                learned = self._transform(node)
                if learned.fields == (None,):
                    return learned.nodes[0]
                msg = f"{render(node)} makes several columns and cannot stand inside another function."
            case FunctionCall():
                msg = f"{render(node)} is not a number: it cannot stand in arithmetic."
            case Text() | Flag() | Listing():
                msg = f"{render(node)} cannot stand in arithmetic."
            case _:
                msg = f"{render(node, top=False)!r} is no arithmetic."
        raise FormulaError(msg)

    def refused(self, column: str) -> str:
        """The end of an error about a column that is no number: whether it is numbers written as text."""
        dtype = self.table.dtype(column)
        return refused(column, dtype, self.labels(column)) if is_label(dtype) else ""

    def labels(self, column: str) -> list[str]:
        """The different values of a column of text, in any order."""
        return self.table.series[column].cast(pl.String).unique().drop_nulls().to_list()

    def evaluate(self, node: Node, text: str) -> Vec:
        """The values of a node in every row. Raises ColumnError where a function has no finite value."""
        values = np.asarray(self.table.evaluate(node), dtype=np.float64)
        if values.ndim == 0:
            values = np.full(self.table.n_rows, float(values))
        with np.errstate(all="ignore"):
            total = float(values.sum())
        if not np.isfinite(total):
            self._refuse_not_finite(node, values, text)
        return values

    def combinations(self, names: Sequence[str]) -> list[tuple[Any, ...]]:
        """The combinations of values of some columns that rows have, in order."""
        first = combine([self.table.levels(name) for name in names]).first
        return list(zip(*(self.table.at(name, first).to_list() for name in names), strict=True))

    def bounds(self, node: Node, text: str) -> tuple[float, float]:
        """Smallest and largest value of a node."""
        values = self.evaluate(node, text)
        return float(values.min()), float(values.max())

    def _refuse_not_finite(self, node: Node, values: Vec, text: str) -> None:
        bad = np.flatnonzero(~np.isfinite(values))
        if not len(bad):
            return
        i = int(bad[0])
        at = {name: self.table.series[name][i] for name in sorted(node.inputs())}
        refuse_not_finite(text, float(values[i]), self.table.row(i), at, len(bad))

    def _variable(self, node: Expression, text: str) -> Variable:
        match node:
            case Name(name):
                dtype = self.table.dtype(name)
                if dtype.is_numeric():
                    return Variable((Column(text, Reference(name)),), None, name)
                return self._categorical(name, text, "contr.treatment", {}, None)
            case FunctionCall(function="C"):
                return self._marked_categorical(node, text)
            case FunctionCall(function="I", arguments=((_, Binary(sign) as comparison),)) if sign in COMPARISONS:
                return self._comparison(comparison, text)
            case FunctionCall() if SIGNATURES[node.function].kind == "learned":
                learned = self._transform(node)
                names = [text if field is None else f"{text}[{field}]" for field in learned.fields]
                columns = tuple(map(Column, names, learned.nodes))
                return Variable(columns, columns[1:] if learned.spans else None, text)
            case _:
                value = self.arithmetic(node)
                self.evaluate(value, text)
                return Variable((Column(text, value),), None, text)

    def _elementwise(self, call: FunctionCall) -> Node:
        inner = [self.arithmetic(value) for value in bind(call).values()]
        if call.function in EXTREMES:
            return reduce(lambda a, b: Arithmetic(call.function, a, b), inner)
        return inner[0] if call.function == "I" else Function(call.function, inner[0])

    def _transform(self, call: FunctionCall) -> LearnedColumns:
        bound = bind(call)
        x = self.arithmetic(bound.pop("x"))
        if call.function == "ave":
            means = self._level_means(call, x, bound["g"])
            return learn_transform(Input(call, x, np.empty(0), None, {}, means=means))
        return learn_transform(self.input(call, x, constants(call, bound)))

    def input(self, call: FunctionCall, x: Node, options: dict[str, Any]) -> Input:
        """What a transform learns from."""
        return Input(call, x, self.evaluate(x, render(call)), self.weights, options)

    def _level_means(self, call: FunctionCall, x: Node, group: Expression) -> Looked:
        """The mean of x in each level of a column."""
        if not isinstance(group, Name):
            msg = f"{render(call)}: the second argument of ave() is a column: make one of {render(group)} first."
            raise FormulaError(msg)
        name = group.name
        kind = kind_of(name, self.table.dtype(name), marked=True)
        labels, means = self.means(call, x, name)
        self._remember(name, labels)
        keys = tuple(float(label) if kind == "number" else label for label in labels)
        require_distinct(name, keys)
        return Looked(name, kind, keys, tuple(means.tolist()))

    def means(self, call: FunctionCall, x: Node, group: str) -> tuple[list[Any], Vec]:
        """The levels of a column and the mean of x in each, rows counted by their weights."""
        values, levels = self.evaluate(x, render(call)), self.table.levels(group)
        count = np.bincount(levels.codes, self.weights, minlength=levels.n_levels)
        near = np.bincount(levels.codes, values if self.weights is None else values * self.weights) / count
        away = values - near[levels.codes]
        rest = np.bincount(levels.codes, away if self.weights is None else away * self.weights) / count
        return self.table.values(group), near + rest

    def _require_number(self, name: str) -> None:
        dtype = self.table.dtype(name)
        if not (dtype.is_numeric() or dtype == pl.Boolean):
            if dtype == pl.Null:
                raise ColumnError(nothing_but_null(name))
            msg = f"column {name!r} is {brief(dtype)}: arithmetic and functions need numbers.{self.refused(name)}"
            raise ColumnError(msg)

    def _comparison(self, comparison: Binary, text: str) -> Variable:
        true = self.arithmetic(comparison)
        low, high = self.bounds(true, text)
        if low == high:
            return Variable((Column(f"{text}[{bool(low)}]", Constant(1.0)),), (), text)
        false = Arithmetic("-", Constant(1.0), true)
        full = (Column(f"{text}[False]", false), Column(f"{text}[True]", true))
        return Variable(full, (Column(f"{text}[T.True]", true),), text)

    def _marked_categorical(self, call: FunctionCall, text: str) -> Variable:
        bound = bind(call)
        column = bound["x"]
        if not isinstance(column, Name):
            msg = f"{text}: C() takes a column. Make a column of {render(column)} first."
            raise FormulaError(msg)
        contrast, options = "contr.treatment", {}
        given = bound.get("contrasts")
        if isinstance(given, FunctionCall):  # the parser lets only contrasts stand here
            contrast, options = given.function, constants(given, bind(given))
        levels = constant(call, bound["levels"]) if "levels" in bound else None
        if levels is not None and not isinstance(levels, list):
            msg = f"{text}: levels is a list, as in levels=['low', 'high']."
            raise FormulaError(msg)
        return self._categorical(column.name, text, contrast, options, levels)

    def _categorical(
        self, name: str, text: str, contrast: str, options: dict[str, Any], order: Sequence[Any] | None
    ) -> Variable:
        kind = kind_of(name, self.table.dtype(name), marked=text != name)
        require_levels(name, self.table.levels(name).n_levels, self.count_rows, lambda: self.refused(name))
        values = self.table.values(name)
        self._remember(name, values)
        if order is not None:
            values = _ordered(name, values, order)
        labels = [str(value) for value in values]
        keys = tuple(float(value) if kind == "number" else value for value in values)
        require_distinct(name, keys)
        whole = contrasts.full(labels)
        full = _columns(name, kind, keys, whole, text)
        if len(labels) == 1:
            return Variable(full, (), name)
        return Variable(full, _columns(name, kind, keys, contrasts.reduced(contrast, labels, options), text), name)

    def _remember(self, name: str, values: list[Any]) -> None:
        dtype = self.table.dtype(name)
        labels = pl.Series(values, dtype=dtype).cast(pl.String).to_list() if dtype.is_numeric() else map(_label, values)
        self.categoricals[name] = Categorical(name, tuple(labels), dtype)


def require_distinct(name: str, keys: tuple[Any, ...]) -> None:
    """Raise ColumnError for whole numbers that are levels and cannot be told apart as floating-point numbers."""
    if len(set(keys)) < len(keys):
        msg = (
            f"column {name!r} has whole numbers that floating-point numbers cannot tell apart (beyond 2^53). "
            f"Cast it to String: pl.col({name!r}).cast(pl.String)."
        )
        raise ColumnError(msg)


def _label(value: Any) -> str:
    """A level as Polars' cast to String spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def kind_of(name: str, dtype: pl.DataType, *, marked: bool) -> Literal["text", "boolean", "number"]:
    """What the levels of a column are. Raises ColumnError for what has none, as a number not `marked` by C()."""
    if is_label(dtype):
        return "text"
    if dtype == pl.Boolean:
        return "boolean"
    if dtype.is_numeric() and marked:
        return "number"
    msg = (
        f"column {name!r} is {brief(dtype)}: a fixed effect is numeric, Boolean, or categorical "
        "(String, Categorical, Enum). Cast it first."
    )
    raise ColumnError(msg)


def _ordered(name: str, values: list[Any], order: Sequence[Any]) -> list[Any]:
    outside = [value for value in values if value not in order]
    if outside:
        msg = f"column {name!r} has the level {outside[0]!r}, which levels= does not list."
        raise ColumnError(msg)
    return [value for value in order if value in values]


def _columns(
    name: str, kind: Literal["text", "boolean", "number"], keys: tuple[Any, ...], coding: contrasts.Coding, text: str
) -> tuple[Column, ...]:
    columns = []
    for j, label in enumerate(coding.fields):
        weights = coding.matrix[:, j]
        used = np.flatnonzero(weights)
        node = Coded(name, kind, tuple(keys[k] for k in used), tuple(float(weights[k]) for k in used))
        columns.append(Column(f"{text}[{label}]", node))
    return tuple(columns)
