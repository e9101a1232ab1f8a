"""Average information of relative factors: a curvature that costs one solution with a column per parameter.

The mean of observed and expected information of a gaussian model is ½ y'P V_t P V_s P y/σ² where V is linear in its
parameters (Gilmour, Thompson & Cullis 1995, eq. 8); V_t = Z(E_tΛ' + ΛE_t')Z'. With σ profiled out,

    A_ts = ½ [ y'P V_t P V_s P y/σ² − (∂_t rss)(∂_s rss)/(νσ⁴) ]

V_t P y = Z a_t, a_t = E_tΛ'e + ΛE_t'e, e = Z'Py; and a_t'Z'PZ a_s = a_t'Z'Za_s − (Λ'Z'Za_t)'H⁻¹(Λ'Z'Za_s) − C_t'M⁻¹C_s
with C_s = X'V⁻¹Za_s.
"""

from __future__ import annotations

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.products.cross import CrossProducts
from polars_glmm.likelihood.products.profile import Profile
from polars_glmm.linalg.pattern import times
from polars_glmm.typing import Cube, Mat, Vec


def average_information(effects: Effects, stats: CrossProducts, theta: Vec, at: Profile, nu: int) -> Mat:
    """A (n_theta, n_theta) at θ, whose profile is `at`; nu residual degrees of freedom."""
    assert at.h is not None  # there are random effects
    factors = effects.effective(effects.lambdas(theta))
    a = _directions(effects, theta, factors, at)
    za = times(stats.zz, stats.pattern, a)
    right = [np.einsum("dr,dtG->rtG", lam, z) for lam, z in zip(factors, za, strict=True)]
    solved = at.h.solve(right)
    q = np.zeros((effects.n_theta, effects.n_theta))
    c = np.zeros((len(at.beta), effects.n_theta))
    for af, zf, rf, sf, ef in zip(a, za, right, solved, at.e, strict=True):
        q += np.einsum("dtG,dsG->ts", af, zf) - np.einsum("rtG,rsG->ts", rf, sf)
        c += np.einsum("dpG,dtG->pt", ef[:, :-1], af)
    q -= c.T @ at.m_inverse @ c
    variance = at.rss / nu
    slope = effects.pullback(theta, effects.inward(at.d_rss))
    return np.asarray(0.5 * (q / variance - np.outer(slope, slope) / (variance**2 * nu)))


def _directions(effects: Effects, theta: Vec, factors: list[Mat], at: Profile) -> list[Cube]:
    """a_t per factor (d, n_theta, G_f): zero for parameters of other factors."""
    c = np.append(-at.beta, 1.0)
    out = []
    for f, lam, b, e in zip(effects.factors, factors, at.b, at.e, strict=True):
        eta, u = np.einsum("dwG,w->dG", e, c), np.einsum("rwG,w->rG", b, c)
        inward = f.basis.T @ eta
        if f.prior is not None:  # V_t = Z(E_tΛ' ⊗ A + ΛE_t' ⊗ A)Z', and u has its A already
            inward = inward @ f.prior.covariance
        a = np.zeros((len(eta), effects.n_theta, f.n_levels))
        for t in f.terms:
            structure = STRUCTURES[t.structure]
            if structure.bends:
                own = slice(t.start, t.stop)
                for place, tangent in enumerate(structure.tangent(theta[t.theta], t.r), t.theta.start):
                    a[:, place] = f.basis[:, own] @ (tangent @ u[own]) + lam[:, own] @ (tangent.T @ inward[own])
                continue
            entries = zip(*structure.entries(t.r), strict=True)
            for place, (row, column) in enumerate(entries, t.theta.start):
                i, j = t.start + row, t.start + column
                a[:, place] = np.outer(f.basis[:, i], u[j]) + np.outer(lam[:, j], inward[i])
        out.append(a)
    return out
