"""Covariances of many models with their derivatives, and inverted Hessians: likelihood.report for batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.records import Term
from polars_glmm.likelihood.estimate import FactorEstimate
from polars_glmm.likelihood.many.engine import SearchLayout
from polars_glmm.likelihood.many.model import BatchModel
from polars_glmm.likelihood.optimum.newton import FLAT
from polars_glmm.likelihood.optimum.report import SLOPES_KEPT, between_estimates
from polars_glmm.likelihood.parameters.state import natural_sigmas
from polars_glmm.linalg.between import BetweenFactors
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

_DOUBTFUL = 10.0
"""Eigenvalues up to this many times the flat ones are left to the single fit."""


class BatchCovariances(NamedTuple):
    """vech of every term's Σ (M, V), its Jacobian in θ (M, V, q), and the matrices (M, r_t, r_t).

    null (M, V) marks those without a standard error, as likelihood.report does
    """

    values: Mat
    jacobian: Cube
    matrices: tuple[Cube, ...]
    null: BoolVec


class BatchInverted(NamedTuple):
    """(−∂²ℓ)⁻¹ (M, P, P), smallest eigenvalue of the Hessian at unit diagonal (M,), and who has a flat direction."""

    vcov: Cube
    smallest: Vec
    flat: BoolVec


def covariance_report(at: SearchLayout, terms: tuple[Term, ...], lam: Cube, outward: Cube) -> BatchCovariances:
    """Reported variances and covariances of Λ (r, r, M), for b = outward · Λ u."""
    factor = lam.transpose(2, 0, 1)
    values, jacobians, matrices, null = [], [], [], []
    for t in terms:
        own = slice(t.start, t.stop)
        out, block = outward[:, own, own], factor[:, own, own]
        half = out @ block
        sigma = natural_sigmas(out, block)
        i, j = STRUCTURES[t.structure].vech(t.stop - t.start)
        jac = np.zeros((len(factor), len(i), at.q))
        for k, (row, column) in enumerate(zip(at.rows, at.columns, strict=True)):
            if t.start <= row < t.stop:
                # ∂Σ/∂Λ_ac = o_a h_c' + h_c o_a' with o_a a column of outward, h_c one of outward · Λ
                o, h = out[:, :, row - t.start], half[:, :, column - t.start]
                jac[:, :, k] = o[:, i] * h[:, j] + h[:, i] * o[:, j]
        values.append(sigma[:, i, j])
        jacobians.append(jac)
        matrices.append(sigma)
        lost = np.einsum("mii->mi", sigma) == 0.0
        if STRUCTURES[t.structure].correlated:
            lost |= (block.any(1).sum(1) < t.stop - t.start)[:, None]
        null.append(lost[:, i] | lost[:, j])
    return BatchCovariances(
        np.concatenate(values, axis=1), np.concatenate(jacobians, axis=1), tuple(matrices), np.concatenate(null, axis=1)
    )


class KnownEffects(NamedTuple):
    """Of one factor in many models: modes (r, G), Var(u | y) (r, r, G), ∂û/∂β (r, p, G) with β as named, or None."""

    modes: Mat
    covariance: Cube
    slope: Cube | None


def factor_estimates(
    model: BatchModel,
    lam: Cube,
    u: list[KnownEffects],
    covariances: tuple[Cube, ...],
    between: BetweenFactors,
) -> tuple[FactorEstimate, ...]:
    """As optimum.report.factor_estimates, of many models; u by elimination, covariances by the formula's terms.

    between   Cov(u | y) between levels of different factors
    """
    found, start, levels = [], 0, model.rows.levels
    to_effects = {
        factor.place: np.einsum("mij,jkm->ikm", model.outward[:, factor.own, factor.own], lam[factor.own, factor.own])[
            ..., levels[factor.place].model
        ]
        for factor in model.named
    }
    by_place = sorted(model.named, key=lambda factor: factor.place)
    across = between_estimates(
        [factor.name for factor in by_place], [to_effects[factor.place] for factor in by_place], between
    )
    for factor in model.named:
        known, to_b = u[factor.place], to_effects[factor.place]
        stop = start + len(factor.terms)
        slope = known.slope
        estimate = FactorEstimate(
            name=factor.name,
            term_names=tuple(name for t in factor.terms for name in t.names),
            covariances=covariances[start:stop],
            structures=tuple(t.structure for t in factor.terms),
            modes=np.einsum("irG,rG->iG", to_b, known.modes),
            mode_covariance=np.einsum("irG,rsG,jsG->ijG", to_b, known.covariance, to_b, optimize=True),
            mode_slope=None if slope is None else np.einsum("irG,rqG->iqG", to_b, slope),
            between=across[factor.place],
        )
        found.append(estimate)
        start = stop
    return tuple(found)


def slopes_as_named(model: BatchModel, slopes: list[Cube]) -> list[Cube | None]:
    """∂û/∂β (r, p, G) per factor with β as named, from that in β_c, where they are not too many to keep."""
    if sum(slope.size for slope in slopes) > SLOPES_KEPT:
        return [None] * len(slopes)
    inward = np.linalg.inv(model.a.swapaxes(1, 2)).transpose(1, 2, 0)
    both = zip(slopes, model.rows.levels, strict=True)
    return [np.einsum("rkG,kqG->rqG", slope, inward[..., at.model]) for slope, at in both]


def covariance_matrices(terms: tuple[Term, ...], lam: Cube, outward: Cube) -> list[Cube]:
    """Σ (M, r_t, r_t) of each term for Λ (r, r, M), for b = outward · Λ u."""
    factor, own = lam.transpose(2, 0, 1), [slice(t.start, t.stop) for t in terms]
    return [natural_sigmas(outward[:, s, s], factor[:, s, s]) for s in own]


def without_errors(vcov: Cube, null: BoolVec) -> Cube:
    """Covariance matrices of a report (M, R, R) with NaN in the rows and columns marked in `null` (M, R)."""
    return np.where(null[:, :, None] | null[:, None, :], np.nan, vcov)


def inverted(h: Cube) -> BatchInverted:
    """Covariance matrices of the parameters; meaningless where a direction is flat."""
    if not h.shape[1]:
        return BatchInverted(h, np.full(len(h), np.inf), np.zeros(len(h), dtype=bool))
    diag = np.einsum("mpp->mp", h)
    scale = np.sqrt(np.where(diag > 0, diag, 1.0))
    outer = scale[:, :, None] * scale[:, None, :]
    values, vectors = np.linalg.eigh(h / outer)
    flat = (values[:, 0] < _DOUBTFUL * FLAT) | ~(diag > 0).all(1)
    inverse = 1.0 / np.where(values > FLAT, values, 1.0)
    vcov = (vectors * inverse[:, None, :]) @ vectors.swapaxes(1, 2) / outer
    return BatchInverted(vcov, values[:, 0], flat)
