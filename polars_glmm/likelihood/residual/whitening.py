"""What a likelihood asks of the correlation C of residuals at one point: log|C|, L⁻¹ for LL' = C, and derivatives.

Rows are in the order of their groups, within a group by place; C is block diagonal over groups. For columns q of rows
the derivative of q'C⁻¹q in a working parameter is all that a gradient needs:

    ∂(−2ℓ)/∂x = ∂log|C|/∂x + Σ_q ∂(q'C⁻¹q)/∂x

over the columns of [ZΛH^(−½)', (X − ZΛB_x)M^(−½)', y − Xβ̂ − ZΛû] (module likelihood.residual.engine).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy.linalg import solve_triangular

from polars_glmm.covariance.correlations import Correlation, Markov, distances, root
from polars_glmm.design.records import ResidualRows
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


class Whitening(Protocol):
    """C at one working vector x (k,), for n rows."""

    @property
    def log_determinant(self) -> float:
        """log|C|."""

    @property
    def log_determinant_slopes(self) -> Vec:
        """∂log|C|/∂x (k,)."""

    def whiten(self, q: Mat) -> Mat:
        """L⁻¹q for columns q, here rows of an array (c, n)."""

    def solve(self, q: Mat) -> Mat:
        """C⁻¹q, (c, n)."""

    def forms(self, q: Mat) -> Cube:
        """∂(q_a'C⁻¹q_b)/∂x_j, (k, c, c)."""

    def form_traces(self, q: Mat) -> Vec:
        """Σ_a ∂(q_a'C⁻¹q_a)/∂x_j, (k,)."""

    def information(self) -> Mat:
        """½ tr C⁻¹∂_iC C⁻¹∂_jC, (k, k)."""

    def colour(self, white: Mat) -> Mat:
        """Lw for independent columns w, (c, n)."""


class Arranged(NamedTuple):
    """Rows in the order of their groups: their order, where each group starts (G,), and their places (n, q)."""

    order: IntVec
    starts: IntVec
    places: Mat

    @property
    def sizes(self) -> IntVec:
        """Rows of each group, (G,)."""
        return np.diff(np.append(self.starts, len(self.order)))


class Whitenings(Protocol):
    """x → C for rows that stay."""

    @property
    def correlation(self) -> Correlation: ...
    @property
    def arranged(self) -> Arranged: ...

    def at(self, x: Vec) -> Whitening | None:
        """C at x, or None where it is not positive definite."""


def arrange(residual: ResidualRows, outer: Sequence[IntVec] = ()) -> Arranged:
    """Rows by group and place; groups in the order of `outer` codes (n,), which are constant within each."""
    order = np.lexsort((*residual.places.T[::-1], residual.codes, *outer[::-1]))
    codes = residual.codes[order]
    starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
    return Arranged(order, starts, np.ascontiguousarray(residual.places[order]))


def whitenings(residual: ResidualRows, arranged: Arranged) -> Whitenings:
    """The quickest that there is: bidiagonal for processes in time, in closed form for cs, by patterns for others."""
    one = residual.correlation
    if isinstance(one, Markov) and one.markov:
        first = np.zeros(len(arranged.order), dtype=np.bool_)
        first[arranged.starts] = True
        gaps = np.append(0.0, np.diff(arranged.places[:, 0]))
        return Chains(one, arranged, first, np.where(first, 1.0, gaps))
    if one.kind == "any":
        return Sums(one, arranged, residual.size)
    return Patterns(one, arranged, residual.size, _patterns(arranged))


@dataclass(frozen=True, slots=True, eq=False)
class Chains:
    """Processes without memory beyond the row before (ar1, car1)."""

    correlation: Markov
    arranged: Arranged
    first: BoolVec
    gaps: Vec

    def at(self, x: Vec) -> Whitening | None:
        r, slope = self.correlation.lag(x, self.gaps)
        r, slope = np.where(self.first, 0.0, r), np.where(self.first, 0.0, slope)
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
    def log_determinant(self) -> float:
        return float(np.log(self.left).sum())

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

    def information(self) -> Mat:
        return np.array([[float(((1.0 + self.r**2) * (self.slope / self.left) ** 2).sum())]])

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

    @property
    def log_determinant(self) -> float:
        return float(((self.m - 1.0) * np.log1p(-self.rho) + np.log(self._along)).sum())

    @property
    def log_determinant_slopes(self) -> Vec:
        return np.array([self.slope * float(((self.m - 1.0) * (1.0 / self._along - 1.0 / (1.0 - self.rho))).sum())])

    def _shrunk(self, q: Mat, share: Vec) -> Mat:
        """q less a share (G,) of its mean in each group."""
        means = np.add.reduceat(q, self.starts, axis=1) * (share / self.m)
        return np.asarray(q - np.repeat(means, self.m.astype(np.intp), axis=1))

    def whiten(self, q: Mat) -> Mat:
        sizes = self.m.astype(np.intp)
        before = np.arange(q.shape[1]) - np.repeat(self.starts, sizes)
        sums = np.cumsum(q, axis=1) - q
        sums -= np.repeat(sums[:, self.starts], sizes, axis=1)
        along = 1.0 + (before - 1.0) * self.rho
        variance = np.where(before > 0, (1.0 - self.rho) * (along + self.rho) / along, 1.0)
        return np.asarray((q - sums * (self.rho / along)) / np.sqrt(variance))

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

    def information(self) -> Mat:
        both = (self.m - 1.0) / (1.0 - self.rho) ** 2 + ((self.m - 1.0) / self._along) ** 2
        return np.array([[0.5 * self.slope**2 * float(both.sum())]])

    def colour(self, white: Mat) -> Mat:
        return np.asarray(self._shrunk(white, 1.0 - np.sqrt(self._along / (1.0 - self.rho))) * np.sqrt(1.0 - self.rho))


class SamePlaces(NamedTuple):
    """Groups with the same places (m, q): their rows (m, G)."""

    places: Mat
    rows: IntVec


def _patterns(arranged: Arranged) -> tuple[SamePlaces, ...]:
    found: dict[bytes, list[int]] = {}
    sizes = arranged.sizes
    for g, (start, size) in enumerate(zip(arranged.starts.tolist(), sizes.tolist(), strict=True)):
        found.setdefault(arranged.places[start : start + size].tobytes(), []).append(g)
    made = []
    for groups in found.values():
        start, size = arranged.starts[groups], int(sizes[groups[0]])
        rows = np.arange(size)[:, None] + start
        made.append(SamePlaces(arranged.places[rows[:, 0]], rows))
    return tuple(made)


@dataclass(frozen=True, slots=True, eq=False)
class Patterns:
    """Any correlation: one Cholesky factor for each set of places that occurs."""

    correlation: Correlation
    arranged: Arranged
    size: int
    patterns: tuple[SamePlaces, ...]

    def at(self, x: Vec) -> Whitening | None:
        made = []
        for pattern, (matrix, slopes) in zip(self.patterns, self._matrices(x), strict=True):
            if not np.isfinite(matrix).all():
                return None
            try:
                low = root(matrix)
            except np.linalg.LinAlgError:
                return None
            made.append((pattern, low, slopes))
        return _Patterned(tuple(made), len(x))

    def _matrices(self, x: Vec) -> Iterator[tuple[Mat, Cube]]:
        """C and ∂C/∂x of every pattern: of positions those of all, made once."""
        one, size = self.correlation, self.size
        if one.kind in ("order", "label"):
            every = np.arange(size, dtype=np.float64)[:, None]
            whole, slopes = one.matrix(x, every, size), one.slopes(x, every, size)
            for pattern in self.patterns:
                at = pattern.places[:, 0].astype(np.intp)
                yield whole[at[:, None], at], slopes[:, at[:, None], at]
            return
        for pattern in self.patterns:
            yield one.matrix(x, pattern.places, size), one.slopes(x, pattern.places, size)


@dataclass(frozen=True, slots=True, eq=False)
class _Patterned:
    """Patterns with their L (m, m) and ∂C/∂x (k, m, m)."""

    made: tuple[tuple[SamePlaces, Mat, Cube], ...]
    k: int

    @property
    def log_determinant(self) -> float:
        return float(sum(2.0 * pattern.rows.shape[1] * np.log(np.diag(low)).sum() for pattern, low, _ in self.made))

    @property
    def log_determinant_slopes(self) -> Vec:
        out = np.zeros(self.k)
        for pattern, low, slopes in self.made:
            out += pattern.rows.shape[1] * np.einsum("ij,kij->k", _inverse(low), slopes)
        return out

    def _each(self, q: Mat, low: Mat, rows: IntVec, *, twice: bool) -> Mat:
        """L⁻¹q, or C⁻¹q, in the rows of a pattern: (m, c, G)."""
        own = np.moveaxis(q[:, rows], 1, 0)
        flat = solve_triangular(low, own.reshape(len(low), -1), lower=True, check_finite=False)
        if twice:
            flat = solve_triangular(low, flat, lower=True, trans="T", check_finite=False)
        return np.asarray(flat.reshape(own.shape))

    def _filled(self, q: Mat, *, twice: bool) -> Mat:
        out = np.empty_like(q)
        for pattern, low, _ in self.made:
            out[:, pattern.rows] = np.moveaxis(self._each(q, low, pattern.rows, twice=twice), 0, 1)
        return out

    def whiten(self, q: Mat) -> Mat:
        return self._filled(q, twice=False)

    def solve(self, q: Mat) -> Mat:
        return self._filled(q, twice=True)

    def forms(self, q: Mat) -> Cube:
        out = np.zeros((self.k, len(q), len(q)))
        for pattern, low, slopes in self.made:
            u = self._each(q, low, pattern.rows, twice=True)
            for j, slope in enumerate(slopes):
                out[j] -= np.tensordot(u, np.tensordot(slope, u, (1, 0)), ((0, 2), (0, 2)))
        return out

    def form_traces(self, q: Mat) -> Vec:
        out = np.zeros(self.k)
        for pattern, low, slopes in self.made:
            u = self._each(q, low, pattern.rows, twice=True).reshape(len(low), -1)
            out -= np.einsum("kij,ij->k", slopes, u @ u.T)
        return out

    def information(self) -> Mat:
        out = np.zeros((self.k, self.k))
        for pattern, low, slopes in self.made:
            inner = _inverse(low) @ slopes
            out += 0.5 * pattern.rows.shape[1] * np.einsum("aij,bji->ab", inner, inner)
        return out

    def colour(self, white: Mat) -> Mat:
        out = np.empty_like(white)
        for pattern, low, _ in self.made:
            out[:, pattern.rows] = np.einsum("ij,cjG->ciG", low, white[:, pattern.rows])
        return out


def _inverse(low: Mat) -> Mat:
    """C⁻¹ from its root."""
    half = solve_triangular(low, np.eye(len(low)), lower=True, check_finite=False)
    return np.asarray(half.T @ half)


def typical_distance(arranged: Arranged) -> float:
    """Median distance of neighbours within groups: a length to begin with."""
    apart = [
        distances(arranged.places[start : start + size])
        for start, size in zip(arranged.starts[:200].tolist(), arranged.sizes[:200].tolist(), strict=True)
    ]
    found = np.concatenate([one[one > 0.0] for one in apart])
    return float(np.median(found)) if len(found) else 1.0
