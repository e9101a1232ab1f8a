"""The levels of one grouping factor one by one, where residuals are correlated within them, the parameters held."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from polars_glmm.control import Control
from polars_glmm.design.records import Design
from polars_glmm.design.selection import design_of
from polars_glmm.families.base import Family
from polars_glmm.likelihood.known.joint import HeldParameters, known_model
from polars_glmm.likelihood.known.levels import LevelLikelihood, LevelValues
from polars_glmm.likelihood.residual.held import Series
from polars_glmm.typing import Cube, Mat, Vec

_STEP = 1e-3
"""Step of differences in x, whose error is of its fourth power."""


@dataclass(frozen=True, slots=True, eq=False)
class SeriesLevels:
    """As LevelLikelihood; ψ = (beta, entries of the root of Σ by term, log φ, x), x (k,) the correlation's unbounded.

    plain    the same rows as if residuals were independent
    series   the rows at φ = 1 and some x
    """

    plain: LevelLikelihood
    series: Series
    family: Family
    control: Control

    @classmethod
    def of(cls, design: Design, family: Family, control: Control, held: HeldParameters) -> SeriesLevels:
        """Raises ModelError as LevelLikelihood.of, and where correlated rows are in several levels."""
        assert held.residual is not None  # else residuals are independent
        plain = LevelLikelihood.of(replace(design, residual=None), family)
        return cls(plain, Series(design, np.zeros(1), held.residual), family, control)

    @property
    def n_obs(self) -> Vec:
        """Observations of each level, (G,)."""
        return self.plain.n_obs

    def psi(self, held: HeldParameters) -> Vec:
        """ψ of held parameters."""
        return np.concatenate([self.plain.psi(held), self.series.working])

    def held(self, psi: Vec) -> HeldParameters:
        """The parameters behind ψ."""
        k = len(self.series.values)
        return replace(self.plain.held(psi[:-k]), residual=self._at(psi[-k:]).values)

    def at(self, psi: Vec) -> LevelValues:
        """Likelihoods and scores, those in x by differences."""
        k = len(self.series.values)
        here, slopes = self._whitened(psi), []
        for step in _STEP * np.eye(len(psi))[-k:]:
            near, far = (self._whitened(psi + m * step).value - self._whitened(psi - m * step).value for m in (1, 2))
            slopes.append((8.0 * near - far) / (12.0 * _STEP))
        return here._replace(scores=np.column_stack([here.scores, *slopes]))

    def information(self, psi: Vec) -> Cube:
        """X_g'V_g⁻¹X_g, (p, p, G)."""
        return self._whitened(psi).fixed_information

    def densities(self, psi: Mat) -> Vec:
        """ℓ_g (G,), each level at parameters of its own (G, P)."""
        design = self.series.design
        codes = design.factors[0].codes
        return np.array([
            known_model(design_of(design, codes == g), self.family, self.control, self.held(own)).loglik()
            for g, own in enumerate(psi)
        ])  # fmt: skip

    def _at(self, x: Vec) -> Series:
        return self.series.moved(np.append(0.0, x - self.series.working))

    def _whitened(self, psi: Vec) -> LevelValues:
        """Likelihoods, and scores in all but x."""
        k, factor = len(self.series.values), self.series.design.factors[0]
        white = self._at(psi[-k:]).whitened()
        found = LevelLikelihood.of(white.design, self.family).at(psi[:-k])
        log_r = np.bincount(factor.codes, white.log_r, factor.n_levels)
        return found._replace(value=found.value - 0.5 * log_r)
