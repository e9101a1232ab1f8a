"""The marginal likelihood of a mixed model, without its constant: the sum over the units of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polars_glmm import progress
from polars_glmm.errors import ConvergenceError
from polars_glmm.likelihood.marginal.information import Information, join, total
from polars_glmm.likelihood.marginal.modes import (
    Point,
    RowDensity,
    Warm,
    curvature,
    fixed_parts,
    rows_state,
    unit_at,
)
from polars_glmm.likelihood.marginal.restricted import Restricted, restricted_term, restricted_unit, together
from polars_glmm.likelihood.marginal.unit import UnitValue, evaluate_unit
from polars_glmm.likelihood.rows.blocks import RowBlocks, Unit
from polars_glmm.likelihood.rows.passes import over_units
from polars_glmm.typing import Cube, Mat, Vec


class Value(NamedTuple):
    """ℓ and its gradient at a point; where the next evaluation may start.

    beta      coefficients of all predictors;  factors   ∂ℓ/∂(T_fΛ_f) per factor
    information  expected-type curvature of −ℓ, or None
    """

    value: float
    beta: Vec
    factors: list[Mat]
    warm: Warm
    passes: float
    information: Information | None


class Conditional(NamedTuple):
    """Modes u_f (r_f, G_f) and the covariance of u there, per level (r_f, r_f, G_f)."""

    modes: list[Mat]
    covariance: list[Cube]


@dataclass(frozen=True, slots=True, eq=False)
class Marginal:
    """The marginal log-likelihood of rows in blocks, without its constant.

    nodes      of quadrature per random effect, of one factor or of nested ones; 1 is Laplace
    expected   use expected instead of observed curvature in the determinant
    reml       the restricted likelihood, of gaussian rows with the identity link
    """

    rows: RowBlocks
    density: RowDensity
    nodes: int
    expected: bool
    threads: int
    reml: bool = False

    def evaluate(self, at: Point, warm: Warm | None, *, gradient: bool = True, information: bool = False) -> Value:
        """ℓ at a point; `warm` is where Newton starts and changes the work, not the value."""
        sizes = [lam.shape[1] for lam in at.factors]
        starts = warm if warm is not None and self.density.concave else None
        stale = None if starts is None else starts.factor
        n_levels = [max(levels[f].stop for levels in self.rows.levels) for f in range(len(sizes))]
        modes = [np.zeros((r, g)) for r, g in zip(sizes, n_levels, strict=True)]

        def one(unit: Unit) -> tuple[UnitValue, Restricted | None]:
            u0 = [np.zeros((r, s.stop - s.start)) for r, s in zip(sizes, unit.levels, strict=True)]
            if starts is not None:
                u0 = [m[:, s] for m, s in zip(starts.modes, unit.levels, strict=True)]
            here, start = unit_at(self.density, unit, at), Warm(u0, stale)
            found = evaluate_unit(
                here, start, self.nodes, expected=self.expected, gradient=gradient, information=information
            )
            return found, restricted_unit(here, found.factor) if self.reml else None

        with np.errstate(all="ignore"):
            both = over_units(self.rows, one, self.threads)
        parts = [part for part, _ in both]
        progress.advance()
        for levels, part in zip(self.rows.levels, parts, strict=True):
            for f, s in enumerate(levels):
                modes[f][:, s] = part.modes[f]
        value = float(sum(p.value for p in parts))
        term = restricted_term(together([part for _, part in both])) if self.reml else None
        if self.reml:
            value = -np.inf if term is None else value + term.value
        passes = sum(p.row_passes for p in parts) / max(self.rows.n_rows, 1)
        after = Warm(modes, parts[0].factor if len(parts) == 1 else None)
        if not gradient or not np.isfinite(value):
            return Value(value if np.isfinite(value) else -np.inf, np.empty(0), [], after, passes, None)
        beta = total([p.beta for p in parts])
        factors = [total([p.factors[f] for p in parts]) for f in range(len(sizes))]
        if term is not None:
            factors = [slope + more for slope, more in zip(factors, term.factors, strict=True)]
            beta = beta + term.beta
        return Value(
            value,
            beta,
            factors,
            after,
            passes,
            join([p.information for p in parts if p.information is not None]) if information else None,
        )

    def conditional(self, at: Point, warm: Warm) -> Conditional:
        """Modes and Var(u | y) by the observed curvature, for the tables of a fit; `warm` is of an evaluation there."""
        if warm.factor is not None:  # costly, and known
            return Conditional(warm.modes, warm.factor.inverse().diagonal)
        value = self.evaluate(at, warm, gradient=False)
        covariance = [
            np.empty((lam.shape[1],) * 2 + (m.shape[1],)) for lam, m in zip(at.factors, value.warm.modes, strict=True)
        ]
        for unit in self.rows.units if at.factors else ():
            u = [m[:, s] for m, s in zip(value.warm.modes, unit.levels, strict=True)]
            here = unit_at(self.density, unit, at)
            h = unit.eliminator.factorise(curvature(here, rows_state(here, u, order=2).w))
            if h is None:
                msg = "the curvature at the conditional modes is not positive definite."
                raise ConvergenceError(msg)
            for f, block_inverse in enumerate(h.inverse().diagonal):
                covariance[f][..., unit.levels[f]] = block_inverse
        return Conditional(value.warm.modes, covariance)

    def restricted_at(self, at: Point) -> Restricted | None:
        """M = X'V⁻¹X at a point with what its derivatives are made of."""
        with np.errstate(all="ignore"):
            one = lambda unit: restricted_unit(unit_at(self.density, unit, at), None)
            return together(over_units(self.rows, one, self.threads))

    def expected_curvature(self, at: Point) -> float:
        """Mean expected curvature of a row without random effects, over the rows where it is finite."""
        summed, count = 0.0, 0
        with np.errstate(all="ignore"):
            for unit in self.rows.units:
                for block, own in zip(unit.blocks, fixed_parts(unit, at), strict=True):
                    w = self.density.family.expected(block.data, own).w[0, 0]
                    finite = np.isfinite(w)
                    summed += float(w[finite].sum())
                    count += int(finite.sum())
        return summed / max(count, 1)
