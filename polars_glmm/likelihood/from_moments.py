"""Moments of a design's columns → the cross-products of a model without rows, in the bases used for computing.

In the coordinates (1, v − mean) every column is one row of a small matrix R, so every product is R M R' with M the
moments of a level about the overall means: M_11 = W, M_1j = W m_j, M_ij = S_ij + W m_i m_j.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polars_glmm.control import Control
from polars_glmm.design.moments import LevelMoments, Moments
from polars_glmm.design.records import Factor, Term
from polars_glmm.families.base import Family
from polars_glmm.likelihood.basis import Basis, centred_moments
from polars_glmm.likelihood.effects import Effects, assemble, root_of, working_columns
from polars_glmm.likelihood.model import ProductModel
from polars_glmm.likelihood.products import CrossProducts
from polars_glmm.linalg.elimination import eliminator
from polars_glmm.linalg.pattern import Blocks, Pairs, Pattern
from polars_glmm.spec.method import Method
from polars_glmm.typing import Cube, IntVec, Mat, Vec


class MomentDesign(NamedTuple):
    """What the columns of a model are, among those that moments are of.

    names, fixed (p,)     of the fixed effects kept, and their places; −1 for the constant
    factors               per grouping factor its name, terms and the places of its columns
    """

    names: tuple[str, ...]
    fixed: IntVec
    factors: tuple[tuple[str, tuple[Term, ...], IntVec], ...]


def product_model(
    design: MomentDesign, moments: Moments, family: Family, method: Method, control: Control
) -> ProductModel:
    """The gaussian model that the moments describe."""
    basis, rows, shift = _fixed(design, moments)
    effects, z_rows = _effects(design, moments)
    ww = _product(rows, moments.total, moments, rows)[:, :, 0]
    ww = 0.5 * (ww + ww.T)
    used = [np.flatnonzero(np.abs(f.basis).sum(axis=1)) for f in effects.factors]
    d, m = len(z_rows), len(rows)
    diagonal: list[Cube] = []
    zw: list[Cube] = []
    for f, own in zip(effects.factors, used, strict=True):
        part = moments.factors[f.place]
        block, right = np.zeros((d, d, part.n_levels)), np.zeros((d, m, part.n_levels))
        block[np.ix_(own, own)] = _product(z_rows[own], part, moments, z_rows[own])
        right[own] = _product(z_rows[own], part, moments, rows)
        diagonal.append(block)
        zw.append(right)
    cross: dict[tuple[int, int], Cube] = {}
    pairs: dict[tuple[int, int], Pairs] = {}
    for i, f in enumerate(effects.factors):
        for j, g in enumerate(effects.factors[i + 1 :], start=i + 1):
            low, high = sorted((f.place, g.place))
            met = moments.pairs[low, high]
            block = np.zeros((d, d, len(met.left)))
            block[np.ix_(used[effects.factors.index(_at(effects, low))], used[effects.factors.index(_at(effects, high))])] = (
                _product(z_rows[_used(effects, used, low)], met.moments, moments, z_rows[_used(effects, used, high)])
            )
            left, right_codes = met.left, met.right
            if f.place != low:
                left, right_codes, block = right_codes, left, block.swapaxes(0, 1)
                order = np.lexsort((right_codes, left))
                left, right_codes, block = left[order], right_codes[order], block[:, :, order]
            cross[i, j], pairs[i, j] = block, Pairs(left, right_codes, None)
    pattern = None
    if effects.factors:
        levels, sizes = (tuple(getattr(f, name) for f in effects.factors) for name in ("n_levels", "r"))
        pattern = Pattern(levels, sizes, (), pairs)
    stats = CrossProducts(
        pattern=pattern,
        eliminator=None if pattern is None else eliminator(pattern),
        zz=Blocks(diagonal, cross),
        zw=zw,
        ww=ww,
        n=moments.n_obs,
        log_weights=moments.log_weights,
        y_shift=shift,
    )
    return ProductModel(design.names, family, method, control, basis, effects, stats)
