"""The marginal likelihood of a mixed model, without its constant: the sum over the units of its rows.

What is asked of the rows are passes, answered by who holds them; what is not a sum is done when all answers are in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from polars_glmm import progress
from polars_glmm.likelihood.marginal.information import join, total
from polars_glmm.likelihood.marginal.modes import (
    Point,
    RowDensity,
    Warm,
    fixed_parts,
    rows_state,
    unit_at,
)
from polars_glmm.likelihood.marginal.restricted import Restricted, restricted_term, restricted_unit, together
from polars_glmm.likelihood.marginal.unit import Effort, UnitValue, evaluate_unit, factorised
from polars_glmm.likelihood.parameters.curvature import theta_information
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.rows.blocks import RowBlocks, Unit
from polars_glmm.likelihood.rows.holder import Holder, Places, added, numbered, placed_levels
from polars_glmm.likelihood.rows.passes import over_units
from polars_glmm.linalg.between import NONE_BETWEEN, BetweenFactors, between_factors, renumbered
from polars_glmm.linalg.coupled import between_levels
from polars_glmm.typing import Cube, Mat, Vec


class Bends(NamedTuple):
    """Curvature of −ℓ for a search: in the coefficients of all predictors (P, P), and in θ."""

    beta: Mat
    theta: Mat


@dataclass(frozen=True, slots=True, eq=False)
class ThetaMap:
    """What makes curvature in θ of that in the levels; sent elsewhere without the rows of its effects."""

    effects: Effects
    theta: Vec

    def __reduce__(self) -> tuple[Any, ...]:
        maps = tuple(replace(f, codes=f.codes[:0]) for f in self.effects.factors)
        return ThetaMap, (replace(self.effects, factors=maps, columns=None), self.theta)


class Value(NamedTuple):
    """ℓ and its gradient at a point; where the next evaluation may start, which the holder of the rows understands.

    beta      coefficients of all predictors;  factors   ∂ℓ/∂(T_fΛ_f) per factor
    information  expected-type curvature of −ℓ, or None
    """

    value: float
    beta: Vec
    factors: list[Mat]
    warm: Any
    passes: float
    information: Bends | None


class Conditional(NamedTuple):
    """Modes u_f (r_f, G_f) and the covariance of u there, per level (r_f, r_f, G_f).

    between   of factors of which rows have several levels also between all levels, (r_f, G_f, r_f, G_f)
    factors   the covariance between levels of different factors
    """

    modes: list[Mat]
    covariance: list[Cube]
    between: Sequence[Cube]
    factors: BetweenFactors


class Approximation(NamedTuple):
    """How the integrals over the random effects are done: see Marginal."""

    density: RowDensity
    nodes: int
    expected: bool
    threads: int
    reml: bool
    rough: bool = False


class UnitSums(NamedTuple):
    """What an evaluation adds up over units, ℓ without what REML adds; no gradient where ℓ is not finite."""

    value: float
    restricted: Restricted | None
    beta: Vec
    factors: list[Mat]
    warm: Any
    row_passes: int
    information: Bends | None


@dataclass(frozen=True, slots=True, eq=False)
class Evaluate:
    """ℓ at a point and, if asked for, its gradient and its curvature."""

    how: Approximation
    at: Point
    warm: Any
    gradient: bool
    information: ThetaMap | None

    def of(self, rows: RowBlocks) -> UnitSums:
        """The sums of some rows; the modes found there stay with them."""
        at, how = self.at, self.how
        sizes = [lam.shape[1] for lam in at.factors]
        starts = rows.recall(self.warm) if self.warm is not None and how.density.concave else None
        stale = None if starts is None else starts.factor
        effort = Effort(how.expected, self.gradient, self.information is not None, how.rough and not how.reml)

        def one(unit: Unit) -> tuple[UnitValue, Restricted | None]:
            u0 = [np.zeros((r, s.stop - s.start)) for r, s in zip(sizes, unit.levels, strict=True)]
            if starts is not None:
                u0 = [m[:, s] for m, s in zip(starts.modes, unit.levels, strict=True)]
            here, start = unit_at(how.density, unit, at), Warm(u0, stale)
            found = evaluate_unit(here, start, how.nodes, effort)
            return found, restricted_unit(here, found.factor) if how.reml else None

        with np.errstate(all="ignore"):
            both = over_units(rows, one, how.threads)
        parts = [part for part, _ in both]
        modes = parts[0].modes if len(parts) == 1 else _of_all_levels([p.modes for p in parts], rows.levels)
        value = float(sum(p.value for p in parts))
        more = together([part for _, part in both]) if how.reml else None
        warm = rows.keep(Warm(modes, parts[0].factor if len(parts) == 1 else None))
        found = UnitSums(value, more, np.empty(0), [], warm, sum(p.row_passes for p in parts), None)
        if not self.gradient or not np.isfinite(value):
            return found
        beta = total([p.beta for p in parts])
        factors = [total([p.factors[f] for p in parts]) for f in range(len(sizes))]
        if self.information is not None:
            whole = join([p.information for p in parts if p.information is not None])
            effects, here = self.information.effects, self.information.theta
            theta = theta_information(effects, here, effects.lambdas(here), whole.levels)
            found = found._replace(information=Bends(whole.beta, theta))
        return found._replace(beta=beta, factors=factors)

    def add(self, parts: Sequence[UnitSums]) -> UnitSums:
        """The sums of all."""
        value, passes = added([p.value for p in parts]), added([p.row_passes for p in parts])
        more = together([p.restricted for p in parts]) if self.how.reml else None
        found = UnitSums(value, more, np.empty(0), [], parts[0].warm, passes, None)
        if not self.gradient or not np.isfinite(value):
            return found
        return found._replace(
            beta=added([p.beta for p in parts]),
            factors=added([p.factors for p in parts]),
            information=added([p.information for p in parts]),
        )


def _of_all_levels(parts: list[list[Mat]], levels: Sequence[Sequence[slice]]) -> list[Mat]:
    """Modes of the levels of all units, in their places."""
    out = []
    for f, own in enumerate(zip(*parts, strict=True)):
        out.append(np.zeros((len(own[0]), max(s[f].stop for s in levels))))
        for s, modes in zip(levels, own, strict=True):
            out[f][:, s[f]] = modes
    return out


@dataclass(frozen=True, slots=True, eq=False)
class AtModes:
    """Modes and Var(u | y) by the observed curvature, from where an evaluation at the same point ended."""

    how: Approximation
    at: Point
    warm: Any

    def of(self, rows: RowBlocks) -> Conditional:
        """What is known of the effects of some rows."""
        warm = ended(rows, self.how, self.at, self.warm)
        if warm.factor is not None:  # costly, and known
            across = between_factors(warm.factor)
            return Conditional(warm.modes, warm.factor.inverse().diagonal, between_levels(warm.factor), across)
        again = Evaluate(self.how, self.at, self.warm, gradient=False, information=None).of(rows)
        modes = rows.recall(again.warm).modes
        covariance = [
            np.empty((lam.shape[1],) * 2 + (m.shape[1],)) for lam, m in zip(self.at.factors, modes, strict=True)
        ]
        between: list[Cube] = []
        across = NONE_BETWEEN
        for unit in rows.units if self.at.factors else ():
            u = [m[:, s] for m, s in zip(modes, unit.levels, strict=True)]
            here = unit_at(self.how.density, unit, self.at)
            h = factorised(here, rows_state(here, u, order=2).w)
            for f, block_inverse in enumerate(h.inverse().diagonal):
                covariance[f][..., unit.levels[f]] = block_inverse
            between, across = between_levels(h), between_factors(h)
        return Conditional(modes, covariance, between, across)

    def placed(self, parts: Sequence[Conditional], n_levels: Sequence[int], places: Places) -> Conditional:
        """Those of several sets of rows, no factor of which has rows in several levels, as one of all levels."""
        modes, covariance = (
            [placed_levels([own[f] for own in kind], n, [at[f] for at in places]) for f, n in enumerate(n_levels)]
            for kind in ([part.modes for part in parts], [part.covariance for part in parts])
        )
        across = renumbered([part.factors for part in parts], numbered(places, n_levels))
        return Conditional(modes, covariance, [], across)


@dataclass(frozen=True, slots=True, eq=False)
class RestrictedAt:
    """M = X'V⁻¹X at a point with what its derivatives are made of."""

    how: Approximation
    at: Point

    def of(self, rows: RowBlocks) -> Restricted | None:
        """That of some rows."""
        with np.errstate(all="ignore"):
            one = lambda unit: restricted_unit(unit_at(self.how.density, unit, self.at), None)
            return together(over_units(rows, one, self.how.threads))

    def add(self, parts: Sequence[Restricted | None]) -> Restricted | None:
        """The sum."""
        return together(parts)


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedCurvature:
    """Sum and number of the finite expected curvatures of rows in a predictor, without random effects; 0 if unknown."""

    density: RowDensity
    at: Point
    part: int = 0

    def of(self, rows: RowBlocks) -> tuple[float, int]:
        """Those of some rows."""
        summed, count = 0.0, 0
        with np.errstate(all="ignore"):
            for unit in rows.units:
                for block, own in zip(unit.blocks, fixed_parts(unit, self.at), strict=True):
                    w = self.density.family.expected(block.data, own).w.get((self.part, self.part))
                    if w is None:
                        return 0.0, 0
                    finite = np.isfinite(w)
                    summed += float(w[finite].sum())
                    count += int(finite.sum())
        return summed, count

    def add(self, parts: Sequence[tuple[float, int]]) -> tuple[float, int]:
        """The sums."""
        summed, count = added(parts)
        return summed, count


def ended(rows: RowBlocks, how: Approximation, at: Point, warm: Any) -> Warm:
    """Where an evaluation at a point ended, which is done again where nobody remembers."""
    found: Warm | None = rows.recall(warm)
    if found is None:
        found = rows.recall(Evaluate(how, at, None, gradient=False, information=None).of(rows).warm)
        assert found is not None  # just kept
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Marginal:
    """The marginal log-likelihood of rows that somebody holds, without its constant.

    nodes      of quadrature per random effect, of one factor or of nested ones; 1 is Laplace
    expected   use expected instead of observed curvature in the determinant
    reml       the restricted likelihood, of gaussian rows with the identity link
    """

    rows: Holder
    density: RowDensity
    nodes: int
    expected: bool
    threads: int
    reml: bool = False

    @property
    def how(self) -> Approximation:
        return Approximation(self.density, self.nodes, self.expected, self.threads, self.reml)

    def evaluate(
        self, at: Point, warm: Any, *, gradient: bool = True, information: ThetaMap | None = None, rough: bool = False
    ) -> Value:
        """ℓ at a point; `warm` is where Newton starts and changes the work, not the value.

        rough   as a search needs it: ℓ to the second order in the distance of the modes, its gradient to the first
        """
        return self.valued(self.rows.ask(Evaluate(self.how._replace(rough=rough), at, warm, gradient, information)))

    def valued(self, found: UnitSums) -> Value:
        """ℓ of what was added up over all rows, with what REML adds."""
        progress.advance()
        value, beta, factors = found.value, found.beta, found.factors
        term = restricted_term(found.restricted) if self.reml else None
        if self.reml:
            value = -np.inf if term is None else value + term.value
        passes = found.row_passes / max(self.rows.n_rows, 1)
        asked = len(found.factors) or len(found.beta)  # for the gradient
        if not asked or not np.isfinite(value):
            nothing: Vec = np.empty(0)
            return Value(value if np.isfinite(value) else -np.inf, nothing, [], found.warm, passes, None)
        if term is not None:
            factors = [slope + more for slope, more in zip(factors, term.factors, strict=True)]
            beta = beta + term.beta
        return Value(value, beta, factors, found.warm, passes, found.information)

    def conditional(self, at: Point, warm: Any) -> Conditional:
        """Modes and Var(u | y) by the observed curvature, for the tables of a fit; `warm` is of an evaluation there."""
        return self.rows.located(AtModes(self.how, at, warm))

    def restricted_at(self, at: Point) -> Restricted | None:
        """M = X'V⁻¹X at a point with what its derivatives are made of."""
        return self.rows.ask(RestrictedAt(self.how, at))

    def expected_curvature(self, at: Point, part: int = 0) -> float | None:
        """Mean expected curvature of a row in a predictor without random effects, where finite; None: unknown."""
        summed, count = self.rows.ask(ExpectedCurvature(self.density, at, part))
        return summed / count if count else None
