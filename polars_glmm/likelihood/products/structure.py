"""What the checks of identifiability ask of a design, answered by its cross-products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.likelihood.parameters.effects import Effects, FactorMap
from polars_glmm.likelihood.products.cross import CrossProducts
from polars_glmm.linalg.cholesky import quadratic
from polars_glmm.typing import Cube, Vec


@dataclass(frozen=True, slots=True, eq=False)
class ProductStructure:
    """The structure of cross-products; gaussian, so trials are never asked for."""

    stats: CrossProducts
    effects: Effects

    @property
    def n_obs(self) -> int:
        return self.stats.n

    @property
    def n_fixed(self) -> int:
        return len(self.stats.ww) - 1

    def level_products(self, f: FactorMap) -> Cube:
        return quadratic(f.basis, self.stats.zz.diagonal[self.effects.factors.index(f)], f.basis)

    def uneven(self, f: FactorMap) -> bool:
        """Known of levels of one row each with an effect that is the same in all: their sums are the precisions."""
        return f.r == 1 and f.n_levels == self.n_obs and f.terms[0].names == ("Intercept",)

    def same_partition(self, a: FactorMap, b: FactorMap) -> bool:
        i, j = sorted((self.effects.factors.index(a), self.effects.factors.index(b)))
        return self.stats.pattern is not None and len(self.stats.pattern.pairs[i, j].left) == a.n_levels

    def trials(self, f: FactorMap) -> Vec:
        return np.full(f.n_levels, np.inf)
