"""Spline bases as piecewise polynomials: knots in, one list of pieces per column out.

A basis is an array (pieces, order, columns): coefficients of ((x − origin)/width)^j on each piece.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from polars_glmm.typing import Cube, Mat, Vec


class Pieces(NamedTuple):
    """breaks (k,); origins and widths (k + 1,); coefficients (k + 1, order, columns)."""

    breaks: Vec
    origins: Vec
    widths: Vec
    coefficients: Cube

    def times(self, matrix: Mat) -> Pieces:
        """The basis with its columns combined: each row of the design becomes row @ matrix."""
        return self._replace(coefficients=self.coefficients @ matrix)

    def column(self, j: int) -> tuple[tuple[float, ...], ...]:
        """The pieces of one column, as a Piecewise node holds them."""
        rows = np.column_stack([self.origins, self.widths, self.coefficients[:, :, j]])
        return tuple(tuple(row) for row in rows.tolist())

    def values(self, x: Vec) -> Mat:
        """The design (n, columns) at x."""
        k = np.searchsorted(self.breaks, x, side="right")
        t = ((x - self.origins[k]) / self.widths[k])[:, None]
        value: Mat = self.coefficients[k, -1]
        for j in range(self.coefficients.shape[1] - 2, -1, -1):
            value = value * t + self.coefficients[k, j]
        return value

    def derivative(self, x: float, order: int) -> Vec:
        """The derivative of every column at x, from the piece on its left where x is a break."""
        k = int(np.searchsorted(self.breaks, x, side="left"))
        t, width = (x - self.origins[k]) / self.widths[k], self.widths[k]
        powers = np.polynomial.polynomial.polyder(self.coefficients[k], order)
        value: Vec = np.polynomial.polynomial.polyval(t, powers) / width**order
        return value


def b_spline(knots: Vec, degree: int) -> Pieces:
    """B-splines on a full knot sequence: the Cox–de Boor recursion (de Boor 2001, ch. IX), on polynomials, not values.

    The outer pieces go on beyond the boundary knots.
    """
    cuts = np.unique(knots)
    n = len(knots) - degree - 1
    coefficients = np.zeros((len(cuts) - 1, degree + 1, n))
    for piece, (low, high) in enumerate(pairwise(cuts)):
        width = high - low
        parts = [np.array([1.0]) if knots[i] <= low < knots[i + 1] else np.zeros(1) for i in range(len(knots) - 1)]
        for d in range(1, degree + 1):
            raised = []
            for i in range(len(knots) - d - 1):
                value = np.zeros(d + 1)
                if knots[i + d] > knots[i]:
                    value += np.convolve(parts[i], np.array([low - knots[i], width]) / (knots[i + d] - knots[i]))
                if knots[i + d + 1] > knots[i + 1]:
                    ramp = np.array([knots[i + d + 1] - low, -width]) / (knots[i + d + 1] - knots[i + 1])
                    value += np.convolve(parts[i + 1], ramp)
                raised.append(value)
            parts = raised
        coefficients[piece] = np.column_stack(parts)
    return Pieces(cuts[1:-1], cuts[:-1], np.diff(cuts), coefficients)


def natural_cubic(knots: Vec) -> Pieces:
    """Natural cubic spline through values at the knots, linear outside (Wood 2017, §5.3.1); columns are the values."""
    h = np.diff(knots)
    n = len(knots)
    bands = np.zeros((n - 2, n - 2))
    second = np.zeros((n - 2, n))
    for i in range(n - 2):
        bands[i, i] = (h[i] + h[i + 1]) / 3.0
        if i + 1 < n - 2:
            bands[i, i + 1] = bands[i + 1, i] = h[i + 1] / 6.0
        second[i, [i, i + 1, i + 2]] = 1.0 / h[i], -1.0 / h[i] - 1.0 / h[i + 1], 1.0 / h[i + 1]
    curvature = np.zeros((n, n))
    if n > 2:
        curvature[1:-1] = np.linalg.solve(bands, second)
    inner = _cubic_pieces(h, np.eye(n), curvature)
    return _linear_outside(Pieces(knots[1:-1], knots[:-1], h, inner), knots[0], knots[-1])


def cyclic_cubic(knots: Vec) -> Pieces:
    """Cubic spline whose ends meet in value, slope and curvature (Wood 2017, §5.3.2), for x wrapped into the knots."""
    h = np.diff(knots)
    n = len(h)
    after = np.roll(np.arange(n), -1)
    bands, second = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        left = h[i - 1]
        bands[i, i] += (left + h[i]) / 3.0
        bands[i, i - 1] += left / 6.0
        bands[i, after[i]] += h[i] / 6.0
        second[i, i] += -1.0 / left - 1.0 / h[i]
        second[i, i - 1] += 1.0 / left
        second[i, after[i]] += 1.0 / h[i]
    curvature = np.linalg.solve(bands, second)
    ends = np.append(np.arange(n), 0)
    inner = _cubic_pieces(h, np.eye(n)[ends], curvature[ends])
    return Pieces(knots[1:-1], knots[:-1], h, inner)


def _cubic_pieces(h: Vec, values: Mat, curvature: Mat) -> Cube:
    """Pieces from values and second derivatives at the knots, in t = (x − left)/h."""
    a, b = values[:-1], values[1:]
    step = h[:, None] ** 2 / 6.0
    c, d = curvature[:-1] * step, curvature[1:] * step
    return np.stack([a, b - a - 2.0 * c - d, 3.0 * c, d - c], axis=1)


def natural_b_spline(knots: Vec, *, intercept: bool) -> Pieces:
    """Cubic B-splines that are linear beyond the boundary knots: R's splines::ns (Hastie 1992, ch. 7).

    The second derivatives at both ends are constraints C'b = 0; the columns are the B-splines times an orthonormal
    basis of the null space, from the QR decomposition of C.
    """
    basis = b_spline(knots, 3)
    low, high = float(knots[0]), float(knots[-1])
    constraints = np.column_stack([basis.derivative(low, 2), basis.derivative(high, 2)])
    start = 0 if intercept else 1
    q, _ = np.linalg.qr(constraints[start:], mode="complete")
    free = np.zeros((constraints.shape[0], q.shape[1] - 2))
    free[start:] = q[:, 2:]
    return _linear_outside(basis.times(free), low, high)


HARRELL = {
    3: (0.1, 0.5, 0.9),
    4: (0.05, 0.35, 0.65, 0.95),
    5: (0.05, 0.275, 0.5, 0.725, 0.95),
    6: (0.05, 0.23, 0.41, 0.59, 0.77, 0.95),
    7: (0.025, 0.1833, 0.3417, 0.5, 0.6583, 0.8167, 0.975),
}
"""Quantiles at which knots stand, by their number (Harrell 2001, Regression Modeling Strategies, §2.4.5)."""


def restricted_cubic(knots: Vec) -> Pieces:
    """The k − 2 nonlinear columns of a restricted cubic spline (Harrell 2001, eq. 2.25), divided by (t_k − t_1)².

    (x − t_j)₊³ − (x − t_{k−1})₊³ (t_k − t_j)/(t_k − t_{k−1}) + (x − t_k)₊³ (t_{k−1} − t_j)/(t_k − t_{k−1}): zero before
    the first knot, a straight line after the last.
    """
    k, last = len(knots), knots[-1] - knots[-2]
    origins = np.concatenate([knots[:1], knots])
    widths = np.concatenate([[1.0], np.diff(knots), [1.0]])
    out = np.zeros((k + 1, 4, k - 2))
    for piece in range(1, k + 1):
        for j in range(k - 2):
            factors = ((j, 1.0), (k - 2, -(knots[-1] - knots[j]) / last), (k - 1, (knots[-2] - knots[j]) / last))
            for at, factor in factors:
                if at < piece:
                    line = np.array([origins[piece] - knots[at], widths[piece]])
                    out[piece, :, j] += factor * np.convolve(np.convolve(line, line), line)
    out[-1, 2:] = 0.0  # the cubic and quadratic parts cancel
    return Pieces(knots, origins, widths, out / (knots[-1] - knots[0]) ** 2)


def _linear_outside(basis: Pieces, low: float, high: float) -> Pieces:
    """Straight lines beyond both ends, with the value and slope that the basis has there."""
    order, columns = basis.coefficients.shape[1:]
    ends = np.zeros((2, order, columns))
    for side, x in enumerate((low, high)):
        ends[side, 0] = basis.derivative(x, 0)
        ends[side, 1] = basis.derivative(x, 1)
    return Pieces(
        np.concatenate([[low], basis.breaks, [high]]),
        np.concatenate([[low], basis.origins, [high]]),
        np.concatenate([[1.0], basis.widths, [1.0]]),
        np.concatenate([ends[:1], basis.coefficients, ends[1:]]),
    )


def centring(mean: Vec) -> Mat:
    """An orthonormal basis of the coefficients under which the mean of a column combination is 0."""
    q, _ = np.linalg.qr(mean[:, None], mode="complete")
    return q[:, 1:]


def quantiles(x: Vec, probabilities: Vec, weights: Vec | None = None) -> Vec:
    """Quantiles by interpolation of order statistics (type 7 of Hyndman & Fan 1996); weights are counts of rows."""
    if weights is None:
        return np.quantile(x, probabilities)
    order = np.argsort(x, kind="stable")
    values, upto = x[order], np.cumsum(weights[order])
    position = (upto[-1] - 1.0) * probabilities
    low = np.floor(position)
    first = values[np.searchsorted(upto, low, side="right")]
    second = values[np.searchsorted(upto, np.minimum(low + 1.0, upto[-1] - 1.0), side="right")]
    between: Vec = first + (position - low) * (second - first)
    return between
