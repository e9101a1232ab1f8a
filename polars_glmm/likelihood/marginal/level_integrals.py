"""How far Laplace's approximation is from the integral, level by level: importance sampling at even points.

For the random effects u_g of one level, all others at their modes, I_g = ∫ exp{J(u_g)} du_g. The points come in equal
shares from the prior N(0, I), from Laplace's N(û_g, H_g⁻¹) and from one three times as wide, and each is weighted by
the mixture of the three (the balance heuristic; Owen & Zhou 2000, J. Am. Stat. Assoc. 95): no weight is unbounded,
however far the integrand is from a normal density. With one grouping factor Laplace plus Σ_g (log I_g − Laplace_g) is
the log-likelihood itself; with several it is its first correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from polars_glmm.likelihood.marginal.modes import (
    Point,
    RowDensity,
    RowsAt,
    UnitAt,
    added,
    cell_effects,
    curvature,
    rows_state,
    unit_at,
)
from polars_glmm.likelihood.marginal.value import Approximation, Marginal, ended
from polars_glmm.likelihood.rows.blocks import RowBlocks
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.pattern import sum_by
from polars_glmm.typing import Cube, Mat, Vec

_POINTS = 192
"""Points per level from each of the three densities."""
_FEWEST_POINTS = 32
_MOST_WORK = 2e7
"""Rows times points that a check evaluates; of more rows an even part of the units stands for all."""
_AT_ONCE = 2e6
_WIDE = 3.0
_BATCHES = 4


class Integrated(NamedTuple):
    """ℓ by Laplace at a point, ℓ by integration there, without their constant, and the standard error of the second."""

    laplace: float
    value: float
    std_error: float


def integrated(marginal: Marginal, at: Point) -> Integrated:
    """The log-likelihood at a point, integrated level by level; NaN where Laplace's is not finite."""
    plain = replace(marginal, nodes=1, expected=False)
    found = plain.evaluate(at, None, gradient=False)
    if not np.isfinite(found.value):
        return Integrated(found.value, np.nan, np.nan)
    points = int(np.clip(_MOST_WORK / max(marginal.rows.n_rows, 1) / 3, _FEWEST_POINTS, _POINTS))
    work = 3.0 * points * max(marginal.rows.n_rows, 1)
    errors = marginal.rows.ask(_Errors(marginal.density, at, found.warm, points, work))
    spread = float(np.std(errors[1:], ddof=1)) / np.sqrt(_BATCHES)
    return Integrated(found.value, found.value + float(errors[0]), spread)


@dataclass(frozen=True, slots=True, eq=False)
class _Errors:
    """Σ (log I_g − Laplace_g) over all levels by all points, and by each batch of them; `work` for all rows."""

    density: RowDensity
    at: Point
    warm: Any
    points: int
    work: float

    def of(self, rows: RowBlocks) -> Vec:
        how = Approximation(self.density, 1, expected=False, threads=1, reml=False)
        warm = ended(rows, how, self.at, self.warm)
        most_units = max(1, int(len(rows.units) * _MOST_WORK / self.work))
        places = np.unique(np.linspace(0, len(rows.units) - 1, min(most_units, len(rows.units))).astype(np.intp))
        errors, seen = np.zeros(_BATCHES + 1), 0
        with np.errstate(all="ignore"):
            for i in places:
                unit = rows.units[int(i)]
                u = [m[:, s] for m, s in zip(warm.modes, rows.levels[int(i)], strict=True)]
                errors += _unit_errors(unit_at(self.density, unit, self.at), u, self.points)
                seen += unit.n_cells
        if len(places) < len(rows.units):  # one factor: cells are levels
            errors *= warm.modes[0].shape[1] / seen
        return errors

    def add(self, parts: Sequence[Vec]) -> Vec:
        return np.asarray(sum(parts))


def _unit_errors(here: UnitAt, u: list[Mat], points: int) -> Vec:
    """Σ (log I_g − Laplace_g) of a unit's levels by all points, and by each batch of them."""
    at, state = here.at, rows_state(here, u, order=2)
    h = curvature(here, state.w).diagonal
    total = np.zeros(_BATCHES + 1)
    for f, own in enumerate(h):
        if at.factors[f].any():  # effects without variance have nothing to integrate
            total += _factor_errors(here, u, state, own, (f, points))
    return total


def _factor_errors(here: UnitAt, u: list[Mat], state: RowsAt, h: Cube, which: tuple[int, int]) -> Vec:
    """The errors of one factor's levels; h (r, r, G) is the curvature of J in each level's effects."""
    f, points = which
    mode, lam = u[f], here.at.factors[f]
    r, n_levels = mode.shape
    low = cholesky.factor(h)
    fine = np.isfinite(low).all((0, 1)) & (np.einsum("rrG->rG", low) > 0.0).all(0)
    low = np.where(fine, low, np.eye(r)[:, :, None])
    log_h = cholesky.log_determinant(low)
    at_mode = _sums(here, state.f, f)
    laplace = at_mode - 0.5 * np.einsum("rG,rG->G", mode, mode) - 0.5 * log_h
    rest = cell_effects(here.unit, here.at.factors, u)
    own = cell_effects(here.unit, [lam if k == f else np.zeros_like(m) for k, m in enumerate(here.at.factors)], u)
    assert rest is not None  # there are random effects here
    assert own is not None
    rest = rest - own
    normal = _normal_points(r, 3 * points)
    terms = np.empty((3 * points, n_levels))
    n_rows = sum(block.rows.stop - block.rows.start for block in here.unit.blocks)
    step = max(1, int(_AT_ONCE / max(n_rows, n_levels)))
    for start in range(0, 3 * points, step):
        z = normal[:, start : start + step]
        kind = np.arange(start, start + z.shape[1]) % 3
        z_levels = np.broadcast_to(z[:, :, None], (*z.shape, n_levels))
        near = mode[:, None, :] + np.where(kind == 2, _WIDE, 1.0)[:, None] * cholesky.backward(low, z_levels)
        v = np.where((kind == 0)[:, None], z_levels, near)
        terms[start : start + step] = _log_weights(here, (f, rest, v), (mode, low, log_h))
    batches = [terms, *(terms[k * 3 * points // _BATCHES : (k + 1) * 3 * points // _BATCHES] for k in range(_BATCHES))]
    out = []
    for part in batches:
        top = part.max(0)
        log_i = top + np.log(np.exp(part - top).mean(0))
        error = np.where(fine & np.isfinite(log_i), log_i - laplace, 0.0)
        out.append(error.sum())
    return np.array(out)


def _log_weights(here: UnitAt, place: tuple[int, Mat, Cube], normal: tuple[Mat, Mat, Vec]) -> Mat:
    """log of p(y | v) φ(v) over the mixture's density, at points v (r, q, G) of the levels of a factor: (q, G)."""
    (f, rest, v), (mode, low, log_h) = place, normal
    unit = here.unit
    b = np.einsum("dr,rqG->dqG", here.at.factors[f], v)
    codes = None if unit.pattern is None else unit.pattern.codes[f]
    cells = np.empty((v.shape[1], unit.n_cells))
    for block, fixed in zip(unit.blocks, here.fixed, strict=True):
        own = b[..., block.cells] if codes is None else b[..., codes[block.cells]]
        moved = block.combine(own + rest[:, None, block.cells])
        density = here.density.rows(block, added(fixed, moved), 0).f
        cells[:, block.cells] = block.sums(np.where(np.isnan(density), -np.inf, density))
    r = v.shape[0]
    squares = np.einsum("rqG,rqG->qG", v, v)
    away = v - mode[:, None, :]
    scaled = sum((np.einsum("rG,rqG->qG", low[:, j], away)) ** 2 for j in range(r))  # |L'(v − û)|²
    wide = -0.5 * scaled / _WIDE**2 - r * np.log(_WIDE)
    mixture = np.logaddexp(-0.5 * squares, 0.5 * log_h + np.logaddexp(-0.5 * scaled, wide)) - np.log(3.0)
    return np.asarray(_sums(here, cells, f) - 0.5 * squares - mixture)


def _sums(here: UnitAt, cells: Mat, f: int) -> Mat:
    """Sums over the cells of the levels of a factor."""
    pattern = here.unit.pattern
    return cells if pattern is None else sum_by(pattern.codes[f], cells, pattern.n_levels[f])


def _normal_points(r: int, n: int) -> Mat:
    """Points (r, n) of N(0, I): multiples of powers of the root of x^(r+1) = x + 1, modulo 1 (Roberts 2018)."""
    root = 2.0
    for _ in range(64):
        root = (1.0 + root) ** (1.0 / (r + 1))
    share = (0.5 + np.outer(root ** -(1.0 + np.arange(r)), 1.0 + np.arange(n))) % 1.0
    return np.asarray(ndtri(share))
