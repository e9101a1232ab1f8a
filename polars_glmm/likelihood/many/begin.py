"""Where the searches of many models begin, given what another fit of the same terms found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.likelihood.many.engine import SearchLayout
from polars_glmm.likelihood.many.model import BatchModel
from polars_glmm.likelihood.parameters.effects import NOTICEABLE
from polars_glmm.typing import Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class BatchStart:
    """Natural parameters to begin from.

    covariances   per term, in the order of the formula, of the columns as named
    beta (p,)     coefficients of the columns as named, or None where they are not known
    phi           the constant dispersion, or None where there is none
    """

    covariances: tuple[Mat, ...]
    beta: Vec | None
    phi: float | None

    def theta(self, model: BatchModel, layout: SearchLayout, sigma: float | None = None) -> Mat:
        """θ (M, q) of every model, in units of σ where it is given; no direction is left without variance."""
        unit = 1.0 if sigma is None else sigma
        out = np.zeros((model.rows.n_models, layout.r, layout.r))
        for t, covariance in zip(model.in_formula, self.covariances, strict=True):
            own = slice(t.start, t.stop)
            back = np.linalg.inv(model.outward[:, own, own]) / unit
            inside = back @ covariance @ back.swapaxes(1, 2)
            if STRUCTURES[t.structure].correlated:
                values, vectors = np.linalg.eigh(inside)
                spread = np.maximum(values, NOTICEABLE**2)
                out[:, own, own] = np.linalg.cholesky((vectors * spread[:, None]) @ vectors.swapaxes(1, 2))
            else:
                places = np.arange(t.start, t.stop)
                out[:, places, places] = np.sqrt(np.maximum(np.einsum("mii->mi", inside), NOTICEABLE**2))
        return np.asarray(out[:, layout.rows, layout.columns])
