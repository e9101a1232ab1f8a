"""Inverses of correlation matrices as sums of few fixed ones: C⁻¹(x) = Σ_k a_k(x)A_k, rows asked once.

ar1, car1   r the correlation of two neighbours, t = (1 − r)/(1 + r), u their mean and Δ their difference:
C⁻¹ = ½(e_1e_1' + e_me_m') + Σ (t uu' + ΔΔ'/4t), for (q_i − r q_(i−1))²/(1 − r²) is tu² + Δ²/4t + uΔ, and
uΔ = ½(q_i² − q_(i−1)²) leaves the ends of a series. No terms of it cancel as r → ±1.
cs          within and between the groups: (I − 11'/m)/(1 − ρ) + 11'/m/(1 + (m − 1)ρ)
others      the entries of C⁻¹ for each set of places that occurs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polars_glmm.covariance.correlations import Correlation, Markov
from polars_glmm.likelihood.residual.arrangement import Arranged, Combined, Derived
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


@dataclass(frozen=True)
class Neighbours:
    """Processes without memory beyond the row before.

    first (n,)   marks the first row of a group
    gaps         from the row before, the distinct ones;  gap_of (n,) that of each row
    """

    correlation: Markov
    first: BoolVec
    gaps: Vec
    gap_of: IntVec

    @cached_property
    def _counts(self) -> Vec:
        """How many rows have each gap."""
        return np.bincount(self.gap_of[~self.first], minlength=len(self.gaps)).astype(np.float64)

    @property
    def count(self) -> int:
        return 1 + 2 * len(self.gaps)

    def terms(self, q: Mat) -> Iterator[Derived]:
        ends = np.concatenate([np.flatnonzero(self.first), np.flatnonzero(np.append(self.first[1:], True))])
        own = q[:, ends] * np.sqrt(0.5)
        yield Derived(own, own, ends)
        for k in range(len(self.gaps)):
            rows = np.flatnonzero((self.gap_of == k) & ~self.first)
            here, before = q[:, rows], q[:, rows - 1]
            mean, difference = 0.5 * (here + before), here - before
            yield Derived(mean, mean, rows)
            yield Derived(difference, difference, rows)

    def at(self, x: Vec) -> Combined | None:
        m = self._counts
        r, slope = self.correlation.lag(x, self.gaps)
        left = 1.0 - r**2
        if not (left > 0.0).all():
            return None
        t, d_t = (1.0 - r) / (1.0 + r), -2.0 * slope / (1.0 + r) ** 2
        values, slopes = np.ones(self.count), np.zeros((1, self.count))
        values[1::2], values[2::2] = t, 0.25 / t
        slopes[0, 1::2], slopes[0, 2::2] = d_t, -0.25 * d_t / t**2
        information = m @ ((1.0 + r**2) * (slope / left) ** 2)
        log_slope = m @ (-2.0 * r * slope / left)
        return Combined(values, slopes, float(m @ np.log(left)), np.array([log_slope]), np.array([[information]]))


@dataclass(frozen=True)
class WithinBetween:
    """One correlation between any two rows of a group, and groups of few sizes."""

    correlation: Correlation
    arranged: Arranged
    size: int

    @cached_property
    def _classes(self) -> tuple[Vec, Vec]:
        """The distinct sizes of groups, and how many have each."""
        sizes, counts = np.unique(self.arranged.sizes, return_counts=True)
        return sizes.astype(np.float64), counts.astype(np.float64)

    @property
    def count(self) -> int:
        return 1 + len(self._classes[0])

    def terms(self, q: Mat) -> Iterator[Derived]:
        starts, sizes = self.arranged.starts, self.arranged.sizes
        means = np.add.reduceat(q, starts, axis=1) / sizes
        apart = q - np.repeat(means, sizes, axis=1)
        yield Derived(apart, apart, np.arange(q.shape[1]))
        for m in self._classes[0]:
            groups = np.flatnonzero(sizes == m)
            between = means[:, groups] * np.sqrt(m)
            yield Derived(between, between, starts[groups])

    def at(self, x: Vec) -> Combined | None:
        m, counts = self._classes
        rho = float(self.correlation.natural(x, self.size)[0])
        slope = float(self.correlation.natural_slopes(x, self.size)[0, 0])
        apart, along = 1.0 - rho, 1.0 + (m - 1.0) * rho
        if not (apart > 0.0 and (along > 0.0).all()):
            return None
        values = np.append(1.0 / apart, 1.0 / along)
        slopes = slope * np.append(1.0 / apart**2, -(m - 1.0) / along**2)
        log_det = float(counts @ ((m - 1.0) * np.log(apart) + np.log(along)))
        log_slope = slope * float(counts @ ((m - 1.0) * (1.0 / along - 1.0 / apart)))
        information = 0.5 * slope**2 * float(counts @ ((m - 1.0) / apart**2 + ((m - 1.0) / along) ** 2))
        return Combined(values, slopes[None], log_det, np.array([log_slope]), np.array([[information]]))


@dataclass(frozen=True)
class PlacePairs:
    """Any correlation where few sets of places occur: groups (m, G) of rows for each, and their C and ∂C/∂x."""

    groups: Sequence[IntVec]
    matrices: Callable[[Vec], Iterator[tuple[Mat, Cube]]]

    @property
    def count(self) -> int:
        return sum(len(rows) * (len(rows) + 1) // 2 for rows in self.groups)

    def terms(self, q: Mat) -> Iterator[Derived]:
        for rows in self.groups:
            for i, j in zip(*np.tril_indices(len(rows)), strict=True):
                f = q[:, rows[i]]
                yield Derived(f, f, rows[i]) if i == j else Derived(2.0 * f, q[:, rows[j]], rows[i])

    def at(self, x: Vec) -> Combined | None:
        k, log_det = len(x), 0.0
        values, slopes, log_slopes, information = [], [np.empty((k, 0))], np.zeros(k), np.zeros((k, k))
        for rows, (matrix, changes) in zip(self.groups, self.matrices(x), strict=True):
            if not np.isfinite(matrix).all():
                return None
            try:
                low = np.linalg.cholesky(matrix)
            except np.linalg.LinAlgError:
                return None
            below, size = np.tril_indices(len(rows)), rows.shape[1]
            half = np.linalg.inv(low)
            inverse = half.T @ half
            inner = inverse @ changes
            values.append(inverse[below])
            slopes.append(-(inner @ inverse)[:, below[0], below[1]])
            log_det += 2.0 * size * float(np.log(np.diag(low)).sum())
            log_slopes += size * np.einsum("kii->k", inner)
            information += 0.5 * size * np.einsum("aij,bji->ab", inner, inner)
        return Combined(np.concatenate(values), np.concatenate(slopes, axis=1), log_det, log_slopes, information)
