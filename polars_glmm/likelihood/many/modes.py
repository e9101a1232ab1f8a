"""Conditional modes of all levels of all models of a unit: likelihood.modes for one factor, with a Λ for every level.

Random columns are the working ones, so the effective factors are the Λ themselves: (r, r, G), one slice per level.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.families.base import Density
from polars_glmm.likelihood.many.rows import BatchUnit
from polars_glmm.likelihood.marginal.modes import (
    EXACT,
    MAX_HALVINGS,
    MAX_NEWTON,
    NEAR,
    NEAR_FLOORED,
    ROUNDING,
    RowDensity,
)
from polars_glmm.linalg import cholesky
from polars_glmm.typing import Cube, Mat, Vec


class UnitPoint(NamedTuple):
    """Parameters of a unit's models where kernels read them: Λ per level (r, r, G); Xβ + offset and zeta per row."""

    lam: Cube
    fixed: Vec
    zeta: Vec | None


class UnitState(NamedTuple):
    """Densities and eta per row; sums over levels f (G,), g (r, G), w (r, r, G), up to a derivative of `order`."""

    density: Density
    eta: Vec
    f: Vec
    g: Mat
    w: Cube
    order: int


class UnitModes(NamedTuple):
    """Modes u (r, G), the densities there, and the passes they took."""

    u: Mat
    state: UnitState
    passes: int


def times(lam: Cube, v: Cube) -> Cube:
    """Λv per level: (d, r, G) by (r, …, G)."""
    if len(v) == 1:
        return np.asarray(lam[:, 0] * v if v.ndim == 2 else lam[:, 0, None] * v)
    return np.asarray(np.einsum("drG,r...G->d...G", lam, v))


def transposed_times(lam: Cube, v: Cube) -> Cube:
    """Λ'v per level: (d, r, G) by (d, …, G)."""
    if len(v) == 1:
        return np.asarray(lam[0] * v if v.ndim == 2 else lam[0][:, None] * v)
    return np.asarray(np.einsum("drG,d...G->r...G", lam, v))


def curvature(lam: Cube, w: Cube) -> Cube:
    """H = Λ'WΛ + I per level."""
    if len(lam) == 1:
        return np.asarray(lam * lam * w + 1.0)
    h = np.einsum("drG,dsG->rsG", lam, np.einsum("deG,esG->dsG", w, lam))
    for i in range(len(h)):
        h[i, i] += 1.0
    return np.asarray(h)


def outer(lam: Cube, hat: Cube) -> Cube:
    """ΛĤΛ' per level."""
    if len(lam) == 1:
        return lam * lam * hat
    return np.asarray(np.einsum("drG,reG->deG", lam, np.einsum("rsG,esG->reG", hat, lam)))


def rows_state(density: RowDensity, unit: BatchUnit, at: UnitPoint, u: Mat, order: int) -> UnitState:
    """Densities of all rows of a unit at given modes, with their sums over levels."""
    block = unit.block
    eta = at.fixed + block.combine(times(at.lam, u))
    parts = density.rows(block, eta, at.zeta, order)
    return UnitState(parts, eta, block.sums(parts.f), block.z_sums(parts.g), block.zz_sums(parts.w), order)


class LevelAscent(NamedTuple):
    """Factors L (r, r, G) of curvatures for steps upwards, and whether all of them are the exact ones."""

    low: Cube
    exact: bool


def ascent(density: RowDensity, unit: BatchUnit, at: UnitPoint, state: UnitState) -> LevelAscent:
    """The exact curvature of each level where it is positive definite, else that of rows floored at zero."""
    low = cholesky.factor(curvature(at.lam, state.w))
    if density.concave:
        return LevelAscent(low, exact=True)
    refused = ~np.isfinite(cholesky.log_determinant(low))
    if not refused.any():
        return LevelAscent(low, exact=True)
    w = np.where(refused, unit.block.zz_sums(np.maximum(state.density.w, 0.0)), state.w)
    return LevelAscent(cholesky.factor(curvature(at.lam, w)), exact=False)


def find_modes(density: RowDensity, unit: BatchUnit, at: UnitPoint, u: Mat, order: int) -> UnitModes:
    """Newton for all levels of a unit, halving the steps of those that J rejects.

    Where the start is a mode already, as when the caller predicted it, one pass is all there is. Levels without a
    finite J, or whose curvature is not positive definite, stay as they are and spoil their own model only.
    """
    warm = bool(u.any())
    state = rows_state(density, unit, at, u, order if warm else 2)
    passes, previous, last, halvings = 1, u, None, 0
    stuck = np.zeros(u.shape[1], dtype=bool)
    for _ in range(MAX_NEWTON):
        j = state.f - 0.5 * np.einsum("rG,rG->G", u, u)
        if last is None and warm and not np.isfinite(j).all():
            warm = False
            u = np.where(np.isfinite(j), u, 0.0)
            state, passes = rows_state(density, unit, at, u, 2), passes + 1
            continue
        if last is not None:
            rejected = ~(j >= last - ROUNDING * (1.0 + np.abs(last))) & np.isfinite(last) & ~stuck
            if rejected.any():
                halvings += 1
                if halvings > MAX_HALVINGS:
                    stuck |= rejected
                u = np.where(rejected, previous if halvings > MAX_HALVINGS else 0.5 * (u + previous), u)
                state, passes = rows_state(density, unit, at, u, 2), passes + 1
                continue
        low, exact = ascent(density, unit, at, state)
        slope = transposed_times(at.lam, state.g) - u
        step = cholesky.solve(low, slope)
        each = np.where(stuck, 0.0, np.einsum("rG,rG->G", slope, step))
        decrement = float(np.fmax.reduce(each, initial=0.0))
        if decrement < EXACT and state.order >= order:
            return UnitModes(u, state, passes)
        previous, last, halvings = u, j, 0
        u = u + np.where(np.isfinite(each) & ~stuck, step, 0.0)
        if not decrement > (NEAR if exact else NEAR_FLOORED):
            break
        state, passes = rows_state(density, unit, at, u, 2), passes + 1
    return UnitModes(u, rows_state(density, unit, at, u, order), passes + 1)
