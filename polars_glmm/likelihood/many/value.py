"""Marginal likelihoods of many small models at once: the kernel of one model, its sums ending at each.

A model that is not finite has the value −∞ and spoils no other.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from polars_glmm.likelihood.many.rows import BatchRows
from polars_glmm.likelihood.marginal.modes import Point, RowDensity, UnitAt, Warm, curvature, find_modes, unit_at
from polars_glmm.likelihood.marginal.slopes import unit_slopes
from polars_glmm.likelihood.marginal.unit import Effort, evaluate_unit
from polars_glmm.likelihood.rows.blocks import Unit
from polars_glmm.likelihood.rows.holder import numbered
from polars_glmm.likelihood.rows.models import ManyModels, inward_factors
from polars_glmm.linalg.between import BetweenFactors, between_factors, renumbered
from polars_glmm.linalg.side_by_side import LevelsOf
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

T = TypeVar("T")


class BatchPoint(NamedTuple):
    """Parameters of all models: beta (p, M), Λ (r, r, M), zeta (M,) or None."""

    beta: Mat
    lam: Cube
    zeta: Vec | None


class BatchInformation(NamedTuple):
    """Of all models: beta (P, P, M) with zeta last, levels (r_f, r_f, G_f) = I − H⁻¹ per factor."""

    beta: Cube
    levels: list[Cube]


class BatchValue(NamedTuple):
    """ℓ (M,), its gradient in beta (p, M), Λ (r, r, M) and zeta (M,); modes (r_f, G_f); passes (M,) over its rows."""

    value: Vec
    beta: Mat
    lam: Cube
    zeta: Vec | None
    modes: list[Mat]
    passes: Vec
    information: BatchInformation | None


class BatchConditional(NamedTuple):
    """Per factor the modes (r_f, G_f), and Var(u | y) (r_f, r_f, G_f); between: that of levels of different factors."""

    modes: list[Mat]
    covariance: list[Cube]
    between: BetweenFactors


@dataclass(frozen=True, slots=True, eq=False)
class BatchMarginal:
    """The marginal log-likelihoods of the models of a batch, without their constants; one node is Laplace."""

    rows: BatchRows
    units: tuple[Unit, ...]
    density: RowDensity
    nodes: int
    pool: Executor | None
    block_rows: int
    levels: tuple[LevelsOf, ...]

    @classmethod
    def of(
        cls, rows: BatchRows, density: RowDensity, nodes: int, pool: Executor | None, block_rows: int
    ) -> BatchMarginal:
        return cls(rows, rows.cut(block_rows), density, nodes, pool, block_rows, rows.levels)

    def take(self, keep: BoolVec) -> BatchMarginal:
        """The likelihoods of some models."""
        rows = self.rows.take(keep)
        return replace(self, rows=rows, units=rows.cut(self.block_rows), levels=rows.levels)

    def sizes(self, at: BatchPoint) -> list[int]:
        """Random effects of a level of each factor."""
        return [len(use) for use in self.rows.uses] or [len(at.lam)]

    def evaluate(
        self, at: BatchPoint, warm: list[Mat] | None, *, information: bool = False, rough: bool = False
    ) -> BatchValue:
        """ℓ and its gradient at a point, rough as a search needs them or exact.

        `warm` is where Newton starts and changes the work, not the value.
        """
        if warm is None or not self.density.concave:
            warm = [np.zeros((r, own.n_levels)) for r, own in zip(self.sizes(at), self.levels, strict=True)]

        def one(unit: Unit) -> BatchValue:
            here = placed(self.density, unit, at)
            start = Warm([u[:, s] for u, s in zip(warm, unit.levels, strict=True)])
            v = evaluate_unit(here, start, self.nodes, Effort(information=information, rough=rough))
            info = None
            if v.information is not None:
                info = BatchInformation(v.information.beta, v.information.levels)
            value = np.where(np.isfinite(v.value), v.value, -np.inf)
            passes = np.full(len(value), v.row_passes / max(len(unit.blocks[0].data.y), 1))
            p = len(at.beta)
            zeta = None if at.zeta is None else v.beta[p]
            lam = inward_factors(v.factors, self.rows.uses)
            return BatchValue(value, v.beta[:p], lam, zeta, v.modes, passes, info)

        parts = over_units(self.pool, self.units, one)
        info = None
        if information:
            found = [p.information for p in parts if p.information is not None]
            info = BatchInformation(along([i.beta for i in found]), _per_factor([i.levels for i in found]))
        return BatchValue(
            along([p.value for p in parts]),
            along([p.beta for p in parts]),
            along([p.lam for p in parts]),
            None if at.zeta is None else along([p.zeta for p in parts if p.zeta is not None]),
            _per_factor([p.modes for p in parts]),
            along([p.passes for p in parts]),
            info,
        )

    def conditional(self, at: BatchPoint, warm: list[Mat]) -> BatchConditional:
        """Modes and Var(u | y) by the observed curvature, for the tables of the fits."""

        def one(unit: Unit) -> BatchConditional:
            here, own = placed(self.density, unit, at), zip(warm, unit.levels, strict=True)
            start = [u[:, s] if self.density.concave else np.zeros_like(u[:, s]) for u, s in own]
            found = find_modes(here, Warm(start), 3)
            h = unit.models.factorise(unit.eliminator, curvature(here, found.state.w))
            assert h is not None  # of many models it never is
            assert isinstance(unit.models, ManyModels)
            return BatchConditional(found.u, h.inverse_diagonal(), between_factors(h, unit.models.levels))

        parts = over_units(self.pool, self.units, one)
        between = parts[0].between
        if len(parts) > 1:
            places = numbered([unit.levels for unit in self.units], [own.n_levels for own in self.levels])
            between = renumbered([p.between for p in parts], places)
        modes, covariance = _per_factor([p.modes for p in parts]), _per_factor([p.covariance for p in parts])
        return BatchConditional(modes, covariance, between)

    def mode_slopes(self, at: BatchPoint, modes: list[Mat], directions: list[BatchPoint]) -> list[list[Mat]]:
        """dû/dt along directions, (r_f, G_f) each."""

        def one(unit: Unit) -> list[list[Mat]]:
            here = placed(self.density, unit, at)
            own = [u[:, s] for u, s in zip(modes, unit.levels, strict=True)]
            found = unit_slopes(here, own, [own_point(unit, d) for d in directions])
            return [[np.nan_to_num(each) for each in slope] for slope in found]

        parts = over_units(self.pool, self.units, one)
        return [_per_factor([part[i] for part in parts]) for i in range(len(directions))]


def own_point(unit: Unit, at: BatchPoint) -> Point:
    """A point of all models, for those of a unit: Λ at every level."""
    models = unit.models
    assert isinstance(models, ManyModels)
    factors = models.effective(at.lam, len(unit.blocks[0].ones)) if len(at.lam) else []
    beta = at.beta if at.zeta is None else np.concatenate([at.beta, at.zeta[None]])
    return Point(beta[:, models.place], factors)


def placed(density: RowDensity, unit: Unit, at: BatchPoint) -> UnitAt:
    """A unit at a point of all models."""
    return unit_at(density, unit, own_point(unit, at))


def over_units(pool: Executor | None, units: tuple[Unit, ...], one: Callable[[Unit], T]) -> list[T]:
    """`one` of every unit, in their order, whoever computes it."""

    def quiet(unit: Unit) -> T:
        with np.errstate(all="ignore"):  # per thread
            return one(unit)

    if pool is None or len(units) == 1:
        return [quiet(unit) for unit in units]
    return list(pool.map(quiet, units))


def _per_factor(parts: list[list[Cube]]) -> list[Cube]:
    """Arrays per factor of all parts, side by side."""
    return parts[0] if len(parts) == 1 else [along(list(own)) for own in zip(*parts, strict=True)]


def along(parts: list[Cube]) -> Cube:
    """Parts side by side on the last axis."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
