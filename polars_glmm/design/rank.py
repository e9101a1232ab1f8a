"""Which columns of a design are linearly independent of the columns before them."""

from __future__ import annotations

import numpy as np

from polars_glmm.typing import BoolVec, Mat

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
    length = np.sqrt(np.einsum("ij,ij->i", x, x))
    unit = x - np.where(centred, x.mean(axis=1), 0.0)[:, None]
    left = np.sqrt(np.einsum("ij,ij->i", unit, unit))
    alive: BoolVec = left > np.maximum(TOLERANCE * np.where(centred, 0.0, length), _MARGINAL_ROUNDING * length)
    unit /= np.where(alive, left, 1.0)[:, None]
    if alive.all() and _comfortable(unit):
        return alive
    kept = np.flatnonzero(alive)
    r: Mat = np.asarray(np.linalg.qr(unit[kept].T, mode="r"))
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


def _comfortable(unit: Mat) -> bool:
    """Whether the smallest eigenvalue of the cross-product is above _COMFORTABLE: a shifted Cholesky, no QR of rows."""
    cross = unit @ unit.T
    cross[np.diag_indices_from(cross)] -= _COMFORTABLE
    try:
        np.linalg.cholesky(cross)
    except np.linalg.LinAlgError:
        return False
    return True
