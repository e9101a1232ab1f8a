"""Marginal likelihoods of many small models at once: likelihood.unit_value for one factor, a Λ and a β for every model.

The formulae are those of likelihood.unit_value; sums end at the models instead of the whole. A model that is not finite
has the value −∞ and spoils no other.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from polars_glmm.likelihood.many.modes import (
    UnitPoint,
    UnitState,
    curvature,
    find_modes,
    outer,
    rows_state,
    times,
    transposed_times,
)
from polars_glmm.likelihood.many.quadrature import integrate_nodes
from polars_glmm.likelihood.many.rows import BatchRows, BatchUnit
from polars_glmm.likelihood.marginal.modes import RowDensity
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.quadrature import Rule
from polars_glmm.linalg.scaling import reduction
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

T = TypeVar("T")


class BatchPoint(NamedTuple):
    """Parameters of all models: beta (p, M), Λ (r, r, M), zeta (M,) or None."""

    beta: Mat
    lam: Cube
    zeta: Vec | None


class BatchInformation(NamedTuple):
    """As likelihood.information.Information: beta (p, p, M), gamma (M,) or None, levels (r, r, G) = I − H⁻¹."""

    beta: Cube
    gamma: Vec | None
    levels: Cube


class BatchValue(NamedTuple):
    """ℓ (M,) and its gradient in beta (p, M), Λ (r, r, M) and zeta (M,); modes (r, G); passes (M,) over its rows."""

    value: Vec
    beta: Mat
    lam: Cube
    zeta: Vec | None
    modes: Mat
    passes: Vec
    information: BatchInformation | None


class BatchConditional(NamedTuple):
    """Modes (r, G), Var(u | y) (r, r, G)."""

    modes: Mat
    covariance: Cube


@dataclass(frozen=True, slots=True, eq=False)
class BatchMarginal:
    """The marginal log-likelihoods of the models of a batch, without their constants; rule is None for Laplace."""

    rows: BatchRows
    units: tuple[BatchUnit, ...]
    density: RowDensity
    rule: Rule | None
    pool: Executor | None
    block_rows: int

    @classmethod
    def of(
        cls, rows: BatchRows, density: RowDensity, rule: Rule | None, pool: Executor | None, block_rows: int
    ) -> BatchMarginal:
        return cls(rows, rows.cut(block_rows), density, rule, pool, block_rows)

    def take(self, keep: BoolVec) -> BatchMarginal:
        """The likelihoods of some models."""
        rows = self.rows.take(keep)
        return replace(self, rows=rows, units=rows.cut(self.block_rows))

    def evaluate(self, at: BatchPoint, warm: Mat | None, *, information: bool = False) -> BatchValue:
        """ℓ and its gradient at a point; `warm` is where Newton starts and changes the work, not the value."""
        if warm is None or not self.density.concave:
            warm = np.zeros((len(at.lam), self.rows.n_levels))

        def one(unit: BatchUnit) -> BatchValue:
            return self._unit(unit, at, warm[:, unit.levels], information=information)

        parts = over_units(self.pool, self.units, one)
        info = None
        if information:
            found = [p.information for p in parts if p.information is not None]
            gamma = None if at.zeta is None else along([i.gamma for i in found if i.gamma is not None])
            info = BatchInformation(along([i.beta for i in found]), gamma, along([i.levels for i in found]))
        return BatchValue(
            along([p.value for p in parts]),
            along([p.beta for p in parts]),
            along([p.lam for p in parts]),
            None if at.zeta is None else along([p.zeta for p in parts if p.zeta is not None]),
            along([p.modes for p in parts]),
            along([p.passes for p in parts]),
            info,
        )

    def conditional(self, at: BatchPoint, warm: Mat) -> BatchConditional:
        """Modes and Var(u | y) by the observed curvature, for the tables of the fits."""

        def one(unit: BatchUnit) -> BatchConditional:
            point = _place(unit, at)
            u0 = warm[:, unit.levels] if self.density.concave else np.zeros_like(warm[:, unit.levels])
            u, state, _ = find_modes(self.density, unit, point, u0, 3)
            return BatchConditional(u, cholesky.inverse(cholesky.factor(curvature(point.lam, state.w))))

        parts = over_units(self.pool, self.units, one)
        return BatchConditional(along([p.modes for p in parts]), along([p.covariance for p in parts]))

    def mode_slopes(self, at: BatchPoint, modes: Mat, directions: list[BatchPoint]) -> list[Mat]:
        """dû/dt along directions, (r, G) each: H dû = dΛ'Z'g + Λ'Z'(g_ζ dζ − w∘(x dβ + z dΛ û))."""

        def one(unit: BatchUnit) -> list[Mat]:
            point, block, u = _place(unit, at), unit.block, modes[:, unit.levels]
            state = rows_state(self.density, unit, point, u, 3)
            low = cholesky.factor(curvature(point.lam, state.w))
            out = []
            for direction in directions:
                lam = direction.lam[..., unit.models][..., unit.of_level]
                change = -state.density.w * (
                    _fixed(unit, direction.beta[:, unit.models]) + block.combine(times(lam, u))
                )
                if direction.zeta is not None and state.density.g_zeta is not None:
                    change = change + state.density.g_zeta * unit.per_row(direction.zeta[unit.models])
                right = transposed_times(point.lam, block.z_sums(change)) + transposed_times(lam, state.g)
                out.append(np.nan_to_num(cholesky.solve(low, right)))
            return out

        parts = over_units(self.pool, self.units, one)
        return [along([part[i] for part in parts]) for i in range(len(directions))]

    def _unit(self, unit: BatchUnit, point: BatchPoint, u: Mat, *, information: bool) -> BatchValue:
        block, at = unit.block, _place(unit, point)
        u, state, passes = find_modes(self.density, unit, at, u, 3)
        density, w = state.density, state.w
        low = cholesky.factor(curvature(at.lam, w))
        nodes = None
        if self.rule is None:
            joint = state.f - 0.5 * np.einsum("rG,rG->G", u, u)
            value = joint - 0.5 * cholesky.log_determinant(low)
            hat = cholesky.inverse(low)
        else:
            nodes = integrate_nodes(self.density, self.rule, unit, at, u, low)
            value, hat = nodes.value, nodes.hat
            passes += self.rule.nodes.shape[1]
        c = block.quadratic(outer(at.lam, hat))
        bend = c * density.dw
        s = block.z_sums(bend)
        pull = transposed_times(at.lam, s)
        if nodes is not None:
            pull = pull - 2.0 * nodes.slope
        a = cholesky.solve(low, pull)
        a_levels = times(at.lam, a)
        za = block.combine(a_levels)
        residual = density.w * za
        residual -= bend
        residual *= 0.5
        residual += density.g if nodes is None else nodes.g
        beta = np.array([unit.row_totals(x * residual) for x in block.x])
        zeta_gradient = None
        if at.zeta is not None:
            f_zeta = density.f_zeta if nodes is None else nodes.f_zeta
            zeta_gradient = unit.row_totals(f_zeta - 0.5 * (c * density.w_zeta + za * density.g_zeta))
        shift = 0.5 * (np.einsum("jkG,kG->jG", w, a_levels) - s)
        lam = _products(shift, u) - _trace(w, at.lam, hat) - 0.5 * _products(state.g, a)
        lam = lam + (_products(state.g, u) if nodes is None else nodes.direct)
        total = unit.level_totals(value)
        info = self._information(unit, at, state, low) if information else None
        return BatchValue(
            np.where(np.isfinite(total), total, -np.inf), beta.reshape(len(block.x), -1), unit.level_totals(lam),
            zeta_gradient, u, np.full(len(total), float(passes)), info,
        )  # fmt: skip

    def _information(self, unit: BatchUnit, at: UnitPoint, state: UnitState, low: Cube) -> BatchInformation:
        """Curvature of the linear mixed model with weights w that is tangent at the mode (w floored at zero)."""
        block, p = unit.block, len(unit.block.x)
        xw = block.x * np.maximum(state.density.w, 0.0)
        beta = weighted_products(unit, xw)
        right = transposed_times(at.lam, block.z_sums(xw))  # (r, p, G)
        solved = cholesky.solve(low, right)
        for i in range(p):
            for j in range(i + 1):
                taken = unit.level_totals(np.einsum("rG,rG->G", right[:, i], solved[:, j]))
                beta[i, j] -= taken
                if j < i:
                    beta[j, i] -= taken
        gamma = None
        if at.zeta is not None:
            square = state.density.f_zeta**2
            if block.frequency is not None:
                square = square / np.maximum(block.frequency, 1.0)
            gamma = unit.row_totals(square)
        return BatchInformation(beta, gamma, reduction(cholesky.inverse(low)))


def over_units(pool: Executor | None, units: tuple[BatchUnit, ...], one: Callable[[BatchUnit], T]) -> list[T]:
    """`one` of every unit, in their order, whoever computes it."""

    def quiet(unit: BatchUnit) -> T:
        with np.errstate(all="ignore"):  # per thread
            return one(unit)

    if pool is None or len(units) == 1:
        return [quiet(unit) for unit in units]
    return list(pool.map(quiet, units))


def weighted_products(unit: BatchUnit, xw: Mat) -> Cube:
    """X'WX per model, (p, p, m), from X and its product with the weights."""
    x = unit.block.x
    p = len(x)
    out = np.empty((p, p, len(unit.rows_of)))
    for i in range(p):
        for j in range(i + 1):
            out[i, j] = out[j, i] = unit.row_totals(xw[i] * x[j])
    return out


def _fixed(unit: BatchUnit, beta: Mat) -> Vec:
    """Xβ per row."""
    x = unit.block.x
    total = np.zeros(x.shape[1]) if not len(x) else unit.per_row(beta[0]) * x[0]
    for b, column in zip(beta[1:], x[1:], strict=True):
        total += unit.per_row(b) * column
    return total


def predictors(unit: BatchUnit, beta: Mat, zeta: Vec | None) -> tuple[Vec, Vec | None]:
    """Xβ + offset, and zeta, per row of a unit, from beta (p, m) and zeta (m,) of its models."""
    fixed = _fixed(unit, beta)
    if unit.block.offset is not None:
        fixed = fixed + unit.block.offset
    return fixed, None if zeta is None else unit.per_row(zeta)


def _place(unit: BatchUnit, at: BatchPoint) -> UnitPoint:
    """A point where the kernels of a unit read it."""
    zeta = None if at.zeta is None else at.zeta[unit.models]
    lam = at.lam[..., unit.models][..., unit.of_level]
    return UnitPoint(lam, *predictors(unit, at.beta[:, unit.models], zeta))


def _products(a: Mat, b: Mat) -> Cube:
    """ab' per level, (r, s, G)."""
    return np.asarray(a[:, None] * b[None, :])


def _trace(w: Cube, lam: Cube, hat: Cube) -> Cube:
    """WΛĤ per level."""
    if len(w) == 1:
        return np.asarray(w * lam * hat)
    return np.asarray(np.einsum("jkG,krG->jrG", w, np.einsum("ksG,srG->krG", lam, hat)))


def along(parts: list[Cube]) -> Cube:
    """Parts side by side on the last axis."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
