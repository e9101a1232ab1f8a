"""Exact ML and REML of gaussian mixed models from cross-products (Bates et al. 2015, §3), with exact gradients.

At relative factors Λ (Σ = σ²ΛΛ'), with W = [X y], H = Λ'Z'ZΛ + I, B = H⁻¹Λ'Z'W, E = Z'W − Z'ZΛB = Z'V⁻¹W,
[X y]'V⁻¹[X y] = W'W − (Λ'Z'W)'B, M = X'V⁻¹X, c = (−β̂, 1):

    rss = c'(W'V⁻¹W)c                ∂rss/∂Λ     = −2 Σ (E c)(B c)'
    log|H|                           ∂log|H|/∂Λ  =  2 Σ Z'ZΛH⁻¹
    log|M|  (REML)                   ∂log|M|/∂Λ  = −2 Σ E_x M⁻¹ B_x'
    −2ℓ = log|H| [+ log|M|] + ν log(2πσ²) + rss/σ²,   ν = n (ML), n − p (REML)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg as sl
from scipy.linalg import lapack

from polars_glmm.likelihood.products.cross import CrossProducts, Within
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.coupled import CoupledLevels
from polars_glmm.linalg.elimination import Factorised
from polars_glmm.linalg.pattern import times
from polars_glmm.linalg.scaling import reduction, scaled_plus_identity, trace_blocks
from polars_glmm.typing import Cube, Mat, Vec

_SMALLEST = 1e-300
_REGULAR = 1e-3
"""Singular value of Λ, relative to the residual, above which I − H⁻¹ loses no digits that matter."""
_TINY_RSS = 1e-28
"""Share of y'y below which the residual sum of squares is rounding error: the model reproduces its data."""


class Profile(NamedTuple):
    """The pieces of −2ℓ at relative factors, with their derivatives in the effective factors T_fΛ_f (d, r_f).

    beta (p,) in the computing basis;  m_inverse (p, p) = (X'V⁻¹X)⁻¹ at σ = 1;  core [X y]'V⁻¹[X y]
    b, e as in the module's formulae: (r_f, p+1, G_f), (d, p+1, G_f);  h_inverse (r_f, r_f, G_f) over single levels
    """

    log_h: float
    log_m: float
    rss: float
    beta: Vec
    m_inverse: Mat
    core: Mat
    h: Factorised | None
    b: list[Cube]
    e: list[Cube]
    d_log_h: list[Mat]
    d_log_m: list[Mat]
    d_rss: list[Mat]
    h_inverse: list[Cube]


def profile(stats: CrossProducts, factors: list[Mat], *, gradient: bool = True) -> Profile | None:
    """All pieces at effective factors T_fΛ_f; None where H or X'V⁻¹X is not positive definite."""
    p = len(stats.ww) - 1
    b: list[Cube] = []
    e: list[Cube] = []
    h = None
    core = stats.ww
    log_h = 0.0
    if factors:
        assert stats.eliminator is not None  # there are random effects
        h = stats.eliminator.factorise(scaled_plus_identity(stats.zz, factors))
        if h is None:
            return None
        log_h = h.log_determinant
        right = [np.einsum("dr,dwG->rwG", lam, zw) for lam, zw in zip(factors, stats.zw, strict=True)]
        if stats.within is not None:
            b, e, core = _split(stats.within, factors[0])
        else:
            b = h.solve(right)
            core = core - sum(np.einsum("rvG,rwG->vw", c, s) for c, s in zip(right, b, strict=True))
    log_m, beta, m_inverse = 0.0, np.empty(0), np.empty((0, 0))
    if p:
        low, failed = lapack.dpotrf(core[:p, :p], lower=1, clean=1)
        if failed:
            return None
        log_m = 2.0 * float(np.log(np.diag(low)).sum())
        beta = lapack.dpotrs(low, core[:p, p], lower=1)[0]
        m_inverse = lapack.dpotrs(low, np.eye(p), lower=1)[0]
    rss = float(core[p, p] - core[p, :p] @ beta)
    rss = max(rss, _TINY_RSS * float(stats.ww[p, p]), _SMALLEST)
    if not gradient or h is None:
        return Profile(log_h, log_m, rss, beta, m_inverse, core, h, b, e, [], [], [], [])
    if not e:
        e = _through_v(stats, factors, b)
    c = np.append(-beta, 1.0)
    diagonal, d_log_h = _inverse_and_traces(stats, factors, h)
    d_rss, d_log_m = [], []
    for bf, ef in zip(b, e, strict=True):
        ec, bc = np.einsum("dwG,w->dG", ef, c), np.einsum("rwG,w->rG", bf, c)
        d_rss.append(-2.0 * ec @ bc.T)
        weighted = np.einsum("dpG,pq->dqG", ef[:, :p], m_inverse)
        d_log_m.append(-2.0 * np.einsum("dqG,rqG->dr", weighted, bf[:, :p]))
    return Profile(log_h, log_m, rss, beta, m_inverse, core, h, b, e, d_log_h, d_log_m, d_rss, diagonal)


def _inverse_and_traces(stats: CrossProducts, factors: list[Mat], h: Factorised) -> tuple[list[Cube], list[Mat]]:
    """The diagonal blocks of H⁻¹, and ∂log|H|/∂Λ.

    As Λ'Z'ZΛH⁻¹ = I − H⁻¹, the blocks over single levels are enough where Λ has an inverse; that saves work where the
    others are many.
    """
    assert stats.eliminator is not None  # there are random effects
    independent = not isinstance(stats.eliminator, CoupledLevels)  # or there is no such identity
    if stats.eliminator.costly and independent and all(_has_inverse(f) for f in factors):
        diagonal = h.inverse_diagonal()
        sums = [reduction(block).sum(-1) for block in diagonal]
        return diagonal, [2.0 * np.linalg.pinv(f.T) @ total for f, total in zip(factors, sums, strict=True)]
    inverse = h.inverse()
    return inverse.diagonal, [2.0 * t for t in trace_blocks(stats.zz, factors, inverse)]


def _has_inverse(factor: Mat) -> bool:
    return bool(np.linalg.svd(factor, compute_uv=False).min() > _REGULAR)


def vcov_derivatives(state: Profile) -> list[Cube]:
    """∂(X'V⁻¹X)⁻¹/∂(T_fΛ_f) at σ = 1: (d, r_f, p, p) per factor."""
    p = len(state.beta)
    out = []
    for bf, ef in zip(state.b, state.e, strict=True):
        half = np.einsum("daG,rbG->drab", ef[:, :p], bf[:, :p])
        change = half + half.swapaxes(2, 3)
        out.append(np.einsum("ab,drbc,ce->drae", state.m_inverse, change, state.m_inverse))
    return out


def _split(within: Within, factor: Mat) -> tuple[list[Cube], list[Cube], Mat]:
    """B, E and [X y]'V⁻¹[X y] as sums of squares: Z'V⁻¹Z = (ΛΛ' + (Z'Z)⁻¹)⁻¹, so with ΛΛ' = TD²T', T unit triangular,

    Q = D² + T⁻¹(Z'Z)⁻¹T⁻ᵀ, E = T⁻ᵀQ⁻¹T⁻¹C, B = Λ'E, W'V⁻¹W = R'R + K'K with K = Q^(−½)T⁻¹C. Nothing is subtracted, and
    with the largest of D first Q is graded: variances that differ by 24 orders of magnitude keep their digits.
    """
    low, c, rr = within
    upper, order = sl.qr(factor.T, mode="r", pivoting=True)
    pivots = np.zeros(len(low))
    pivots[: len(upper)] = np.abs(np.diag(upper))[: len(low)]
    unit = np.eye(len(low))
    for j in np.flatnonzero(pivots).tolist():
        unit[:, j] = upper[j] / upper[j, j]
    back = np.zeros_like(unit)  # T⁻¹ with columns in the order of the effects
    back[:, order] = sl.solve_triangular(unit, np.eye(len(low)), lower=True, unit_diagonal=True)
    q = cholesky.quadratic(back.T, cholesky.inverse(low), back.T)
    for j, pivot in enumerate(pivots):
        q[j, j] += pivot**2
    q_low = cholesky.factor(q)
    k = cholesky.forward(q_low, np.einsum("ij,jwG->iwG", back, c))
    e = np.einsum("ji,jwG->iwG", back, cholesky.backward(q_low, k))
    b = np.einsum("dr,dwG->rwG", factor, e)
    return [b], [e], rr + np.einsum("jvG,jwG->vw", k, k)


def _through_v(stats: CrossProducts, factors: list[Mat], b: list[Cube]) -> list[Cube]:
    """E = Z'W − Z'ZΛB per factor (d, p+1, G_f)."""
    lb = [np.einsum("dr,rwG->dwG", lam, bf) for lam, bf in zip(factors, b, strict=True)]
    taken = times(stats.zz, stats.pattern, lb)
    return [zw - x for zw, x in zip(stats.zw, taken, strict=True)]
