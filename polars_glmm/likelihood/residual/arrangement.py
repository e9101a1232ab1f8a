"""What a likelihood asks of the correlation C of residuals at one point: log|C|, L⁻¹ for LL' = C, and derivatives.

Rows are in the order of their groups, within a group by place; C is block diagonal over groups. For columns q of rows
the derivative of q'C⁻¹q in a working parameter is all that a gradient needs:

    ∂(−2ℓ)/∂x = ∂log|C|/∂x + Σ_q ∂(q'C⁻¹q)/∂x

over the columns of [ZΛH^(−½)', (X − ZΛB_x)M^(−½)', y − Xβ̂ − ZΛû] (module likelihood.residual.engine). Where C⁻¹ is a
sum of few fixed matrices, sums over rows are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from polars_glmm.covariance.correlations import Correlation, distances
from polars_glmm.design.records import ResidualRows
from polars_glmm.typing import Cube, IntVec, Mat, Vec


class Whitening(Protocol):
    """C at one working vector x (k,), for n rows."""

    @property
    def log_variances(self) -> Vec:
        """log L_ii² (n,): of each row given those before it; their sum is log|C|."""

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

    @property
    def precisions(self) -> Vec:
        """The diagonal of C⁻¹, (n,)."""

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


class Derived(NamedTuple):
    """q'A_kq = ½ Σ(fg' + gf') for columns q: f, g (c, N) of them, and the rows (N,) in whose groups they are."""

    f: Mat
    g: Mat
    rows: IntVec


class Combined(NamedTuple):
    """C⁻¹ and log|C| at one x (k,).

    values a (K,);  slopes ∂a/∂x (k, K);  information ½ tr C⁻¹∂_iC C⁻¹∂_jC (k, k)
    """

    values: Vec
    slopes: Mat
    log_determinant: float
    log_determinant_slopes: Vec
    information: Mat


class FixedParts(Protocol):
    """x → C⁻¹ = Σ a_kA_k for rows that stay."""

    @property
    def count(self) -> int:
        """K."""

    def terms(self, q: Mat) -> Iterator[Derived]:
        """What columns q (c, n) of arranged rows are to each A_k."""

    def at(self, x: Vec) -> Combined | None:
        """C⁻¹ at x, or None where C is not positive definite."""


class Whitenings(Protocol):
    """x → C for rows that stay."""

    @property
    def correlation(self) -> Correlation: ...
    @property
    def arranged(self) -> Arranged: ...

    @property
    def combination(self) -> FixedParts:
        """C⁻¹ as a sum of fixed matrices."""

    def at(self, x: Vec) -> Whitening | None:
        """C at x, or None where it is not positive definite."""


def arrange(residual: ResidualRows, outer: Sequence[IntVec] = ()) -> Arranged:
    """Rows by group and place; groups in the order of `outer` codes (n,), which are constant within each."""
    order = np.lexsort((*residual.places.T[::-1], residual.codes, *outer[::-1]))
    codes = residual.codes[order]
    starts = np.flatnonzero(np.append(True, codes[1:] != codes[:-1]))
    return Arranged(order, starts, np.ascontiguousarray(residual.places[order]))


def typical_distance(arranged: Arranged) -> float:
    """Median distance of neighbours within groups: a length to begin with."""
    apart = [
        distances(arranged.places[start : start + size])
        for start, size in zip(arranged.starts[:200].tolist(), arranged.sizes[:200].tolist(), strict=True)
    ]
    found = np.concatenate([one[one > 0.0] for one in apart])
    return float(np.median(found)) if len(found) else 1.0
