"""How the responses of a data set lie against its columns and groups: what sums of the response alone do not tell.

Rows have no order that all routes know, so they are told by what else they hold: the correlation of the response with
a column, and that of the response with numbers of the levels of a group. Both are the same for rows in another order,
for equal rows counted, and from cross-products. Responses exchanged between rows change those in which the rows differ;
where they differ in none that a model uses, its likelihood is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from polars_glmm.design.apart import Apart, weighted
from polars_glmm.design.sums.moments import Moments
from polars_glmm.design.sums.places import columns_of, places
from polars_glmm.typing import Vec

from .recipe import Recipe
from .records import Design

Pairings: TypeAlias = Mapping[str, float]
"""Correlations by "column …" and "group …"."""

_GOLDEN = 0.5 * (np.sqrt(5.0) - 1.0)


def level_numbers(n: int) -> Vec:
    """A number for each of n levels: multiples of the golden section modulo 1, which no sums of few relate."""
    return np.asarray(np.arange(1, n + 1) * _GOLDEN % 1.0 - 0.5)


def about(recipe: Recipe) -> str:
    """What the response of a pairing is taken with, besides its columns: pairings are alike where this is."""
    return f"{recipe.predictor('mu').offset!r}, precision {recipe.spec.precision!r}"


def pairings(design: Design | Apart) -> Pairings:
    """Of the rows of a model; from disk those of its group only."""
    if isinstance(design, Apart):
        tally = design.tally
        if not design.factors:
            return {}
        mean = float(tally.level_wy.sum() / tally.level_w.sum())
        square = tally.wyy - mean**2 * float(tally.level_w.sum())
        away = tally.level_wy - mean * tally.level_w
        return {group_name(design.factors[0].name): _levels(away, tally.level_w, square)}
    w, y = weighted(design)
    size = float(len(y) if w is None else w.sum())
    away = y - (y.sum() if w is None else w @ y) / size
    wy = away if w is None else w * away
    square, found = float(wy @ away), {}
    for name, x in zip(design.mu.names, design.mu.x, strict=True):
        mean = (x.sum() if w is None else w @ x) / size
        second = float(x @ x if w is None else w @ (x * x)) - size * mean**2
        if second > 1e-9 * size * mean**2:
            found[column_name(name)] = share(float(wy @ x), square * second)
    for factor in design.factors:
        if factor.sets is not None:
            x = factor.on_rows(level_numbers(factor.n_levels))
            found[group_name(factor.name)] = share(float(wy @ x), square * float((x if w is None else w * x) @ x))
            continue
        sums: Vec = np.bincount(factor.codes, wy, factor.n_levels).astype(np.float64, copy=False)
        weight: Vec = np.bincount(factor.codes, w, factor.n_levels).astype(np.float64, copy=False)
        found[group_name(factor.name)] = _levels(sums, weight, square)
    return found


def pairings_of_sums(moments: Moments, recipe: Recipe) -> Pairings:
    """Of the rows behind moments."""
    fixed, second, found = places(columns_of(recipe), recipe)[0], moments.second, {}
    size, square = float(moments.total.weight[0]), float(second[-1, -1])
    mu = recipe.predictor("mu")
    for column, kept, k in zip(mu.columns, mu.kept, fixed.tolist(), strict=True):
        if kept and k >= 0 and second[k, k] > 1e-9 * size * moments.mean[k] ** 2:
            found[column_name(column.name)] = share(float(second[k, -1]), square * float(second[k, k]))
    for factor, part in zip(recipe.factors, moments.factors, strict=True):
        sums = part.weight * (part.mean[-1] - moments.total.mean[-1, 0])
        found[group_name(factor.name)] = _levels(sums, part.weight, square)
    return found






def _levels(sums: Vec, weight: Vec, square: float) -> float:
    """Σ_g number_g S_g, with S_g the sum of the centred response in level g, in units of what it could be."""
    numbers = level_numbers(len(sums))
    return share(float(numbers @ sums), square * float(numbers**2 @ weight))


def share(product: float, squares: float) -> float:
    """A correlation from a sum of products and the product of the sums of squares; 0 where nothing varies."""
    return product / float(np.sqrt(squares)) if squares > 0.0 else 0.0


def shares(product: Vec, squares: Vec) -> Vec:
    """As `share`, of many."""
    return np.asarray(np.where(squares > 0.0, product / np.sqrt(np.where(squares > 0.0, squares, 1.0)), 0.0))


def column_name(name: str) -> str:
    """What the pairing with a column is called."""
    return f"column {name}"


def group_name(name: str) -> str:
    """What the pairing with numbered levels is called."""
    return f"group {name}"
