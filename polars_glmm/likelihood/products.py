"""Cross-products [Z X y]'D[Z X y]: all that a gaussian mixed model needs of its rows.

D = precision · frequency. Columns are centred and scaled before they are squared (likelihood.basis, likelihood.effects),
so that means of 1e7 cost no digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.design.records import Design
from polars_glmm.likelihood.basis import Basis
from polars_glmm.likelihood.effects import Effects
from polars_glmm.likelihood.rowblocks import cut_rows
from polars_glmm.linalg.elimination import Eliminator, eliminator
from polars_glmm.linalg.pattern import Blocks, Pattern, find_pattern, gather_blocks, sum_by
from polars_glmm.typing import Cube, Mat


@dataclass(frozen=True, slots=True, eq=False)
class CrossProducts:
    """Products of the distinct random columns z, the fixed columns and the response; w = [x_c, y_c].

    zz        blocks over levels and meeting pairs, (d, d, ·)
    zw[f]     (d, p+1, G_f) per level of factor f
    ww        (p+1, p+1)
    n         Σ frequency;  log_weights Σ frequency · log precision;  y_shift what was taken from y
    """

    pattern: Pattern | None
    eliminator: Eliminator | None
    zz: Blocks
    zw: list[Cube]
    ww: Mat
    n: int
    log_weights: float
    y_shift: float


def cross_products(design: Design, basis: Basis, effects: Effects, block_rows: int) -> CrossProducts:
    """The products of a design's rows, block by block."""
    weights, log_weights = None, 0.0
    if design.precision is not None:
        weights = design.precision
        frequency = 1.0 if design.frequency is None else design.frequency
        log_weights = float((frequency * np.log(design.precision)).sum())
    if design.frequency is not None:
        weights = design.frequency if weights is None else weights * design.frequency
    y = design.y if design.mu.offset is None else design.y - design.mu.offset
    shift = float(y.mean()) if basis.constant is not None else 0.0
    w = np.concatenate([basis.columns, (y - shift)[None]])
    m = len(w)
    if not effects.factors:
        ww = (w if weights is None else w * weights) @ w.T
        return CrossProducts(None, None, Blocks([], {}), [], ww, design.n_obs, log_weights, shift)
    rows = cut_rows(design, w, None, effects, block_rows)
    sorted_weights = weights if rows.order is None or weights is None else weights[rows.order]
    ww = np.zeros((m, m))
    zz_parts, zw_parts, cell_codes = [], [], []
    codes = [f.codes if rows.order is None else f.codes[rows.order] for f in effects.factors]
    for unit in rows.units:
        for block in unit.blocks:
            v = block.x if sorted_weights is None else block.x * sorted_weights[block.rows]
            ww += v @ block.x.T
            zw_parts.append(block.z_sums(v))
            ones = np.ones(v.shape[1]) if sorted_weights is None else sorted_weights[block.rows]
            zz_parts.append(block.zz_sums(ones))
            first = block.rows.start + block.starts
            cell_codes.append([c[first] for c in codes])
    zz_cells, zw_cells = np.concatenate(zz_parts, axis=-1), np.concatenate(zw_parts, axis=-1)
    if len(codes) == 1:
        pattern = Pattern((effects.factors[0].n_levels,), (effects.factors[0].r,), (), {})
        zz, zw = Blocks([zz_cells], {}), [zw_cells]
    else:
        of_cell = tuple(np.concatenate([part[f] for part in cell_codes]) for f in range(len(codes)))
        sizes = tuple(f.r for f in effects.factors)
        pattern = find_pattern(of_cell, tuple(f.n_levels for f in effects.factors), sizes)
        zz = gather_blocks(pattern, zz_cells)
        zw = [sum_by(c, zw_cells, g) for c, g in zip(of_cell, pattern.n_levels, strict=True)]
    return CrossProducts(pattern, eliminator(pattern), zz, zw, ww, design.n_obs, log_weights, shift)
