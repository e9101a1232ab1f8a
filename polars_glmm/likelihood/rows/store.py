"""Row blocks on disk, in the basis used for computing: written once, loaded unit by unit, freed after use.

The units are those that `cut_rows` makes of each part, so that a pass cannot tell where they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from polars_glmm import progress
from polars_glmm.design.apart import ColumnMoments, offset_name
from polars_glmm.design.disk.parts import StoredDesign
from polars_glmm.families.base import Rows, censoring_of, heads_of, heads_of_inputs, inputs_of
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.parameters.parts import Part
from polars_glmm.likelihood.rows.apart_bases import bases_apart, effects_of
from polars_glmm.likelihood.rows.block_parts import block_part
from polars_glmm.likelihood.rows.blocks import Block, RowBlocks, Unit, cut_rows
from polars_glmm.linalg.elimination import OneFactor
from polars_glmm.spill import SpillFile
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class BlockLayout:
    """What a block holds, and which of its columns are ones and need no room on disk.

    head      the vectors there are, in their order on disk
    x         per linear predictor marks of the columns of ones, or None where it is a constant
    z         the same of the random columns, None for one column of ones
    own       per linear predictor its coefficients;  offsets: the name of its offset
    part_of   the predictor of each column of z;  bases: what the columns of each predictor are in
    """

    head: tuple[str, ...]
    x: tuple[BoolVec | None, ...]
    z: BoolVec | None
    own: tuple[slice, ...]
    offsets: tuple[str, ...]
    part_of: tuple[int, ...]
    bases: tuple[Basis | None, ...]

    @property
    def on_disk(self) -> int:
        """Numbers per row."""
        return len(self.head) + sum(int((~ones).sum()) for ones in (*self.x, self.z) if ones is not None)


class StoredUnits(Sequence[Unit]):
    """Units of one block each on disk.

    bounds (U + 1,)             where the units begin and the last ends, in rows of the file
    level_ends (U,)             where they end in levels
    level_rows (G,)             rows of each level; empty without factor
    effects                     False: the same rows for the model without random effects
    """

    def __init__(
        self,
        file: SpillFile,
        layout: BlockLayout,
        bounds: IntVec,
        level_ends: IntVec,
        level_rows: IntVec,
        *,
        effects: bool,
    ) -> None:
        self._file, self._layout, self._effects = file, layout, effects
        self._rows = bounds
        self._ends = np.concatenate([[0], level_ends])
        self._level_rows = level_rows

    def __len__(self) -> int:
        return len(self._rows) - 1

    @overload
    def __getitem__(self, i: int) -> Unit: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Unit]: ...
    def __getitem__(self, i: int | slice) -> Unit | Sequence[Unit]:
        """One unit, read from disk; slices are not made."""
        if isinstance(i, slice):
            msg = "units on disk are loaded one by one."
            raise TypeError(msg)
        if not 0 <= i < len(self):
            raise IndexError(i)
        return self._load(i)

    def __iter__(self) -> Iterator[Unit]:
        return (self._load(i) for i in range(len(self)))

    def levels(self) -> tuple[tuple[slice, ...], ...]:
        """Slices of the units' levels."""
        if not self._effects:
            return ((),) * len(self)
        return tuple((slice(int(a), int(b)),) for a, b in zip(self._ends, self._ends[1:], strict=False))

    def without_effects(self) -> StoredUnits:
        """The same rows, coupled by nothing."""
        return self.part(0, len(self), effects=False)

    def row_ends(self) -> IntVec:
        """Where the units end, in rows."""
        return np.asarray(self._rows[1:] - self._rows[0])

    def part(self, first: int, end: int, *, effects: bool) -> StoredUnits:
        """The units first..end, their levels numbered from 0."""
        low, high = self._ends[first], self._ends[end]
        return StoredUnits(
            self._file,
            self._layout,
            self._rows[first : end + 1],
            self._ends[first + 1 : end + 1] - low,
            self._level_rows[low:high],
            effects=effects,
        )

    def _load(self, i: int) -> Unit:
        first, end = int(self._rows[i]), int(self._rows[i + 1])
        m, width = end - first, 8 * self._layout.on_disk
        layout, to_read = self._layout, []

        def vector() -> Vec:
            out = np.empty(m)
            to_read.append(out.data.cast("B"))
            return out

        def columns(ones: BoolVec | None) -> Mat | None:
            if ones is None:
                return None
            out = np.empty((len(ones), m))
            for row, one in zip(out, ones, strict=True):
                if one:
                    row[:] = 1.0
                else:
                    to_read.append(row.data.cast("B"))
            return out

        head = {name: vector() for name in layout.head}
        x = [columns(ones) for ones in layout.x]
        z = columns(layout.z) if self._effects else None
        self._file.read_into(to_read, first * width)
        if i + 1 < len(self):
            self._file.expect(end * width, (int(self._rows[i + 2]) - end) * width)
        low, high = int(self._ends[i]), int(self._ends[i + 1])
        counts = self._level_rows[low:high] if len(self._level_rows) else np.ones(m, dtype=np.intp)
        block = Block(
            data=Rows(head["y"], head.get("trials"), head.get("precision"), inputs_of(head), censoring_of(head)),
            frequency=head.get("frequency"),
            parts=tuple(
                block_part(basis, made, own, head.get(offset), head["y"])
                for basis, made, own, offset in zip(layout.bases, x, layout.own, layout.offsets, strict=True)
            ),
            z=z,
            ones=(True,) if layout.z is None else tuple(layout.z.tolist()),
            part_of=layout.part_of,
            starts=np.cumsum(counts) - counts,
            counts=counts,
            single=len(counts) == m,
            repeats=None,
            cells=slice(0, len(counts)),
            rows=slice(first, end),
        )
        levels = (slice(low, high),) if self._effects else ()
        return Unit((block,), len(counts), None, OneFactor(), levels)


@dataclass(frozen=True, slots=True, eq=False)
class StoredRows(RowBlocks):
    """All units of a model on disk."""

    def uncoupled(self) -> StoredRows:
        """The same rows, coupled by nothing."""
        assert isinstance(self.units, StoredUnits)  # as it was made
        units = self.units.without_effects()
        return StoredRows(units, None, self.n_rows, units.levels())

    def row_ends(self) -> IntVec:
        """Where the units end, in rows; none is loaded."""
        assert isinstance(self.units, StoredUnits)
        return self.units.row_ends()

    def part(self, first: int, end: int) -> StoredRows:
        """The units first..end, their levels numbered from 0; none is loaded."""
        assert isinstance(self.units, StoredUnits)
        units = self.units.part(first, end, effects=bool(self.levels[0]))
        return StoredRows(units, None, int(units.row_ends()[-1]), units.levels())


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A model's rows on disk, and the bases they are in (without columns), that of the mean first."""

    bases: tuple[Basis, ...]
    effects: Effects
    units: StoredUnits
    n_rows: int

    def rows(self, *, effects: bool) -> StoredRows:
        """The blocks, for the model with its random effects or without."""
        units = self.units if effects else self.units.without_effects()
        return StoredRows(units, None, self.n_rows, units.levels())


def store(
    design: StoredDesign,
    block_rows: int,
    parts_of: Callable[[tuple[Basis, ...]], tuple[Part, ...]],
    held: Collection[str] = (),
) -> Stored:
    """The rows of a design of at most one factor, in blocks in a file; its parts leave the disk on the way.

    parts_of   the linear predictors of the model from the bases of those with a formula
    held       names of parameters that stay where they are
    """
    layout, moments = design.layout, design.moments
    of_columns, bases = bases_apart(design, held)
    predictors = parts_of(bases)
    effects, working, distinct = effects_of(design)
    z_ones = None if working is None else np.array([k < 0 for k, _ in working.sources])
    ones = {
        one.parameter: _ones(basis, moments.pick(own))
        for one, basis, own in zip(design.predictors, of_columns, layout.x, strict=True)
    }
    marks = BlockLayout(
        design.head,
        tuple(ones.get(part.parameter) for part in predictors),
        z_ones,
        tuple(part.own for part in predictors),
        tuple(offset_name(part.parameter) for part in predictors),
        effects.part_of,
        tuple(part.basis for part in predictors),
    )
    file = design.spill.create("blocks")
    row_ends, level_ends, level_rows = [], [], []
    first_row, first_level = 0, 0
    with progress.stage("sorting", design.n_rows):
        for part in design.drain():
            columns = None
            if working is not None:
                columns = working.made([part.factors[0].z[k] for k in distinct], part.n_rows)
            codes = tuple(replace(f, codes=part.factors[0].codes.astype(np.intp)) for f in effects.factors)
            own = replace(effects, factors=codes, columns=columns)
            made = [replace(basis, x=one.x) for basis, one in zip(bases, part.predictors, strict=True)]
            blocks = cut_rows(part, parts_of(tuple(made)), own, block_rows)
            for unit in blocks.units:
                (block,) = unit.blocks
                file.append(_numbers(block, marks).data.cast("B"))
                row_ends.append(first_row + block.rows.stop)
                if effects.factors:
                    level_rows.append(block.counts)
                    first_level += len(block.counts)
                level_ends.append(first_level)
            first_row += part.n_rows
            progress.advance(part.n_rows)
    units = StoredUnits(
        file,
        marks,
        np.array([0, *row_ends], dtype=np.int64),
        np.array(level_ends, dtype=np.int64),
        np.concatenate(level_rows) if level_rows else np.empty(0, dtype=np.intp),
        effects=bool(effects.factors),
    )
    return Stored(bases, effects, units, design.n_rows)


def _ones(basis: Basis, moments: ColumnMoments) -> BoolVec:
    """Which computing columns are ones."""
    mean, cross = moments.mean, moments.cross
    return np.asarray((basis.centre(mean) == 1.0) & (np.einsum("pi,ij,pj->p", basis.a, cross, basis.a) == 0.0))


def _numbers(block: Block, layout: BlockLayout) -> Vec:
    """The numbers of a block in their order on disk."""
    head = {
        "y": block.data.y,
        "trials": block.data.trials,
        "frequency": block.frequency,
        "precision": block.data.precision,
        **heads_of(block.data.censoring),
        **heads_of_inputs(block.data.inputs),
        **{name: part.offset for name, part in zip(layout.offsets, block.parts, strict=True)},
    }
    parts = [v for name in layout.head if (v := head[name]) is not None]
    made = [part.columns for part in block.parts]
    for columns, ones in zip([*made, block.z], [*layout.x, layout.z], strict=True):
        if columns is not None and ones is not None:
            parts += [row for row, one in zip(columns, ones, strict=True) if not one]
    return np.concatenate(parts)
