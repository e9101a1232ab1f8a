"""What the checks of identifiability ask of a design, answered by its blocks on disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.likelihood.parameters.effects import Effects, FactorMap
from polars_glmm.likelihood.rows.store import Stored
from polars_glmm.linalg.cholesky import quadratic
from polars_glmm.typing import Cube, Vec


@dataclass(frozen=True, slots=True, eq=False)
class StoredStructure:
    """The structure of stored rows, which have one factor at most."""

    stored: Stored
    n_obs: int
    n_fixed: int
    effects: Effects

    def level_products(self, f: FactorMap) -> Cube:
        parts = [
            block.zz_sums(np.ones(len(block.data.y)))
            for unit in self.stored.rows(effects=True).units
            for block in unit.blocks
        ]
        return quadratic(f.basis, np.concatenate(parts, axis=-1), f.basis)

    def uneven(self, f: FactorMap) -> bool:  # noqa: ARG002  # what is saturated is never on disk
        return False

    def same_partition(self, a: FactorMap, b: FactorMap) -> bool:
        return a is b

    def trials(self, f: FactorMap) -> Vec:  # noqa: ARG002  # the protocol's shape
        parts = []
        for unit in self.stored.rows(effects=True).units:
            for block in unit.blocks:
                trials = np.ones(len(block.data.y)) if block.data.trials is None else block.data.trials
                parts.append(block.sums(trials if block.frequency is None else trials * block.frequency))
        return np.concatenate(parts)
