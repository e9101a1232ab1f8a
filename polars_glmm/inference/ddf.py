"""Denominator degrees of freedom of linear functions Lβ̂, by Satterthwaite's and by Kenward and Roger's method.

Both need how the covariance matrix Φ of β̂ moves with the variance parameters ϑ, and how well these are known,
W = Var(ϑ̂): for one row l, df = 2v²/(g'Wg) with v = lΦl' and g_k = l(∂Φ/∂ϑ_k)l'. They differ in W (by the observed or by
the expected information), and for several rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.typing import Cube, Mat, Vec

CERTAIN = 1e-12
"""Reciprocal of the degrees of freedom that are without end: the variance of the function is known."""


class Denominator(NamedTuple):
    """Denominator degrees of freedom of an F statistic, inf for χ², and what the statistic is multiplied by."""

    df: float
    scale: float = 1.0


class Sensitivity(NamedTuple):
    """How the covariance of β̂ depends on variance parameters that are estimated.

    vcov (p, p)           Φ of the working coefficients;  outward (p, p): β = outward · working ones
    derivative (K, p, p)  ∂Φ/∂ϑ_k;  parameters (K, K)  W = Var(ϑ̂); what is held counts as known
    """

    vcov: Mat
    derivative: Cube
    parameters: Mat
    outward: Mat

    def inward(self, rows: Mat) -> Mat:
        """Rows (m, p) over β as rows over the working coefficients."""
        return rows @ self.outward


def single(at: Sensitivity, rows: Mat) -> Vec:
    """df (m,) of every row (m, p) by itself: 2v²/(g'Wg) (Satterthwaite 1946; Giesbrecht & Burns 1985)."""
    return single_working(at, at.inward(rows))


def single_working(at: Sensitivity, rows: Mat) -> Vec:
    """The same for rows over the working coefficients."""
    v = np.einsum("mp,mp->m", rows @ at.vcov, rows)
    g = np.array([np.einsum("mp,mp->m", rows @ d, rows) for d in at.derivative]).reshape(-1, len(rows)).T
    spread = np.einsum("mk,kl,ml->m", g, at.parameters, g)
    square = 2.0 * v**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(spread > CERTAIN * square, square / spread, np.where(np.isnan(v), np.nan, np.inf)))


def fai_cornelius(at: Sensitivity, rows: Mat) -> Denominator:
    """Satterthwaite's df of the F of independent rows (q, p): 2E/(E − q), E = Σ ν_m/(ν_m − 2) over ν_m > 2.

    ν_m are the df of the rows rotated to be uncorrelated (Fai & Cornelius 1996, eq. 2; Kuznetsova et al. 2017, eq. 6).
    Other rows of the same span are rotated otherwise, which moves the answer a little: so it is defined.
    """
    q = len(rows)
    inner = at.inward(rows)
    if q == 1:
        return Denominator(float(single_working(at, inner)[0]))
    _, vectors = np.linalg.eigh(inner @ at.vcov @ inner.T)
    nu = single_working(at, vectors.T @ inner)
    if np.isinf(nu).all():
        return Denominator(np.inf)
    with np.errstate(invalid="ignore"):
        share = np.where(np.isinf(nu), 1.0, nu / (nu - 2.0))
    expected = float(share[nu > 2.0].sum())
    return Denominator(2.0 * expected / (expected - q) if expected > q else 0.0)


def kenward_roger(at: Sensitivity, rows: Mat) -> Denominator:
    """df and scale of the F of independent rows (q, p) (Kenward & Roger 1997, section 2.2, eq. 4–7).

    With Θ = L'(LΦL')⁻¹L: A₁ = Σ W_ij tr(Θ∂Φ_i) tr(Θ∂Φ_j), A₂ = Σ W_ij tr(Θ∂Φ_iΘ∂Φ_j). One row has scale 1 and 2/A₂.
    Where A₂ ≥ q the approximation has no answer: NaN.
    """
    q = len(rows)
    inner = at.inward(rows)
    if q == 1:
        return Denominator(float(single_working(at, inner)[0]))
    covariance = inner @ at.vcov @ inner.T
    scale = np.sqrt(np.diag(covariance))
    root = np.linalg.cholesky(covariance / np.outer(scale, scale))
    unit = np.linalg.solve(root, inner / scale[:, None])
    moved = np.einsum("ap,kpq,bq->kab", unit, at.derivative, unit)
    traces = np.einsum("kaa->k", moved)
    a1 = float(traces @ at.parameters @ traces)
    a2 = float(np.einsum("kab,kl,lba->", moved, at.parameters, moved))
    return scaled(a1, a2, q)


def scaled(a1: float, a2: float, q: int) -> Denominator:
    """The two moments of F, matched to λ⁻¹F(q, m): m and λ."""
    if a2 <= CERTAIN:
        return Denominator(np.inf)
    if a2 >= q:
        return Denominator(np.nan, np.nan)
    b = (a1 + 6.0 * a2) / (2.0 * q)
    g = ((q + 1.0) * a1 - (q + 4.0) * a2) / ((q + 2.0) * a2)
    below = 3.0 * q + 2.0 * (1.0 - g)
    c1, c2, c3 = g / below, (q - g) / below, (q + 2.0 - g) / below
    expectation = 1.0 / (1.0 - a2 / q)
    variance = 2.0 / q * (1.0 + c1 * b) / ((1.0 - c2 * b) ** 2 * (1.0 - c3 * b))
    rho = variance / (2.0 * expectation**2)
    if not q * rho > 1.0:
        return Denominator(np.nan, np.nan)
    m = 4.0 + (q + 2.0) / (q * rho - 1.0)
    return Denominator(m, m / (expectation * (m - 2.0)))
