"""Cross-products [Z X y]'D[Z X y]: all that a gaussian mixed model needs of its rows.

D = precision · frequency. Columns are centred and scaled before they are squared (likelihood.parameters.basis,
likelihood.parameters.effects), so that means of 1e7 cost no digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polars_glmm.design.records import Design
from polars_glmm.likelihood.parameters.basis import Basis, plain
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.parameters.parts import mean_alone
from polars_glmm.likelihood.rows.blocks import RowBlocks, cut_rows
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.columns import stretches
from polars_glmm.linalg.elimination import Eliminator
from polars_glmm.linalg.pattern import Blocks, Pattern, find_pattern, gather_blocks
from polars_glmm.typing import Cube, Mat, Vec

_NEARLY_ALL = 1e-6
"""Share of the response left by fixed effects, or by the levels of one factor, below which it is computed from rows."""


class Within(NamedTuple):
    """One factor's products without cancellation: W = ZC + R with Z'R = 0 in every level.

    low (d, d, G) Cholesky factor of Z'Z;  c (d, p+1, G) = (Z'Z)⁻¹Z'W;  rr (p+1, p+1) = R'R from rows
    """

    low: Cube
    c: Cube
    rr: Mat


@dataclass(frozen=True, slots=True, eq=False)
class CrossProducts:
    """Products of the distinct random columns z, the fixed columns and the response; w = [x_c, y_c].

    zz        blocks over levels and meeting pairs, (d, d, ·)
    zw[f]     (d, p+1, G_f) per level of factor f
    ww        (p+1, p+1)
    n         Σ frequency;  log_weights Σ frequency · log precision;  y_shift what was taken from y
    within    the same split into between and within levels, for one factor that takes nearly all of the response
    start     (p,) coefficients in the computing basis whose fit was taken from y, or None
    left_over share of the (centred) sum of squares of y that this fit left
    """

    pattern: Pattern | None
    eliminator: Eliminator | None
    zz: Blocks
    zw: list[Cube]
    ww: Mat
    n: int
    log_weights: float
    y_shift: float
    within: Within | None = None
    start: Vec | None = None
    left_over: float = 1.0


def cross_products(design: Design, basis: Basis, effects: Effects, block_rows: int) -> CrossProducts:
    """The products of a design's rows; where the model takes nearly all of y, of what a first fit leaves of it."""
    found = _products(design, basis, effects, block_rows, None)
    if len(effects.factors) != 1 or effects.coupled or not len(basis.a):
        return found
    start = _within_start(found)
    return found if start is None else _products(design, basis, effects, block_rows, start)


def _products(design: Design, basis: Basis, effects: Effects, block_rows: int, start: Vec | None) -> CrossProducts:
    """The products, block by block, of y less the fit of `start` (or of least squares, where that is nearly all)."""
    weights, log_weights = None, 0.0
    if design.precision is not None:
        weights = design.precision
        frequency = 1.0 if design.frequency is None else design.frequency
        log_weights = float((frequency * np.log(design.precision)).sum())
    if design.frequency is not None:
        weights = design.frequency if weights is None else weights * design.frequency
    y = design.y if design.mu.offset is None else design.y - design.mu.offset
    shift = float(y.mean()) if basis.constant is not None else 0.0
    y = y - shift
    m = len(basis.a) + 1
    w = np.empty((m, design.n_rows))
    for part in stretches(design.n_rows):
        w[:-1, part] = basis.columns(part)
    x = w[:-1]
    if start is None:
        start = _nearly_fixed(x, y, weights)
    left_over = 1.0
    if start is not None:
        total = float(y @ y)
        y = y - start @ x
        left_over = float(y @ y) / total
    w[-1] = y
    if not effects.factors:
        ww = (w if weights is None else w * weights) @ w.T
        return CrossProducts(
            None, None, Blocks([], {}), [], ww, design.n_obs, log_weights, shift, None, start, left_over
        )
    rows = cut_rows(design, mean_alone((), plain(w)), effects, block_rows)
    sorted_weights = weights if rows.order is None or weights is None else weights[rows.order]
    ww = np.zeros((m, m))
    zz_parts, zw_parts, cell_codes = [], [], []
    codes = [f.codes if rows.order is None else f.codes[rows.order] for f in effects.factors]
    for unit in rows.units:
        for block in unit.blocks:
            v = block.x if sorted_weights is None else block.x * sorted_weights[block.rows]
            ww += v @ block.x.T
            zw_parts.append(block.z_sums([v]))
            ones = np.ones(v.shape[1]) if sorted_weights is None else sorted_weights[block.rows]
            zz_parts.append(block.zz_sums({(0, 0): ones}))
            first = block.rows.start + block.starts
            cell_codes.append([c[first] for c in codes])
    zz_cells, zw_cells = np.concatenate(zz_parts, axis=-1), np.concatenate(zw_parts, axis=-1)
    within = None
    if len(codes) == 1 and not effects.coupled:
        within = _within(rows, zz_cells, zw_cells, ww, sorted_weights)
        pattern = Pattern((effects.factors[0].n_levels,), (effects.factors[0].r,), (), {})
        zz, zw = Blocks([zz_cells], {}), [zw_cells]
    else:
        of_cell = tuple(np.concatenate([part[f] for part in cell_codes]) for f in range(len(codes)))
        sizes = tuple(f.r for f in effects.factors)
        pattern = find_pattern(of_cell, tuple(f.n_levels for f in effects.factors), sizes, effects.sets)
        zz = gather_blocks(pattern, zz_cells)
        zw = [pattern.to_levels(f, zw_cells) for f in range(len(codes))]
    return CrossProducts(
        pattern, effects.eliminator(pattern), zz, zw, ww, design.n_obs, log_weights, shift, within, start, left_over
    )


def _nearly_fixed(x: Mat, y: Vec, weights: Vec | None) -> Vec | None:
    """Least-squares coefficients, where they leave so little of y that products of y itself would lose it."""
    if not len(x):
        return None
    xw = x if weights is None else x * weights
    beta: Vec = np.asarray(np.linalg.lstsq(xw @ x.T, xw @ y, rcond=None)[0], dtype=np.float64)
    e = y - beta @ x
    return beta if float(e @ e) < _NEARLY_ALL * float(y @ y) else None


def _within_start(stats: CrossProducts) -> Vec | None:
    """Fixed effects within levels, where they and the levels leave next to nothing of y."""
    a, zw = stats.zz.diagonal[0], stats.zw[0]
    low = cholesky.factor(a)
    if stats.within is not None or not (np.einsum("jjG->jG", low) > 0.0).all():  # nor NaN
        return None
    left = stats.ww - np.einsum("jvG,jwG->vw", zw, cholesky.solve(low, zw))
    x, y = left[:-1, :-1], left[:-1, -1]
    scale = np.diag(stats.ww)[:-1]
    seen = np.diag(x) > _NEARLY_ALL * scale
    beta = np.zeros(len(x))
    beta[seen] = np.linalg.lstsq(x[np.ix_(seen, seen)], y[seen], rcond=None)[0]
    remains = float(left[-1, -1] - beta @ y)
    if remains > _NEARLY_ALL * float(stats.ww[-1, -1]):
        return None
    size = np.sqrt(scale[seen])
    rank = int((np.linalg.eigvalsh(x[np.ix_(seen, seen)] / np.outer(size, size)) > _NEARLY_ALL).sum())
    if rank + a.shape[0] * a.shape[2] >= stats.n:  # they leave nothing of any response: no property of this one
        return None
    return beta if stats.start is None else beta + stats.start


def _within(rows: RowBlocks, zz: Cube, zw: Cube, ww: Mat, weights: Vec | None) -> Within | None:
    """The split into between and within levels, where levels take nearly all of y and each determines its own fit."""
    low = cholesky.factor(zz)
    pivots = np.einsum("jjG->jG", low)
    if not (pivots > 1e-6 * np.sqrt(np.einsum("jjG->jG", zz))).all():  # a level with too few rows
        return None
    c = cholesky.solve(low, zw)
    left = float(ww[-1, -1] - np.vdot(c[:, -1], zw[:, -1]))
    if left > _NEARLY_ALL * float(ww[-1, -1]):
        return None
    rr = np.zeros_like(ww)
    for unit, levels in zip(rows.units, rows.levels, strict=True):
        for block in unit.blocks:
            (inside,) = block.combine(c[..., levels[0]][..., block.cells])
            assert inside is not None  # there are random effects here
            r = block.x - inside
            rr += (r if weights is None else r * weights[block.rows]) @ r.T
    return Within(low, c, rr)
