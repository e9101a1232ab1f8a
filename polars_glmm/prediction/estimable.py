"""Rows whose fixed part the data do not determine: where what made a lost column of the others does not hold.

A linear function x'β is estimable iff x lies in the row space of the design (Searle 1971, §5.4), so iff it is
orthogonal to every dependence among the columns: x_lost = Σ_k w_k x_k. All parametrisations of a model agree on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from polars_glmm.prediction.effects import balanced_sum

if TYPE_CHECKING:
    from polars_glmm.columns.nodes import Node
    from polars_glmm.design.recipe import Combination, PredictorRecipe

_TOLERANCE = 1e-7
"""Share of the distances of the columns from their means by which a dependence may miss: rounding, and no more."""
_ROUNDING = 1e-13
"""The same of the columns themselves."""


def undetermined(recipe: PredictorRecipe) -> pl.Expr | None:
    """Boolean: the fixed part of this row is not estimable. None where every row's is."""
    if not recipe.lost:
        return None
    nodes = [column.node for column in recipe.columns]
    return pl.any_horizontal(misses(one, nodes, lambda node: node.to_expr(), pl.Expr.is_not_nan) for one in recipe.lost)


def misses(
    one: Combination, nodes: Sequence[Node], expression: Callable[[Node], Any], is_number: Callable[[Any], Any]
) -> Any:
    """Whether a row is not what the combination says. A value that is not a number answers for itself.

    expression, is_number   of a node, and whether it is no NaN, in the words of any library
    """
    lost = expression(nodes[one.place])
    parts = [(expression(nodes[k]), w, one.centre[k]) for k, w in enumerate(one.weights) if w != 0.0]
    miss = lost - balanced_sum([w * x for x, w, _ in parts])
    away = balanced_sum([(lost - one.centre[one.place]).abs(), *(abs(w) * (x - c).abs() for x, w, c in parts)])
    size = balanced_sum([lost.abs(), *(abs(w) * x.abs() for x, w, _ in parts)])
    most = _TOLERANCE * (away + one.size) + _ROUNDING * size
    return is_number(miss) & (miss.abs() > most)
