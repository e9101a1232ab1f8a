"""A factor Λ for every level: products with vectors and matrices of the levels, (…, G) each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.linalg.pattern import Blocks, Pattern
from polars_glmm.typing import Cube, IntVec


class LevelTerm(NamedTuple):
    """Values (…, P), each belonging to a level (P,); None: one for each level."""

    values: Cube
    levels: IntVec | None


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
    if len(lam) == 1 and lam.shape[1] == 1:
        return np.asarray(lam * lam * w + 1.0)
    h = np.einsum("drG,dsG->rsG", lam, np.einsum("deG,esG->dsG", w, lam))
    for i in range(len(h)):
        h[i, i] += 1.0
    return np.asarray(h)


def quadratic(left: Cube, w: Cube, right: Cube) -> Cube:
    """Λ'WΠ per pair of levels of two factors: (d, r, P), (d, e, P), (e, s, P) → (r, s, P)."""
    if len(left) == 1 and len(right) == 1 and left.shape[1] == 1 and right.shape[1] == 1:
        return np.asarray(left * w * right)
    return np.asarray(np.einsum("drP,dsP->rsP", left, np.einsum("deP,esP->dsP", w, right)))


def outer(lam: Cube, hat: Cube) -> Cube:
    """ΛĤΛ' per level."""
    if len(lam) == 1 and lam.shape[1] == 1:
        return lam * lam * hat
    return np.asarray(np.einsum("drG,reG->deG", lam, np.einsum("rsG,esG->reG", hat, lam)))


def trace(w: Cube, lam: Cube, hat: Cube) -> Cube:
    """WΛĤ per level: (d, e, G), (e, r, G), (r, s, G) → (d, s, G)."""
    if len(w) == 1 and lam.shape[1] == 1 and len(lam) == 1:
        return np.asarray(w * lam * hat)
    return np.asarray(np.einsum("jkG,krG->jrG", w, np.einsum("ksG,srG->krG", lam, hat)))


def curvature(w: Blocks, factors: list[Cube], pattern: Pattern | None) -> Blocks:
    """H = Λ'WΛ + I in blocks, with a Λ (d, r, G) for every level of each factor."""
    diagonal = [scaled_plus_identity(lam, block) for lam, block in zip(factors, w.diagonal, strict=True)]
    cross = {}
    for (f, g), block in w.cross.items():
        assert pattern is not None  # several factors have one
        left, right = pattern.pairs[f, g][:2]
        cross[f, g] = quadratic(factors[f][..., left], block, factors[g][..., right])
    return Blocks(diagonal, cross)


def trace_terms(w: Blocks, factors: list[Cube], hat: Blocks, pattern: Pattern | None) -> list[list[LevelTerm]]:
    """What the diagonal blocks of WΛĤ are sums of, per factor."""
    out: list[list[LevelTerm]] = []
    for f, (block, lam, own) in enumerate(zip(w.diagonal, factors, hat.diagonal, strict=True)):
        out.append([LevelTerm(trace(block, lam, own), None)])
        for (a, b), cross in w.cross.items():
            if f not in (a, b):
                continue
            assert pattern is not None  # several factors have one
            left, right = pattern.pairs[a, b][:2]
            if f == a:
                out[f].append(LevelTerm(trace(cross, factors[b][..., right], hat.cross[a, b].swapaxes(0, 1)), left))
            else:
                out[f].append(LevelTerm(trace(cross.swapaxes(0, 1), factors[a][..., left], hat.cross[a, b]), right))
    return out
