"""The quickest whitening that there is: bidiagonal for processes in time, closed for cs, by patterns for others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.covariance.correlations import Correlation, Markov
from polars_glmm.design.records import ResidualRows
from polars_glmm.likelihood.residual.arrangement import Arranged, Whitening, Whitenings
from polars_glmm.likelihood.residual.combinations import Neighbours, WithinBetween
from polars_glmm.likelihood.residual.patterns import Patterns, same_places
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


def whitenings(residual: ResidualRows, arranged: Arranged) -> Whitenings:
    """The quickest that there is: bidiagonal for processes in time, in closed form for cs, by patterns for others."""
    one = residual.correlation
    if isinstance(one, Markov) and one.markov:
        first = np.zeros(len(arranged.order), dtype=np.bool_)
        first[arranged.starts] = True
        gaps = np.where(first, 1.0, np.append(0.0, np.diff(arranged.places[:, 0])))
        return Chains(one, arranged, first, *np.unique(gaps, return_inverse=True))
    if one.kind == "any":
        return Sums(one, arranged, residual.size)
    return Patterns(one, arranged, residual.size, same_places(arranged))


@dataclass(frozen=True, slots=True, eq=False)
class Chains:
    """Processes without memory beyond the row before (ar1, car1).

    gaps   the distinct ones;  gap_of (n,) that of each row
    """

    correlation: Markov
    arranged: Arranged
    first: BoolVec
    gaps: Vec
    gap_of: IntVec

    @property
    def combination(self) -> Neighbours:
        return Neighbours(self.correlation, self.first, self.gaps, self.gap_of)

    def at(self, x: Vec) -> Whitening | None:
        r, slope = (np.where(self.first, 0.0, one[self.gap_of]) for one in self.correlation.lag(x, self.gaps))
        left = 1.0 - r**2
        return _Chain(r, slope, left, self.first) if (left > 0.0).all() else None


@dataclass(frozen=True, slots=True, eq=False)
class _Chain:
    """w_i = (q_i − r_i q_(i−1))/√(1 − r_i²), with r = 0 in the first row of a group."""

    r: Vec
    slope: Vec
    left: Vec
    first: BoolVec

    @property
    def by_place(self) -> list[IntVec]:
        """Rows that are second in their groups, third, …"""
        rows = np.arange(len(self.first))
        place = rows - np.maximum.accumulate(np.where(self.first, rows, 0))
        order = np.argsort(place, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(place[order])) + 1)[1:]

    @property
    def log_variances(self) -> Vec:
        return np.asarray(np.log(self.left))

    @property
    def log_determinant_slopes(self) -> Vec:
        return np.array([float((-2.0 * self.r * self.slope / self.left).sum())])

    def whiten(self, q: Mat) -> Mat:
        w = q.copy()
        w[:, 1:] -= self.r[1:] * q[:, :-1]
        w /= np.sqrt(self.left)
        return w

    def solve(self, q: Mat) -> Mat:
        w = self.whiten(q) / np.sqrt(self.left)
        out = w.copy()
        out[:, :-1] -= self.r[1:] * w[:, 1:]
        return out

    def forms(self, q: Mat) -> Cube:
        w = self.whiten(q)[:, 1:]
        cross = (q[:, :-1] * (self.slope / np.sqrt(self.left))[1:]) @ w.T
        square = (w * (2.0 * self.r * self.slope / self.left)[1:]) @ w.T
        return np.asarray(square - cross - cross.T)[None]

    def form_traces(self, q: Mat) -> Vec:
        w = self.whiten(q)[:, 1:]
        cross = np.einsum("cn,cn,n->", q[:, :-1], w, (self.slope / np.sqrt(self.left))[1:])
        square = np.einsum("cn,cn,n->", w, w, (2.0 * self.r * self.slope / self.left)[1:])
        return np.array([float(square - 2.0 * cross)])

    @property
    def precisions(self) -> Vec:
        after = np.append(self.r[1:] ** 2 / self.left[1:], 0.0)
        return np.asarray(1.0 / self.left + after)

    def colour(self, white: Mat) -> Mat:
        out = white * np.sqrt(self.left)
        for rows in self.by_place:  # all second rows, all third ones …
            out[:, rows] += self.r[rows] * out[:, rows - 1]
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """One correlation between any two rows of a group (cs): all that counts is the sum of a group's rows."""

    correlation: Correlation
    arranged: Arranged
    size: int

    @property
    def combination(self) -> WithinBetween:
        return WithinBetween(self.correlation, self.arranged, self.size)

    def at(self, x: Vec) -> Whitening | None:
        rho = float(self.correlation.natural(x, self.size)[0])
        slope = float(self.correlation.natural_slopes(x, self.size)[0, 0])
        m = self.arranged.sizes.astype(np.float64)
        if not (rho < 1.0 and (1.0 + (m - 1.0) * rho > 0.0).all()):
            return None
        return _Exchange(rho, slope, m, self.arranged.starts)


@dataclass(frozen=True, slots=True, eq=False)
class _Exchange:
    """C⁻¹ = (I − ρ 11'/(1 + (m − 1)ρ))/(1 − ρ) within a group of m rows.

    Row i given the i − 1 before it, of sum s, has mean ρ s/(1 + (i − 2)ρ) and variance (1 − ρ)(1 + (i − 1)ρ)/
    (1 + (i − 2)ρ): this is L⁻¹. Where any root will do, in `colour`, it is the symmetric one.
    """

    rho: float
    slope: float
    m: Vec
    starts: IntVec

    @property
    def _along(self) -> Vec:
        """Eigenvalue of C along the sum of a group, (G,)."""
        return 1.0 + (self.m - 1.0) * self.rho

    def _given_before(self) -> tuple[Vec, Vec]:
        """Of every row given those before it in its group: the weight of each of them, and its variance."""
        sizes = self.m.astype(np.intp)
        before = np.arange(int(sizes.sum())) - np.repeat(self.starts, sizes)
        along = 1.0 + (before - 1.0) * self.rho
        variance = (1.0 - self.rho) * (along + self.rho) / along
        return np.asarray(self.rho / along), np.where(before > 0, variance, np.ones_like(along))

    @property
    def log_variances(self) -> Vec:
        return np.asarray(np.log(self._given_before()[1]))

    @property
    def log_determinant_slopes(self) -> Vec:
        return np.array([self.slope * float(((self.m - 1.0) * (1.0 / self._along - 1.0 / (1.0 - self.rho))).sum())])

    def _shrunk(self, q: Mat, share: Vec) -> Mat:
        """q less a share (G,) of its mean in each group."""
        means = np.add.reduceat(q, self.starts, axis=1) * (share / self.m)
        return np.asarray(q - np.repeat(means, self.m.astype(np.intp), axis=1))

    def whiten(self, q: Mat) -> Mat:
        sums = np.cumsum(q, axis=1) - q
        sums -= np.repeat(sums[:, self.starts], self.m.astype(np.intp), axis=1)
        weight, variance = self._given_before()
        return np.asarray((q - sums * weight) / np.sqrt(variance))

    def solve(self, q: Mat) -> Mat:
        return self._shrunk(q, 1.0 - (1.0 - self.rho) / self._along) / (1.0 - self.rho)

    def forms(self, q: Mat) -> Cube:
        sums = np.add.reduceat(q, self.starts, axis=1)
        return np.asarray(self.slope * ((q @ q.T) * self._inner - (sums * self._outer) @ sums.T))[None]

    def form_traces(self, q: Mat) -> Vec:
        sums = np.add.reduceat(q, self.starts, axis=1)
        squares = np.einsum("cG,cG,G->", sums, sums, self._outer)
        return np.array([self.slope * (float(np.vdot(q, q)) * self._inner - float(squares))])

    @property
    def _inner(self) -> float:
        """d/dρ of 1/(1 − ρ)."""
        return 1.0 / (1.0 - self.rho) ** 2

    @property
    def _outer(self) -> Vec:
        """d/dρ of ρ/((1 − ρ)(1 + (m − 1)ρ)), (G,)."""
        below = (1.0 - self.rho) * self._along
        return np.asarray((1.0 + (self.m - 1.0) * self.rho**2) / below**2)

    @property
    def precisions(self) -> Vec:
        return np.repeat((1.0 - self.rho / self._along) / (1.0 - self.rho), self.m.astype(np.intp))

    def colour(self, white: Mat) -> Mat:
        return np.asarray(self._shrunk(white, 1.0 - np.sqrt(self._along / (1.0 - self.rho))) * np.sqrt(1.0 - self.rho))
