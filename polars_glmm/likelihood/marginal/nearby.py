"""ℓ and its gradient at points near one whose modes are known, in one question: what a Hessian by differences asks.

A unit is looked at once for all points. Where it is small the time of an evaluation is that of its calls rather than of
its rows; then copies of the unit stand side by side as models of their own, one a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polars_glmm.likelihood.marginal.modes import Point, Warm, unit_at
from polars_glmm.likelihood.marginal.restricted import restricted_unit
from polars_glmm.likelihood.marginal.unit import Effort, evaluate_unit
from polars_glmm.likelihood.marginal.value import Approximation, Evaluate, UnitSums
from polars_glmm.likelihood.rows.blocks import RowBlocks, Unit
from polars_glmm.likelihood.rows.copies import beside_itself, repeatable
from polars_glmm.likelihood.rows.holder import PerLevel
from polars_glmm.likelihood.rows.passes import over_units
from polars_glmm.typing import Vec


@dataclass(frozen=True, slots=True, eq=False)
class Nearby:
    """ℓ and its gradient at some points, each from modes moved by its step along its slope.

    warm     of an evaluation at the point that all are near to
    slopes   handle of the modes' slopes on the way to each point, None: they stay; steps: how far it is
    """

    how: Approximation
    points: Sequence[Point]
    warm: Any
    slopes: Any
    steps: Vec

    def of(self, rows: RowBlocks) -> list[UnitSums]:
        """The sums of some rows at each point, without where they ended."""
        ended = rows.recall(self.warm) if self.warm is not None and self.how.density.concave else None
        slopes = None if self.slopes is None else rows.recall(self.slopes)

        def one(unit: Unit) -> list[UnitSums]:
            starts = [self._start(unit, k, ended, slopes) for k in range(len(self.points))]
            if not self.how.reml and repeatable(unit, len(starts)):
                return self._together(unit, starts)
            return [self._alone(unit, at, start) for at, start in zip(self.points, starts, strict=True)]

        with np.errstate(all="ignore"):
            return self.add(over_units(rows, one, self.how.threads))

    def add(self, parts: Sequence[list[UnitSums]]) -> list[UnitSums]:
        """The sums of all at each point."""
        each = [Evaluate(self.how, at, None, gradient=True, information=None) for at in self.points]
        return [question.add(own) for question, own in zip(each, zip(*parts, strict=True), strict=True)]

    def _start(self, unit: Unit, k: int, ended: Warm | None, slopes: PerLevel | None) -> Warm:
        if ended is None:
            sizes = [lam.shape[1] for lam in self.points[k].factors]
            return Warm([np.zeros((r, s.stop - s.start)) for r, s in zip(sizes, unit.levels, strict=True)])
        modes = [m[:, s] for m, s in zip(ended.modes, unit.levels, strict=True)]
        if slopes:
            along = zip(modes, slopes[k], unit.levels, strict=True)
            modes = [m + self.steps[k] * d[:, s] for m, d, s in along]
        return Warm(modes, ended.factor)

    def _alone(self, unit: Unit, at: Point, start: Warm) -> UnitSums:
        here = unit_at(self.how.density, unit, at)
        v = evaluate_unit(here, start, self.how.nodes, Effort(self.how.expected))
        more = restricted_unit(here, v.factor) if self.how.reml else None
        return UnitSums(float(v.value), more, v.beta, v.factors, None, v.row_passes, None)

    def _together(self, unit: Unit, starts: Sequence[Warm]) -> list[UnitSums]:
        """The same of copies of a unit of one factor."""
        m, n_levels = len(starts), unit.n_cells
        lam = np.stack([at.factors[0] for at in self.points], axis=-1)
        at = Point(np.stack([at.beta for at in self.points], axis=-1), [np.repeat(lam, n_levels, axis=-1)])
        here = unit_at(self.how.density, beside_itself(unit, m), at)
        start = Warm([np.concatenate([s.modes[0] for s in starts], axis=-1)])
        v = evaluate_unit(here, start, self.how.nodes, Effort(self.how.expected))
        return [
            UnitSums(float(v.value[k]), None, v.beta[:, k], [v.factors[0][..., k]], None, v.row_passes // m, None)
            for k in range(m)
        ]
