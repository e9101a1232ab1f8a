"""Rows sorted by grouping factor and cut into blocks that fit in cache.

A *cell* is a run of rows with the same levels of all factors; a *unit* is a set of whole groups that nothing couples
to the rest, so its conditional modes can be found while its rows are in cache. One factor: many units of about one
block. Several factors: one unit with all rows. No factor: one unit a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from polars_glmm.design.records import Design
from polars_glmm.families.base import Rows
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.parameters.parts import Part
from polars_glmm.likelihood.rows.block_parts import BlockPart, block_part
from polars_glmm.likelihood.rows.holder import A, Holder, Located, Pass, PerLevel
from polars_glmm.likelihood.rows.models import ONE, Models
from polars_glmm.linalg.elimination import Eliminator, OneFactor
from polars_glmm.linalg.pattern import Pattern, find_pattern
from polars_glmm.typing import Cube, IntVec, Mat, Vec

_FEW = 0.1
"""Share of rows that repeat a cell up to which they are added one by one; measured, 5 times as fast at a hundredth."""


_SMALL, _MOST = 4, 0.5
"""Columns up to which all pairs are summed; share of the pairs that meet beyond which all are."""


class Repeats(NamedTuple):
    """Rows that are not the first of their cell, and their cells."""

    rows: IntVec
    cells: IntVec


def few_repeats(starts: IntVec, counts: IntVec) -> Repeats | None:
    """The repeats of a block, or None where they are so many that sums over runs of rows are quicker."""
    m = len(starts)
    n = int(counts.sum())
    if n == m or n - m > n * _FEW:
        return None
    first = np.zeros(n, dtype=bool)
    first[starts] = True
    rows = np.flatnonzero(~first)
    return Repeats(rows, np.searchsorted(starts, rows, side="right") - 1)


def meeting_columns(z: Mat | None, part_of: tuple[int, ...]) -> tuple[tuple[int, ...], ...] | None:
    """`Block.meeting` of columns (d, m) of one predictor: of indicators no two meet, and d² sums are d."""
    if z is None or len(z) <= _SMALL or len(set(part_of)) > 1:
        return None
    there = (z != 0.0).astype(np.float32)
    meet = there @ there.T > 0.0
    np.fill_diagonal(meet, val=True)
    if meet.mean() > _MOST:
        return None
    return tuple(tuple(np.flatnonzero(row[: j + 1]).tolist()) for j, row in enumerate(meet))


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows of whole cells, everything contiguous by column.

    parts: the linear predictors; z (d, m), or None where the only column is ones
    ones, part_of: per column of z whether it is ones, and the predictor that it belongs to
    starts (C_b,) first row of each cell, counts (C_b,) its rows; single: every cell has one row
    repeats: the rows that are not the first of their cell, where they are few
    cells, rows: slices of the unit's cells and of the sorted rows
    meeting: for every column of z those up to itself that are not 0 where it is not; None: all, or nearly
    """

    data: Rows
    frequency: Vec | None
    parts: tuple[BlockPart, ...]
    z: Mat | None
    ones: tuple[bool, ...]
    part_of: tuple[int, ...]
    starts: IntVec
    counts: IntVec
    single: bool
    repeats: Repeats | None
    cells: slice
    rows: slice
    meeting: tuple[tuple[int, ...], ...] | None = None

    @property
    def x(self) -> Mat:
        """Fixed columns of the mean, (p, m)."""
        x = self.parts[0].columns
        assert x is not None  # the mean has columns, if no more than none
        return x

    @property
    def offset(self) -> Vec | None:
        """Offset of the mean."""
        return self.parts[0].offset

    @property
    def of_phi(self) -> tuple[Mat, Vec | None]:
        """Columns (s, m) and offset of the formula of phi."""
        own = self.parts[1]
        assert isinstance(own.x, np.ndarray)  # asked of models that have one
        return own.x, own.offset

    def sums(self, v: Cube) -> Cube:
        """Sums over cells of v (…, m): (…, C_b)."""
        if self.single:
            return v
        if self.repeats is None:
            return np.add.reduceat(v, self.starts, axis=-1)
        total = v.take(self.starts, axis=-1)
        later = v.take(self.repeats.rows, axis=-1)
        np.add.at(np.moveaxis(total, -1, 0), self.repeats.cells, np.moveaxis(later, -1, 0))
        return total

    def spread(self, v: Cube) -> Cube:
        """Values of cells (…, C_b) on their rows: (…, m)."""
        return v if self.single else np.repeat(v, self.counts, axis=-1)

    def combine(self, cell_values: Cube) -> list[Vec | None]:
        """z'v for coefficients per cell v (d, …, C_b): by predictor (…, m), or None where it has no column of z."""
        total: list[Vec | None] = [None] * len(self.parts)
        for j, k in enumerate(self.part_of):
            term = self.spread(cell_values[j])
            if not self.ones[j] and self.z is not None:
                term = term * self.z[j]
            so_far = total[k]
            total[k] = term if so_far is None else so_far + term
        return total

    def z_sums(self, v: Mapping[int, Any] | Sequence[Any]) -> Cube:
        """Σ z v over cells for v by predictor (…, m), each column of z with its own: (d, …, C_b)."""
        if self.z is None:
            return self.sums(v[self.part_of[0]])[None]
        columns = zip(self.z, self.ones, self.part_of, strict=True)
        return np.array([self.sums(v[k] if one else v[k] * z) for z, one, k in columns])

    def zz_sums(self, v: Mapping[tuple[int, ...], Vec]) -> Cube:
        """Σ z z' v over cells for v (m,) by pair of predictors: (d, d, C_b)."""
        if self.z is None:
            return self.sums(v[self.part_of[0], self.part_of[0]])[None, None]
        d = len(self.z)
        out = np.empty((d, d, len(self.starts))) if self.meeting is None else np.zeros((d, d, len(self.starts)))
        for j, a in enumerate(self.part_of):
            weighted: dict[int, Vec] = {}
            for k in range(j + 1) if self.meeting is None else self.meeting[j]:
                b = self.part_of[k]
                if b not in weighted:
                    pair = v[min(a, b), max(a, b)]
                    weighted[b] = pair if self.ones[j] else pair * self.z[j]
                out[j, k] = self.sums(weighted[b] if self.ones[k] else weighted[b] * self.z[k])
                if k < j:
                    out[k, j] = out[j, k]
        return out

    def quadratic(self, k: Cube) -> dict[tuple[int, int], Vec]:
        """z_a'Kz_b for symmetric K per cell (d, d, C_b), z_a the columns of a predictor: (m,) by pair a ≤ b."""
        total: dict[tuple[int, int], Vec] = {}
        for j, a in enumerate(self.part_of):
            rows: dict[int, Vec] = {}
            for i in range(j + 1) if self.meeting is None else self.meeting[j]:
                b = self.part_of[i]
                twice = a == b and i < j
                term = self.spread(2.0 * k[j, i] if twice else k[j, i])
                if not self.ones[i] and self.z is not None:
                    term = term * self.z[i]
                rows[b] = rows[b] + term if b in rows else term
            for b, row in rows.items():
                value = row if self.ones[j] or self.z is None else row * self.z[j]
                pair = (min(a, b), max(a, b))
                total[pair] = total[pair] + value if pair in total else value
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Blocks whose groups are coupled to no others; levels[f] is the slice of factor f's levels.

    models: where sums end; of many models a unit has one block, and one factor or none
    """

    blocks: tuple[Block, ...]
    n_cells: int
    pattern: Pattern | None
    eliminator: Eliminator
    levels: tuple[slice, ...]
    models: Models = ONE

    @property
    def n_rows(self) -> int:
        return sum(block.rows.stop - block.rows.start for block in self.blocks)


@dataclass(frozen=True, slots=True, eq=False)
class RowBlocks:
    """All units of a model, and the order that sorted its rows (None: already sorted).

    units    may be loaded when asked for: hold no more than one at a time
    levels   per unit its slices of levels, known without loading it
    """

    units: Sequence[Unit]
    order: IntVec | None
    n_rows: int
    levels: tuple[tuple[slice, ...], ...]

    def thinned(self, n_rows: int) -> RowBlocks:
        """About n_rows rows in units spread evenly over all; for rows that nothing couples."""
        count = max(1, min(len(self.units), -(-n_rows * len(self.units) // self.n_rows)))
        places = np.linspace(0, len(self.units) - 1, count).astype(np.intp)
        units = tuple(self.units[int(i)] for i in places)
        rows = sum(block.rows.stop - block.rows.start for unit in units for block in unit.blocks)
        return RowBlocks(units, None, rows, ((),) * count)

    def row_ends(self) -> IntVec:
        """Where the units end, in rows."""
        return np.cumsum([unit.n_rows for unit in self.units])

    def part(self, first: int, end: int) -> RowBlocks:
        """The units first..end of one factor or none, their levels numbered from 0."""
        base = [s.start for s in self.levels[first]]
        own = tuple(
            tuple(slice(s.start - b, s.stop - b) for s, b in zip(levels, base, strict=True))
            for levels in self.levels[first:end]
        )
        units = tuple(replace(self.units[first + k], levels=levels) for k, levels in enumerate(own))
        return RowBlocks(units, None, sum(unit.n_rows for unit in units), own)

    def ask(self, question: Pass[Any, A]) -> A:
        """The answer for all rows."""
        return question.of(self)

    def per_level(self, question: Pass[Any, PerLevel]) -> PerLevel:
        """Arrays over all levels of each factor."""
        return question.of(self)

    def located(self, question: Located[Any, A]) -> A:
        """An answer by levels."""
        return question.of(self)

    def keep(self, found: Any) -> Any:
        """A handle of what was found, for later questions: here the thing itself."""
        return found

    def recall(self, handle: Any) -> Any:
        """What a handle stands for."""
        return handle

    def blocks(self) -> Iterator[Block]:
        """All blocks, unit by unit."""
        return (block for unit in self.units for block in unit.blocks)

    def uncoupled(self) -> RowBlocks:
        """The same rows in units that nothing couples, one a block: for the model without random effects."""
        units = tuple(Unit((block,), len(block.starts), None, OneFactor(), ()) for block in self.blocks())
        return RowBlocks(units, None, self.n_rows, ((),) * len(units))


def at_hand(rows: Holder) -> RowBlocks:
    """Rows that are known to be here."""
    assert isinstance(rows, RowBlocks)
    return rows


def _sort(effects: Effects) -> tuple[IntVec | None, tuple[IntVec, ...]]:
    """Order that sorts the rows by all factors, the one with most levels first, and the sorted codes."""
    codes = tuple(f.codes for f in effects.factors)
    if len(codes) == 1 and bool((codes[0][1:] >= codes[0][:-1]).all()):
        return None, codes
    order = counted_order(codes[-1], effects.factors[-1].n_codes)
    for c, f in zip(codes[-2::-1], effects.factors[-2::-1], strict=True):
        order = order[counted_order(c[order], f.n_codes)]
    return order, tuple(c[order] for c in codes)


def counted_order(codes: IntVec, n_levels: int) -> IntVec:
    """The stable order of codes below n_levels by counting: linear in the rows, ten times as fast as sorting them."""
    n = len(codes)
    index: type[np.signedinteger] = np.int32 if n < np.iinfo(np.int32).max else np.int64
    pointers, ones = np.arange(n + 1, dtype=index), np.ones(n, np.int8)
    by_level = sp.csc_matrix((ones, codes.astype(index), pointers), shape=(n_levels, n)).tocsr()
    return np.asarray(by_level.indices, dtype=np.intp)


def cut_rows(design: Design, parts: Sequence[Part], effects: Effects, block_rows: int) -> RowBlocks:
    """The rows of a design in blocks; parts hold its fixed columns and the bases used for computing."""
    n = design.n_rows
    order: IntVec | None = None
    codes: tuple[IntVec, ...] = ()
    if not effects.factors:
        bounds = np.arange(0, n, block_rows)
        starts = np.arange(n)
    else:
        order, codes = _sort(effects)
        change = np.zeros(n, dtype=bool)
        change[0] = True
        for c in codes:
            change[1:] |= c[1:] != c[:-1]
        starts = np.flatnonzero(change)
        bounds = _bounds(starts, n, block_rows)

    offsets = {one.parameter: one.offset for one in design.predictors}
    ones = (True,) if effects.columns is None else tuple(map(_is_ones, effects.columns))
    ends = np.append(bounds[1:], n)
    one_unit = len(codes) > 1 or effects.coupled
    blocks: list[list[Block]] = []
    first_cells = np.searchsorted(starts, bounds)
    last_cells = np.searchsorted(starts, ends)
    for b, (r0, r1) in enumerate(zip(bounds, ends, strict=True)):
        c0, c1 = first_cells[b], last_cells[b]
        local = starts[c0:c1] - r0
        counts = np.diff(np.append(local, r1 - r0))
        base = 0 if one_unit else c0
        rows = slice(int(r0), int(r1))
        places = rows if order is None else order[rows]

        def part(v: Mat, places: slice | IntVec = places) -> Mat:
            return np.ascontiguousarray(v[..., places]) if isinstance(places, slice) else v.take(places, axis=-1)

        z = _if_any(part, effects.columns)
        block = Block(
            data=design.rows.each(part),
            frequency=_if_any(part, design.frequency),
            parts=tuple(
                block_part(
                    one.basis,
                    None if one.basis is None else one.basis.columns(places),
                    one.own,
                    _if_any(part, offsets.get(one.parameter)),
                    part(design.y),
                )
                for one in parts
            ),
            z=z,
            ones=ones,
            part_of=effects.part_of,
            starts=local,
            counts=counts,
            single=c1 - c0 == r1 - r0,
            repeats=few_repeats(local, counts),
            cells=slice(int(c0 - base), int(c1 - base)),
            rows=rows,
            meeting=meeting_columns(z, effects.part_of),
        )
        if one_unit and blocks:
            blocks[0].append(block)
        else:
            blocks.append([block])
    units = []
    for members in blocks:
        n_cells = members[-1].cells.stop
        if not codes:
            units.append(Unit(tuple(members), n_cells, None, OneFactor(), ()))
        elif one_unit:
            pattern = find_pattern(
                tuple(c[starts] for c in codes),
                tuple(f.n_levels for f in effects.factors),
                tuple(f.r for f in effects.factors),
                effects.sets,
            )
            everything = tuple(slice(0, f.n_levels) for f in effects.factors)
            units.append(Unit(tuple(members), n_cells, pattern, effects.eliminator(pattern), everything))
        else:
            level0 = int(codes[0][members[0].rows.start])
            units.append(Unit(tuple(members), n_cells, None, OneFactor(), (slice(level0, level0 + n_cells),)))
    return RowBlocks(tuple(units), order, n, tuple(unit.levels for unit in units))


def _is_ones(column: Vec) -> bool:
    return bool(column[0] == 1.0 and (column == 1.0).all())


def _if_any(change: Callable[[Mat], Mat], v: Mat | None) -> Mat | None:
    return None if v is None else change(v)


def _bounds(starts: IntVec, n: int, block_rows: int) -> IntVec:
    """First rows of the blocks: cells are kept whole, about `block_rows` rows each."""
    bounds = [0]
    while n - bounds[-1] > block_rows:
        target = bounds[-1] + block_rows
        at = int(np.searchsorted(starts, target, side="right")) - 1
        cut = int(starts[at])
        if cut <= bounds[-1]:
            if at + 1 >= len(starts):
                break
            cut = int(starts[at + 1])
        bounds.append(cut)
    return np.array(bounds, dtype=np.intp)
