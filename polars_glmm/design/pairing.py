"""How the responses of a data set lie against its columns and groups: what sums of the response alone do not tell.

Rows have no order that all routes know, so they are told by what else they hold: the correlation of the response with
a column, and that of the response with numbers of the levels of a group. Both are the same for rows in another order,
for equal rows counted, and from cross-products. Responses exchanged between rows change those in which the rows
differ; where they differ in none that a model uses, its likelihood is the same. What a column keeps of this when it is
shifted or multiplied is told by its mean and its mean square: a source that is read again is held against these too;
two models, of which one may well have its columns in other units, are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from polars_glmm.design.apart import Apart, weighted
from polars_glmm.design.sums.moments import Moments
from polars_glmm.design.sums.places import columns_of, places
from polars_glmm.typing import Vec

from .recipe import Recipe
from .records import Design

Pairings: TypeAlias = Mapping[str, float]
"""Correlations by "column …" and "group …"; of columns also log √mean(x²) by "size …", mean / √ by "place …"."""

_VARIES = 1e-9
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
    square = float(wy @ away)
    found: dict[str, float] = {}
    for name, x in _columns(design):
        mean = float(x.sum() if w is None else w @ x) / size
        mean_square = float(x @ x if w is None else w @ (x * x)) / size
        if varies(mean, mean_square):
            found |= of_column(name, float(wy @ x), square, mean, mean_square, size)
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
    fixed, random = places(columns_of(recipe), recipe)
    second = moments.second
    found: dict[str, float] = {}
    size, square = float(moments.total.weight[0]), float(second[-1, -1])
    mu = recipe.predictor("mu")
    names = [(column.name, k) for column, kept, k in zip(mu.columns, mu.kept, fixed.tolist(), strict=True) if kept]
    fixed_names = {name for name, _ in names}
    for factor, own in zip(recipe.factors, random, strict=True):
        effects = [column.name for term in factor.terms for column in term.columns]
        of_effects = zip(effects, own.tolist(), strict=True)
        names += [(in_group(name, factor.name), k) for name, k in of_effects if name not in fixed_names]
    for name, k in names:
        mean = float(moments.mean[k])
        mean_square = float(second[k, k]) / size + mean**2
        if k >= 0 and varies(mean, mean_square):
            found |= of_column(name, float(second[k, -1]), square, mean, mean_square, size)
    for factor, part in zip(recipe.factors, moments.factors, strict=True):
        sums = part.weight * (part.mean[-1] - moments.total.mean[-1, 0])
        found[group_name(factor.name)] = _levels(sums, part.weight, square)
    return found



def _columns(design: Design) -> Iterator[tuple[str, Vec]]:
    """All columns of a model by names that no two share, and the trials, times and inputs of its rows."""
    yield from zip(design.mu.names, design.mu.x, strict=True)
    for predictor in design.further:
        yield from zip([f"{predictor.parameter}: {name}" for name in predictor.names], predictor.x, strict=True)
        if predictor.offset is not None:
            yield f"{predictor.parameter}: offset", predictor.offset
    for factor in design.factors:
        names = [name for term in factor.terms for name in term.names]
        columns = zip(names, factor.z, strict=True)
        yield from ((in_group(name, factor.name), z) for name, z in columns if name not in design.mu.names)
    if design.trials is not None:
        yield "trials", design.trials
    if design.residual is not None:
        yield from ((f"place {q} of residuals", x) for q, x in enumerate(design.residual.places.T))
    yield from ((f"input {k}", x) for k, x in enumerate(design.inputs))


def varies(mean: Vec | float, mean_square: Vec | float) -> Any:
    """Whether a column does more than rounding would."""
    return mean_square - mean**2 > _VARIES * mean**2


def of_column(
    name: str, product: float, square: float, mean: float, mean_square: float, size: float
) -> Pairings:
    """What is told of one column: Σ w (y − ȳ) x, Σ w (y − ȳ)², the mean of x and of x², Σ w."""
    root = float(np.sqrt(mean_square))
    return {
        column_name(name): share(product, square * size * (mean_square - mean**2)),
        size_name(name): float(np.log(root)),
        place_name(name): mean / root,
    }



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


def size_name(name: str) -> str:
    """What the size of a column is called."""
    return f"size {name}"


def place_name(name: str) -> str:
    """What the mean of a column, as a share of its size, is called."""
    return f"place {name}"


def in_group(name: str, group: str) -> str:
    """The name of a column of random effects."""
    return f"{name} in {group}"


def of_response(name: str) -> bool:
    """Whether a pairing tells of the response, and not of a column alone."""
    return not name.startswith(("size ", "place "))


def group_name(name: str) -> str:
    """What the pairing with numbered levels is called."""
    return f"group {name}"
