"""Coordinates of a covariance matrix whose standard deviations and correlations are parameters of a structure.

They are the structure's own parameters: its standard deviations, or roots of them, and its angles, all without bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.covariance.scaled import Scaled
from polars_glmm.likelihood.parameters.effects import TermMap
from polars_glmm.likelihood.parameters.parts import pair_name
from polars_glmm.typing import Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class ScaledChart:
    """One term with such a structure: its factor, and where its coordinates stand; unit (r,) as in TermChart."""

    factor: int
    term: TermMap
    structure: Scaled
    unit: Vec
    place: slice

    def triangle(self, x: Vec) -> Mat:
        """A factor (r, r) in units of the linear predictor."""
        return self.structure.factor(x, self.term.r)

    def working(self, x: Vec) -> Mat:
        """The working factor (r, r) of the term: units are those of the effects themselves."""
        return self.triangle(x)

    def pull(self, x: Vec, gradient: Mat) -> Vec:
        """∂/∂x from ∂/∂(working factor)."""
        return self.structure.pull(x, self.term.r, gradient)

    def of(self, sigma: Mat) -> Vec:
        """Coordinates of a natural covariance matrix (r, r)."""
        return self.structure.of(sigma / np.outer(self.unit, self.unit))

    def sigma(self, x: Vec) -> Mat:
        """The natural covariance matrix (r, r)."""
        half = self.unit[:, None] * self.triangle(x)
        return np.asarray(half @ half.T)

    def upright(self, x: Vec) -> Vec:
        """The same Σ with standard deviations of the other sign, where none is above zero."""
        k = self.structure.scales(self.term.r)
        return np.append(np.abs(x[:k]), x[k:]) if (x[:k] <= 0.0).all() else x

    def spread(self, x: Vec) -> Vec:
        """Size of every coordinate; of an angle 1."""
        k = self.structure.scales(self.term.r)
        return np.append(np.abs(x[:k]), np.ones(len(x) - k))

    def off_zero(self, x: Vec, least: float) -> Vec:
        """x with no standard deviation nearer to zero."""
        k = self.structure.scales(self.term.r)
        out = x.copy()
        near = self.structure.sds(x[:k]) < least
        out[:k] = np.where(near, self.structure.roots(np.full(k, least)), x[:k])
        return out

    def of_effect(self, k: int) -> int:
        """The coordinate of the standard deviation of an effect."""
        return 0 if self.structure.equal else k

    def correlations(self, group: str) -> list[str]:
        """Names of the correlations, or of the range, that are parameters."""
        labels = self.term.labels
        pairs = self.structure.root.pairs(self.term.r)
        return [pair_name(self.term.structure, group, labels[k], labels[j]) for j, k in pairs]

    @property
    def first_angle(self) -> int:
        return self.structure.scales(self.term.r)
