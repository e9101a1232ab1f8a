"""The distinct columns of a recipe, which terms share, and its design without rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from polars_glmm.columns.nodes import ONE, Node
from polars_glmm.typing import BoolVec, Mat

from .apart import ONES, Apart, RecordLayout
from .reader import terms_of
from .recipe import Recipe, cuts_of
from .records import Design, Factor, Predictor

AnyApart = TypeVar("AnyApart", bound=Apart)
_RANDOM = -1
"""Where columns are of the random effects, and not of the predictor of that number."""


class DistinctColumns:
    """The distinct columns of a recipe: terms often share them, and one of ones need not be stored."""

    def __init__(self, recipe: Recipe) -> None:
        self._place: dict[Node, int] = {}
        self._first: list[tuple[int, int]] = []
        self._x = tuple(
            self._places(k, [column.node for column in part.columns]) for k, part in enumerate(recipe.predictors)
        )
        terms = [term for factor in recipe.factors for term in factor.terms]
        self._z = self._places(_RANDOM, [column.node for term in terms for column in term.columns])

    def _places(self, kind: int, nodes: list[Node]) -> tuple[int, ...]:
        found = []
        for k, node in enumerate(nodes):
            if node == ONE:
                found.append(ONES)
                continue
            if node not in self._place:
                self._place[node] = len(self._place)
                self._first.append((kind, k))
            found.append(self._place[node])
        return tuple(found)

    def layout(self, head: tuple[str, ...]) -> RecordLayout:
        return RecordLayout(head, len(self._place), self._x, self._z)

    def of(self, design: Design) -> Mat:
        """The distinct columns (k, m) of a batch."""
        x = dict(enumerate(one.x for one in design.predictors))
        if design.factors:
            x[_RANDOM] = np.concatenate([factor.z for factor in design.factors])
        out = np.empty((len(self._first), design.n_rows))
        for row, (kind, k) in zip(out, self._first, strict=True):
            row[:] = x[kind][k]
        return out


def keep_columns(stored: AnyApart, kept: Sequence[BoolVec]) -> AnyApart:
    """The design with the marked columns of its formulas only, by predictor."""

    def predictor(old: Predictor, keep: BoolVec) -> Predictor:
        names = tuple(name for name, k in zip(old.names, keep, strict=True) if k)
        return replace(old, x=np.empty((len(names), 0)), names=names)

    mu, *further = (predictor(old, keep) for old, keep in zip(stored.shape.predictors, kept, strict=True))
    x = tuple(
        tuple(place for place, k in zip(old, keep, strict=True) if k)
        for old, keep in zip(stored.layout.x, kept, strict=True)
    )
    shape = replace(stored.shape, mu=mu, further=tuple(further))
    return replace(stored, shape=shape, layout=replace(stored.layout, x=x))


def shape_of(recipe: Recipe) -> Design:
    """The design of a recipe without rows."""
    cuts = cuts_of(recipe.spec, recipe.response)
    made = [
        Predictor(
            np.empty((len(part.columns), 0)),
            tuple(column.name for column in part.columns),
            parameter=part.parameter,
            cuts=cuts.get(part.parameter),
        )
        for part in recipe.predictors
    ]
    factors = tuple(
        Factor(
            factor.name,
            terms_of(factor.terms),
            np.empty((sum(len(term.columns) for term in factor.terms), 0)),
            np.empty(0, dtype=np.int32),
            factor.levels.height,
        )
        for factor in recipe.factors
    )
    return Design(np.empty(0), None, None, None, made[0], tuple(made[1:]), factors)
