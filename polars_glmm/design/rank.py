"""Which columns of a design are linearly independent of the columns before them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from polars_glmm.linalg.columns import cross_products_about
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

TOLERANCE = 1e-9
"""A column whose remainder is shorter than this, after the columns before it, is a combination of them."""
_COMFORTABLE = 1e-6
"""Smallest eigenvalue of the cross-product of unit columns above which no remainder can be near the tolerance."""
_MARGINAL_ROUNDING = 64 * np.finfo(np.float64).eps


def independent(x: Mat, centred: BoolVec) -> BoolVec:
    """(p,) True for the columns of x (p, n) to keep: sequential QR on unit columns, earlier columns win.

    centred   columns to take the mean from first: all but those that span the constant (the intercept, or the full
              set of indicators that stands for it). A column that is constant then has nothing left.
    """
    p, n = x.shape
    if p == 0 or n == 0:
        return np.ones(p, dtype=np.bool_)
    mean = x.mean(axis=1)

    def triangle(shift: Vec, scale: Vec, kept: IntVec) -> Mat:
        unit = (x[kept] - shift[kept, None]) / scale[kept, None]
        return np.asarray(np.linalg.qr(unit.T, mode="r"))

    return independent_of_moments(n, mean, cross_products_about(x, mean), centred, triangle)


def independent_of_moments(
    n: int, mean: Vec, cross: Mat, centred: BoolVec, triangle: Callable[[Vec, Vec, IntVec], Mat]
) -> BoolVec:
    """The same answer for columns known by their moments: n rows, mean (p,), cross (p, p) about the means.

    triangle(shift, scale, kept)   R of the QR of (x − shift)/scale for the kept columns: asked for only in doubt
    """
    p = len(mean)
    length = np.sqrt(np.diag(cross) + n * mean**2)
    left = np.where(centred, np.sqrt(np.diag(cross)), length)
    alive = _alive(length, left, centred)
    scale = np.where(alive, left, 1.0)
    raw = np.where(centred, 0.0, mean)
    if alive.all() and _comfortable((cross + n * np.outer(raw, raw)) / np.outer(scale, scale)):
        return alive
    kept = np.flatnonzero(alive)
    return _sequential(kept, triangle(np.where(centred, mean, 0.0), scale, kept), p)


def _alive(length: Vec, left: Vec, centred: BoolVec) -> BoolVec:
    """Columns of which something is left after centring."""
    return np.asarray(left > np.maximum(TOLERANCE * np.where(centred, 0.0, length), _MARGINAL_ROUNDING * length))


def _sequential(kept: IntVec, r: Mat, p: int) -> BoolVec:
    """(p,) True for the columns of R that are longer than the tolerance after those before them."""
    while len(kept):
        short = np.flatnonzero(np.abs(np.diagonal(r)) < TOLERANCE)
        short = np.append(short, np.arange(r.shape[0], r.shape[1]))  # more columns than rows
        if not len(short):
            break
        kept = np.delete(kept, short[0])
        r = np.asarray(np.linalg.qr(np.delete(r, short[0], axis=1), mode="r"))
    result = np.zeros(p, dtype=np.bool_)
    result[kept] = True
    return result


def _comfortable(cross: Mat) -> bool:
    """Whether the smallest eigenvalue of the cross-product is above _COMFORTABLE: a shifted Cholesky, no QR of rows."""
    cross[np.diag_indices_from(cross)] -= _COMFORTABLE
    try:
        np.linalg.cholesky(cross)
    except np.linalg.LinAlgError:
        return False
    return True
