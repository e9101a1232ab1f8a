"""Fixed effects under the restricted likelihood: generalised least squares given the variances, as in any REML fit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.marginal.restricted import Restricted, inverse_of, vcov_changes
from polars_glmm.likelihood.optimum.satterthwaite import Satterthwaite, satterthwaite
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.parameters.state import State
from polars_glmm.typing import Mat


class LeastSquares(NamedTuple):
    """vcov of (β_c, γ_c, free F), β_c by (X'V⁻¹X)⁻¹ and apart; degrees of freedom where the rest is known."""

    vcov: Mat
    denominator: Satterthwaite | None


def least_squares(
    effects: Effects, state: State, found: Restricted | None, vcov: Mat | None, outward: Mat
) -> LeastSquares:
    """Covariances of a restricted optimum; vcov (P, P) by its Hessian, or None; outward (p, p): β = outward · β_c."""
    p, width = len(outward), len(state.vector())
    inverse = None if found is None else inverse_of(found)
    assert found is not None  # the likelihood was finite here
    assert inverse is not None
    whole = np.full((width, width), np.nan) if vcov is None else vcov.copy()
    whole[:p, p:] = whole[p:, :p] = 0.0
    whole[:p, :p] = inverse
    if vcov is None or width == p:
        return LeastSquares(whole, None)
    by_factor, by_phi = vcov_changes(found, inverse)
    slopes = []
    for f, free, change in zip(effects.factors, state.free, by_factor, strict=True):
        inward = np.tensordot(f.basis.T, change, 1)
        slopes += list(free.pull(inward))
    cube = np.array([*by_phi, *slopes]).reshape(width - p, p, p)
    return LeastSquares(whole, satterthwaite(cube, inverse, outward, whole[p:, p:]))
