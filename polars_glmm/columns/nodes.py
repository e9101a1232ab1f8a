"""Design columns as frozen trees with what data taught inside: one definition, read by arrays and by engines.

A node is plain data. `compile` walks it with an interpreter: `Arrays` computes with NumPy on the rows of a fit,
`Interpretation` builds an expression of Polars or Narwhals for new rows.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import reduce
from types import ModuleType
from typing import Any, Literal, Protocol, TypeAlias

from polars_glmm.columns.operators import Arrays, Interpretation

Value: TypeAlias = Any
"""An array, an expression or a number, whatever the interpreter computes with."""


class Interpreter(Protocol):
    """What nodes are computed with."""

    def number(self, column: str) -> Value: ...
    def constant(self, value: float) -> Value: ...
    def coded(self, column: str, kind: str, levels: tuple[Any, ...], weights: tuple[float, ...]) -> Value: ...
    def looked(self, column: str, kind: str, levels: tuple[Any, ...], values: tuple[float, ...]) -> Value: ...
    def function(self, name: str, x: Value) -> Value: ...
    def binary(self, operator: str, left: Value, right: Value) -> Value: ...
    def piecewise(self, x: Value, breaks: tuple[float, ...], pieces: tuple[tuple[float, ...], ...]) -> Value: ...
    def wrapped(self, x: Value, low: float, high: float) -> Value: ...
    def inside(self, x: Value, low: float, high: float, value: Value, otherwise: float | None) -> Value: ...
    def elapsed(self, column: str) -> Value: ...
    def interval(self, lower: Value, upper: Value, field: str, least: float) -> Value: ...


class Node:
    """A column as a function of the columns of a frame."""

    __slots__ = ()

    def compile(self, to: Interpreter) -> Value:
        raise NotImplementedError

    def inputs(self) -> frozenset[str]:
        """The columns of the frame that the value depends on."""
        raise NotImplementedError

    def to_expr(self, engine: ModuleType | None = None) -> Any:
        """The column as an expression of `polars` (default) or `narwhals`: Float64, null where an input is missing."""
        return self.compile(Interpretation(engine))

    def evaluate(self, arrays: Arrays) -> Value:
        """The column as an array (n,), or a number where it depends on no column."""
        return self.compile(arrays)


@dataclass(frozen=True, slots=True)
class Reference(Node):
    """A numeric column of the frame."""

    column: str

    def compile(self, to: Interpreter) -> Value:
        return to.number(self.column)

    def inputs(self) -> frozenset[str]:
        return frozenset({self.column})


@dataclass(frozen=True, slots=True)
class Constant(Node):
    """The same number in every row: the intercept is 1."""

    value: float

    def compile(self, to: Interpreter) -> Value:
        return to.constant(self.value)

    def inputs(self) -> frozenset[str]:
        return frozenset()


ONE = Constant(1.0)


@dataclass(frozen=True, slots=True)
class Coded(Node):
    """A categorical column as numbers: the weight of the row's level; 0 for a level that is not listed.

    kind     "text" (String, Categorical, Enum), "boolean" or "number"
    levels   the levels with a weight other than 0, as values of that kind
    """

    column: str
    kind: Literal["text", "boolean", "number"]
    levels: tuple[Any, ...]
    weights: tuple[float, ...]

    def compile(self, to: Interpreter) -> Value:
        return to.coded(self.column, self.kind, self.levels, self.weights)

    def inputs(self) -> frozenset[str]:
        return frozenset({self.column})


@dataclass(frozen=True, slots=True)
class Looked(Node):
    """The number of the row's level, as the mean of a variable in it; null for a level that is not listed."""

    column: str
    kind: Literal["text", "boolean", "number"]
    levels: tuple[Any, ...]
    values: tuple[float, ...]

    def compile(self, to: Interpreter) -> Value:
        return to.looked(self.column, self.kind, self.levels, self.values)

    def inputs(self) -> frozenset[str]:
        return frozenset({self.column})


@dataclass(frozen=True, slots=True)
class Function(Node):
    """An elementwise function of one node."""

    name: str
    x: Node

    def compile(self, to: Interpreter) -> Value:
        return to.function(self.name, self.x.compile(to))

    def inputs(self) -> frozenset[str]:
        return self.x.inputs()


@dataclass(frozen=True, slots=True)
class Arithmetic(Node):
    """`left operator right` with + - * / **, the smaller or larger of both, or a comparison as 1 and 0."""

    operator: str
    left: Node
    right: Node

    def compile(self, to: Interpreter) -> Value:
        return to.binary(self.operator, self.left.compile(to), self.right.compile(to))

    def inputs(self) -> frozenset[str]:
        return self.left.inputs() | self.right.inputs()


@dataclass(frozen=True, slots=True)
class Product(Node):
    """The product of the columns of an interaction."""

    factors: tuple[Node, ...]

    def compile(self, to: Interpreter) -> Value:
        values = [factor.compile(to) for factor in self.factors]
        return reduce(lambda a, b: to.binary("*", a, b), values)

    def inputs(self) -> frozenset[str]:
        return frozenset().union(*(factor.inputs() for factor in self.factors))


@dataclass(frozen=True, slots=True)
class Affine(Node):
    """(x − centre) / scale, with the mean and standard deviation that data taught."""

    x: Node
    centre: float
    scale: float

    def compile(self, to: Interpreter) -> Value:
        value = self.x.compile(to)
        if self.centre != 0.0:
            value = to.binary("-", value, self.centre)
        return to.binary("/", value, self.scale) if self.scale != 1.0 else value

    def inputs(self) -> frozenset[str]:
        return self.x.inputs()


@dataclass(frozen=True, slots=True)
class Roots(Node):
    """scale · Π (x − root): a polynomial by its real roots, which is stable where powers of x are not."""

    x: Node
    roots: tuple[float, ...]
    scale: float

    def compile(self, to: Interpreter) -> Value:
        value = self.x.compile(to)
        factors = [to.binary("-", value, root) for root in self.roots]
        return to.binary("*", reduce(lambda a, b: to.binary("*", a, b), factors), self.scale)

    def inputs(self) -> frozenset[str]:
        return self.x.inputs()


@dataclass(frozen=True, slots=True)
class Piecewise(Node):
    """A piecewise polynomial: between breaks[k − 1] and breaks[k] the k-th piece.

    breaks   k increasing numbers; a value on a break belongs to the piece on its right
    pieces   k + 1 tuples (origin, width, c_0, c_1, …): Σ c_j ((x − origin)/width)^j
    """

    x: Node
    breaks: tuple[float, ...]
    pieces: tuple[tuple[float, ...], ...]

    def compile(self, to: Interpreter) -> Value:
        return to.piecewise(self.x.compile(to), self.breaks, self.pieces)

    def inputs(self) -> frozenset[str]:
        return self.x.inputs()


@dataclass(frozen=True, slots=True)
class Wrapped(Node):
    """x moved by whole periods into [low, high]: the argument of a cyclic spline."""

    x: Node
    low: float
    high: float

    def compile(self, to: Interpreter) -> Value:
        return to.wrapped(self.x.compile(to), self.low, self.high)

    def inputs(self) -> frozenset[str]:
        return self.x.inputs()


@dataclass(frozen=True, slots=True)
class Inside(Node):
    """`value` where low ≤ x ≤ high, elsewhere a constant or null."""

    x: Node
    low: float
    high: float
    value: Node
    otherwise: float | None

    def compile(self, to: Interpreter) -> Value:
        return to.inside(self.x.compile(to), self.low, self.high, self.value.compile(to), self.otherwise)

    def inputs(self) -> frozenset[str]:
        return self.x.inputs() | self.value.inputs()


@dataclass(frozen=True, slots=True)
class Elapsed(Node):
    """A column of durations in days."""

    column: str

    def compile(self, to: Interpreter) -> Value:
        return to.elapsed(self.column)

    def inputs(self) -> frozenset[str]:
        return frozenset({self.column})


@dataclass(frozen=True, slots=True)
class Interval(Node):
    """What two ends say of a number between them, an end that is null, infinite or `least` being open.

    field   "value": the lower end, or the upper one where the lower is open; "upper": the other way round; "status": 1
            of equal ends, 0 without an upper one, 2 without a lower one, 3 with both
    """

    lower: Node
    upper: Node
    field: Literal["value", "upper", "status"]
    least: float

    def compile(self, to: Interpreter) -> Value:
        return to.interval(self.lower.compile(to), self.upper.compile(to), self.field, self.least)

    def inputs(self) -> frozenset[str]:
        return self.lower.inputs() | self.upper.inputs()


def looked_up(node: Node) -> frozenset[str]:
    """The columns whose levels a node looks up: of them a level that was not learned has no value."""
    if isinstance(node, Coded | Looked):
        return frozenset({node.column})
    values = [getattr(node, one.name) for one in fields(node)]  # type: ignore[arg-type]
    below = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    return frozenset[str]().union(*(looked_up(part) for part in below if isinstance(part, Node)))


def product(nodes: tuple[Node, ...]) -> Node:
    """The product of nodes; of none it is 1."""
    if not nodes:
        return ONE
    return nodes[0] if len(nodes) == 1 else Product(nodes)


def total(nodes: tuple[Node, ...]) -> Node | None:
    """The sum of nodes; of none it is None."""
    return reduce(lambda a, b: Arithmetic("+", a, b), nodes) if nodes else None
