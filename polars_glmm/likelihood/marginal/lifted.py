"""Curvatures of rows made those of a concave density: negative eigenvalues at zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from polars_glmm.typing import BoolVec, Vec


def lifted(w: Mapping[tuple[int, ...], Vec], curved: Sequence[int]) -> Mapping[tuple[int, ...], Vec]:
    """Curvatures of rows in some predictors, in rising order, with their negative eigenvalues at zero.

    Of two, with mean m and half the difference s of the eigenvalues: W = mI + sR, R a reflection, and W⁺ = m⁺I + s⁺R.
    """
    if len(curved) == 1:
        return {(curved[0],) * 2: np.maximum(w[curved[0], curved[0]], 0.0)}
    if len(curved) > 2:
        return _lifted_many(w, curved)
    a, b = curved
    m, half = 0.5 * (w[a, a] + w[b, b]), 0.5 * (w[a, a] - w[b, b])
    s = np.hypot(half, w[a, b])
    high, low = np.maximum(m + s, 0.0), np.maximum(m - s, 0.0)
    share = np.divide(0.5 * (high - low), s, out=np.zeros_like(s), where=s > 0.0)
    mean = 0.5 * (high + low)
    return {(a, a): mean + share * half, (a, b): share * w[a, b], (b, b): mean - share * half}


def _lifted_many(w: Mapping[tuple[int, ...], Vec], curved: Sequence[int]) -> Mapping[tuple[int, ...], Vec]:
    """The same of three predictors or more, by eigenvalues row by row; a row that is not finite stays as it is."""
    n = len(curved)
    whole = np.empty((*np.broadcast(*(w[a, b] for a in curved for b in curved if a <= b)).shape, n, n))
    for i, a in enumerate(curved):
        for j, b in enumerate(curved[: i + 1]):
            whole[..., i, j] = whole[..., j, i] = w[b, a]
    fine: BoolVec = np.asarray(np.isfinite(whole).all((-2, -1)))
    values, vectors = np.linalg.eigh(np.where(fine[..., None, None], whole, 0.0))
    made = np.einsum("...ik,...k,...jk->...ij", vectors, np.maximum(values, 0.0), vectors)
    made = np.where(fine[..., None, None], made, whole)
    return {(b, a): made[..., i, j] for i, a in enumerate(curved) for j, b in enumerate(curved[: i + 1])}
