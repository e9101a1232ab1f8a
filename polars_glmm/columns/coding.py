"""Terms to columns by the full-rank rule: a categorical variable is coded in full only where nothing before spans it.

The rule of S (Chambers & Hastie 1992, §2.4.1), in the form patsy and formulaic give it: each term spans the products of
its parts, with every categorical part split into a constant and a contrast; what earlier terms span is taken out; the
rest is put together again, contrast + constant = full coding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product as combinations
from math import prod
from typing import NamedTuple

from polars_glmm.columns.nodes import ONE, Node, product
from polars_glmm.errors import ColumnError
from polars_glmm.spec.syntax import render
from polars_glmm.spec.terms import FixedTerm


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a design: its name and what makes it."""

    name: str
    node: Node


@dataclass(frozen=True, slots=True)
class Variable:
    """A factor of a term as columns.

    full      all its columns
    reduced   without what an intercept spans; None where no constant lies in its columns (a numeric variable)
    origin    the column it comes from, for messages
    """

    full: tuple[Column, ...]
    reduced: tuple[Column, ...] | None = None
    origin: str = ""


class _Part(NamedTuple):
    variable: str
    contrast: bool


def code_terms(terms: Iterable[FixedTerm], variables: Mapping[str, Variable]) -> tuple[tuple[Column, ...], ...]:
    """The columns of each term, given its variables by their text. Raises ColumnError for a contrast of one level."""
    spanned: set[frozenset[_Part]] = set()
    coded = []
    for term in terms:
        names = [render(factor) for factor in term.factors]
        own = [span for span in _spans(names, variables) if frozenset(span) not in spanned]
        spanned.update(frozenset(span) for span in own)
        coded.append(tuple(column for span in _merge(own) for column in _columns(span, variables)))
    return tuple(coded)


def fewest_columns(term: FixedTerm, variables: Mapping[str, Variable]) -> int:
    """Columns of a term whose categorical variables are all coded as contrasts."""
    parts = (variables[render(factor)] for factor in term.factors)
    return prod(len(part.full if part.reduced is None else part.reduced) for part in parts)


def _spans(names: Sequence[str], variables: Mapping[str, Variable]) -> list[tuple[_Part, ...]]:
    choices: list[tuple[_Part | None, ...]] = [
        (_Part(name, contrast=False),) if variables[name].reduced is None else (_Part(name, contrast=True), None)
        for name in names
    ]
    return [tuple(part for part in span if part is not None) for span in combinations(*choices)]


def _merge(spans: Iterable[tuple[_Part, ...]]) -> list[tuple[_Part, ...]]:
    """Contrast and constant of a variable, over the same other parts, become its full coding, until none are left."""
    merged: list[tuple[_Part, ...]] = []
    for span in sorted(spans, key=len):
        parts = set(span)
        for smaller in merged:
            rest = parts - set(smaller)
            if len(smaller) == len(parts) - 1 and len(rest) == 1 and next(iter(rest)).contrast:
                new = next(iter(rest))
                widened = tuple(_Part(part.variable, contrast=False) if part == new else part for part in span)
                merged = _merge([*(other for other in merged if other is not smaller), widened])
                break
        else:
            merged.append(span)
    return merged


def _columns(span: tuple[_Part, ...], variables: Mapping[str, Variable]) -> list[Column]:
    if not span:
        return [Column("Intercept", ONE)]
    choices = []
    for part in span:
        variable = variables[part.variable]
        chosen = variable.reduced if part.contrast else variable.full
        if not chosen:
            msg = (
                f"{part.variable!r} has one level in the rows used, so it cannot be told from the intercept. "
                "Leave it out of the formula."
            )
            raise ColumnError(msg)
        choices.append(chosen)
    columns = []
    for backwards in combinations(*reversed(choices)):  # the first variable varies fastest
        picked = backwards[::-1]
        name = ":".join(column.name for column in picked)
        columns.append(Column(name, product(tuple(column.node for column in picked))))
    return columns
