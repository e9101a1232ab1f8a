"""Many small symmetric systems at once: Cholesky factors of (r, r, …) stacks, with the batch on the trailing axes.

With r below about ten and thousands of systems, a loop over the r³/6 entries with whole-batch array operations is
faster than one LAPACK call per system, and every operation is contiguous. Few large systems go to LAPACK one by one.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from polars_glmm.typing import Cube, Mat, Vec

_SMALL = 8
"""Rows up to which systems are many small ones."""


def _few(low: Cube) -> bool:
    """Whether systems are large, and fewer than the operations a loop over entries would have."""
    r = len(low)
    return r > _SMALL and low.size < r**4 // 2


def _each_factor(a: Cube) -> Cube:
    """factor() system by system."""
    out = np.full_like(a, np.nan)
    for place in np.ndindex(a.shape[2:]):
        at = (slice(None), slice(None), *place)
        low, failed = lapack.dpotrf(a[at], lower=1, clean=1)
        if not failed:
            out[at] = low
    return out


def _each_solved(low: Cube, b: Cube, *, transposed: int) -> Cube:
    """forward() and backward() system by system."""
    out = np.full(b.shape, np.nan)
    for g in range(low.shape[2]):
        x, failed = lapack.dtrtrs(low[..., g], b[..., g].reshape(len(low), -1), lower=1, trans=transposed)
        if not failed:
            out[..., g] = x.reshape(b.shape[:-1])
    return out


def factor(a: Cube) -> Cube:
    """Lower Cholesky factors of a (r, r, …); systems that are not positive definite come back as NaN."""
    r = len(a)
    if r == 1:
        with np.errstate(invalid="ignore"):
            return np.sqrt(a)
    if _few(a):
        return _each_factor(a)
    low = np.zeros_like(a)
    with np.errstate(invalid="ignore", divide="ignore"):
        for j in range(r):
            pivot = a[j, j] - (low[j, :j] ** 2).sum(0) if j else a[j, j]
            low[j, j] = np.sqrt(pivot)
            for i in range(j + 1, r):
                rest = a[i, j] - (low[i, :j] * low[j, :j]).sum(0) if j else a[i, j]
                low[i, j] = rest / low[j, j]
    return low


def log_determinant(low: Cube) -> Vec:
    """log|LL'| per system, (…); −∞ where a pivot is 0."""
    with np.errstate(divide="ignore"):
        if len(low) == 1:
            only: Vec = low[0, 0]
            return 2.0 * np.log(only)
        pivots: Mat = np.einsum("ii...->i...", low)
        return np.asarray(2.0 * np.log(pivots).sum(0))


def forward(low: Cube, b: Cube) -> Cube:
    """L⁻¹ b for b (r, …, G) against L (r, r, G)."""
    r = len(low)
    if r == 1:
        pivot: Vec = low[0, 0]
        return b / pivot
    if _few(low) and low.ndim == 3:
        return _each_solved(low, b, transposed=0)
    x = np.empty_like(b)
    for i in range(r):
        rest = b[i]
        for k in range(i):
            rest = rest - low[i, k] * x[k]
        x[i] = rest / low[i, i]
    return x


def backward(low: Cube, b: Cube) -> Cube:
    """L⁻ᵀ b for b (r, …, G) against L (r, r, G)."""
    r = len(low)
    if r == 1:
        pivot: Vec = low[0, 0]
        return b / pivot
    if _few(low) and low.ndim == 3:
        return _each_solved(low, b, transposed=1)
    x = np.empty_like(b)
    for i in range(r - 1, -1, -1):
        rest = b[i]
        for k in range(i + 1, r):
            rest = rest - low[k, i] * x[k]
        x[i] = rest / low[i, i]
    return x


def solve(low: Cube, b: Cube) -> Cube:
    """(LL')⁻¹ b for b (r, …, G)."""
    if len(low) == 1:
        pivot: Vec = low[0, 0]
        return b / (pivot * pivot)
    return backward(low, forward(low, b))


def inverse(low: Cube) -> Cube:
    """(LL')⁻¹ as a stack (r, r, …)."""
    r = len(low)
    if r == 1:
        return 1.0 / (low * low)
    eye = np.zeros_like(low)
    for i in range(r):
        eye[i, i] = 1.0
    half = forward(low, eye)
    out: Cube = np.einsum("ki...,kj...->ij...", half, half)
    return out


def quadratic(left: Mat, middle: Cube, right: Mat) -> Cube:
    """left' · middle · right for left (d, r), middle (d, e, G), right (e, s): (r, s, G)."""
    if middle.shape[0] == 1 and middle.shape[1] == 1:
        single: Cube = np.multiply.outer(left.T @ right, middle[0, 0])
        return single
    d, e, g = middle.shape
    half = (left.T @ middle.reshape(d, e * g)).reshape(-1, e, g)
    return right.T @ half
