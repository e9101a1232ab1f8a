"""Which columns of a formula are independent, told by their moments; a second look at the rows where these are blunt.

A remainder of length ε shows as ε² in products, so products cannot tell 1e-9 from nothing. Below 1e-6 the remainder
itself is measured: the column less its combination of the columns before, squared and summed over the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np

from polars_glmm.columns.nodes import ONE, Coded
from polars_glmm.design.curved import degree, kept_by_query, lost_to_rounding, spread_by_query
from polars_glmm.design.predictors import NEAR, NEAR_IN_PRODUCTS, dropped_columns
from polars_glmm.design.rank import APART, EXACT, ROUNDING, TOLERANCE, Judged, combinations
from polars_glmm.design.recipe import Recipe
from polars_glmm.design.sums.moments import Moments
from polars_glmm.design.sums.places import columns_of, places
from polars_glmm.frames.source import Source
from polars_glmm.notes import Note
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

_BLUNT = 1e-12
"""Squared share of a column below which its products do not tell whether anything of it is left."""
_CONSTANT = 64 * np.finfo(np.float64).eps
_NO_SQUARES = 1e-13
_MOST_PASSES = 3
_HALF_THE_DIGITS = 0.1
"""Share of a column's size that stands in `Combination.size` for weights without a second look."""
_NO_GAIN = 0.25
"""Share of a squared remainder that a further pass leaves where there is nothing more to gain."""


class LeftOver(NamedTuple):
    """Of r = c + Σ_k weight_k (v_k − mean_k) over the rows: Σ r², Σ r (v_k − mean_k) (k,), Σ r."""

    square: float
    products: Vec
    total: float


Measure: TypeAlias = Callable[[Vec, float], LeftOver]
"""The remainder for weights (k,) and c."""


class Judgement(NamedTuple):
    """The recipe with the columns to keep marked and what makes the others; notes on these; `Judged.closest`."""

    recipe: Recipe
    notes: tuple[Note, ...]
    closest: float


def settle(recipe: Recipe, moments: Moments, source: Source | None = None) -> Judgement:
    """Which columns of a recipe are kept.

    Without a `source` a column of which products show nothing is taken for a combination of the others.
    """
    mu = recipe.predictor("mu")
    fixed = places(columns_of(recipe), recipe)[0]
    centred = _centred(recipe)
    judged = judge_sums(moments, fixed, centred, None if source is None else remainder_of(recipe, moments, source))
    if judged.kept.all():
        return Judgement(recipe, (), judged.closest)
    nodes = [column.node for column in mu.columns]
    if source is None:
        rounded = ~judged.kept & np.array([degree(node) > 1.0 for node in nodes])
    else:
        rounded = lost_to_rounding(nodes, judged, spread_by_query(source), kept_by_query(source, centred))
    names = [column.name for column in mu.columns]
    notes = dropped_columns("mu", names, judged.kept, rounded, NEAR if source is not None else NEAR_IN_PRODUCTS)
    mu = replace(mu, kept=tuple(judged.kept.tolist()), lost=judged.lost)
    return Judgement(replace(recipe, predictors=(mu, *recipe.predictors[1:])), notes, judged.closest)


def judge_sums(moments: Moments, fixed: IntVec, centred: BoolVec, measure: Measure | None = None) -> Judged:
    """The columns to keep, by the rule of `rank.judge`; fixed (p,) are places, −1 the constant."""
    total, weight = moments.total, float(moments.total.weight[0])
    # coordinates of the columns in (1, v − mean): what a product is made of without cancellation
    mean = np.where(fixed < 0, 1.0, moments.mean[fixed])
    levels = mean * ~centred
    second = np.zeros((len(fixed),) * 2)
    real = np.flatnonzero(fixed >= 0)
    second[np.ix_(real, real)] = moments.second[np.ix_(fixed[real], fixed[real])]
    away = np.where(fixed < 0, 0.0, total.mean[fixed, 0])
    raw = np.diag(second) + weight * mean**2
    alive: BoolVec = ~centred | (np.diag(second) > np.maximum(_CONSTANT**2 * raw, _NO_SQUARES * weight * away**2))
    alive &= raw > 0.0
    gram = second + weight * np.outer(levels, levels)
    length = np.sqrt(np.where(alive, np.diag(gram), 1.0))
    rows = _rows(second / np.outer(length, length), np.sqrt(weight) * levels / length)
    rounding = ROUNDING * np.sqrt(raw) / length
    kept: list[int] = []
    closest = 1.0
    lost, blurred = np.zeros(second.shape), np.zeros(len(fixed), dtype=np.bool_)
    for j in np.flatnonzero(alive).tolist():
        if kept:
            one = _Column(rows, length, kept, j)
            weights = one.solve(rows[:, j])
            left = float(np.square(rows[:, j] - rows[:, kept] @ weights).sum())
            limit = TOLERANCE
            if left < _BLUNT and measure is not None:
                weights, left = _measured(one, weights, fixed, levels, measure)
                limit = max(TOLERANCE, float(rounding[j] + np.abs(weights) @ rounding[kept]))
            if left < (limit**2 if measure is not None else _BLUNT):
                lost[kept, j] = weights * length[j] / length[kept]
                blurred[j] = measure is not None and (left > EXACT**2 or closest < APART**2)
                continue
            closest = min(closest, left)
        kept.append(j)
    out = np.isin(np.arange(len(fixed)), kept)
    size = np.sqrt(np.diag(second) / weight)
    if measure is None:  # weights from products are good to half of the digits of what they multiply
        size = size + _HALF_THE_DIGITS * (np.abs(lost).T @ np.sqrt(raw / weight))
    return Judged(out, combinations(lost, out, centred, mean, size), blurred, closest)


class _Column(NamedTuple):
    """One column j against those that are kept, by few rows (m, p) of the same products as theirs, unit columns.

    length (p,)   of the columns themselves
    """

    rows: Mat
    length: Vec
    kept: list[int]
    j: int

    def solve(self, values: Vec) -> Vec:
        """Weights of the kept columns in a column (m,)."""
        return np.asarray(np.linalg.lstsq(self.rows[:, self.kept], values, rcond=None)[0])

    def solve_products(self, products: Vec) -> Vec:
        """The same of a column known by its products with the kept ones."""
        own = self.rows[:, self.kept]
        return np.asarray(np.linalg.lstsq(own.T @ own, products, rcond=None)[0])


def _rows(second: Mat, level: Vec) -> Mat:
    """p + 1 rows with the products of columns: about their means (p, p), and their levels (p,) in a row of its own.

    Means are not squared: where they are large, and the constant is made of several columns, they keep their digits.
    """
    values, vectors = np.linalg.eigh(second)
    return np.concatenate([np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T, level[None]])


def _measured(one: _Column, weights: Vec, fixed: IntVec, levels: Vec, measure: Measure) -> tuple[Vec, float]:
    """Weights and squared length of what the kept columns leave of a column, orthogonalised again over the rows.

    Weights from products are good to the root of their digits; what they leave is taken apart once more.
    """
    real = np.flatnonzero(fixed >= 0)
    best, left = weights, np.inf
    for _ in range(_MOST_PASSES):
        row = np.zeros(len(fixed))
        row[one.j] = 1.0 / one.length[one.j]
        row[one.kept] = -weights / one.length[one.kept]
        together = np.zeros(int(fixed.max(initial=-1)) + 1)
        np.add.at(together, fixed[real], row[real])
        found = measure(together, float(row @ levels))
        if found.square >= left:
            break
        gain, best, left = found.square / left if np.isfinite(left) else 0.0, weights, found.square
        if left < TOLERANCE**2 or gain > _NO_GAIN:
            break
        own = np.where(fixed < 0, 0.0, found.products[fixed]) + levels * found.total
        weights = weights + one.solve_products(own[one.kept] / one.length[one.kept])
    return best, left


def remainder_of(recipe: Recipe, moments: Moments, source: Source) -> Measure:
    """Remainders measured on the rows of a source."""
    nodes = columns_of(recipe)

    def measure(weights: Vec, constant: float) -> LeftOver:
        value = source.library.lit(constant)
        used = list(zip(nodes[: len(weights)], weights.tolist(), moments.mean.tolist(), strict=False))
        for node, weight, mean in used:
            if weight:
                value = value + weight * (source.expression(node) - mean)
        col = source.library.col
        away = [(source.expression(node) - mean).alias(f"v{k}") for k, (node, _, mean) in enumerate(used)]
        rows, r = source.rows.select(value.alias("r"), *away), col("r")
        sums = {f"p{k}": r * col(f"v{k}") for k in range(len(used))}
        asked = source.totals(rows, {"square": r * r, **sums}, [r.sum().alias("total")])
        row = source.answer(asked).row(0, named=True)
        return LeftOver(float(row["square"]), np.array([row[name] for name in sums]), float(row["total"]))

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
