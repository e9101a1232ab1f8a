"""What the checks of identifiability ask of a design, answered by its rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from polars_glmm.design.records import Design
from polars_glmm.likelihood.parameters.effects import Effects, FactorMap
from polars_glmm.likelihood.rows.blocks import Block
from polars_glmm.likelihood.rows.holder import OverLevels, PerLevel
from polars_glmm.likelihood.rows.store import Stored
from polars_glmm.linalg.cholesky import quadratic
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
            return np.bincount(f.codes, precision, f.n_levels)[None, None] * (f.basis.T @ f.basis)[:, :, None]
        z = f.basis.T @ columns
        if precision is not None:
            z = z * np.sqrt(precision)
        out = np.empty((f.r, f.r, f.n_levels))
        for j in range(f.r):
            for k in range(j + 1):
                out[j, k] = out[k, j] = np.bincount(f.codes, z[j] * z[k], f.n_levels)
        return out

    def uneven(self, f: FactorMap) -> bool:  # noqa: ARG002  # of all rows
        precision = self.design.precision
        return precision is not None and bool((precision != precision[0]).any())

    def same_partition(self, a: FactorMap, b: FactorMap) -> bool:
        met = np.zeros(a.n_levels, dtype=b.codes.dtype)
        met[a.codes] = b.codes  # one of those that the level meets; all of them, if there is one
        return bool((met[a.codes] == b.codes).all())

    def trials(self, f: FactorMap) -> Vec:
        trials = np.ones(self.design.n_rows) if self.design.trials is None else self.design.trials
        if self.design.frequency is not None:
            trials = trials * self.design.frequency
        return np.bincount(f.codes, trials, f.n_levels).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class StoredStructure:
    """The structure of stored rows, which have one factor at most."""

    stored: Stored
    n_obs: int
    n_fixed: int
    effects: Effects

    def level_products(self, f: FactorMap) -> Cube:
        ((products,),) = self.stored.rows(effects=True).per_level(OverLevels(_products))
        return quadratic(f.basis, products, f.basis)

    def uneven(self, f: FactorMap) -> bool:  # noqa: ARG002  # what is saturated is never on disk
        return False

    def same_partition(self, a: FactorMap, b: FactorMap) -> bool:
        return a is b

    def trials(self, f: FactorMap) -> Vec:  # noqa: ARG002  # the protocol's shape
        ((trials,),) = self.stored.rows(effects=True).per_level(OverLevels(_trials))
        return trials


def _products(blocks: Iterable[Block]) -> PerLevel:
    """Σ zz' per level of one factor, (d, d, G)."""
    parts = []
    for block in blocks:
        pairs = {(min(a, b), max(a, b)) for a in block.part_of for b in block.part_of}
        parts.append(block.zz_sums(dict.fromkeys(pairs, np.ones(len(block.data.y)))))
    return [[np.concatenate(parts, axis=-1)]]


def _trials(blocks: Iterable[Block]) -> PerLevel:
    """The number of trials of every level of one factor, (G,)."""
    parts = []
    for block in blocks:
        trials = np.ones(len(block.data.y)) if block.data.trials is None else block.data.trials
        parts.append(block.sums(trials if block.frequency is None else trials * block.frequency))
    return [[np.concatenate(parts)]]
