"""Adaptive Gauss–Hermite quadrature of the levels of many models: likelihood.quadrature with a Λ for every level."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.many.modes import UnitPoint, times, transposed_times
from polars_glmm.likelihood.many.rows import BatchUnit
from polars_glmm.likelihood.marginal.modes import RowDensity
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.quadrature import Rule
from polars_glmm.typing import Cube, Mat, Vec


class LevelNodes(NamedTuple):
    """As likelihood.quadrature.NodeValue, per level: ℓ (G,); g, f_zeta per row; Σ π Z'g v' (r, r, G); F_û (r, G); Ĥ."""

    value: Vec
    g: Vec
    f_zeta: Vec | None
    direct: Cube
    slope: Mat
    hat: Cube


def integrate_nodes(density: RowDensity, rule: Rule, unit: BatchUnit, at: UnitPoint, u: Mat, low: Cube) -> LevelNodes:
    """The quadrature of every level, with the derivatives of ℓ in û and H."""
    block, z = unit.block, rule.nodes
    r, n_levels = u.shape
    spread = cholesky.backward(low, np.broadcast_to(z[:, :, None], (*z.shape, n_levels)))
    v = u[:, None, :] + spread
    parts = density.rows(block, at.fixed + block.combine(times(at.lam, v)), at.zeta, 1)
    f, g = block.sums(parts.f), block.z_sums(parts.g)
    terms = f - 0.5 * np.einsum("rqG,rqG->qG", v, v) + rule.log_weights[:, None]
    terms = np.where(np.isnan(terms), -np.inf, terms)
    top = terms.max(0)
    posterior = np.exp(terms - top)
    total = posterior.sum(0)
    posterior /= total
    value = top + np.log(total) - 0.5 * cholesky.log_determinant(low)
    seen = posterior > 0.0
    slope_nodes = np.where(seen, transposed_times(at.lam, g) - v, 0.0)
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
    direct = np.einsum("qG,dqG,rqG->drG", posterior, np.where(seen, g, 0.0), v, optimize=True)
    weight = block.spread(posterior)
    use = weight > 0.0
    g_rows = (weight * np.where(use, parts.g, 0.0)).sum(0)
    f_zeta = None if parts.f_zeta is None else (weight * np.where(use, parts.f_zeta, 0.0)).sum(0)
    return LevelNodes(value, g_rows, f_zeta, direct, slope, hat)
