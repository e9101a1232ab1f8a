"""Which columns of a fit belong to which term of its formula, and what each column is a product of.

Read from the names of the columns, which are those of their parts joined by ":", in the order of the terms; so a fit
that was stored and read again knows it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polars_glmm.columns.nodes import ONE, Node, Product
from polars_glmm.errors import ModelError
from polars_glmm.spec.syntax import render

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.design.recipe import PredictorRecipe
    from polars_glmm.spec.terms import FixedTerm


@dataclass(frozen=True, slots=True)
class TermPiece:
    """One part of a column: the factor of the term it comes from, what stands in brackets behind it, and its node."""

    factor: str
    field: str | None
    node: Node


@dataclass(frozen=True, slots=True)
class TermColumns:
    """One term of one predictor.

    name      as the formula writes it;  key: its factors, whatever their order
    places    of its columns among all columns of the predictor;  pieces: what each is a product of
    """

    parameter: str
    name: str
    key: frozenset[str]
    places: tuple[int, ...]
    pieces: tuple[tuple[TermPiece, ...], ...]


def terms_of(fit: Answer, parameter: str) -> tuple[TermColumns, ...]:
    """The terms of one predictor in the order of their columns, the intercept among them."""
    recipe = fit.recipe.predictor(parameter)
    part = fit.spec.predictor(recipe.parameter)
    assert part is not None  # a recipe has the predictors of its question
    return tuple(assign(part.fixed, recipe))


def term_columns(fit: Answer, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Places among `names`, the fixed effects of all predictors, of the columns of each term.

    A term of unordered categories has those of all predictors; "yes: x" are its columns in one of them.
    """
    found: dict[str, tuple[int, ...]] = {}
    start = 0
    for predictor in fit.recipe.predictors:
        prefix = "" if predictor.parameter == "mu" else f"{predictor.parameter}: "
        coefficients = len(fit.recipe.coefficients(predictor.parameter))
        each = coefficients // max(len(predictor.columns), 1)  # thresholds have several in each column
        for term in terms_of(fit, predictor.parameter):
            own = tuple(start + j * each + k for j in term.places for k in range(each))
            found[f"{prefix}{term.name}"] = own
            if fit.recipe.spec.family.unordered and term.name != "Intercept":
                found[term.name] = (*found.get(term.name, ()), *own)
        start += coefficients
    assert start == len(names)
    return found


def assign(terms: Sequence[FixedTerm], recipe: PredictorRecipe) -> Iterator[TermColumns]:
    """The columns in order go to the first term whose parts they are; raises ModelError for one that fits none."""
    columns = recipe.columns
    at = 0
    for term in terms:
        factors = [render(factor) for factor in term.factors]
        places: list[int] = []
        pieces: list[tuple[TermPiece, ...]] = []
        while at < len(columns):
            nodes = _nodes(columns[at].node)
            split = _split(columns[at].name, factors, len(nodes))
            if split is None:
                break
            places.append(at)
            pieces.append(tuple(TermPiece(f, field, node) for (f, field), node in zip(split, nodes, strict=True)))
            at += 1
        name = term.text if factors else "Intercept"
        yield TermColumns(recipe.parameter, name, term.key, tuple(places), tuple(pieces))
    if at < len(columns):
        msg = f"The column {columns[at].name!r} belongs to no term of the formula."
        raise ModelError(msg)


def _nodes(node: Node) -> tuple[Node, ...]:
    """The nodes that a column is the product of."""
    return node.factors if isinstance(node, Product) else () if node == ONE else (node,)


def _split(name: str, factors: Sequence[str], n: int) -> list[tuple[str, str | None]] | None:
    """A column's name as n parts of these factors in order, some of which may be left out; None where it is not."""
    if n == 0:
        return [] if not factors and name == "Intercept" else None
    for first, factor in enumerate(factors[: len(factors) - n + 1]):
        if not name.startswith(factor):
            continue
        rest = name[len(factor) :]
        for field, after in _fields(rest):
            if n == 1:
                if not after:
                    return [(factor, field)]
            elif after.startswith(":") and (more := _split(after[1:], factors[first + 1 :], n - 1)) is not None:
                return [(factor, field), *more]
    return None


def _fields(rest: str) -> Iterator[tuple[str | None, str]]:
    """What may stand in brackets behind a factor, and what follows: a level may have brackets of its own."""
    yield None, rest
    if rest.startswith("["):
        yield from ((rest[1:end], rest[end + 1 :]) for end, letter in enumerate(rest) if letter == "]")
