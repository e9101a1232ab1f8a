"""Adaptive Gauss–Hermite quadrature of one grouping factor, with what its gradient needs (Pinheiro & Bates 1995).

F(û, L) = log Σ_k w_k exp{J(û + L⁻ᵀz_k) + ½|z_k|²} − log|L|. With S = L⁻¹ dH L⁻ᵀ the Cholesky differential is
dL = LΦ(S), Φ the lower triangle with halved diagonal, so dF = −tr(Φ(S) N) for N = Σ_k π_k L⁻¹J_u(v_k) (v_k − û)'L + I
and Ĥ = L⁻ᵀ Q L⁻¹ with Q the symmetric matrix of the lower triangle of N'. One node: Ĥ = H⁻¹.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from polars_glmm.likelihood.marginal.modes import UnitAt, added
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.quadrature import Rule
from polars_glmm.typing import Cube, Mat, Vec


class NodeValue(NamedTuple):
    """Quadrature of a unit: ℓ of each model; node averages by block and predictor; Σ π Z'g v' (d, r); F_û (r, G); Ĥ."""

    value: Any
    g: list[list[Vec]]
    direct: Cube
    slope: Mat
    hat: Cube


def integrate_nodes(rule: Rule, here: UnitAt, u: list[Mat], low: Cube) -> NodeValue:
    """The quadrature of one factor, with the derivatives of ℓ in û and H; low (r, r, G): LL' = H per level."""
    lam, models, z = here.at.factors[0], here.unit.models, rule.nodes
    r, n_groups = u[0].shape
    spread = cholesky.backward(low, np.broadcast_to(z[:, :, None], (*z.shape, n_groups)))
    v = u[0][:, None, :] + spread
    b = models.times(lam, v)
    densities = []
    f = np.empty((z.shape[1], n_groups))
    g = np.empty((lam.shape[0], z.shape[1], n_groups))
    for block, own in zip(here.unit.blocks, here.fixed, strict=True):
        parts = here.density.rows(block, added(own, block.combine(b[..., block.cells])), 1)
        densities.append(parts)
        f[:, block.cells] = block.sums(parts.f)
        g[..., block.cells] = block.z_sums(parts.g)
    terms = f - 0.5 * np.einsum("rqG,rqG->qG", v, v) + rule.log_weights[:, None]
    terms = np.where(np.isnan(terms), -np.inf, terms)
    top = terms.max(0)
    posterior = np.exp(terms - top)
    total = posterior.sum(0)
    posterior /= total
    value = models.level_totals(top + np.log(total) - 0.5 * cholesky.log_determinant(low))
    seen = posterior > 0.0
    slope_nodes = np.where(seen, models.transposed_times(lam, g) - v, 0.0)
    slope = np.einsum("qG,rqG->rG", posterior, slope_nodes)
    half = cholesky.forward(low, slope_nodes)
    n = np.einsum("qG,iqG,jqG->ijG", posterior, half, spread, optimize=True)
    n = np.einsum("ijG,jkG->ikG", n, low)
    for i in range(r):
        n[i, i] += 1.0
    q = np.empty_like(n)
    for i in range(r):
        q[i, i] = n[i, i]
        for j in range(i):
            q[i, j] = q[j, i] = n[j, i]
    hat = cholesky.backward(low, cholesky.backward(low, q).swapaxes(0, 1))
    weighted = np.where(seen, g, 0.0) * posterior
    direct = models.level_totals(np.einsum("dqG,rqG->drG", weighted, v))
    g_rows = []
    for block, parts in zip(here.unit.blocks, densities, strict=True):
        weight = block.spread(posterior[:, block.cells])
        use = weight > 0.0
        g_rows.append([(weight * np.where(use, part, 0.0)).sum(0) for part in parts.g if part is not None])
    return NodeValue(value, g_rows, direct, slope, hat)
