"""What a search needs of a likelihood in the covariances: its gradient, its expected information and how it bends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.likelihood.parameters.effects import Effects, TermMap
from polars_glmm.linalg import cholesky
from polars_glmm.typing import Cube, Mat, Vec

SMALL_PIVOT = 1e-3
"""Directions of Λ smaller than this share are left out of the curvature that starts a search."""


class Gradient(NamedTuple):
    """ℓ (no constant) with its gradient in beta and F_f (r_f, r_f), and what the next evaluation starts from."""

    value: float
    beta: Vec
    factors: list[Mat]
    warm: Any
    passes: float


class Engine(Protocol):
    """What polishing and reports need of a likelihood."""

    effects: Effects

    def gradient(self, beta: Vec, factors: list[Mat], warm: Any) -> Gradient:
        """ℓ and its gradient at scaled factors F_f."""


def theta_information(effects: Effects, theta: Vec, lambdas: list[Mat], levels: list[Cube]) -> Mat:
    """Expected information of θ in the tangent linear mixed model, ½ Σ_l tr(G ∂Σ_j G ∂Σ_k), G = Z'V⁻¹Z per level.

    (Searle, Casella & McCulloch 1992, §6.3, within levels only: a start for a search.)  levels[f] = I − (H⁻¹)_ff =
    Λ'GΛ, the share of each spherical effect's prior variance that the data take away, (r_f, r_f, G_f).
    """
    out = np.zeros((effects.n_theta, effects.n_theta))
    for f, lam, taken in zip(effects.factors, lambdas, levels, strict=True):
        back: Mat = np.asarray(np.linalg.pinv(lam, rcond=SMALL_PIVOT), dtype=np.float64)
        gain = taken
        if f.prior is not None:  # the prior variance of a level is not 1
            gain = taken + np.eye(f.r)[:, :, None] * (f.prior.variances - 1.0)
        gw = cholesky.quadratic(back, gain, back)
        for t in f.terms:
            block = lam[t.start : t.stop, t.start : t.stop]
            own = gw[t.start : t.stop, t.start : t.stop]
            if STRUCTURES[t.structure].rank(t.r) < t.r:
                own = _beyond_rank(own, block)
            changes = _changes(t, theta[t.theta], block)
            products = [np.tensordot(change, own, (1, 0)).swapaxes(0, 1) for change in changes]
            for a, pa in enumerate(products):
                for b in range(a + 1):
                    value = 0.5 * float(np.vdot(pa, products[b].swapaxes(0, 1)))
                    ia, ib = t.theta.start + a, t.theta.start + b
                    out[ia, ib] = out[ib, ia] = value
    return out


def _beyond_rank(own: Cube, block: Mat) -> Cube:
    """G (r, r, G) of a term whose Λ has fewer columns: beside its span, of which nothing is known, the mean within."""
    vectors, sizes, _ = np.linalg.svd(block)
    beside = vectors[:, np.count_nonzero(sizes > SMALL_PIVOT * sizes[0]) :]
    inside = max(len(block) - beside.shape[1], 1)
    mean = np.einsum("iiG->G", own) / inside
    return np.asarray(own + (beside @ beside.T)[:, :, None] * mean)


def _changes(t: TermMap, theta: Vec, block: Mat) -> Iterator[Mat]:
    """∂Σ/∂θ_j (r, r) of a term at its θ and Λ, one after the other."""
    structure = STRUCTURES[t.structure]
    if structure.bends:
        for tangent in structure.tangent(theta, t.r):
            half = tangent @ block.T
            yield half + half.T
        return
    for i, j in zip(*structure.entries(t.r), strict=True):
        change = np.zeros((t.r, t.r))
        change[i] += block[:, j]
        change[:, i] += block[:, j]
        yield change


def bending(effects: Effects, lambdas: list[Mat], gradients: list[Mat], step: Vec | None = None) -> Mat:
    """What ∂²/∂θ² has beyond ∂²/∂Σ², from gradients in Λ_f (r_f, r_f): tr(S ∂²Σ), S = ∂/∂Σ, its positive part.

    With Σ = ΛΛ' the gradient in Λ is 2SΛ and the entries (i, j), (k, l) of Λ get 2 S_ik where j = l. At an optimum
    inside S is zero; on the boundary it is all the curvature that is left. With a `step` in θ only the terms whose Σ
    would lose a direction by it: far from the boundary bending shortens steps that are right without.
    """
    out = np.zeros((effects.n_theta, effects.n_theta))
    for f, lam, gradient in zip(effects.factors, lambdas, gradients, strict=True):
        for t in f.terms:
            own, structure = slice(t.start, t.stop), STRUCTURES[t.structure]
            if isinstance(structure, Scaled):
                out[t.theta, t.theta] = _bending_of_scales(structure, lam[own, own], gradient[own, own])
                continue
            change = None if step is None else structure.factor(step[t.theta], t.r)
            if t.r == 1:
                at, slope = float(lam[t.start, t.start]), float(gradient[t.start, t.start])
                leaves = change is None or (at != 0.0 and 1.0 + 2.0 * float(change[0, 0]) / at <= 0.0)
                out[t.theta, t.theta] = max(slope / at, 0.0) if leaves and at != 0.0 else 0.0
                continue
            if not np.isfinite(gradient[own, own]).all():
                continue
            back = np.linalg.pinv(lam[own, own])
            if change is not None:
                relative = back @ change
                if (
                    not np.isfinite(relative).all()
                    or float(np.linalg.eigvalsh(np.eye(t.r) + relative + relative.T)[0]) > 0.0
                ):
                    continue
            half = 0.5 * gradient[own, own] @ back
            values, vectors = np.linalg.eigh(0.5 * (half + half.T))
            score = (vectors * np.maximum(values, 0.0)) @ vectors.T
            rows, columns = structure.entries(t.r)
            out[t.theta, t.theta] = 2.0 * score[np.ix_(rows, rows)] * (columns[:, None] == columns)
    return out


def _bending_of_scales(structure: Scaled, lam: Mat, gradient: Mat) -> Mat:
    """The part of it that parameters of scale s have: (∂/∂s)/s where it is positive, on the diagonal."""
    slope, square = (lam * gradient).sum(1), (lam**2).sum(1)
    if structure.equal:
        slope, square = slope.sum(keepdims=True), square.mean(keepdims=True)
    out = np.zeros((structure.size(len(lam)),) * 2)
    with np.errstate(all="ignore"):
        bend = 2.0 * slope / np.sqrt(square) if structure.squared else slope / square
        own = np.where(square > 0.0, np.maximum(bend, 0.0), 0.0)
    k = np.arange(len(own))
    out[k, k] = own
    return out
