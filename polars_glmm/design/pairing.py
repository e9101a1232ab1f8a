"""How the rows of a data set lie against each other: what sums of the response alone do not tell.

Rows have no order that all routes know, so they are told by what else they hold: the correlation of the response with
a column, and that of the response with numbers of the levels of a group. Both are the same for rows in another order,
for equal rows counted, and from cross-products. Responses exchanged between rows change those in which the rows
differ; where they differ in none that a model uses, its likelihood is the same. What a column keeps of this when it is
shifted or multiplied is told by its mean and its mean square; where its values are exchanged between rows of equal
responses, by its product with what else such rows hold: one number of all columns and levels, each with a weight of
its own. A source that is read again is held against all of these. Two models, of which one may well have its columns
in other units, are held against the correlations of their responses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

import numpy as np

from polars_glmm.design.apart import Apart, level_numbers, other_heads, weighted
from polars_glmm.design.sums.moments import Moments
from polars_glmm.design.sums.places import columns_of, places
from polars_glmm.typing import Mat, Vec

from .recipe import Recipe
from .records import Design

Pairings: TypeAlias = Mapping[str, float]
"""Correlations of the response by "column …" and "group …"; of columns alone, and of the response as one of them, also
log √mean(x²) by "size …", arsinh(mean / sd) by "place …", and Σ (x − mean) o / (n sd) with others by "beside …"."""

_VARIES = 1e-20
_RESPONSE = "the response"
_ALONE = ("size ", "place ", "beside ")


def weight_of(name: str) -> float:
    """The weight of a column or group in what rows hold else: between 1 and 2, by its name."""
    return 1.0 + crc32(name.encode()) / 2.0**32


def about(recipe: Recipe) -> str:
    """What the response of a pairing is taken with, besides its columns: pairings are alike where this is."""
    return f"{recipe.predictor('mu').offset!r}, precision {recipe.spec.precision!r}"


def pairings(design: Design | Apart) -> dict[str, float]:
    """Of the rows of a model; of rows with workers those of its first group only."""
    return _apart(design) if isinstance(design, Apart) else _together(design)


def _together(design: Design) -> dict[str, float]:
    """Of rows in memory."""
    w, y = weighted(design)
    size = float(len(y) if w is None else w.sum())
    mean = float(y.sum() if w is None else w @ y) / size
    away = y - mean
    wy = away if w is None else w * away
    square = float(wy @ away)
    numbers = [factor.on_rows(level_numbers(factor.n_levels)) for factor in design.factors]
    other = weight_of(_RESPONSE) * away / np.sqrt(square / size) if square > 0.0 else np.zeros_like(away)
    for factor, x in zip(design.factors, numbers, strict=True):
        other += weight_of(factor.name) * x
    told: dict[str, _Told] = {}
    for name, x in _columns(design):
        about = _Told.of(x, w, size)
        if varies(about.mean, about.variance):
            told[name] = about
            other += (weight_of(name) / np.sqrt(about.variance)) * (x - about.mean)
    wo = other if w is None else w * other
    found = of_response_alone(mean, square, size, float(wy @ other))
    for name, x in _columns(design):
        if name in told:
            x_away = x - told[name].mean
            found |= of_column(name, told[name], float(wy @ x_away), square, size, float(wo @ x_away))
    for factor, x in zip(design.factors, numbers, strict=True):
        if factor.sets is not None:
            found[group_name(factor.name)] = share(float(wy @ x), square * float((x if w is None else w * x) @ x))
            continue
        sums: Vec = np.bincount(factor.codes, wy, factor.n_levels).astype(np.float64, copy=False)
        weight: Vec = np.bincount(factor.codes, w, factor.n_levels).astype(np.float64, copy=False)
        found[group_name(factor.name)] = _levels(sums, weight, square)
    return found


def _apart(design: Apart) -> dict[str, float]:
    """Of rows that are elsewhere, from what was summed as they went there."""
    tally, lined = design.tally, design.lined
    found: dict[str, float] = {}
    weight = tally.level_w
    if design.factors:
        mean = float(tally.level_wy.sum() / weight.sum())
        square = tally.wyy - mean**2 * float(weight.sum())
        found[group_name(design.factors[0].name)] = _levels(tally.level_wy - mean * weight, weight, square)
    if lined is None:
        return found
    in_mu = dict.fromkeys(design.mu.names)
    named: list[tuple[str, int]] = []
    for predictor, own in zip(design.predictors, design.layout.x, strict=True):
        named += zip(map(_of_parameter(predictor.parameter), predictor.names), own, strict=True)
    for factor, own in zip(design.factors, design.filling.z(), strict=True):
        effects = [name for term in factor.terms for name in term.names]
        named += [(in_group(name, factor.name), k) for name, k in zip(effects, own, strict=True) if name not in in_mu]
    named += [(name, lined.k + j) for j, name in enumerate(lined.heads)]
    size, means, cross = lined.sums.n, lined.sums.mean[:-1], lined.sums.cross
    numbers = cross[:-1, -1] * (weight_of(design.factors[0].name) if design.factors else 0.0)
    return found | _of_moments(named, means, cross[:-1, :-1], size, numbers)


def pairings_of_sums(moments: Moments, recipe: Recipe) -> dict[str, float]:
    """Of the rows behind moments."""
    fixed, random = places(columns_of(recipe), recipe)
    size, second = float(moments.total.weight[0]), moments.second
    mu = recipe.predictor("mu")
    named = [(column.name, k) for column, kept, k in zip(mu.columns, mu.kept, fixed.tolist(), strict=True) if kept]
    fixed_names = {name for name, _ in named}
    for factor, own in zip(recipe.factors, random, strict=True):
        effects = [column.name for term in factor.terms for column in term.columns]
        of_effects = zip(effects, own.tolist(), strict=True)
        named += [(in_group(name, factor.name), k) for name, k in of_effects if name not in fixed_names]
    levels = np.zeros(len(moments.mean))
    for factor, part in zip(recipe.factors, moments.factors, strict=True):
        away = part.mean - moments.total.mean[part.columns, 0][:, None]
        levels[part.columns] += weight_of(factor.name) * (away @ (part.weight * level_numbers(part.n_levels)))
    found = _of_moments(named, moments.mean, second, size, levels)
    for factor, part in zip(recipe.factors, moments.factors, strict=True):
        sums = part.weight * (part.mean[-1] - moments.total.mean[-1, 0])
        found[group_name(factor.name)] = _levels(sums, part.weight, float(second[-1, -1]))
    return found


def _of_moments(
    named: Sequence[tuple[str, int]], mean: Vec, cross: Mat, size: float, levels: Vec
) -> dict[str, float]:
    """Of columns whose moments are known, the response the last of them.

    named    names and places of columns, a place below 0 for ones
    mean (m,), cross (m, m)   Σ w (v − mean)(v − mean)';  levels (m,)  Σ w (v − mean) times the numbers of levels
    """
    variance, square = np.diag(cross) / size, float(cross[-1, -1])
    told = {
        name: (k, _Told(float(mean[k]), float(variance[k])))
        for name, k in named
        if k >= 0 and varies(mean[k], variance[k])
    }
    weights = np.zeros(len(mean))
    weights[-1] = weight_of(_RESPONSE) / np.sqrt(square / size) if square > 0.0 else 0.0
    for name, (k, about) in told.items():
        weights[k] += weight_of(name) / np.sqrt(about.variance)
    beside = cross @ weights + levels
    found = of_response_alone(float(mean[-1]), square, size, float(beside[-1]))
    for name, (k, about) in told.items():
        found |= of_column(name, about, float(cross[k, -1]), square, size, float(beside[k]))
    return found


def _columns(design: Design) -> Iterator[tuple[str, Vec]]:
    """All columns of a model by names that no two share, and what else its rows hold."""
    for predictor in design.predictors:
        yield from zip(map(_of_parameter(predictor.parameter), predictor.names), predictor.x, strict=True)
    for factor in design.factors:
        names = [name for term in factor.terms for name in term.names]
        columns = zip(names, factor.z, strict=True)
        yield from ((in_group(name, factor.name), z) for name, z in columns if name not in design.mu.names)
    yield from other_heads(design).items()
    if design.residual is not None:
        yield from ((f"place {q} of residuals", x) for q, x in enumerate(design.residual.places.T))


def _of_parameter(parameter: str) -> Any:
    """What columns of a linear predictor are called among all."""
    return lambda name: name if parameter == "mu" else f"{parameter}: {name}"


class _Told(NamedTuple):
    """Mean and variance of a column, rows weighted."""

    mean: float
    variance: float

    @classmethod
    def of(cls, x: Vec, w: Vec | None, size: float) -> _Told:
        mean = float(x.sum() if w is None else w @ x) / size
        away = x - mean
        return cls(mean, float(away @ away if w is None else (w * away) @ away) / size)


def varies(mean: Vec | float, variance: Vec | float) -> Any:
    """Whether a column does more than rounding would."""
    return variance > _VARIES * mean**2


def of_column(name: str, about: _Told, product: float, square: float, size: float, beside: float) -> dict[str, float]:
    """What is told of one column: Σ w (y − ȳ) x, Σ w (y − ȳ)², Σ w, and Σ w (x − mean) o with what rows hold else."""
    return {column_name(name): share(product, square * size * about.variance), **_alone(name, about, beside / size)}


def of_response_alone(mean: float, square: float, size: float, beside: float) -> dict[str, float]:
    """What is told of the response as of any column."""
    about = _Told(mean, square / size)
    return _alone(_RESPONSE, about, beside / size) if varies(mean, about.variance) else {}


def _alone(name: str, about: _Told, beside: float) -> dict[str, float]:
    sd = float(np.sqrt(about.variance))
    return {
        size_name(name): 0.5 * float(np.log(about.variance + about.mean**2)),
        place_name(name): float(np.arcsinh(about.mean / sd)),
        beside_name(name): beside / sd,
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
    """What the mean of a column, in its standard deviations, is called."""
    return f"place {name}"


def beside_name(name: str) -> str:
    """What the product of a column with what its rows hold else is called."""
    return f"beside {name}"


def in_group(name: str, group: str) -> str:
    """The name of a column of random effects."""
    return f"{name} in {group}"


def of_response(name: str) -> bool:
    """Whether a pairing tells of the response, and not of a column alone."""
    return not name.startswith(_ALONE)


def group_name(name: str) -> str:
    """What the pairing with numbered levels is called."""
    return f"group {name}"
