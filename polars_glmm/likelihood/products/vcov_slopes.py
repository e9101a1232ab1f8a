"""How the covariance matrix of fixed effects moves with the covariance parameters, σ profiled out."""

from __future__ import annotations

import numpy as np

from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.parameters.state import State
from polars_glmm.likelihood.products.profile import Profile, vcov_derivatives
from polars_glmm.typing import Cube, Mat


def vcov_slopes(effects: Effects, state: State, pieces: Profile, sigma: float) -> Cube:
    """∂vcov(β_c)/∂(free entries of F, σ), (K, p, p)."""
    p = len(pieces.beta)
    per_entry: list[Mat] = []
    for number, (f, d_vcov) in enumerate(zip(effects.factors, vcov_derivatives(pieces), strict=True)):
        entries = state.free[number]
        inward = np.tensordot(f.basis.T, d_vcov, (1, 0))
        per_entry.extend(sigma**2 * change for change in entries.pull(inward))
    per_entry.append(2.0 * sigma * pieces.m_inverse)
    return np.array(per_entry).reshape(len(per_entry), p, p)
