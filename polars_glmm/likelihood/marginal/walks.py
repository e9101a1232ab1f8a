"""How the integrated log-likelihood of several factors changes along a path of parameters: draws that walk along.

Where factors cross, the integral is one over all levels of a unit together, and Laplace's approximation corrected level
by level says little of very large random effects. Here draws of u go from the prior to their density given y at the
first point, by p(y | u)^s with s from 0 to 1, and on along the path. From one of its points to the next, with
F(u) = log p(y | u; ψ) (path sampling; Gelman & Meng 1998, Stat. Sci. 13),

    E_here[F_there − F_here]  ≤  ℓ_there − ℓ_here  ≤  E_there[F_there − F_here]

and the middle of the two is taken, the trapezoid rule. Levels of one factor are independent given the others', and so
they are drawn, by elliptical slices (Murray, Adams & MacKay 2010, JMLR W&CP 9), which need no tuning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.likelihood.marginal.modes import Point, RowDensity, UnitAt, added, cell_effects, to_levels, unit_at
from polars_glmm.likelihood.marginal.value import Approximation, Marginal, ended
from polars_glmm.likelihood.rows.blocks import Block, RowBlocks, Unit
from polars_glmm.typing import Cube, Mat, Vec

_POWERS = np.append(np.linspace(0.0, 1.0, 31)[1:] ** 6, np.ones(10))
"""From the prior to where the path starts, and on there: most of the way is near the prior, and some draws are late."""
_SWEEPS = 2
"""Times that all factors are drawn anew at a place of a path."""
_SLICES = 8
"""Narrowings of a slice after which a level stays where it is, which is a step as well."""
_DRAWS = (8, 32)
_EVEN = float(np.log(0.5))
_LOST = 4.0
"""Effects twice as large put a row at most twice as far on the wrong side of zero, and ℓ twice as low; twice that is no
mode of anything."""
_MOST_WORK = 1e5
"""Rows times draws of an evaluation."""


class Change(NamedTuple):
    """By how much ℓ changes between two places of a path, and the standard error of that."""

    value: float
    std_error: float


def together(steps: Sequence[Change]) -> Change:
    """Several steps as one."""
    return Change(sum(s.value for s in steps), float(np.linalg.norm([s.std_error for s in steps])))


def changes(marginal: Marginal, start: Point, paths: Sequence[Sequence[Point]]) -> list[list[Change]]:
    """By path the change from each place to the next, the first from the start of all of them."""
    n_draws = int(np.clip(_MOST_WORK / max(marginal.rows.n_rows, 1), *_DRAWS))
    found = marginal.rows.ask(Along(marginal.density, start, tuple(map(tuple, paths)), n_draws))
    return [[Change(float(one.mean()), float(one.std(ddof=1) / np.sqrt(n_draws))) for one in path] for path in found]


def may_part(marginal: Marginal, start: Point, path: Sequence[Point]) -> bool:
    """Whether every row is more probable than not at the modes at the end of a path; else nothing parts them.

    Where some combination of columns parts all rows, their densities there are near 1; where none does, a row of two
    categories or more lies on the wrong side of zero, or on it. Modes are followed along the path: from zero Newton
    does not find those of very large effects, and where ℓ drops by more than rows that are on the wrong side account
    for it did not find them.
    """
    plain, warm, last = replace(marginal, nodes=1, expected=False), None, -np.inf
    for point in (start, *path):
        found = plain.evaluate(point, warm, gradient=False)
        if not _LOST * last < found.value < np.inf:  # nobody knows
            return True
        warm, last = found.warm, min(found.value, -1.0)
    return bool(marginal.rows.ask(_Worst(marginal.density, path[-1], warm)) > _EVEN)


@dataclass(frozen=True, slots=True, eq=False)
class _Worst:
    """The least log density of any row at the modes of a point."""

    density: RowDensity
    at: Point
    warm: Any

    def of(self, rows: RowBlocks) -> float:
        warm = ended(rows, Approximation(self.density, 1, expected=False, threads=1, reml=False), self.at, self.warm)
        with np.errstate(all="ignore"):
            return min(
                self._of_unit(unit, [m[:, s] for m, s in zip(warm.modes, levels, strict=True)])
                for unit, levels in zip(rows.units, rows.levels, strict=True)
            )

    def add(self, parts: Sequence[float]) -> float:
        return min(parts)

    def _of_unit(self, unit: Unit, u: list[Mat]) -> float:
        rows = _rows(unit_at(self.density, unit, self.at), u)
        return min(float((f if block.frequency is None else f / block.frequency).min()) for block, f in rows)


@dataclass(frozen=True, slots=True, eq=False)
class Along:
    """The changes of ℓ along paths from one point, by path (places, draws), summed over the units of some rows."""

    density: RowDensity
    start: Point
    paths: tuple[tuple[Point, ...], ...]
    n_draws: int

    def of(self, rows: RowBlocks) -> list[Mat]:
        total = [np.zeros((len(path), self.n_draws)) for path in self.paths]
        with np.errstate(all="ignore"):
            for number, unit in enumerate(rows.units):
                rng = np.random.default_rng([number, unit.n_cells])
                total = [so_far + own for so_far, own in zip(total, self._of_unit(unit, rng), strict=True)]
        return total

    def add(self, parts: Sequence[list[Mat]]) -> list[Mat]:
        return [np.asarray(sum(path)) for path in zip(*parts, strict=True)]

    def _of_unit(self, unit: Unit, rng: np.random.Generator) -> Iterator[Mat]:
        """By path the changes of a unit's ℓ (places, draws)."""
        start = unit_at(self.density, unit, self.start)
        counts = [s.stop - s.start for s in unit.levels]
        sizes = [(lam.shape[1], self.n_draws, n) for lam, n in zip(start.at.factors, counts, strict=True)]
        first = [rng.standard_normal(size) for size in sizes]
        for power in _POWERS:
            first = _drawn(start, first, power, rng)
        for path in self.paths:
            here, u, found = start, first, []
            for point in path:
                there = unit_at(self.density, unit, point)
                ahead = _log_density(there, u) - _log_density(here, u)
                for _ in range(_SWEEPS):
                    u = _drawn(there, u, 1.0, rng)
                found.append(0.5 * (ahead + _log_density(there, u) - _log_density(here, u)))
                here = there
            yield np.array(found)


def _log_density(here: UnitAt, u: list[Cube]) -> Vec:
    """log p(y | u) of draws u_f (r_f, q, G_f): (q,)."""
    return np.asarray(_cells(here, u).sum(-1))


def _cells(here: UnitAt, u: list[Cube]) -> Mat:
    """log p of the rows of each cell, (q, C)."""
    cells = np.empty((u[0].shape[1], here.unit.n_cells))
    for block, found in _rows(here, u):
        cells[:, block.cells] = block.sums(np.where(np.isnan(found), -np.inf, found))
    return cells


def _rows(here: UnitAt, u: Sequence[Mat | Cube]) -> Iterator[tuple[Block, Mat]]:
    """log p of the rows of each block, times their frequencies, given effects u_f (r_f, …, G_f): (…, m)."""
    b = cell_effects(here.unit, here.at.factors, list(u))
    assert b is not None  # there are random effects here
    for block, fixed in zip(here.unit.blocks, here.fixed, strict=True):
        yield block, here.density.rows(block, added(fixed, block.combine(b[..., block.cells])), 0).f


def _drawn(here: UnitAt, u: list[Cube], power: float, rng: np.random.Generator) -> list[Cube]:
    """All factors drawn anew, one after the other, each level given those of the other factors."""
    u = list(u)
    for f in range(len(u)):
        u[f] = _slices(here, u, (f, power), rng)
    return u


def _slices(here: UnitAt, u: list[Cube], which: tuple[int, float], rng: np.random.Generator) -> Cube:
    """The levels of factor f drawn on an ellipse through where they are and a draw of the prior: (r_f, q, G_f)."""
    f, power = which

    def of_levels(v: Cube) -> Mat:
        return np.asarray(power * to_levels(here.unit, _cells(here, [*u[:f], v, *u[f + 1 :]]))[f])

    at, prior = u[f], rng.standard_normal(u[f].shape)
    threshold = of_levels(at) - rng.standard_exponential(at.shape[1:])
    angle = rng.uniform(0.0, 2.0 * np.pi, at.shape[1:])
    low, high = angle - 2.0 * np.pi, angle.copy()
    found, open_ = at, np.ones(angle.shape, dtype=bool)
    for _ in range(_SLICES):
        tried = np.where(open_, at * np.cos(angle) + prior * np.sin(angle), found)
        fits = open_ & (of_levels(tried) > threshold)
        found, open_ = np.where(fits, tried, found), open_ & ~fits
        if not open_.any():
            break
        low, high = np.where(open_ & (angle < 0.0), angle, low), np.where(open_ & (angle >= 0.0), angle, high)
        angle = np.where(open_, rng.uniform(low, high), angle)
    return found
