"""A tree as model terms: products of factors for the fixed part, bars for the random part (Wilkinson & Rogers 1973)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from polars_glmm.covariance.structures import in_order, over_points, plain_name
from polars_glmm.errors import FormulaError

from .members import Members, members_of, unplaced
from .parser import Tree
from .syntax import (
    POWERS,
    Bar,
    Binary,
    Expression,
    FunctionCall,
    Name,
    Number,
    Unary,
    around,
    bar,
    columns,
    quoted,
    render,
)

_MOST_TERMS = 2000


@dataclass(frozen=True, slots=True)
class FixedTerm:
    """A product of factors; without any it is the intercept."""

    factors: tuple[Expression, ...] = ()

    @property
    def text(self) -> str:
        return ":".join(render(factor) for factor in self.factors) or "1"

    @property
    def written(self) -> str:
        """The term as it stands in a formula."""
        return ":".join(render(factor, top=False) for factor in self.factors) or "1"

    @property
    def key(self) -> frozenset[str]:
        """What makes two terms the same: `a:b` is `b:a`."""
        return frozenset(render(factor) for factor in self.factors)


INTERCEPT = FixedTerm()


@dataclass(frozen=True, slots=True)
class RandomTerm:
    """`structure(design | keys)`: one covariance matrix over the columns of the design for every level of the keys.

    label   terms on the same keys that share one have one covariance matrix, in whatever predictors they are
    part    the linear predictor it belongs to, by its place among those of the family: 0 is mu
    parameter   that of the predictor
    members     of mm(), by whose name the levels are known, the columns of a frame that hold them
    """

    design: tuple[FixedTerm, ...]
    keys: tuple[str, ...]
    structure: str
    written: str
    label: str = ""
    part: int = 0
    parameter: str = "mu"
    members: Members | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a frame that tell the levels of a row."""
        return self.keys if self.members is None else self.members.columns

    @property
    def group(self) -> str:
        return ":".join(self.keys)

    @property
    def text(self) -> str:
        keys = ":".join(quoted(key) for key in self.keys) if self.members is None else self.members.text
        return around(self.structure, f"{self.written} {bar(self.structure, self.label)} {keys}")

    @property
    def key(self) -> tuple[frozenset[frozenset[str]], frozenset[str]]:
        return frozenset(term.key for term in self.design), frozenset(self.keys)


@dataclass(frozen=True, slots=True)
class PredictorTerms:
    """One linear predictor: its fixed terms in order of degree, its random terms and its offsets.

    absorbed   its intercept is coded for and not there: other parameters, thresholds, take up the constant
    scaling    a constant in it would be a factor of all that the others say: their unit
    """

    parameter: str
    fixed: tuple[FixedTerm, ...]
    random: tuple[RandomTerm, ...] = ()
    offsets: tuple[Expression, ...] = ()
    absorbed: bool = False
    scaling: bool = False

    def columns(self, *, slots: bool = True) -> Iterator[str]:
        """Every column of the frame that the predictor reads; without `slots` but those of mm()."""
        for term in (*self.fixed, *(term for random in self.random for term in random.design)):
            for factor in term.factors:
                yield from columns(factor)
        for random in self.random:
            yield from random.columns if slots or random.members is None else ()
        for offset in self.offsets:
            yield from columns(offset)


_Terms: TypeAlias = dict[frozenset[str], FixedTerm]


def predictor(tree: Tree, parameter: str, part: int = 0) -> PredictorTerms:
    """The right side of a formula as a predictor. Raises FormulaError with the place of what cannot be a term.

    part   its place among the predictors of the family
    """
    fixed: _Terms = {INTERCEPT.key: INTERCEPT}
    random: list[RandomTerm] = []
    offsets: list[Expression] = []
    for sign, node in summands(tree.right):
        match node:
            case Bar(enclosed=False):
                raise _unenclosed(tree, node)
            case FunctionCall(function="offset", arguments=((_, value),)) if sign == "-":
                if value not in offsets:
                    message = "This offset is not in the formula, so it cannot be taken out."
                    raise FormulaError(message, tree.text, *node.span)
                offsets.remove(value)
            case Bar() if sign == "-":
                random = _without(random, tree, node)
            case Bar():
                random += random_terms(tree, node, part, parameter)
            case FunctionCall(function="offset", arguments=((_, value),)):
                offsets.append(value)
            case _:
                fixed = _add(fixed, sign, node, tree)
    return PredictorTerms(parameter, _by_degree(fixed), tuple(random), tuple(offsets))


def _unenclosed(tree: Tree, node: Bar) -> FormulaError:
    """The error for a bar outside parentheses, with the one term marked that was probably meant."""
    *_, (_, design) = summands(node.left)
    _, group = next(summands(node.right))
    between = bar(node.structure, node.label)
    meant = f"({render(design, top=False)} {between} {render(group, top=False)})"
    message = f"A random-effects term stands in parentheses: write {meant}."
    return FormulaError(message, tree.text, design.span[0], group.span[1])


def _without(random: list[RandomTerm], tree: Tree, node: Bar) -> list[RandomTerm]:
    """The random terms without those of a bar. Raises FormulaError for a term that is not among them."""
    for gone in random_terms(tree, node):
        rest = [term for term in random if (term.key, term.structure) != (gone.key, gone.structure)]
        if len(rest) == len(random):
            known = f"there is {', '.join(term.text for term in random)}" if random else "there is none before it"
            message = f"The random-effects term {gone.text} cannot be taken out: {known}."
            raise FormulaError(message, tree.text, *node.span)
        random = rest
    return random


def design_terms(tree: Tree, node: Expression) -> tuple[FixedTerm, ...]:
    """The left side of a bar as fixed terms, with an intercept unless it is taken out."""
    fixed: _Terms = {INTERCEPT.key: INTERCEPT}
    for sign, summand in summands(node):
        fixed = _add(fixed, sign, summand, tree)
    if not fixed:
        message = "This random-effects term has no column left."
        raise FormulaError(message, tree.text, *node.span)
    return _by_degree(fixed)


def random_terms(tree: Tree, node: Bar, part: int = 0, parameter: str = "mu") -> list[RandomTerm]:
    """One term per grouping factor: `(1 | a/b)` is `(1 | a) + (1 | a:b)`."""
    design, written = design_terms(tree, node.left), render(node.left, top=False)
    if in_order(node.structure):
        design = (_levels_in_order(tree, node, design),)
    elif over_points(node.structure):
        _require_coordinates(tree, node, design)
    if (members := members_of(node.right)) is not None:
        return [RandomTerm(design, (members.name,), node.structure, written, node.label, part, parameter, members)]
    return [
        RandomTerm(design, keys, node.structure, written, node.label, part, parameter)
        for keys in _groups(tree, node.right)
    ]


def _levels_in_order(tree: Tree, node: Bar, design: tuple[FixedTerm, ...]) -> FixedTerm:
    """The one term of a structure over the levels of one column, which may be numbers."""
    match design:
        case (FixedTerm((Name() as variable,)),):
            return FixedTerm((FunctionCall("C", "C", (("", variable),), span=variable.span),))
        case (FixedTerm((FunctionCall(function="C", arguments=((_, Name()),)),)) as term,):
            return term
    name = plain_name(node.structure)
    message = f"{name}() is over the levels of one column, without an intercept: write {name}(0 + time | g)."
    raise FormulaError(message, tree.text, *node.span)


def _require_coordinates(tree: Tree, node: Bar, design: tuple[FixedTerm, ...]) -> None:
    """Raise FormulaError where a structure over points has other terms than its coordinates."""
    if all(len(term.factors) == 1 and isinstance(term.factors[0], Name) for term in design):
        return
    name = plain_name(node.structure)
    message = f"{name}() is over points: columns of coordinates, without an intercept, as in {name}(0 + x + y | g)."
    raise FormulaError(message, tree.text, *node.span)


def _groups(tree: Tree, node: Expression) -> list[tuple[str, ...]]:
    match node:
        case Name(name):
            return [(name,)]
        case Binary(":", left, right):
            return [_unique(a + b) for a, b in product(_groups(tree, left), _groups(tree, right))]
        case Binary("/", left, right):
            outer = _groups(tree, left)
            return outer + [_unique(outer[-1] + inner) for inner in _groups(tree, right)]
        case FunctionCall() if members_of(node) is not None:
            raise unplaced(tree.text, node)
        case FunctionCall(written=written):
            message = f"A grouping factor is a column: make it one first, instead of {written}()."
        case Number(value=1):
            message = "A grouping factor is a column: for one field of all rows make one column of the same value."
        case _:
            message = "A grouping factor is a column, or columns joined by ':' or '/'."
    raise FormulaError(message, tree.text, *node.span)


def _unique(keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keys))


def summands(node: Expression) -> Iterator[tuple[str, Expression]]:
    """What is joined by '+' and '-' at the top of a tree, each with its sign."""
    later: list[tuple[str, Expression]] = []
    while isinstance(node, Binary) and node.operator in ("+", "-"):  # a loop: there may be thousands
        later.append((node.operator, node.right))
        node = node.left
    match node:
        case Unary(sign, Binary("+" | "-") as operand):
            for inner, summand in summands(operand):
                yield ("+" if inner == sign else "-"), summand
        case Unary(sign, operand):
            yield sign, operand
        case _:
            yield "+", node
    yield from reversed(later)


def _add(terms: _Terms, sign: str, node: Expression, tree: Tree) -> _Terms:
    if isinstance(node, Unary):
        return _add(terms, "+" if node.operator == sign else "-", node.operand, tree)
    if isinstance(node, Number) and node.value == 0:
        sign, node = "-" if sign == "+" else "+", Number(1, node.span)
    new = _expand(node, tree)
    if sign == "-":
        return {key: term for key, term in terms.items() if key not in new}
    return terms | {key: term for key, term in new.items() if key not in terms}


def _expand(node: Expression, tree: Tree) -> _Terms:
    """The terms of a subtree, in the order in which they are written."""
    match node:
        case Number(value=1):
            return {INTERCEPT.key: INTERCEPT}
        case Number(value, span):
            message = f"The number {value!r} is no term: 1 and 0 switch the intercept; arithmetic stands in I()."
            raise FormulaError(message, tree.text, *span)
        case Binary("+" | "-") | Unary():
            terms: _Terms = {}
            for sign, summand in summands(node):
                terms = _add(terms, sign, summand, tree)
            return terms
        case Binary(operator, left, right) if operator in POWERS:
            return _power(_expand(left, tree), right, tree)
        case Binary("%in%", left, right):
            return _nested(_expand(right, tree), _expand(left, tree), tree)
        case Binary("/", left, right):
            return _nested(_expand(left, tree), _expand(right, tree), tree)
        case Binary(":", left, right):
            return _products(_expand(left, tree), _expand(right, tree), tree)
        case Binary("*", left, right):
            first, second = _expand(left, tree), _expand(right, tree)
            return _merged(first, second, _products(first, second, tree))
        case Bar(span=span) | FunctionCall(function="offset", span=span):
            message = "This stands by itself among the terms, joined by '+'."
            raise FormulaError(message, tree.text, *span)
        case FunctionCall() if members_of(node) is not None:
            raise unplaced(tree.text, node)
        case _:
            term = FixedTerm((node,))
            return {term.key: term}


def _merged(*parts: _Terms) -> _Terms:
    merged: _Terms = {}
    for part in parts:
        for key, term in part.items():
            merged.setdefault(key, term)
    return merged


def _joined(terms: Iterable[FixedTerm]) -> FixedTerm:
    factors = {render(factor): factor for term in terms for factor in term.factors}
    return FixedTerm(tuple(factors.values()))


def _products(first: _Terms, second: _Terms, tree: Tree) -> _Terms:
    if len(first) * len(second) > _MOST_TERMS:
        message = f"The formula expands to more than {_MOST_TERMS} terms."
        raise FormulaError(message, tree.text, 0, len(tree.text))
    terms: _Terms = {}
    for pair in product(first.values(), second.values()):
        term = _joined(pair)
        terms.setdefault(term.key, term)
    return terms


def _nested(parents: _Terms, inner: _Terms, tree: Tree) -> _Terms:
    common = _joined(parents.values())
    return _merged(parents, _products({common.key: common}, inner, tree))


def _power(terms: _Terms, exponent: Expression, tree: Tree) -> _Terms:
    if not (isinstance(exponent, Number) and isinstance(exponent.value, int) and exponent.value >= 1):
        message = "The exponent of terms is a whole number of at least 1; a power of a column stands in I(x**2)."
        raise FormulaError(message, tree.text, *exponent.span)
    raised = terms
    for _ in range(min(exponent.value, len(terms)) - 1):  # beyond the number of terms nothing new can appear
        raised = _products(raised, terms, tree)
    return raised


def _by_degree(terms: _Terms) -> tuple[FixedTerm, ...]:
    return tuple(sorted(terms.values(), key=lambda term: len(term.factors)))
