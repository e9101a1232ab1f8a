"""Spline bases as piecewise polynomials: knots in, one list of pieces per column out.

A basis is an array (pieces, order, columns): coefficients of ((x − origin)/width)^j on each piece.
"""

from __future__ import annotations

from math import factorial
from typing import Literal, NamedTuple

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
    """B-splines on a full knot sequence (de Boor 2001, ch. IX); the outer pieces go on beyond the boundary knots."""
    from scipy.interpolate import BSpline  # noqa: PLC0415  slow to import, and most formulas have no spline

    cuts = np.unique(knots)
    basis, width = BSpline(knots, np.eye(len(knots) - degree - 1), degree), np.diff(cuts)
    taylor = [basis(cuts[:-1], nu=j) * (width**j / factorial(j))[:, None] for j in range(degree + 1)]
    return Pieces(cuts[1:-1], cuts[:-1], width, np.stack(taylor, axis=1))


def natural_cubic(knots: Vec) -> Pieces:
    """Natural cubic spline through values at the knots, linear outside (Wood 2017, §5.3.1); columns are the values."""
    return _linear_outside(_interpolating(knots, np.eye(len(knots)), "natural"), knots[0], knots[-1])


def cyclic_cubic(knots: Vec) -> Pieces:
    """Cubic spline whose ends meet in value, slope and curvature (Wood 2017, §5.3.2), for x wrapped into the knots."""
    values = np.eye(len(knots) - 1)
    return _interpolating(knots, np.vstack([values, values[:1]]), "periodic")


def _interpolating(knots: Vec, values: Mat, ends: Literal["natural", "periodic"]) -> Pieces:
    """The cubic spline through each column of values at the knots."""
    from scipy.interpolate import CubicSpline  # noqa: PLC0415  as above

    h = np.diff(knots)
    falling = CubicSpline(knots, values, bc_type=ends).c  # (4, pieces, columns), the highest power first
    coefficients = falling[::-1].swapaxes(0, 1) * (h[:, None] ** np.arange(4))[:, :, None]
    return Pieces(knots[1:-1], knots[:-1], h, coefficients)


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
