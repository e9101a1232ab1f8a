"""What the checks of identifiability ask of a design, answered by its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from polars_glmm.design.records import Design
from polars_glmm.likelihood.parameters.effects import Effects, FactorMap
from polars_glmm.likelihood.rows.blocks import Block, RowBlocks
from polars_glmm.likelihood.rows.holder import Holder, PerLevel, side_by_side
from polars_glmm.linalg.cholesky import quadratic
from polars_glmm.linalg.pattern import sum_by
from polars_glmm.typing import Cube, Vec


@dataclass(frozen=True, slots=True, eq=False)
class RowStructure:
    """The structure of a design with rows."""

    design: Design
    effects: Effects

    @property
    def n_obs(self) -> int:
        return self.design.n_obs

    @property
    def n_fixed(self) -> int:
        return len(self.design.mu.names)

    def level_products(self, f: FactorMap) -> Cube:
        columns, precision = self.effects.columns, self.design.precision
        if columns is None:
            return f.square_sums(precision)[None, None] * (f.basis.T @ f.basis)[:, :, None]
        z = f.basis.T @ columns
        if precision is not None:
            z = z * np.sqrt(precision)
        out = np.empty((f.r, f.r, f.n_levels))
        for j in range(f.r):
            for k in range(j + 1):
                out[j, k] = out[k, j] = f.square_sums(z[j] * z[k])
        return out

    def uneven(self, f: FactorMap) -> bool:  # noqa: ARG002  # of all rows
        precision = self.design.precision
        return precision is not None and bool((precision != precision[0]).any())

    def same_partition(self, a: FactorMap, b: FactorMap) -> bool:
        if a.sets is not None or b.sets is not None:
            return False  # rows that share levels are not divided by them
        met = np.zeros(a.n_levels, dtype=b.codes.dtype)
        met[a.codes] = b.codes  # one of those that the level meets; all of them, if there is one
        return bool((met[a.codes] == b.codes).all())

    def trials(self, f: FactorMap) -> Vec:
        trials = np.ones(self.design.n_rows) if self.design.trials is None else self.design.trials
        if self.design.frequency is not None:
            trials = trials * self.design.frequency
        return f.square_sums(trials)


@dataclass(frozen=True, slots=True, eq=False)
class ApartStructure:
    """The structure of rows on disk or with workers: of one factor, or of factors nested in one."""

    rows: Holder
    n_obs: int
    n_fixed: int
    effects: Effects

    def level_products(self, f: FactorMap) -> Cube:
        (products,) = self.rows.per_level(OfLevels(_products))
        return quadratic(f.basis, products[self._place(f)], f.basis)

    def uneven(self, f: FactorMap) -> bool:  # noqa: ARG002  # what is saturated is never apart
        return False

    def same_partition(self, a: FactorMap, b: FactorMap) -> bool:
        return a.n_levels == b.n_levels  # every level of one lies in one of the other

    def trials(self, f: FactorMap) -> Vec:
        (trials,) = self.rows.per_level(OfLevels(_trials))
        return trials[self._place(f)]

    def _place(self, f: FactorMap) -> int:
        return [own.place for own in self.effects.factors].index(f.place)


@dataclass(frozen=True, slots=True)
class OfLevels:
    """A pass that sums something of the cells of a block, known by its name, over the levels of every factor."""

    function: Callable[[Block], Cube]

    def of(self, rows: RowBlocks) -> PerLevel:
        """By factor, the levels last."""
        pattern = rows.units[0].pattern
        cells = np.concatenate([self.function(block) for block in rows.blocks()], axis=-1)
        if pattern is None:  # one factor, whose cells are its levels
            return [[cells]]
        return [[sum_by(own, cells, n) for own, n in zip(pattern.codes, pattern.n_levels, strict=True)]]

    def add(self, parts: Sequence[PerLevel]) -> PerLevel:
        """Levels side by side."""
        return side_by_side(parts)


def _products(block: Block) -> Cube:
    """Σ zz' of the cells, (d, d, C)."""
    pairs = {(min(a, b), max(a, b)) for a in block.part_of for b in block.part_of}
    return block.zz_sums(dict.fromkeys(pairs, np.ones(len(block.data.y))))


def _trials(block: Block) -> Vec:
    """The number of trials of the cells, (C,)."""
    trials = np.ones(len(block.data.y)) if block.data.trials is None else block.data.trials
    return block.sums(trials if block.frequency is None else trials * block.frequency)
