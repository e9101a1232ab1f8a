"""Moments of a design's columns → the cross-products of a model without rows, in the bases used for computing.

In the coordinates (1, v − mean) every column is one row of a small matrix R, so every product is R M R' with M the
moments of a level about the overall means: M_11 = W, M_1j = W m_j, M_ij = S_ij + W m_i m_j.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np

from polars_glmm.control import Control
from polars_glmm.design.records import Factor, Term
from polars_glmm.design.sums.moments import LevelMoments, Moments
from polars_glmm.families.base import Family
from polars_glmm.likelihood.parameters.basis import Basis, centred_moments
from polars_glmm.likelihood.parameters.effects import Effects, assemble, root_of, working_columns
from polars_glmm.likelihood.products.cross import CrossProducts, Within
from polars_glmm.likelihood.products.engine import ProductModel
from polars_glmm.linalg.elimination import eliminator
from polars_glmm.linalg.pattern import Blocks, Pairs, Pattern
from polars_glmm.spec.method import Method
from polars_glmm.typing import Cube, IntVec, Mat, Vec


class MomentDesign(NamedTuple):
    """What the columns of a model are, among those that moments are of.

    names, fixed (p,)     of the fixed effects kept, and their places; −1 for the constant
    factors               per grouping factor its name, terms and the places of its columns
    held                  places of fixed effects that are held, with their values: they are taken from the response
    """

    names: tuple[str, ...]
    fixed: IntVec
    factors: tuple[tuple[str, tuple[Term, ...], IntVec], ...]
    held: tuple[tuple[int, float], ...] = ()


def product_model(
    design: MomentDesign, moments: Moments, family: Family, method: Method, control: Control
) -> ProductModel:
    """The gaussian model that the moments describe."""
    basis, rows, shift = _fixed(design, moments)
    effects, z_rows = _effects(design, moments)
    ww = _product(rows, moments.total, rows, moments)[:, :, 0]
    pattern, zz, zw = _blocks(effects, z_rows, rows, moments)
    stats = CrossProducts(
        pattern=pattern,
        eliminator=None if pattern is None else eliminator(pattern),
        zz=zz,
        zw=zw,
        ww=0.5 * (ww + ww.T),
        n=moments.n_obs,
        log_weights=moments.log_weights,
        y_shift=shift,
        within=_within(moments, zz, zw) if len(effects.factors) == 1 else None,
    )
    return ProductModel(design.names, family, method, control, basis, effects, stats)


def _within(moments: Moments, zz: Blocks, zw: list[Cube]) -> Within | None:
    """The split of products where every level is one row with one effect, which leaves nothing within levels."""
    products, right = zz.diagonal[0], zw[0]
    if len(products) > 1 or products.shape[2] != moments.n_obs or not (products > 0.0).all():
        return None
    return Within(np.sqrt(products), right / products[0], np.zeros((right.shape[1],) * 2))


def _coordinates(place: IntVec, level: Vec, k: int) -> Mat:
    """Rows in (1, v − mean): level of the constant, and 1 at the column's place (none for −1)."""
    rows = np.zeros((len(place), 1 + k))
    rows[:, 0] = level
    real = np.flatnonzero(place >= 0)
    rows[real, 1 + place[real]] = 1.0
    return rows


def _fixed(design: MomentDesign, moments: Moments) -> tuple[Basis, Mat, float]:
    """The basis of the fixed columns, the rows of [x_c, y_c], and what was taken from y."""
    place, k = design.fixed, len(moments.centre)
    mean = np.where(place < 0, 1.0, moments.mean[place])
    inner = _coordinates(place, np.zeros(len(place)), k)[:, 1:]
    second = inner @ moments.second @ inner.T
    basis = centred_moments(mean, second / moments.total.weight[0])
    centred = np.zeros(len(place), dtype=np.bool_) if basis.constant is None else basis.constant == 0.0
    x = _coordinates(place, np.where(centred, 0.0, mean), k) * np.diag(basis.a)[:, None]
    known = [(place, value, 1.0 if place < 0 else float(moments.mean[place])) for place, value in design.held]
    mean_y = float(moments.mean[-1]) - sum(value * level for _, value, level in known)
    shift = 0.0 if basis.constant is None else mean_y
    y = _coordinates(np.array([k - 1]), np.array([mean_y - shift]), k)
    for at, value, _ in known:
        if at >= 0:
            y[0, 1 + at] -= value
    return basis, np.concatenate([x, y]), shift


def _effects(design: MomentDesign, moments: Moments) -> tuple[Effects, Mat]:
    """The maps of the random effects, and the rows of their working columns."""
    k = len(moments.centre)
    distinct = list(dict.fromkeys(int(place) for _, _, own in design.factors for place in own))
    if not distinct:
        return Effects((), None, 0), np.zeros((0, 1 + k))
    place = np.array(distinct, dtype=np.intp)
    uses = [[distinct.index(int(one)) for one in own] for _, _, own in design.factors]
    factors = tuple(
        Factor(name, terms, np.empty((len(own), 0)), np.empty(0, dtype=np.int32), moments.factors[f].n_levels)
        for f, (name, terms, own) in enumerate(design.factors)
    )
    if distinct == [-1]:
        return assemble(factors, uses, np.eye(1), None, np.eye(1), (0,)), _coordinates(place, np.ones(1), k)
    weight = moments.total.weight[0]
    means = np.where(place < 0, 1.0, moments.mean[place])
    spreads = np.where(place < 0, 0.0, np.sqrt(np.maximum(np.diag(moments.second)[place], 0.0) / weight))
    working = working_columns(means, spreads, (0,) * len(means))
    sources = np.array([-1 if source < 0 else place[source] for source, _ in working.sources], dtype=np.intp)
    levels = np.array([1.0 if source < 0 else means[source] - shift for source, shift in working.sources])
    rows = _coordinates(sources, levels, k)
    root = root_of(_product(rows, moments.total, rows, moments)[:, :, 0] / weight, working.part_of)
    return assemble(factors, uses, working.transfer, np.empty((len(rows), 0)), root, working.part_of), rows


def _blocks(effects: Effects, z: Mat, w: Mat, moments: Moments) -> tuple[Pattern | None, Blocks, list[Cube]]:
    """Z'Z and Z'W over levels and meeting pairs; what no term of a factor uses stays zero."""
    used = [np.flatnonzero(f.basis.any(axis=1)) for f in effects.factors]
    d = len(z)
    diagonal, zw = [], []
    for f, own in zip(effects.factors, used, strict=True):
        part = moments.factors[f.place]
        diagonal.append(_placed(_product(z[own], part, z[own], moments), own, own, d))
        right = np.zeros((d, len(w), part.n_levels))
        right[own] = _product(z[own], part, w, moments)
        zw.append(right)
    cross: dict[tuple[int, int], Cube] = {}
    pairs: dict[tuple[int, int], Pairs] = {}
    for i, j in combinations(range(len(used)), 2):
        first, second = effects.factors[i].place, effects.factors[j].place
        if first < second:
            left, right_codes, part = moments.pairs[first, second]
        else:
            right_codes, left, turned = moments.pairs[second, first]
            order = np.lexsort((right_codes, left))
            left, right_codes, part = left[order], right_codes[order], turned.transposed(order)
        cross[i, j] = _placed(_product(z[used[i]], part, z[used[j]], moments), used[i], used[j], d)
        pairs[i, j] = Pairs(left, right_codes, None)
    if not effects.factors:
        return None, Blocks([], {}), []
    levels, sizes = tuple(f.n_levels for f in effects.factors), tuple(f.r for f in effects.factors)
    return Pattern(levels, sizes, (), pairs), Blocks(diagonal, cross), zw


def _placed(block: Cube, rows: IntVec, columns: IntVec, d: int) -> Cube:
    if len(rows) == len(columns) == d:
        return block
    out = np.zeros((d, d, block.shape[-1]))
    out[np.ix_(rows, columns)] = block
    return out


def _product(left: Mat, part: LevelMoments, right: Mat, moments: Moments) -> Cube:
    """R M R' per level for rows R of two sets of columns whose products the part knows: (a, b, G)."""
    away = part.mean - moments.total.mean[part.columns]
    a, b = away[part.left], away[part.right]
    m = np.empty((1 + len(a), 1 + len(b), part.n_levels))
    m[0, 0] = part.weight
    m[0, 1:] = part.weight * b
    m[1:, 0] = part.weight * a
    m[1:, 1:] = part.second + part.weight * (a[:, None] * b)
    first = left[:, np.append(0, 1 + part.columns[part.left])]
    second = right[:, np.append(0, 1 + part.columns[part.right])]
    return np.asarray(second @ np.tensordot(first, m, (1, 0)))
