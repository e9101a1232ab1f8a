"""Degrees of freedom of fixed effects by Satterthwaite's method."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.typing import Cube, Mat, Vec

_CERTAIN = 1e-12
"""Reciprocal of the degrees of freedom that are without end: the variance of the coefficient is known."""


class Satterthwaite(NamedTuple):
    """df (p,); ∂vcov(β)/∂(covariance parameters) (K, p, p); covariance matrix of those parameters (K, K).

    inner   the derivatives for β_c
    """

    df: Vec
    derivative: Cube
    covariance: Mat
    inner: Cube


def satterthwaite(slopes: Cube, vcov: Mat, outward: Mat, parameter_vcov: Mat) -> Satterthwaite:
    """Degrees of freedom of each fixed effect (Fai & Cornelius 1996; Kuznetsova et al. 2017, eq. 4).

    slopes (K, p, p), vcov (p, p) of β_c;  outward (p, p): β = outward · β_c;  parameter_vcov (K, K) of the covariance
    parameters; those not identified, or held, count as known
    """
    derivative = outward @ slopes @ outward.T
    known = np.nan_to_num(parameter_vcov, nan=0.0)
    g = np.einsum("kpp->kp", derivative)
    spread = np.einsum("kp,kl,lp->p", g, known, g)
    square = 2.0 * np.diag(outward @ vcov @ outward.T) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        df = np.where(spread > _CERTAIN * square, square / spread, np.inf)
    return Satterthwaite(df, derivative, known, slopes)
