"""H = Λ'AΛ + I over the levels of several factors, and traces against its inverse."""

from __future__ import annotations

import numpy as np

from polars_glmm.linalg import cholesky
from polars_glmm.linalg.pattern import Blocks
from polars_glmm.typing import Cube, Mat


def scaled_plus_identity(a: Blocks, factors: list[Mat]) -> Blocks:
    """H = Λ'AΛ + I for A in blocks (d, d, ·) and factors Λ_f (d, r_f)."""
    diagonal = []
    for lam, block in zip(factors, a.diagonal, strict=True):
        h = cholesky.quadratic(lam, block, lam)
        for i in range(len(h)):
            h[i, i] += 1.0
        diagonal.append(h)
    return Blocks(diagonal, {(f, g): cholesky.quadratic(factors[f], b, factors[g]) for (f, g), b in a.cross.items()})


def trace_blocks(a: Blocks, factors: list[Mat], inverse: Blocks) -> list[Mat]:
    """Σ over levels of the diagonal blocks of AΛH⁻¹, (d, r_f) per factor: half of ∂log|H|/∂Λ_f."""
    out = [_one_trace(b, lam, i) for b, lam, i in zip(a.diagonal, factors, inverse.diagonal, strict=True)]
    for (f, g), block in a.cross.items():
        i = inverse.cross[f, g]
        out[f] = out[f] + _one_trace(block, factors[g], i.swapaxes(0, 1))
        out[g] = out[g] + _one_trace(block.swapaxes(0, 1), factors[f], i)
    return out


def _one_trace(a: Mat, lam: Mat, inverse: Mat) -> Mat:
    """Σ_P a(j, k, P) Λ(k, s) i(s, r, P): (d, r)."""
    if len(lam) == 1 and lam.shape[1] == 1:
        return lam * float(np.dot(a[0, 0], inverse[0, 0]))
    d, r = lam.shape[0], inverse.shape[1]
    scaled = (lam @ inverse.reshape(len(inverse), -1)).reshape(d, r, -1)
    if len(a) * r > a.shape[-1]:  # more pairs than levels
        return np.asarray(np.tensordot(a, scaled, axes=([1, 2], [0, 2])))
    out = np.empty((len(a), r))
    for j in range(len(a)):
        for k in range(r):
            out[j, k] = np.vdot(a[j], scaled[:, k])
    return out


def reduction(inverse: Cube) -> Cube:
    """I − H⁻¹ for a stack of diagonal blocks (r, r, G)."""
    out = -inverse
    for i in range(len(out)):
        out[i, i] += 1.0
    return out
