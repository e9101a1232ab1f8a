"""Many models without random effects: where searches for random effects start, and the nulls of their tests."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np

from polars_glmm.likelihood.many.rows import BatchRows, BatchUnit
from polars_glmm.likelihood.many.value import along, over_units, predictors, weighted_products
from polars_glmm.likelihood.marginal.modes import RowDensity
from polars_glmm.optimize.many import BatchEvaluation
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class NoModes:
    """The state of models without random effects: nothing."""

    def take(self, keep: BoolVec) -> NoModes:  # noqa: ARG002  # the shape of a state  # the shape of a state
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
    units: tuple[BatchUnit, ...]
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

        def one(unit: BatchUnit) -> Mat:
            w = self._expected(unit, *self._predictors(unit, x))
            usable = np.isfinite(w)
            return unit.row_totals(np.array([np.where(usable, w, 0.0), usable.astype(float)]))

        total, count = along(over_units(self.pool, self.units, one))
        return np.asarray(total / np.maximum(count, 1.0))

    def __call__(self, x: Mat, warm: NoModes | None, *, curvature: bool) -> BatchEvaluation:  # noqa: ARG002
        capped = None
        if self.gamma_cap is not None:
            capped = x[:, -1] > self.gamma_cap
            x = np.column_stack([x[:, :-1], np.minimum(x[:, -1], self.gamma_cap)])
        parts = over_units(self.pool, self.units, lambda unit: self._unit(unit, x, curvature=curvature))
        value = -along([part[0] for part in parts])
        g = -along([part[1] for part in parts]).T
        if capped is not None:
            g[capped, -1] = 0.0
        out = ~np.isfinite(value)
        g[out] = 0.0
        b = along([part[2] for part in parts]).transpose(2, 0, 1) if curvature else None
        return BatchEvaluation(np.where(out, np.inf, value), g, b, NoModes())

    def _predictors(self, unit: BatchUnit, x: Mat) -> tuple[Vec, Vec | None]:
        own = x[unit.models]
        zeta = np.ascontiguousarray(own[:, -1]) if self.has_gamma else None
        return predictors(unit, np.ascontiguousarray(own[:, : len(self.rows.x)].T), zeta)

    def _unit(self, unit: BatchUnit, x: Mat, *, curvature: bool) -> tuple[Vec, Mat, Cube]:
        """ℓ, its gradient and −its expected curvature for the models of a unit: (m,), (P, m), (P, P, m)."""
        block, p = unit.block, len(self.rows.x)
        eta, zeta = self._predictors(unit, x)
        canonical = self.density.family.canonical and not self.has_gamma
        parts = self.density.rows(block, eta, zeta, 2 if canonical and curvature else 1)
        gradient = np.empty((p + self.has_gamma, len(unit.rows_of)))
        for j, column in enumerate(block.x):
            gradient[j] = unit.row_totals(column * parts.g)
        if self.has_gamma:
            gradient[-1] = unit.row_totals(parts.f_zeta)
        b = np.zeros((len(gradient), *gradient.shape))
        if curvature:
            w = parts.w if canonical else self._expected(unit, eta, zeta, weighted=True)
            b[:p, :p] = weighted_products(unit, block.x * w)
            if self.has_gamma:
                square = parts.f_zeta**2
                b[-1, -1] = unit.row_totals(
                    square if block.frequency is None else square / np.maximum(block.frequency, 1.0)
                )
        return unit.row_totals(parts.f), gradient, b

    def _expected(self, unit: BatchUnit, eta: Vec, zeta: Vec | None, *, weighted: bool = False) -> Vec:
        """Expected curvature per row; `weighted` by the frequencies."""
        w = self.density.family.expected(unit.block.data, eta, zeta).w
        return w * unit.block.frequency if weighted and unit.block.frequency is not None else w
