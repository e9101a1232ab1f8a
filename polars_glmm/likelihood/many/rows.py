"""Rows of many small models side by side, sorted by model and level, in blocks that hold whole models.

What belongs to a model has the models on its trailing axis, what belongs to a level the levels of all models, one after
the other: (…, M), (…, G), (…, n). A unit is one block of rows of whole models; nothing couples units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from polars_glmm.design.by_key.records import starts
from polars_glmm.families.base import Rows
from polars_glmm.likelihood.rows.block_parts import BlockPart
from polars_glmm.likelihood.rows.blocks import Block, Unit
from polars_glmm.likelihood.rows.models import ManyModels
from polars_glmm.linalg.pattern import Pattern, find_pattern
from polars_glmm.linalg.side_by_side import LevelsOf, ManyOne, eliminator_of_many
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

Array = TypeVar("Array", Vec, BoolVec)


class BatchCodes(NamedTuple):
    """A further grouping factor: the level of each row (n,), numbered over all models; model_levels (M,)."""

    codes: IntVec
    model_levels: IntVec


class BatchCells(NamedTuple):
    """Runs of rows with the same levels of all factors: the first row of each, and its level of each factor (C,)."""

    first: IntVec
    codes: tuple[IntVec, ...]


@dataclass(frozen=True, slots=True, eq=False)
class BatchRows:
    """Rows of M models, each with at least one row, sorted by model and level.

    x (p, n) fixed columns and z (r, n) random ones (None: one column of ones) in the bases used for computing
    model_rows, model_levels (M,); level_rows (G,): how many there are. Without random effects a level is a model.
    constant_phi: log phi is a second linear predictor of one coefficient
    others: grouping factors beside the one that rows are sorted by
    uses: per factor which columns of z are its, where not all are
    """

    data: Rows
    frequency: Vec | None
    offset: Vec | None
    x: Mat
    z: Mat | None
    model_rows: IntVec
    model_levels: IntVec
    level_rows: IntVec
    constant_phi: bool = False
    others: tuple[BatchCodes, ...] = ()
    uses: tuple[tuple[int, ...], ...] = ()

    @property
    def n_models(self) -> int:
        return len(self.model_rows)

    @property
    def n_levels(self) -> int:
        return len(self.level_rows)

    @property
    def levels(self) -> tuple[LevelsOf, ...]:
        """The levels of each factor."""
        return tuple(LevelsOf.of(n) for n in (self.model_levels, *(one.model_levels for one in self.others)))

    @property
    def cells(self) -> BatchCells:
        """Rows that follow one another with the same levels of all factors."""
        if not self.others:
            return BatchCells(starts(self.level_rows), (np.arange(self.n_levels),))
        return cells_of([np.repeat(np.arange(self.n_levels), self.level_rows), *(one.codes for one in self.others)])

    def pattern(self, cells: BatchCells) -> Pattern | None:
        """Which levels of several factors meet."""
        if not self.others:
            return None
        n_levels = (self.n_levels, *(int(one.model_levels.sum()) for one in self.others))
        return find_pattern(cells.codes, n_levels, tuple(len(use) for use in self.uses))

    @property
    def first_row(self) -> IntVec:
        return starts(self.model_rows)

    @property
    def of_level(self) -> IntVec:
        """The model of every level of the factor that rows are sorted by, (G,)."""
        return np.repeat(np.arange(self.n_models), self.model_levels)

    def per_row(self, v: Array) -> Array:
        """A value of each model (…, M) on its rows."""
        return np.repeat(v, self.model_rows, axis=-1)

    def row_totals(self, v: Cube) -> Cube:
        """Sums over the rows of each model, (…, M)."""
        return np.add.reduceat(v, self.first_row, axis=-1)

    def totals(self, v: Vec) -> Vec:
        """Sums over the rows of each model, a row counted as often as it stands for, (M,)."""
        return self.row_totals(v if self.frequency is None else v * self.frequency)

    def observations(self) -> IntVec:
        """Σ frequency per model, (M,)."""
        return self.model_rows if self.frequency is None else self.row_totals(self.frequency).astype(np.intp)

    def pieces(self) -> Iterator[tuple[slice, Rows]]:
        """Per model the slice of its rows, and its data."""
        for start, n in zip(self.first_row, self.model_rows, strict=True):
            own = slice(int(start), int(start + n))
            yield own, data_of(self.data, partial(_at, own))

    def without_effects(self) -> BatchRows:
        """The same rows for models without random effects."""
        ones = np.ones(self.n_models, dtype=np.intp)
        return replace(self, z=None, model_levels=ones, level_rows=self.model_rows, others=(), uses=())

    def take(self, keep: BoolVec) -> BatchRows:
        """The rows of some models, in the same order."""
        rows = np.flatnonzero(self.per_row(keep))

        def part(v: Mat | None) -> Mat | None:
            return None if v is None else np.take(v, rows, axis=-1)

        return BatchRows(
            data=data_of(self.data, lambda v: np.take(v, rows)),
            frequency=part(self.frequency),
            offset=part(self.offset),
            x=np.take(self.x, rows, axis=-1),
            z=part(self.z),
            model_rows=self.model_rows[keep],
            model_levels=self.model_levels[keep],
            level_rows=self.level_rows[keep[self.of_level]],
            constant_phi=self.constant_phi,
            others=tuple(_some_levels(one, keep, rows) for one in self.others),
            uses=self.uses,
        )

    def cut(self, block_rows: int) -> tuple[Unit, ...]:
        """Units of about `block_rows` rows; a model larger than that is a unit of its own."""
        ends = np.cumsum(self.model_rows)
        level_ends = np.cumsum(self.model_levels)
        ones = (True,) if self.z is None else tuple(bool((column == 1.0).all()) for column in self.z)
        units, first = [], 0
        while first < self.n_models:
            start = int(ends[first] - self.model_rows[first])
            last = max(int(np.searchsorted(ends, start + block_rows, side="right")), first + 1)
            levels = slice(int(level_ends[first] - self.model_levels[first]), int(level_ends[last - 1]))
            units.append(self._unit(slice(first, last), levels, slice(start, int(ends[last - 1])), ones))
            first = last
        return tuple(units)

    def _unit(self, models: slice, levels: slice, rows: slice, ones: tuple[bool, ...]) -> Unit:
        def part(v: Mat | None) -> Mat | None:
            return None if v is None else np.ascontiguousarray(v[..., rows])

        own = self._levels_in(models, levels, rows)
        counts, p = own.cell_rows, len(self.x)
        mean = BlockPart(np.ascontiguousarray(self.x[:, rows]), slice(p), part(self.offset))
        block = Block(
            data=data_of(self.data, lambda v: np.ascontiguousarray(v[rows])),
            frequency=part(self.frequency),
            parts=(mean, BlockPart(None, slice(p, p + 1))) if self.constant_phi else (mean,),
            z=part(self.z),
            ones=ones,
            part_of=(0,) * len(ones),
            starts=starts(counts),
            counts=counts,
            single=bool((counts == 1).all()),
            repeats=None,
            cells=slice(0, len(counts)),
            rows=rows,
        )
        rows_of = self.model_rows[models]
        sides = ManyModels(models, own.levels, rows_of, starts(rows_of), own.pattern, own.first_cell, self.uses)
        solver = ManyOne(own.levels[0]) if own.pattern is None else eliminator_of_many(own.pattern, own.levels)
        return Unit((block,), len(counts), own.pattern, solver, own.places, sides)

    def _levels_in(self, models: slice, levels: slice, rows: slice) -> _LevelsIn:
        """The levels of some neighbouring models."""
        lead = LevelsOf.of(self.model_levels[models])
        if not self.others:
            return _LevelsIn((lead,), (levels,), self.level_rows[levels], None, None)
        every, places = [lead], [levels]
        codes = [np.repeat(np.arange(lead.n_levels), self.level_rows[levels])]
        for one in self.others:
            start = int(one.model_levels[: models.start].sum())
            own = LevelsOf.of(one.model_levels[models])
            every.append(own)
            places.append(slice(start, start + own.n_levels))
            codes.append(one.codes[rows] - start)
        cells = cells_of(codes)
        pattern = find_pattern(cells.codes, tuple(own.n_levels for own in every), tuple(len(use) for use in self.uses))
        ends = np.append(cells.first[1:], rows.stop - rows.start)
        first_cell = np.searchsorted(cells.first, starts(self.model_rows[models]))
        return _LevelsIn(tuple(every), tuple(places), ends - cells.first, pattern, first_cell)


class _LevelsIn(NamedTuple):
    """Of a unit: levels of each factor and where they are, rows of each cell, what meets, and where models begin."""

    levels: tuple[LevelsOf, ...]
    places: tuple[slice, ...]
    cell_rows: IntVec
    pattern: Pattern | None
    first_cell: IntVec | None


def cells_of(codes: Sequence[IntVec]) -> BatchCells:
    """Runs of rows with the same codes (n,) of all factors."""
    change = np.zeros(len(codes[0]), dtype=bool)
    change[0] = True
    for own in codes:
        change[1:] |= own[1:] != own[:-1]
    first = np.flatnonzero(change)
    return BatchCells(first, tuple(own[first] for own in codes))


def _at(rows: slice, v: Vec) -> Vec:
    return v[rows]


def data_of(data: Rows, part: Callable[[Vec], Vec]) -> Rows:
    """The data of some of the rows."""
    return data.each(part)


def _some_levels(factor: BatchCodes, keep: BoolVec, rows: IntVec) -> BatchCodes:
    """The levels of some of the models, numbered anew; rows are theirs."""
    number = np.cumsum(np.repeat(keep, factor.model_levels)) - 1
    return BatchCodes(number[factor.codes[rows]], factor.model_levels[keep])
