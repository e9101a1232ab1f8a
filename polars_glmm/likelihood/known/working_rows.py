"""Rows at the modes of all random effects, the parameters held: weights, spread, and the row of V⁻¹X."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from polars_glmm.families.base import Density
from polars_glmm.likelihood.marginal.modes import UnitAt, cell_effects, concatenate, rows_state, to_levels
from polars_glmm.likelihood.marginal.unit import factorised
from polars_glmm.likelihood.rows.blocks import Block
from polars_glmm.typing import Cube, Mat, Vec


class WorkingRows(NamedTuple):
    """Per row at the modes, in the computing basis, with K predictors: x (p, K, n) and a = x + Σ s'z (p, K, n), where
    s = ∂b̂/∂β, so that w a is the row of V⁻¹X; the weight w (K, K, n), the spread z'Var(b | y)z (K, K, n), the
    gradient ∂log p/∂eta (K, n) and what responses pull by, ∂²log p/∂eta∂y ∂ŷ/∂eta' (K, K, n): it is w under canonical
    links, and w stands for it under others (a row's share of the information), but for curves.

    K is 1, the mean, but for categories without an order, whose predictors are all alike, and for the parameters of a
    curve f, of which it is f'f'' over the variance and w has −∂²f (y − f) over it too.
    """

    x: Mat
    a: Mat
    weight: Vec
    spread: Vec
    gradient: Vec
    pull: Vec


def unit_rows(here: UnitAt, u: list[Mat], looked_at: Sequence[int]) -> WorkingRows:
    """Those of a unit, sorted."""
    unit, models, at = here.unit, here.unit.models, here.at
    state = rows_state(here, u, order=2)
    w, g, xs, pull = [], [], [], []
    for block, density, place in zip(unit.blocks, state.densities, state.at, strict=True):
        bent = density
        if len(looked_at) > 1:  # those that stand still bend too
            bent = replace(here.density, moving=tuple(looked_at)).rows(block, place, 2)
        w.append(_by_pair(bent.w, looked_at))
        curved = here.density.family.curve is not None
        pull.append(_by_pair(here.density.expected(block, place).w, looked_at) if curved else w[-1])
        g.append(np.array([_slope(bent, k) for k in looked_at]))
        xs.append(_columns(block, looked_at))
    x, weight, gradient, pulls = (np.concatenate(parts, axis=-1) for parts in (xs, w, g, pull))
    if not at.factors:
        return WorkingRows(x, x, weight, np.zeros_like(weight), gradient, pulls)
    h = factorised(here, state.w)
    cells = []
    for block, own_w, own_x in zip(unit.blocks, w, xs, strict=True):
        pulled = -np.einsum("kln,pkn->lpn", own_w, own_x)
        cells.append(block.z_sums({k: pulled[i] for i, k in enumerate(looked_at)}))
    sums = to_levels(unit, concatenate(cells))
    right = [models.transposed_times(lam, part) for lam, part in zip(at.factors, sums, strict=True)]
    slopes = h.solve(right)
    k_cells = models.leverage(unit.pattern, at.factors, h.inverse())
    a, c = [], []
    for block, own_x in zip(unit.blocks, xs, strict=True):
        own_a = own_x.copy()
        for j in range(len(own_x)):
            effects = cell_effects(unit, at.factors, [slope[:, j] for slope in slopes])
            assert effects is not None  # there are random effects here
            moved = block.combine(effects[:, block.cells])
            for i, k in enumerate(looked_at):
                own_a[j, i] += 0.0 if (by := moved[k]) is None else by
        a.append(own_a)
        found, still = block.quadratic(k_cells[..., block.cells]), np.zeros(own_x.shape[-1])
        c.append(np.array([[found.get((min(k, m), max(k, m)), still) for m in looked_at] for k in looked_at]))
    return WorkingRows(x, np.concatenate(a, axis=-1), weight, np.concatenate(c, axis=-1), gradient, pulls)


def _by_pair(found: Mapping[tuple[int, ...], Vec], looked_at: Sequence[int]) -> Cube:
    """What is there of pairs a ≤ b of predictors as matrices (K, K, m)."""
    return np.array([[found[min(k, m), max(k, m)] for m in looked_at] for k in looked_at])


def _columns(block: Block, looked_at: Sequence[int]) -> Cube:
    """The columns of some predictors (p, K, m), each coefficient with those of its own predictor."""
    if len(looked_at) == 1:
        return block.x[:, None]
    parts = [block.parts[k] for k in looked_at]
    sizes = [part.own.stop - part.own.start for part in parts]
    out = np.zeros((sum(sizes), len(parts), block.rows.stop - block.rows.start))
    start = 0
    for i, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        out[start : start + size, i] = part.columns
        start += size
    return out


def _slope(density: Density, k: int) -> Vec:
    """∂log p/∂eta of a predictor in a block's rows."""
    slope = density.g[k]
    assert slope is not None  # asked for at an order that has it
    return slope
