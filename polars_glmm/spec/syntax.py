"""The tree of a formula: what was written, with its place in the text, and its text in one normal spelling.

The spelling is that of Python's own unparser (`I(x ** 2)`, `poly(x, 2)`), so that column names agree with formulaic's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from polars_glmm.covariance.structures import STRUCTURES, plain_name, reduced_rank, smoothness, written_around
from polars_glmm.spec.tokens import stands_bare

Span: TypeAlias = tuple[int, int]

FLAGS = {"TRUE": True, "True": True, "FALSE": False, "False": False, "NULL": None, "None": None}
POWERS = frozenset({"**", "^"})
COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_UNARY_LEVEL, _ATOM_LEVEL = 60, 100
_LEVELS = {
    **dict.fromkeys(("|", "||"), 5),
    **dict.fromkeys(COMPARISONS, 10),
    **dict.fromkeys("+-", 20),
    **dict.fromkeys(("*", "/", "%in%"), 40),
    ":": 50,
    **dict.fromkeys(POWERS, 80),
}


def binding(operator: str) -> int:
    """How strongly an infix operator binds: the larger, the tighter."""
    return _LEVELS[operator]


@dataclass(frozen=True, slots=True)
class Name:
    """A column of the frame."""

    name: str
    span: Span = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number or a decimal; written where it has a name, as pi."""

    value: int | float
    span: Span = field(default=(0, 0), compare=False, repr=False)
    written: str = ""


@dataclass(frozen=True, slots=True)
class Text:
    """A string, as an argument of a function."""

    value: str
    span: Span = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Flag:
    """TRUE, FALSE, True, False or None, as an argument of a function."""

    value: bool | None
    written: str
    span: Span = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Listing:
    """Several values as one argument: `[1, 2]` or `c(1, 2)`."""

    items: tuple[Expression, ...]
    vector: bool = False
    span: Span = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A whitelisted function.

    function    its canonical name: `np.log10` is "log10"
    written     the name in the formula
    arguments   in the order of the text, with the keyword or an empty string
    bare        written without parentheses, as a contrast may be: C(f, contr.sum)
    """

    function: str
    written: str
    arguments: tuple[tuple[str, Expression], ...]
    bare: bool = False
    span: Span = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Unary:
    """A sign."""

    operator: str
    operand: Expression
    span: Span = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """Two expressions joined by an operator: of arithmetic inside functions, of terms outside."""

    operator: str
    left: Expression
    right: Expression
    span: Span = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Bar:
    """`(left | right)`; structure is "us", "diag" for `||`, or what is around. enclosed: it stands in parentheses.

    label   of `(left |label| right)`: terms that share it are correlated
    """

    left: Expression
    right: Expression
    structure: str = "us"
    enclosed: bool = False
    label: str = ""
    span: Span = field(default=(0, 0), compare=False, repr=False)


Expression: TypeAlias = Name | Number | Text | Flag | Listing | FunctionCall | Unary | Binary | Bar


def render(node: Expression, *, top: bool = True) -> str:
    """The expression in normal spelling. At the top a name stands bare; inside it is backquoted where it must be."""
    match node:
        case Name(name):
            return name if top else quoted(name)
        case Number(value, written=written):
            return written or repr(value)
        case Text(value):
            return repr(value)
        case Flag(written=written):
            return written
        case Listing(items, vector):
            inner = ", ".join(render(item, top=False) for item in items)
            return f"c({inner})" if vector else f"[{inner}]"
        case FunctionCall(written=written, bare=True):
            return written
        case FunctionCall(written=written, arguments=arguments):
            inner = ", ".join(
                f"{keyword}={render(value, top=False)}" if keyword else render(value, top=False)
                for keyword, value in arguments
            )
            return f"{written}({inner})"
        case Unary(operator, operand):
            return operator + _within(operand, _UNARY_LEVEL)
        case Binary(operator, left, right):
            level = binding(operator)
            if operator in POWERS:  # binds to the right; a signed exponent is enclosed
                sides = _within(left, level + 1), _within(right, level)
            else:
                sides = _within(left, level), _within(right, level + 1)
            return f"{sides[0]}:{sides[1]}" if operator == ":" else f"{sides[0]} {operator} {sides[1]}"
        case Bar(left, right, structure, label=label):
            return f"{render(left, top=False)} {bar(structure, label)} {render(right, top=False)}"


def bar(structure: str, label: str = "") -> str:
    """What stands between the design of a random-effects term and its group."""
    if label:
        return f"|{quoted(label)}|"
    return "|" if written_around(structure) or STRUCTURES[structure].correlated else "||"


def around(structure: str, text: str) -> str:
    """A random-effects term with its structure around it: "(1 | g)", "cs(0 + f | g)", "rr(0 + f | g, d=2)"."""
    if not written_around(structure):
        return f"({text})"
    rank, nu = reduced_rank(structure), smoothness(structure)
    given = f", d={rank}" if rank is not None else f", nu={nu!r}" if nu is not None else ""
    return f"{plain_name(structure)}({text}{given})"


def _within(node: Expression, level: int) -> str:
    text = render(node, top=False)
    return text if _level(node) >= level else f"({text})"


def _level(node: Expression) -> int:
    match node:
        case Binary(operator):
            return binding(operator)
        case Unary():
            return _UNARY_LEVEL
        case Bar():
            return binding("|")
        case _:
            return _ATOM_LEVEL


def quoted(name: str) -> str:
    """A column name as a formula has it: in backquotes, its own doubled, unless it is read as a name without."""
    bare = stands_bare(name) and name.strip(".") and name != "pi" and name not in FLAGS
    return name if bare else f"`{name.replace('`', '``')}`"


def names_pi(node: Expression) -> bool:
    """Whether an expression uses the number pi by its name."""
    match node:
        case Number(written=written):
            return bool(written)
        case Listing(items):
            return any(map(names_pi, items))
        case FunctionCall(arguments=arguments):
            return any(names_pi(value) for _, value in arguments)
        case Unary(operand=operand):
            return names_pi(operand)
        case Binary(left=left, right=right) | Bar(left=left, right=right):
            return names_pi(left) or names_pi(right)
        case _:
            return False


def columns(node: Expression) -> Iterator[str]:
    """Every column an expression reads, in the order of the text."""
    match node:
        case Name(name):
            yield name
        case Listing(items):
            for item in items:
                yield from columns(item)
        case FunctionCall(arguments=arguments):
            for _, value in arguments:
                yield from columns(value)
        case Unary(operand=operand):
            yield from columns(operand)
        case Binary(left=left, right=right) | Bar(left=left, right=right):
            yield from columns(left)
            yield from columns(right)
        case _:
            return
