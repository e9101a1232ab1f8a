"""What is reported of optima of many gaussian models: the bare values of a refit, or all that tables read."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.many.estimate import BatchEstimate, BatchOptima
from polars_glmm.likelihood.many.model import BatchModel
from polars_glmm.likelihood.many.profile import BatchProductEngine, BatchProfile, least_squares
from polars_glmm.likelihood.many.report import (
    BatchInverted,
    KnownEffects,
    covariance_matrices,
    covariance_report,
    factor_estimates,
    inverted,
    slopes_as_named,
    without_errors,
)
from polars_glmm.likelihood.optimum import report
from polars_glmm.likelihood.optimum.notes import CONVERGED
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec


class PolishedBatch(NamedTuple):
    """Optima θ (M, q) with the pieces there, Hessians of −ℓ in (θ, σ) or None, decrements, evaluations, who stands."""

    theta: Mat
    pieces: BatchProfile
    hessian: Cube | None
    decrement: Vec
    evaluations: IntVec
    regular: BoolVec


class ProductGroup(NamedTuple):
    """Models whose factors are free in the same entries, marked in `models`: the engine, and optima.

    n_theta, ranks   covariance parameters in all, and the rank of the covariance matrix of each term
    """

    models: BoolVec
    model: BatchModel
    engine: BatchProductEngine
    done: PolishedBatch
    n_theta: int
    ranks: tuple[int, ...]


def stands(done: PolishedBatch) -> BoolVec:
    """Optima that need no second look (M,)."""
    return np.asarray(done.regular & (done.decrement < CONVERGED) & np.isfinite(done.pieces.rss))


def product_optima(group: ProductGroup) -> BatchOptima:
    """The optima of a group."""
    model, engine, pieces = group.model, group.engine, group.done.pieces
    at, sigma = engine.layout, np.sqrt(pieces.rss / engine.nu)
    lam = at.lam(group.done.theta)
    matrices = covariance_matrices(model.in_formula, lam, model.outward)
    return BatchOptima(
        beta=_beta(group),
        phi=sigma,
        covariances=tuple(sigma[:, None, None] ** 2 * own for own in matrices),
        structures=tuple(t.structure for t in model.in_formula),
        loglik=-0.5 * (engine.minus_two(pieces) - _constant(group)),
        decrement=group.done.decrement,
        singular=sum(group.ranks) < at.r,
    )


def _beta(group: ProductGroup) -> Mat:
    """Coefficients of the columns as named, (M, p)."""
    model = group.model
    beta: Mat = np.einsum("mpq,qm->mp", model.a.swapaxes(1, 2), group.done.pieces.beta)
    return beta if model.constant is None else beta + group.engine.stats.y_shift[:, None] * model.constant


def _constant(group: ProductGroup) -> Vec:
    """What −2ℓ in the computing basis lacks, (M,)."""
    model, stats = group.model, group.engine.stats
    reml = group.engine.reml and model.a.shape[1] > 0
    return np.asarray(stats.log_weights + (2.0 * np.linalg.slogdet(model.a)[1] if reml else 0.0))


def report_products(group: ProductGroup, clock: dict[str, float]) -> tuple[BatchEstimate, BoolVec]:
    """Estimates of all models of a group, and which of them stand."""
    model, engine, done, n_theta, ranks = group[1:]
    at, stats, pieces = engine.layout, engine.stats, done.pieces
    fine = stands(done)
    p = len(stats.ww) - 1
    sigma = np.sqrt(pieces.rss / engine.nu)
    outward = model.a.swapaxes(1, 2)
    m_inverse = pieces.m_inverse.transpose(2, 0, 1)
    vcov_beta = sigma[:, None, None] ** 2 * (outward @ m_inverse @ model.a)
    beta = _beta(group)
    found = None if done.hessian is None else inverted(done.hessian)
    lam = at.lam(done.theta)
    cov = covariance_report(at, model.in_formula, lam, model.outward)
    variances = sigma[:, None] ** 2 * cov.values
    jac = np.zeros((len(sigma), variances.shape[1] + 1, at.q + 1))
    jac[:, :-1, :-1] = sigma[:, None, None] ** 2 * cov.jacobian
    jac[:, :-1, -1] = 2.0 * sigma[:, None] * cov.values
    jac[:, -1, -1] = 1.0
    spread = np.full((len(sigma), at.q + 1, at.q + 1), np.nan)
    if found is not None:
        fine = fine & ~found.flat
        spread = found.vcov
    values = np.concatenate([beta, variances, sigma[:, None]], axis=1)
    report_vcov = np.zeros((*values.shape, values.shape[1]))
    report_vcov[:, :p, :p] = vcov_beta
    report_vcov[:, p:, p:] = jac @ spread @ jac.swapaxes(1, 2)
    null = np.zeros(values.shape, dtype=bool)
    null[:, p:-1] = cov.null
    c = np.concatenate([-pieces.beta, np.ones((1, len(sigma)))])
    slopes = slopes_as_named(model, [-b[:, :p] for b in pieces.b])
    u = [
        KnownEffects(np.einsum("rwG,wG->rG", b, c[:, at.model]), sigma[at.model] ** 2 * spread, slope)
        for b, spread, slope, at in zip(pieces.b, pieces.h_inverse, slopes, stats.levels, strict=True)
    ]
    covariances = tuple(sigma[:, None, None] ** 2 * m for m in cov.matrices)
    free = None if found is None or not engine.reml else _satterthwaite(engine, pieces, model, sigma, found)
    bare_m, bare_rss = least_squares(stats.ww)[2:]
    bare = (bare_m if engine.reml else 0.0) + engine.nu * (1.0 + np.log(2.0 * np.pi * bare_rss / engine.nu))
    constant = _constant(group)
    clock["report"] = perf_counter()
    estimate = BatchEstimate(
        beta=beta,
        phi=sigma,
        report=values,
        report_vcov=without_errors(report_vcov, null),
        factors=factor_estimates(model, lam, u, covariances, engine.between(lam, sigma**2)),
        model_levels=model.level_counts,
        loglik=-0.5 * (engine.minus_two(pieces) - constant),
        loglik_saturated=None,
        n_obs=stats.n,
        df_model=p + n_theta + 1,
        null_df=p + 1,
        null_loglik=-0.5 * (bare - constant),
        ranks=model.of_formula(ranks),
        notes=(),
        decrement=done.decrement,
        smallest=None if found is None else found.smallest,
        evaluations=done.evaluations,
        row_passes=np.zeros(len(sigma)),
        seconds={name: each / len(sigma) for name, each in report.seconds(clock).items()},
        df_satterthwaite=None if free is None else free.df,
        vcov_derivative=None if free is None else free.derivative,
        covariance_vcov=None if free is None else free.covariance,
    )
    return estimate, fine


class _Satterthwaite(NamedTuple):
    """As likelihood.report.Satterthwaite with the models in front."""

    df: Mat
    derivative: Cube
    covariance: Cube


def _satterthwaite(
    engine: BatchProductEngine,
    pieces: BatchProfile,
    model: BatchModel,
    sigma: Vec,
    found: BatchInverted,
) -> _Satterthwaite:
    """Degrees of freedom of each fixed effect (Fai & Cornelius 1996), from the free entries of F and σ."""
    at, p = engine.layout, len(pieces.beta)
    inner = np.empty((len(sigma), at.q, p, p))
    for own, use, levels, e, b in zip(
        at.factors, engine.stats.uses, engine.stats.levels, pieces.e, pieces.b, strict=True
    ):
        half = levels.totals(np.einsum("daG,rbG->drabG", e[list(use), :p], b[:, :p]))
        mine = at.within(own)
        entries = at.rows[mine] - own.start, at.columns[mine] - own.start
        inner[:, mine] = (half + half.swapaxes(2, 3))[entries].transpose(3, 0, 1, 2)
    m_inverse = pieces.m_inverse.transpose(2, 0, 1)[:, None]
    by_entry = (sigma**2)[:, None, None, None] * (m_inverse @ inner @ m_inverse)
    by_sigma = (2.0 * sigma)[:, None, None, None] * m_inverse
    a = model.a[:, None]
    derivative = a.swapaxes(2, 3) @ np.concatenate([by_entry, by_sigma], axis=1) @ a
    v = (sigma**2)[:, None] * np.einsum("mqp,mqr,mrp->mp", model.a, m_inverse[:, 0], model.a, optimize=True)
    g = np.einsum("mkpp->mkp", derivative)
    spread = np.einsum("mkp,mkl,mlp->mp", g, found.vcov, g, optimize=True)
    return _Satterthwaite(2.0 * v**2 / spread, derivative, found.vcov)
