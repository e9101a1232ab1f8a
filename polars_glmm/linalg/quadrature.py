"""Gauss–Hermite rules for a standard normal in r dimensions."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from polars_glmm.typing import Mat, Vec


class Rule(NamedTuple):
    """Product rule with Q = k^r points.

    nodes (r, Q); log_weights (Q,), such that Σ exp(log_weights + ½|z|²) h(z) ≈ ∫ h(z) dz (2π)^(−r/2)
    """

    nodes: Mat
    log_weights: Vec


@lru_cache(maxsize=64)
def gauss_hermite(k: int, r: int) -> Rule:
    """k points per dimension in r dimensions; exact for polynomials of degree 2k − 1 (Golub & Welsch 1969)."""
    x, w = np.polynomial.hermite_e.hermegauss(k)
    log_w = np.log(w) - 0.5 * np.log(2.0 * np.pi)
    grid = np.array(np.meshgrid(*[x] * r, indexing="ij")).reshape(r, -1)
    log_grid = np.array(np.meshgrid(*[log_w] * r, indexing="ij")).reshape(r, -1).sum(0)
    grid.setflags(write=False)
    log_weights = log_grid + 0.5 * (grid**2).sum(0)
    log_weights.setflags(write=False)
    return Rule(grid, log_weights)
