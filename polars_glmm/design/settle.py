"""Which columns of a formula are independent, told by their moments; a second look at the rows where these are blunt.

A remainder of length ε shows as ε² in products, so products cannot tell 1e-9 from nothing. Below 1e-6 the remainder
itself is measured: the column less its combination of the columns before, squared and summed over the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import polars as pl

from polars_glmm.notes import Note
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

from .moment_columns import columns_of, places
from .moments import Moments
from .nodes import ONE, Coded
from .predictors import dropped_columns
from .rank import TOLERANCE
from .recipe import Recipe
from .source import Source

_BLUNT = 1e-12
"""Squared share of a column below which its products do not tell whether anything of it is left."""
_CONSTANT = 64 * np.finfo(np.float64).eps
_NO_SQUARES = 1e-13
Remainder: TypeAlias = Callable[[Vec, float], float]
"""Σ (c + Σ_k weight_k (v_k − mean_k))² over the rows, for weights (k,) and c."""


def settle(recipe: Recipe, moments: Moments, remainder: Remainder | None = None) -> tuple[Recipe, tuple[Note, ...]]:
    """The recipe with the columns to keep marked, and a note on the others.

    Without `remainder` a column of which products show nothing is taken for a combination of the others.
    """
    mu = recipe.predictor("mu")
    fixed = places(columns_of(recipe), recipe)[0]
    kept = independent_moments(moments, fixed, _centred(recipe), remainder)
    recipe = replace(recipe, predictors=(replace(mu, kept=tuple(kept.tolist())), *recipe.predictors[1:]))
    if kept.all():
        return recipe, ()
    return recipe, (dropped_columns("mu", [c.name for c, keep in zip(mu.columns, kept, strict=True) if not keep]),)


def independent_moments(
    moments: Moments, fixed: IntVec, centred: BoolVec, remainder: Remainder | None = None
) -> BoolVec:
    """(p,) True for the columns to keep, by the rule of `rank.independent`; fixed (p,) are places, −1 the constant."""
    total, weight = moments.total, float(moments.total.weight[0])
    # coordinates of the columns in (1, v − mean): what a product is made of without cancellation
    levels = np.where(fixed < 0, 1.0, moments.mean[fixed]) * ~centred
    second = np.zeros((len(fixed),) * 2)
    real = np.flatnonzero(fixed >= 0)
    second[np.ix_(real, real)] = moments.second[np.ix_(fixed[real], fixed[real])]
    away = np.where(fixed < 0, 0.0, total.mean[fixed, 0])
    raw = np.diag(second) + weight * np.where(fixed < 0, 1.0, moments.mean[fixed]) ** 2
    alive: BoolVec = ~centred | (
        np.diag(second) > np.maximum(_CONSTANT**2 * raw, _NO_SQUARES * weight * away**2)
    )
    alive &= raw > 0.0
    gram = second + weight * np.outer(levels, levels)
    length = np.sqrt(np.where(alive, np.diag(gram), 1.0))
    gram = gram / np.outer(length, length)
    kept: list[int] = []
    for j in np.flatnonzero(alive):
        if kept:
            own: Mat = gram[np.ix_(kept, kept)]
            weights = np.linalg.lstsq(own, gram[kept, j], rcond=None)[0]
            left = float(gram[j, j] - gram[kept, j] @ weights)
            if left < _BLUNT:
                if remainder is None:
                    continue
                row = np.zeros(len(fixed))
                row[j] = 1.0 / length[j]
                row[kept] = -weights / length[kept]
                together = np.zeros(len(moments.mean))
                np.add.at(together, fixed[real], row[real])
                if remainder(together, float(row @ levels)) < TOLERANCE**2:
                    continue
        kept.append(int(j))
    out = np.zeros(len(fixed), dtype=np.bool_)
    out[kept] = True
    return out


def remainder_of(recipe: Recipe, moments: Moments, source: Source) -> Remainder:
    """Remainders measured on the rows of a source."""
    nodes = columns_of(recipe)

    def measure(weights: Vec, constant: float) -> float:
        value = pl.lit(constant)
        for node, weight, mean in zip(nodes, weights, moments.mean, strict=True):
            if weight:
                value = value + weight * (source.expression(node) - mean)
        length = source.rows.select((value * value).sum()).collect(engine="streaming").item()
        return float(length)

    return measure


def _centred(recipe: Recipe) -> BoolVec:
    """As in `predictors`: all columns but those that make the constant; none where nothing makes it."""
    nodes = [column.node for column in recipe.predictor("mu").columns]
    if ONE in nodes:
        return np.array([node != ONE for node in nodes], dtype=np.bool_)
    for name, known in recipe.categoricals.items():
        full = [isinstance(node, Coded) and node.column == name and node.weights == (1.0,) for node in nodes]
        if sum(full) == len(known.levels):
            return ~np.array(full, dtype=np.bool_)
    return np.zeros(len(nodes), dtype=np.bool_)
