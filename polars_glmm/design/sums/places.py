"""Which columns the moments of a recipe are of, and which of their products each factor and pair of factors needs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from polars_glmm.columns.nodes import ONE, Arithmetic, Node
from polars_glmm.design.recipe import Recipe
from polars_glmm.design.sums.moments import Checks, Layout, LevelMoments, Moments, PairMoments
from polars_glmm.typing import IntVec


def columns_of(recipe: Recipe) -> tuple[Node, ...]:
    """The distinct columns of fixed and random effects that are not 1, then the response less its offset."""
    mu = recipe.predictor("mu")
    nodes = [column.node for column in mu.columns]
    nodes += [column.node for factor in recipe.factors for term in factor.terms for column in term.columns]
    response = recipe.response.success
    if mu.offset is not None:
        response = Arithmetic("-", response, mu.offset)
    return (*dict.fromkeys(node for node in nodes if node != ONE), response)


def places(nodes: Sequence[Node], recipe: Recipe) -> tuple[IntVec, tuple[IntVec, ...]]:
    """Where the fixed columns, and those of each factor, stand among the columns; −1 for the column of ones."""
    at = {node: k for k, node in enumerate(nodes[:-1])} | {ONE: -1}
    fixed = [at[column.node] for column in recipe.predictor("mu").columns]
    random = [[at[column.node] for term in factor.terms for column in term.columns] for factor in recipe.factors]
    return np.array(fixed, dtype=np.intp), tuple(np.array(own, dtype=np.intp) for own in random)


def no_rows(layouts: Layouts) -> Moments:
    """The moments of no row at all."""

    def zero(layout: Layout, n_levels: int) -> LevelMoments:
        none, (a, b) = np.zeros(n_levels), (len(layout.left), len(layout.right))
        return LevelMoments(*layout, none, none, np.zeros((len(layout.columns), n_levels)), np.zeros((a, b, n_levels)))

    nobody = np.empty(0, dtype=np.intp)
    return Moments(
        centre=np.zeros(len(layouts.total.columns)),
        total=zero(layouts.total, 1),
        factors=tuple(zero(layout, 0) for layout in layouts.factors),
        pairs={at: PairMoments(nobody, nobody, zero(layout, 0)) for at, layout in layouts.pairs.items()},
        n_obs=0,
        log_weights=0.0,
        checks=Checks(0.0, 0.0, 0.0),
    )


class Layouts(NamedTuple):
    """The layouts of the moments over all rows, per factor, and per pair f < g of factors.

    slopes   per factor the columns of its terms that are not 1
    """

    slopes: tuple[IntVec, ...]
    total: Layout
    factors: tuple[Layout, ...]
    pairs: dict[tuple[int, int], Layout]


def layouts_of(recipe: Recipe) -> Layouts:
    """Over all rows every product; per factor those of its slopes with all columns; per pair those of both slopes."""
    nodes = columns_of(recipe)
    every = np.arange(len(nodes))
    slopes = tuple(np.unique(own[own >= 0]) for own in places(nodes, recipe)[1])
    pairs = {}
    for f, g in combinations(range(len(slopes)), 2):
        columns = np.union1d(slopes[f], slopes[g]).astype(np.intp)
        pairs[f, g] = Layout(columns, np.searchsorted(columns, slopes[f]), np.searchsorted(columns, slopes[g]))
    return Layouts(slopes, Layout(every, every, every), tuple(Layout(every, own, every) for own in slopes), pairs)
