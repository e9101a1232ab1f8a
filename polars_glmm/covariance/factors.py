"""Factors F of a covariance matrix Σ = FF' of any rank: by its eigenvectors, and lower trapezoidal."""

from __future__ import annotations

import numpy as np

from polars_glmm.typing import Mat


def canonical_factor(sigma: Mat, tolerance: float) -> tuple[Mat, int]:
    """A factor F (r, k) of Σ and its rank k; eigenvalues up to `tolerance` count as zero."""
    values, vectors = np.linalg.eigh(sigma)
    keep = values > tolerance
    return vectors[:, keep] * np.sqrt(values[keep]), int(keep.sum())


def trapezoid(factor: Mat, r: int) -> Mat:
    """The lower trapezoidal factor (r, r) of the same matrix, its diagonal not negative."""
    out = np.zeros((r, r))
    if factor.shape[1]:
        low = np.asarray(np.linalg.qr(factor.T, mode="r")).T
        out[:, : low.shape[1]] = low * np.where(np.diag(low) < 0.0, -1.0, 1.0)
    return out
