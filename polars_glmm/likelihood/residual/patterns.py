"""Correlations of any kind: one Cholesky factor for each set of places that occurs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from polars_glmm.covariance.correlations import Correlation, root
from polars_glmm.likelihood.residual.arrangement import Arranged, Whitening
from polars_glmm.likelihood.residual.combinations import PlacePairs
from polars_glmm.typing import Cube, IntVec, Mat, Vec


class SamePlaces(NamedTuple):
    """Groups with the same places (m, q): their rows (m, G)."""

    places: Mat
    rows: IntVec


def same_places(arranged: Arranged) -> tuple[SamePlaces, ...]:
    """The groups by the places of their rows."""
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

    @property
    def combination(self) -> PlacePairs:
        return PlacePairs([pattern.rows for pattern in self.patterns], self.matrices)

    def at(self, x: Vec) -> Whitening | None:
        made = []
        for pattern, (matrix, slopes) in zip(self.patterns, self.matrices(x), strict=True):
            if not np.isfinite(matrix).all():
                return None
            try:
                low = root(matrix)
            except np.linalg.LinAlgError:
                return None
            made.append((pattern, low, slopes))
        return _Patterned(tuple(made), len(x))

    def matrices(self, x: Vec) -> Iterator[tuple[Mat, Cube]]:
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
    def log_variances(self) -> Vec:
        return self._by_row(lambda low: 2.0 * np.log(np.diag(low)))

    def _by_row(self, of: Callable[[Mat], Vec]) -> Vec:
        """What a pattern's L says of its rows, (n,)."""
        out = np.empty(sum(pattern.rows.size for pattern, _, _ in self.made))
        for pattern, low, _ in self.made:
            out[pattern.rows] = of(low)[:, None]
        return out

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

    @property
    def precisions(self) -> Vec:
        return self._by_row(lambda low: np.diag(_inverse(low)))

    def colour(self, white: Mat) -> Mat:
        out = np.empty_like(white)
        for pattern, low, _ in self.made:
            out[:, pattern.rows] = np.einsum("ij,cjG->ciG", low, white[:, pattern.rows])
        return out


def _inverse(low: Mat) -> Mat:
    """C⁻¹ from its root."""
    half = solve_triangular(low, np.eye(len(low)), lower=True, check_finite=False)
    return np.asarray(half.T @ half)
