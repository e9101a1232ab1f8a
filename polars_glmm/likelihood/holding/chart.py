"""Coordinates of covariance matrices in which one standard deviation, or one correlation, is a coordinate.

A term's Σ = LL' with the effects in any order: with effect k first, L is lower triangular in that order and its first
entry is the standard deviation of k; with k and j first, the rows of both are sd_k (1, 0) and sd_j (cos a, sin a), and
cos a is their correlation. All other entries are free of bounds. The angle, not the correlation, is the coordinate: at
±1 the likelihood is smooth in it (Pinheiro & Bates 1996, §2.3: the spherical parametrisation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.likelihood.holding.scaled_chart import ScaledChart
from polars_glmm.likelihood.parameters.effects import Effects, TermMap
from polars_glmm.typing import IntVec, Mat, Vec

_LEAST = 1e-6
"""Standard deviation, in units of the linear predictor, from which a logarithm starts."""
LARGEST_LOG = 50.0


@dataclass(frozen=True, slots=True, eq=False)
class TermChart:
    """One term: its factor, the order of its effects, their units, and where its coordinates stand.

    order (r,)      effects in the order of the triangle
    angle           the second row is (log sd, angle) instead of two entries, and the first sd is on the log scale
    unit (r,)       natural size of an effect per unit of the linear predictor
    inward (r, r)   from natural factors in those units to working ones
    """

    factor: int
    term: TermMap
    order: IntVec
    angle: bool
    unit: Vec
    inward: Mat
    place: slice

    def entries(self) -> tuple[IntVec, IntVec]:
        """Rows (places in the order) and columns of the coordinates."""
        return STRUCTURES[self.term.structure].entries(len(self.order))

    def triangle(self, x: Vec) -> Mat:
        """The triangle (r, r) of the effects in their order, in units of the linear predictor."""
        r = len(self.order)
        out = np.zeros((r, r))
        out[self.entries()] = x
        if self.angle:
            first, second = np.exp(np.minimum(x[:2], LARGEST_LOG))
            out[0, 0] = first
            out[1, :2] = second * np.cos(x[2]), second * np.sin(x[2])
        return out

    def working(self, x: Vec) -> Mat:
        """The working factor (r, r) of a term."""
        out = np.empty((len(self.order),) * 2)
        out[self.order] = self.triangle(x)
        return self.inward @ out

    def pull(self, x: Vec, gradient: Mat) -> Vec:
        """∂/∂x from ∂/∂(working factor)."""
        g = (self.inward.T @ gradient)[self.order]
        out = np.asarray(g[self.entries()])
        if self.angle:
            a, b = self.triangle(x)[1, :2]
            out[0] *= float(np.exp(min(x[0], LARGEST_LOG)))
            out[1:3] = g[1, 0] * a + g[1, 1] * b, g[1, 1] * a - g[1, 0] * b
        return out

    def of(self, sigma: Mat) -> Vec:
        """Coordinates of a natural covariance matrix (r, r)."""
        values, vectors = np.linalg.eigh(sigma / np.outer(self.unit, self.unit))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        low = np.asarray(np.linalg.qr(root[self.order].T, mode="r")).T
        low = low * np.where(np.diag(low) < 0.0, -1.0, 1.0)
        x = np.asarray(low[self.entries()])
        if self.angle:
            second = float(np.hypot(low[1, 0], low[1, 1]))
            x[:3] = np.log(max(low[0, 0], _LEAST)), np.log(max(second, _LEAST)), np.arctan2(low[1, 1], low[1, 0])
        return x

    def upright(self, x: Vec) -> Vec:
        """The same Σ with no diagonal entry below zero: −ℓ is even in each column, a search may end on either side."""
        low = self.triangle(x)
        low = low * np.where(np.diag(low) < 0.0, -1.0, 1.0)
        out = np.asarray(low[self.entries()])
        if self.angle:
            out[:3] = x[0], x[1], np.arctan2(low[1, 1], low[1, 0])
        return out

    def spread(self, x: Vec) -> Vec:
        """Size of the row that each coordinate belongs to, 1 for logarithms and angles."""
        own = np.linalg.norm(self.triangle(x), axis=1)[self.entries()[0]]
        if self.angle:
            own[:3] = 1.0
        return np.asarray(own)

    def off_zero(self, x: Vec, least: float) -> Vec:
        """x with every diagonal entry of the triangle at least so large."""
        rows, columns = self.entries()
        low = (rows == columns) & (np.abs(x) < least)
        if self.angle:
            low[:3] = False
        return np.where(low, least, x)

    def sigma(self, x: Vec) -> Mat:
        """The natural covariance matrix (r, r)."""
        factor = np.empty((len(self.order),) * 2)
        factor[self.order] = self.triangle(x)
        factor *= self.unit[:, None]
        return np.asarray(factor @ factor.T)


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """Coordinates of all covariance matrices of a model."""

    effects: Effects
    terms: tuple[TermChart | ScaledChart, ...]
    size: int

    @classmethod
    def of_effects(cls, effects: Effects, lead: Mapping[tuple[int, int], tuple[int, ...]]) -> Chart:
        """The chart in which the effects named in `lead`, by number of factor and first row of a term, come first.

        One effect makes its standard deviation a coordinate, two their correlation.
        """
        terms: list[TermChart | ScaledChart] = []
        at = 0
        for number, f in enumerate(effects.factors):
            for t in f.terms:
                first = lead.get((number, t.start), ())
                order = np.array([*first, *(k for k in range(t.r) if k not in first)], dtype=np.intp)
                outward = f.outward[t.start : t.stop, t.start : t.stop]
                unit = np.linalg.norm(outward, axis=1)
                structure = STRUCTURES[t.structure]
                size = structure.size(t.r)
                if isinstance(structure, Scaled):
                    terms.append(ScaledChart(number, t, structure, unit, slice(at, at + size)))
                    at += size
                    continue
                inward = np.linalg.inv(outward) * unit
                terms.append(TermChart(number, t, order, len(first) == 2, unit, inward, slice(at, at + size)))
                at += size
        return cls(effects, tuple(terms), at)

    def factors(self, x: Vec) -> list[Mat]:
        """Working Λ_f (r_f, r_f), block diagonal over terms, not triangular."""
        out = [np.zeros((f.r, f.r)) for f in self.effects.factors]
        for c in self.terms:
            own = slice(c.term.start, c.term.stop)
            out[c.factor][own, own] = c.working(x[c.place])
        return out

    def pull(self, x: Vec, gradients: list[Mat]) -> Vec:
        """∂/∂x from ∂/∂Λ_f."""
        out = np.empty(self.size)
        for c in self.terms:
            own = slice(c.term.start, c.term.stop)
            out[c.place] = c.pull(x[c.place], gradients[c.factor][own, own])
        return out

    def of(self, sigmas: list[Mat]) -> Vec:
        """Coordinates of natural covariance matrices, in the order of `terms`."""
        return np.concatenate([np.empty(0), *(c.of(sigma) for c, sigma in zip(self.terms, sigmas, strict=True))])

    def sigmas(self, x: Vec) -> list[Mat]:
        """Natural covariance matrices, in the order of `terms`."""
        return [c.sigma(x[c.place]) for c in self.terms]

    def spread(self, x: Vec) -> Vec:
        """Size (size,) of the row that each coordinate belongs to, 1 for logarithms and angles."""
        out = np.ones(self.size)
        for c in self.terms:
            out[c.place] = c.spread(x[c.place])
        return out

    def upright(self, x: Vec) -> Vec:
        """The same matrices with no standard deviation below zero."""
        out = x.copy()
        for c in self.terms:
            out[c.place] = c.upright(x[c.place])
        return out

    def off_zero(self, x: Vec, least: float) -> Vec:
        """x with every diagonal entry of a triangle at least so large: at zero the likelihood has no slope to leave."""
        out = x.copy()
        for c in self.terms:
            out[c.place] = c.off_zero(x[c.place], least)
        return out
