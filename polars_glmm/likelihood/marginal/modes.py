"""Conditional modes: Newton's method for all groups of a unit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from polars_glmm.families.base import Degrees, Density, Expected, Family, Predictors, has_edge, towards_limit
from polars_glmm.likelihood.marginal.lifted import lifted
from polars_glmm.likelihood.rows.blocks import Block, Unit
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.coupled import level_by_level, prior_times
from polars_glmm.linalg.elimination import Factorised
from polars_glmm.linalg.pattern import Blocks, gather_blocks
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

NEAR, NEAR_FLOORED = 1e-10, 1e-18
"""Newton decrement, in log-likelihood, after which one more step ends at rounding error (convergence is quadratic); the
same where curvatures of some rows were floored at zero, which makes convergence linear."""
_NEAR_BY_CHORD, _CHORD_GAIN = 1e-14, 0.25
"""The same for steps with a stale factor, which gain a share at a time; and the share above which it is renewed."""
EXACT = 1e-20
"""Decrement of a mode that needs no step at all: differences over 1e-5 of a scale stay exact to 1e-4."""
_NEAR_ROUGH, _NEAR_ROUGH_BY_CHORD, _EXACT_ROUGH = 1e-5, 1e-12, 1e-13
"""The same where ℓ is mended to first order afterwards, so that it is as far off as the decrement of the modes."""
ROUNDING = 1e-11
"""A step may lower J by this share of |J| without being halved."""
MAX_NEWTON = 200
MAX_HALVINGS = 60
MAX_BOUNDED = 60
"""Newton steps where the link's domain has an edge: a mode on it is a corner, which no step ends at."""

Fixed: TypeAlias = list[Predictors]
"""Per block and predictor: Xβ + offset (m,), or a number where it is a constant."""


class Point(NamedTuple):
    """Parameters as kernels read them: coefficients of all predictors (P,), effective factors T_fΛ_f (d, r_f).

    Of many models beta (P, m) and Λ for every level (r, r, G).
    """

    beta: Mat
    factors: list[Cube]


@dataclass(frozen=True, slots=True, eq=False)
class RowDensity:
    """A family as the kernels use it; with a formula of phi, rows past the ceiling of log phi count as being at it.

    There phi changes nothing: derivatives in it are zero. So it is for counts of zero past the negative of the ceiling.
    Of a family whose limit lies where phi vanishes it is −log phi that has the ceiling.

    moving   predictors with random effects: the density bends in them while modes are looked for
    """

    family: Family
    ceiling: float = np.inf
    moving: tuple[int, ...] = (0,)

    @property
    def concave(self) -> bool:
        """The log density is concave in what moves, so there is one mode."""
        return self.family.log_concave and self.moving == (0,)

    @property
    def curved(self) -> tuple[int, ...]:
        """Predictors in which the curvature is known: the mean's, and those that move."""
        return tuple(sorted({0, *self.moving}))

    def degrees(self, order: int, n: int) -> Degrees:
        """Derivatives of n predictors; those that stand still have none in a pass that only looks for modes."""
        return tuple(order if k == 0 or k in self.moving else int(order != 2) for k in range(n))

    def rows(self, block: Block, at: Predictors, order: int) -> Density:
        """Densities of a block's rows, times their frequencies."""
        at, past = self._held_back(block, at)
        found = self.family.density(block.data, at, order, self.degrees(order, len(at)))
        if past is not None:
            found = _flat_in_phi(found, past)
        if block.frequency is None:
            return found
        f, g, w, third = found
        n = block.frequency
        slopes = tuple(None if part is None else part * n for part in g)
        return Density(f * n, slopes, *({place: part * n for place, part in one.items()} for one in (w, third)))

    def concave_curvature(self, block: Block, at: Predictors, found: Density) -> Mapping[tuple[int, ...], Vec]:
        """Curvatures of a block's rows made those of concave densities, times their frequencies.

        Where they are negative, those of a parabola that the family knows to lie below the density, on which a step
        cannot go too far (Student's t far from its rows); else zero.
        """
        below = self.family.touching(block.data, at) if self.curved == (0,) else None
        if below is None:
            return lifted(found.w, self.curved)
        w = found.w[0, 0]
        return {(0, 0): np.where(w < 0.0, below if block.frequency is None else below * block.frequency, w)}

    def expected(self, block: Block, at: Predictors) -> Expected:
        """Expected curvatures of a block's rows, times their frequencies."""
        at, past = self._held_back(block, at)
        e = self.family.expected(block.data, at)
        if past is not None:
            e = Expected(*({k: np.where(past, 0.0, v) if 1 in k else v for k, v in one.items()} for one in e))
        if block.frequency is None:
            return e
        return Expected(*({place: part * block.frequency for place, part in one.items()} for one in e))

    def _held_back(self, block: Block, at: Predictors) -> tuple[Predictors, BoolVec | None]:
        """±log phi up to the ceiling and, where y = 0, down to its negative; the rows that were past it (or None)."""
        if self.ceiling == np.inf or len(at) < 2 or not isinstance(at[1], np.ndarray):
            return at, None
        zeta = at[1]
        ahead = towards_limit(self.family) * zeta
        past: BoolVec = (ahead > self.ceiling) | ((ahead < -self.ceiling) & (block.data.y == 0.0))
        if not past.any():
            return at, None
        return (at[0], np.where(past, np.clip(zeta, -self.ceiling, self.ceiling), zeta), *at[2:]), past


def _flat_in_phi(found: Density, past: BoolVec) -> Density:
    """Densities of rows in which some have no derivatives in phi."""
    g = tuple(np.where(past, 0.0, part) if k == 1 and part is not None else part for k, part in enumerate(found.g))
    w, third = (
        {place: np.where(past, 0.0, part) if 1 in place else part for place, part in one.items()}
        for one in (found.w, found.third)
    )
    return Density(found.f, g, w, third)


class RowsAt(NamedTuple):
    """Densities per block, up to `order`; predictors per block; sums over cells f (C,), g (d, C), w (d, d, C)."""

    densities: list[Density]
    at: list[Predictors]
    f: Vec
    g: Mat
    w: Cube
    order: int


def fixed_parts(unit: Unit, at: Point) -> Fixed:
    """Per block and predictor: Xβ + offset."""
    out = []
    for block in unit.blocks:
        own = []
        for part in block.parts:
            xb = unit.models.linear(at.beta[part.own], part.x)
            own.append(xb if part.offset is None else xb + part.offset)
        out.append(tuple(own))
    return out


def added(fixed: Predictors, moved: list[Vec | None]) -> Predictors:
    """Predictors with the random part of those that have one."""
    return tuple(xb if zb is None else xb + zb for xb, zb in zip(fixed, moved, strict=True))


class UnitAt(NamedTuple):
    """A unit at a point: all that a search for its modes holds fixed."""

    density: RowDensity
    unit: Unit
    at: Point
    fixed: Fixed


def unit_at(density: RowDensity, unit: Unit, at: Point) -> UnitAt:
    """A unit at a point, its fixed parts computed."""
    return UnitAt(density, unit, at, fixed_parts(unit, at))


def rows_state(here: UnitAt, u: list[Mat], order: int) -> RowsAt:
    """Densities of all rows of a unit at given modes, with their sums over cells."""
    density, unit, at, fixed = here
    b = cell_effects(unit, at.factors, u)
    densities, places, f, g, w = [], [], [], [], []
    for block, own in zip(unit.blocks, fixed, strict=True):
        place = own if b is None else added(own, block.combine(b[:, block.cells]))
        parts = density.rows(block, place, order)
        densities.append(parts)
        places.append(place)
        f.append(block.sums(parts.f))
        if b is not None:
            g.append(block.z_sums(parts.g))
            w.append(block.zz_sums(parts.w))
    empty = np.empty((0, 0, 0))
    return RowsAt(
        densities,
        places,
        concatenate(f),
        concatenate(g) if g else empty,
        concatenate(w) if w else empty,
        order,
    )


class Warm(NamedTuple):
    """Where the next evaluation may start: modes u_f (r_f, G_f), and a factorised curvature near them, if costly."""

    modes: list[Mat]
    factor: Factorised | None = None


class Modes(NamedTuple):
    """Conditional modes u_f (r_f, G_f), the densities there, the row passes they took, and the last factor used."""

    u: list[Mat]
    state: RowsAt
    passes: int
    factor: Factorised | None


def find_modes(here: UnitAt, start: Warm, order: int, *, rough: bool = False) -> Modes:
    """Newton for all groups of a unit, halving the steps of those groups that J rejects.

    The densities come back with derivatives up to `order`. Where the start is a mode already, as when the caller
    predicted it, one pass is all there is. A costly curvature is factorised again only when steps with the stale
    factor stop gaining (chord method): then a step costs one solution. Groups without a finite J, or whose curvature
    is not positive definite, stay as they are and spoil their own model only. Rough modes save a pass.
    """
    unit, models = here.unit, here.unit.models
    u, state, j, passes, warm = _begin(here, start.modes, order)
    if models.alone and not np.isfinite(j.sum()):
        return Modes(u, state, passes, None)
    chord = unit.eliminator.costly
    h, exact, gained = (start.factor if chord and warm else None), True, np.inf
    previous, last, least, halvings = u, j, j, 0
    stuck, some = np.zeros(1, dtype=bool), False
    enough = _EXACT_ROUGH if rough else EXACT
    by_newton, by_chord = (_NEAR_ROUGH, _NEAR_ROUGH_BY_CHORD) if rough else (NEAR, _NEAR_BY_CHORD)
    for _ in range(MAX_BOUNDED if has_edge(here.density.family) else MAX_NEWTON):
        if not (j >= least).all():
            rejected = ~(j >= least) & np.isfinite(last) & ~stuck
            if rejected.any():
                halvings += 1
                if halvings > MAX_HALVINGS:
                    stuck, some = stuck | rejected, True
                back = 1.0 if halvings > MAX_HALVINGS else 0.5
                marks = models.on_levels(rejected, len(u))
                u = [np.where(m, (1.0 - back) * v + back * p, v) for m, v, p in zip(marks, u, previous, strict=True)]
                state, passes = rows_state(here, u, 2), passes + 1
                j = _joint(unit, state, u)
                continue
        slope = joint_slope(here, state, u)
        fresh = True
        if chord and h is not None and halvings == 0:
            step = h.solve(slope)
            each = decrements(unit, slope, step)
            fresh = float(each[0]) > _CHORD_GAIN * gained
        if fresh:
            h, exact = ascent(here, state)
            if h is None:
                break
            step = h.solve(slope)
            each = decrements(unit, slope, step)
        decrement, moves = float(each.max(initial=0.0)), None
        if some or not np.isfinite(decrement):
            each = np.where(stuck, 0.0, each)
            moves = np.isfinite(each) & ~stuck
            decrement = float(np.fmax.reduce(each, initial=0.0))
        if decrement < enough and state.order >= order:
            return Modes(u, state, passes, h)
        gained, previous, last, halvings = decrement, u, j, 0
        least = last - ROUNDING * (1.0 + np.abs(last))
        u = _moved(here.unit, u, step, moves)
        near = by_newton if exact else NEAR_FLOORED
        if not decrement > (near if fresh else min(near, by_chord)):
            break
        state, passes = rows_state(here, u, 2), passes + 1
        j = _joint(unit, state, u)
    return Modes(u, rows_state(here, u, order), passes + 1, h)


class _Begun(NamedTuple):
    """Modes to start from, densities and J there, the row passes taken, and whether they are those that were given."""

    u: list[Mat]
    state: RowsAt
    j: Vec
    passes: int
    warm: bool


def _begin(here: UnitAt, u: list[Mat], order: int) -> _Begun:
    """The start given, at zero in groups where J is not finite there."""
    warm = any(v.any() for v in u)
    state = rows_state(here, u, order if warm else 2)
    j = _joint(here.unit, state, u)
    if not warm or np.isfinite(j.sum()):
        return _Begun(u, state, j, 1, warm)
    fine = np.isfinite(j)
    u = [np.where(own, v, 0.0) for own, v in zip(here.unit.models.on_levels(fine, len(u)), u, strict=True)]
    state = rows_state(here, u, 2)
    return _Begun(u, state, _joint(here.unit, state, u), 2, warm=False)


def _moved(unit: Unit, u: list[Mat], step: list[Mat], moves: BoolVec | None) -> list[Mat]:
    """u + step in the groups that move, None: in all."""
    if moves is None:
        return [v + d for v, d in zip(u, step, strict=True)]
    return [v + np.where(m, d, 0.0) for m, v, d in zip(unit.models.on_levels(moves, len(u)), u, step, strict=True)]


def _joint(unit: Unit, state: RowsAt, u: list[Mat]) -> Vec:
    """J per group of one factor, (G,), or its total where levels are coupled: (1,), of many models (m,)."""
    if level_by_level(unit.eliminator, len(u)):
        squares: Vec = np.einsum("rG,rG->G", u[0], u[0])
        return state.f - 0.5 * squares
    return np.atleast_1d(unit.models.joint(state.f, u, prior_times(unit.eliminator, u)))


def joint_slope(here: UnitAt, state: RowsAt, u: list[Mat]) -> list[Mat]:
    """∂J/∂u = Λ'Z'g − u per factor, (r_f, G_f)."""
    g, unit = to_levels(here.unit, state.g), here.unit
    each = zip(here.at.factors, g, prior_times(unit.eliminator, u), strict=True)
    return [unit.models.transposed_times(lam, own) - v for lam, own, v in each]


def decrements(unit: Unit, slope: list[Mat], step: list[Mat]) -> Vec:
    """Newton decrements: of all groups of one factor, (G,), or of all levels together: (1,), of many models (m,)."""
    if level_by_level(unit.eliminator, len(slope)):
        return np.asarray(np.einsum("rG,rG->G", slope[0], step[0]))
    return np.atleast_1d(unit.models.dot(slope, step))


class Ascent(NamedTuple):
    """A factorised curvature for a step upwards, and whether it is the exact one."""

    factor: Factorised | None
    exact: bool


def ascent(here: UnitAt, state: RowsAt) -> Ascent:
    """The exact curvature where it is positive definite; where a density is not concave, else one that is.

    Levels of one factor whose exact block is refused get that of their rows made concave, the others keep theirs; of
    several factors all of a model do. None only where a number is not finite.
    """
    unit, models, factors = here.unit, here.unit.models, here.at.factors
    h = curvature(here, state.w)
    factor = models.factorise(unit.eliminator, h)
    if here.density.concave or (factor is not None and models.alone):
        return Ascent(factor, exact=True)
    refused: Any = True
    if level_by_level(unit.eliminator, len(factors)):
        refused = ~np.isfinite(cholesky.log_determinant(cholesky.factor(h.diagonal[0])))
    elif factor is not None:
        refused = models.on_cells(~np.isfinite(factor.log_determinant))
    if not np.any(refused):
        return Ascent(factor, exact=True)
    each = zip(unit.blocks, state.densities, state.at, strict=True)
    floored = [block.zz_sums(here.density.concave_curvature(block, at, found)) for block, found, at in each]
    w = np.where(refused, concatenate(floored), state.w)
    return Ascent(models.factorise(unit.eliminator, curvature(here, w)), exact=False)


def concatenate(parts: list[Cube]) -> Cube:
    """Parts of one axis, the last, side by side."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def cell_effects(unit: Unit, factors: list[Cube], u: list[Cube]) -> Cube | None:
    """Coefficients of the distinct columns per cell, Σ_f T_fΛ_f u_f (d, …, C)."""
    if not u:
        return None
    b = [unit.models.times(lam, v) for lam, v in zip(factors, u, strict=True)]
    if unit.pattern is None:
        return b[0]
    total = unit.pattern.to_cells(0, b[0])
    for f in range(1, len(b)):
        total = total + unit.pattern.to_cells(f, b[f])
    return total


def to_levels(unit: Unit, cells: Cube) -> list[Cube]:
    """Sums over the cells of every level of every factor: (…, C) → (…, G_f)."""
    if unit.pattern is None:
        return [cells]
    return [unit.pattern.to_levels(f, cells) for f in range(unit.pattern.n_factors)]


def gather(unit: Unit, w: Cube) -> Blocks:
    """Sums over cells in blocks over levels and meeting pairs."""
    return Blocks([w], {}) if unit.pattern is None else gather_blocks(unit.pattern, w)


def curvature(here: UnitAt, w: Cube) -> Blocks:
    """H = Λ'Z'WZΛ + I in blocks, from Σ z z' w over cells."""
    return here.unit.models.curvature(gather(here.unit, w), here.at.factors)
