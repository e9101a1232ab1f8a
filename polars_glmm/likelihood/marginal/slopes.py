"""How conditional modes move with the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.families.base import Density, Predictors
from polars_glmm.likelihood.marginal.modes import (
    Point,
    UnitAt,
    Warm,
    added,
    cell_effects,
    concatenate,
    curvature,
    rows_state,
    to_levels,
    unit_at,
)
from polars_glmm.likelihood.marginal.value import Approximation, Marginal, ended
from polars_glmm.likelihood.rows.blocks import RowBlocks, Unit
from polars_glmm.likelihood.rows.holder import PerLevel, side_by_side
from polars_glmm.likelihood.rows.passes import over_units
from polars_glmm.typing import Mat, Vec


def unit_slopes(here: UnitAt, u: list[Mat], directions: list[Point]) -> list[list[Mat]]:
    """dû/dt of a unit along directions (dβ, dΛ), per direction and factor (r_f, G_f); none where H is not positive.

    From Λ'Z'g(û) = û:  H dû = dΛ'Z'g − Λ'Z'W(X dβ + Z dΛ û), W over all predictors, X dβ of those that stand still too.
    """
    unit, models, at = here.unit, here.unit.models, here.at
    state = rows_state(here, u, order=3)
    h = models.factorise(unit.eliminator, curvature(here, state.w))
    if h is None:
        return []
    g_levels = to_levels(unit, state.g)
    found = []
    for d in directions:
        moved = cell_effects(unit, d.factors, u)
        assert moved is not None  # there are random effects here
        sums = []
        for block, density in zip(unit.blocks, state.densities, strict=True):
            fixed = tuple(models.linear(d.beta[part.own], part.x) for part in block.parts)
            turned = added(fixed, block.combine(moved[:, block.cells]))
            sums.append(block.z_sums({k: _bent(density, k, turned) for k in set(block.part_of)}))
        pulled = to_levels(unit, concatenate(sums))
        right = [
            models.transposed_times(lam, c) + models.transposed_times(dlam, g)
            for lam, dlam, c, g in zip(at.factors, d.factors, pulled, g_levels, strict=True)
        ]
        found.append(h.solve(right))
    return found


def _bent(density: Density, k: int, turned: Predictors) -> Vec:
    """−Σ_l w_kl dη_l of a block's rows."""
    total: Vec | float = 0.0
    for other, by in enumerate(turned):
        turned_by = density.w[min(k, other), max(k, other)] * by
        total = total - (turned_by if np.ndim(turned_by) < 2 else turned_by.sum(0))  # of thresholds there are two
    return np.asarray(total)


@dataclass(frozen=True, slots=True, eq=False)
class Slopes:
    """dû/dt along directions, from where an evaluation at the same point ended; they stay with the rows."""

    how: Approximation
    at: Point
    warm: Any
    directions: list[Point]

    def of(self, rows: RowBlocks) -> Any:
        """A handle of the slopes per direction and factor (r_f, G_f), zero in units where there is no slope."""
        modes = ended(rows, self.how, self.at, self.warm).modes

        def one(unit: Unit) -> PerLevel:
            u = [m[:, s] for m, s in zip(modes, unit.levels, strict=True)]
            with np.errstate(all="ignore"):
                return unit_slopes(unit_at(self.how.density, unit, self.at), u, self.directions)

        out = [[np.zeros_like(m) for m in modes] for _ in self.directions]
        parts = over_units(rows, one, self.how.threads)
        for levels, part in zip(rows.levels, parts, strict=True):
            for whole, own in zip(out, part, strict=False):
                for slope, value, s in zip(whole, own, levels, strict=True):
                    slope[:, s] = value
        return rows.keep(out)

    def add(self, parts: Sequence[Any]) -> Any:
        """One handle for all."""
        return parts[0]


class KeptSlopes(NamedTuple):
    """Slopes that stayed with the rows: what was asked, and their handle."""

    question: Slopes
    handle: Any


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Some of the kept slopes, by their places."""

    slopes: KeptSlopes
    places: tuple[int, ...]

    def of(self, rows: RowBlocks) -> PerLevel:
        """Per direction and factor (r_f, G_f)."""
        found = rows.recall(self.slopes.handle)
        if found is None:  # not kept for so long
            found = rows.recall(self.slopes.question.of(rows))
        return [found[k] for k in self.places]

    def add(self, parts: Sequence[PerLevel]) -> PerLevel:
        """Levels side by side."""
        return side_by_side(parts)


def mode_slopes(marginal: Marginal, at: Point, modes: list[Mat], directions: list[Point]) -> PerLevel:
    """dû/dt along directions, per direction and factor (r_f, G_f), of rows at hand; zero where there is no slope."""
    slopes: PerLevel = marginal.rows.ask(Slopes(marginal.how, at, Warm(modes), directions))
    return slopes
