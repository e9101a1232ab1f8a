"""A factor Λ for every level: products with vectors and matrices of the levels, (…, G) each."""

from __future__ import annotations

import numpy as np

from polars_glmm.typing import Cube


def times(lam: Cube, v: Cube) -> Cube:
    """Λv per level: (d, r, G) by (r, …, G)."""
    if len(v) == 1:
        return np.asarray(lam[:, 0] * v if v.ndim == 2 else lam[:, 0, None] * v)
    return np.asarray(np.einsum("drG,r...G->d...G", lam, v))


def transposed_times(lam: Cube, v: Cube) -> Cube:
    """Λ'v per level: (d, r, G) by (d, …, G)."""
    if len(v) == 1:
        return np.asarray(lam[0] * v if v.ndim == 2 else lam[0][:, None] * v)
    return np.asarray(np.einsum("drG,d...G->r...G", lam, v))


def scaled_plus_identity(lam: Cube, w: Cube) -> Cube:
    """Λ'WΛ + I per level."""
    if len(lam) == 1:
        return np.asarray(lam * lam * w + 1.0)
    h = np.einsum("drG,dsG->rsG", lam, np.einsum("deG,esG->dsG", w, lam))
    for i in range(len(h)):
        h[i, i] += 1.0
    return np.asarray(h)


def outer(lam: Cube, hat: Cube) -> Cube:
    """ΛĤΛ' per level."""
    if len(lam) == 1:
        return lam * lam * hat
    return np.asarray(np.einsum("drG,reG->deG", lam, np.einsum("rsG,esG->reG", hat, lam)))


def trace(w: Cube, lam: Cube, hat: Cube) -> Cube:
    """WΛĤ per level."""
    if len(w) == 1:
        return np.asarray(w * lam * hat)
    return np.asarray(np.einsum("jkG,krG->jrG", w, np.einsum("ksG,srG->krG", lam, hat)))
