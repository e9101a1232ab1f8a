"""A root of a covariance matrix that may be singular."""

from __future__ import annotations

import numpy as np

from polars_glmm.typing import Mat


def singular_root(covariance: Mat) -> Mat:
    """R (r, r) with RR' the matrix, by eigenvalues; those that rounding made negative are zero."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))
