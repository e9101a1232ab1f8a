"""Many models without random effects: where searches for random effects start, and the nulls of their tests."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from polars_glmm.likelihood.many.rows import BatchRows
from polars_glmm.likelihood.many.value import BatchPoint, along, over_units, placed
from polars_glmm.likelihood.marginal.modes import RowDensity, Warm
from polars_glmm.likelihood.marginal.unit import Effort, UnitValue, evaluate_unit
from polars_glmm.likelihood.rows.blocks import Unit
from polars_glmm.optimize.many import BatchEvaluation
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class NoModes:
    """The state of models without random effects: nothing."""

    def take(self, keep: BoolVec) -> NoModes:  # noqa: ARG002  # the shape of a state
        return self

    def where(self, mask: BoolVec, other: NoModes) -> NoModes:  # noqa: ARG002
        return self

    def put(self, index: IntVec, other: NoModes) -> NoModes:  # noqa: ARG002
        return self


@dataclass(frozen=True, slots=True, eq=False)
class BatchPlain:
    """−ℓ of many models without random effects over [β_c, γ], with the expected information as curvature.

    gamma_cap (M,)   log dispersions beyond which −ℓ is flat, or None
    """

    rows: BatchRows
    units: tuple[Unit, ...]
    density: RowDensity
    pool: Executor | None
    block_rows: int
    has_gamma: bool
    gamma_cap: Vec | None

    @classmethod
    def of(
        cls, rows: BatchRows, density: RowDensity, pool: Executor | None, block_rows: int, gamma_cap: Vec | None
    ) -> BatchPlain:
        rows = rows.without_effects()
        return cls(rows, rows.cut(block_rows), density, pool, block_rows, density.family.has_phi, gamma_cap)

    def take(self, keep: BoolVec) -> BatchPlain:
        rows = self.rows.take(keep)
        cap = None if self.gamma_cap is None else self.gamma_cap[keep]
        return replace(self, rows=rows, units=rows.cut(self.block_rows), gamma_cap=cap)

    def mean_curvature(self, x: Mat) -> Vec:
        """Mean expected curvature of a row of each model, over the rows where it is finite, (M,)."""

        def one(unit: Unit) -> Mat:
            place, models = placed(self.density, unit, self._point(x)).fixed[0], unit.models
            w = self.density.family.expected(unit.blocks[0].data, place).w[0, 0]
            usable = np.isfinite(w)
            return np.asarray(models.row_totals(np.array([np.where(usable, w, 0.0), usable.astype(float)])))

        total, count = along(over_units(self.pool, self.units, one))
        return np.asarray(total / np.maximum(count, 1.0))

    def __call__(self, x: Mat, warm: NoModes | None, *, curvature: bool) -> BatchEvaluation:  # noqa: ARG002
        capped = None
        if self.gamma_cap is not None:
            capped = x[:, -1] > self.gamma_cap
            x = np.column_stack([x[:, :-1], np.minimum(x[:, -1], self.gamma_cap)])
        at = self._point(x)

        def one(unit: Unit) -> UnitValue:
            here = placed(self.density, unit, at)
            return evaluate_unit(here, Warm([]), 1, Effort(information=curvature))

        parts = over_units(self.pool, self.units, one)
        value = -along([np.asarray(part.value) for part in parts])
        g = -along([part.beta for part in parts]).T
        if capped is not None:
            g[capped, -1] = 0.0
        out = ~np.isfinite(value)
        g[out] = 0.0
        b = None
        if curvature:
            b = along([part.information.beta for part in parts if part.information is not None]).transpose(2, 0, 1)
        return BatchEvaluation(np.where(out, np.inf, value), g, b, NoModes())

    def _point(self, x: Mat) -> BatchPoint:
        zeta = np.ascontiguousarray(x[:, -1]) if self.has_gamma else None
        return BatchPoint(np.ascontiguousarray(x[:, : len(self.rows.x)].T), np.empty((0, 0, len(x))), zeta)
