"""Many gaussian identity-link models fitted together: likelihood.products.fit for one grouping factor each.

Models that leave the beaten track (a perfect fit, a lost rank of several) are left to the single fit.
"""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import numpy as np

from polars_glmm.control import Control
from polars_glmm.design.by_key.records import KeyedDesign
from polars_glmm.families.base import Family
from polars_glmm.likelihood.many.engine import SearchLayout
from polars_glmm.likelihood.many.estimate import BatchAnswer, BatchEstimate, among
from polars_glmm.likelihood.many.model import BatchModel, prepare_batch
from polars_glmm.likelihood.many.profile import (
    BatchProductEngine,
    BatchProfile,
    batch_products,
    least_squares,
)
from polars_glmm.likelihood.many.report import BatchInverted, covariance_report, inverted, without_errors
from polars_glmm.likelihood.many.settle import settle
from polars_glmm.likelihood.optimum import report
from polars_glmm.likelihood.optimum.newton import CENTRAL, FORWARD, HESSIAN_STALE
from polars_glmm.likelihood.optimum.notes import CONVERGED
from polars_glmm.likelihood.products.degenerate import STRONG
from polars_glmm.likelihood.products.fit import LONGEST_STEP, TOLERANCE
from polars_glmm.likelihood.products.polish import MANY_LEVELS, SETTLED
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.optimize.many import PATIENCE, minimise_all, newton_steps
from polars_glmm.spec.method import REML, Method
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

_SHARP = 1e-5
"""Share of the response's sum of squares: where the model leaves less of it, the single fit looks closer."""
_MOST_STEPS = 10


def estimate_products_batch(design: KeyedDesign, family: Family, method: Method, control: Control) -> list[BatchAnswer]:
    """Answers for the models of a keyed design, by rank of covariances; what none marks wants a single fit."""
    with one_blas_thread(), np.errstate(all="ignore"):
        clock = {"start": perf_counter()}
        model = prepare_batch(design, family)
        usual = model.regular & (design.model_levels <= MANY_LEVELS)
        if not usual.any():
            return []
        model = model if usual.all() else model.take(usual)
        answers = _fit(model, design.group, method, control, clock)
    return [BatchAnswer(estimate, among(usual, models)) for estimate, models in answers]


class _Polished(NamedTuple):
    """Optima θ (M, q) with the pieces there, Hessians of −ℓ in (θ, σ) or None, decrements, evaluations, who stands."""

    theta: Mat
    pieces: BatchProfile
    hessian: Cube | None
    decrement: Vec
    evaluations: IntVec
    regular: BoolVec


def _fit(
    model: BatchModel, group_name: str | None, method: Method, control: Control, clock: dict[str, float]
) -> list[BatchAnswer]:
    stats = batch_products(model)
    layout = SearchLayout.of(0, model.terms, has_gamma=False)
    engine = BatchProductEngine(stats, layout, isinstance(method, REML))
    clock["products"] = perf_counter()
    fine = _leaves_something(engine)
    n = stats.levels.n_models
    start = np.tile(layout.diagonal.astype(float), (n, 1))
    found, _ = minimise_all(
        engine, start, tolerance=min(control.search.decrement, TOLERANCE),
        max_evaluations=min(PATIENCE, control.search.max_evaluations), limit=np.full_like(start, LONGEST_STEP),
    )  # fmt: skip
    fine &= np.isfinite(found.value) & found.settled
    clock["search"] = perf_counter()
    nothing = np.zeros((layout.r, stats.levels.n_levels))
    answers = []
    for group in settle(engine, model.terms, found.x, nothing, np.ones(n)):
        models = group.models
        own = engine.of_group(models, group.layout)
        done = _polish(own, group.x, hessian=control.search.hessian)
        done = done._replace(
            evaluations=done.evaluations + found.evaluations[models], regular=done.regular & fine[models]
        )
        clock["hessian"] = perf_counter()
        of_group = model if models.all() else model.take(models)
        estimate, stands = _report(of_group, group_name, own, done, (layout.q, group.rank), clock)
        if stands.any():
            answers.append(BatchAnswer(estimate.take(stands), among(models, stands)))
    return answers


def _leaves_something(engine: BatchProductEngine) -> BoolVec:
    """Models that neither their fixed effects nor all effects together reproduce."""
    stats, at = engine.stats, engine.layout
    total = stats.ww[-1, -1]
    bare = least_squares(stats.ww)[3]
    strong = engine.pieces(np.tile(at.diagonal * STRONG, (len(total), 1))).rss
    return np.asarray((bare > _SHARP * total) & (strong > _SHARP * total))


def _polish(engine: BatchProductEngine, theta: Mat, *, hessian: bool) -> _Polished:
    """Newton on the profiled deviances, and the Hessians of the unprofiled ones."""
    pieces = engine.pieces(theta)
    h = _hessian(engine, theta, pieces)
    regular = np.isfinite(h).all((1, 2))
    h[~regular] = np.eye(h.shape[1])
    evaluations = np.full(len(theta), 1 + 2 * engine.layout.q)
    before = np.full(len(theta), np.inf)
    done = ~regular | np.full(len(theta), not engine.layout.q)
    decrement = np.zeros(len(theta))
    for _ in range(_MOST_STEPS):
        step, each = newton_steps(h, _gradient(engine, pieces))
        decrement = np.where(done, decrement, each)
        done |= (decrement < SETTLED) | (decrement > 0.1 * before)
        if done.all():
            break
        regular &= done | (decrement <= HESSIAN_STALE)
        trial_theta = np.where(done[:, None], theta, theta + step[:, :-1])
        trial = engine.pieces(trial_theta)
        evaluations[~done] += 1
        done |= ~(engine.minus_two(trial) <= engine.minus_two(pieces) + 1e-9)
        theta = np.where(done[:, None], theta, trial_theta)
        pieces = _merge(pieces, trial, ~done, engine.of_level)
        before = np.where(done, before, decrement)
    return _Polished(theta, pieces, h if hessian else None, decrement, evaluations, np.asarray(regular))


def _merge(old: BatchProfile, new: BatchProfile, taken: BoolVec, of_level: IntVec) -> BatchProfile:
    """New pieces where taken; those with the levels on their last axis by the model of the level."""
    by_level = {"b", "e", "h_inverse"}
    return BatchProfile(
        *(
            np.where(taken[of_level] if name in by_level else taken, b, a)
            for name, a, b in zip(old._fields, old, new, strict=True)
        )
    )


def _gradient(engine: BatchProductEngine, pieces: BatchProfile) -> Mat:
    """Gradient of half the profiled −2ℓ in θ, and 0 for σ."""
    at = engine.layout
    g = 0.5 * engine.gradients(pieces)[at.rows, at.columns].T
    return np.column_stack([g, np.zeros(len(g))])


def _hessian(engine: BatchProductEngine, theta: Mat, pieces: BatchProfile) -> Cube:
    """Hessians of −ℓ(β̂(F), F, σ) in (θ, σ), by central differences of the exact gradient in θ."""
    at, q = engine.layout, engine.layout.q
    reml = 1.0 if engine.reml else 0.0

    def split(x: BatchProfile) -> tuple[Mat, Mat]:
        log = x.d_log_h + reml * x.d_log_m
        return log[at.rows, at.columns].T, x.d_rss[at.rows, at.columns].T

    size = np.abs(theta).max(1, initial=0.0)
    largest = np.maximum(size, 1.0)
    step = CENTRAL * FORWARD * np.clip(size, 1e-2 * largest, largest)
    variance = pieces.rss / engine.nu
    h = np.empty((len(theta), q + 1, q + 1))
    logs, squares = np.empty((len(theta), q, q)), np.empty((len(theta), q, q))
    for k in range(q):
        up, down = theta.copy(), theta.copy()
        up[:, k] += step
        down[:, k] -= step
        above, below = split(engine.pieces(up)), split(engine.pieces(down))
        width = (up[:, k] - down[:, k])[:, None]
        logs[:, k], squares[:, k] = (above[0] - below[0]) / width, (above[1] - below[1]) / width
    inner = logs + squares / variance[:, None, None]
    h[:, :q, :q] = 0.25 * (inner + inner.swapaxes(1, 2))
    h[:, :q, q] = h[:, q, :q] = -split(pieces)[1] / variance[:, None] ** 1.5
    h[:, q, q] = -engine.nu / variance + 3.0 * pieces.rss / variance**2
    return h


def _report(
    model: BatchModel,
    group: str | None,
    engine: BatchProductEngine,
    done: _Polished,
    sizes: tuple[int, int],
    clock: dict[str, float],
) -> tuple[BatchEstimate, BoolVec]:
    """Estimates of all models, and which of them stand; sizes: covariance parameters in all, and the rank."""
    at, stats, pieces = engine.layout, engine.stats, done.pieces
    fine = done.regular & (done.decrement < CONVERGED) & np.isfinite(pieces.rss)
    n_theta, rank = sizes
    p, of_level = len(stats.ww) - 1, engine.of_level
    sigma = np.sqrt(pieces.rss / engine.nu)
    outward = model.a.swapaxes(1, 2)
    m_inverse = pieces.m_inverse.transpose(2, 0, 1)
    vcov_beta = sigma[:, None, None] ** 2 * (outward @ m_inverse @ model.a)
    beta = np.einsum("mpq,qm->mp", outward, pieces.beta)
    if model.constant is not None:
        beta = beta + stats.y_shift[:, None] * model.constant
    found = None if done.hessian is None else inverted(done.hessian)
    lam = at.lam(done.theta)
    cov = covariance_report(at, model.terms, lam, model.outward)
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
    to_b = np.einsum("mij,jkm->ikm", model.outward, lam)[..., of_level]
    c = np.concatenate([-pieces.beta, np.ones((1, len(sigma)))])[:, of_level]
    slope = None
    if pieces.b.size <= report.SLOPES_KEPT:
        inward = np.linalg.inv(outward).transpose(1, 2, 0)[..., of_level]
        slope = -np.einsum("irG,rpG,pqG->iqG", to_b, pieces.b[:, :p], inward, optimize=True)
    free = None if found is None or not engine.reml else _satterthwaite(engine, pieces, model, sigma, found)
    bare_m, bare_rss = least_squares(stats.ww)[2:]
    bare = (bare_m if engine.reml else 0.0) + engine.nu * (1.0 + np.log(2.0 * np.pi * bare_rss / engine.nu))
    constant = stats.log_weights + (2.0 * np.linalg.slogdet(model.a)[1] if engine.reml and p else 0.0)
    clock["report"] = perf_counter()
    estimate = BatchEstimate(
        beta=beta,
        phi=sigma,
        report=values,
        report_vcov=without_errors(report_vcov, null),
        covariances=tuple(sigma[:, None, None] ** 2 * m for m in cov.matrices),
        factor=group,
        term_names=tuple(name for t in model.terms for name in t.names),
        structures=tuple(t.structure for t in model.terms),
        modes=np.einsum("irG,rwG,wG->iG", to_b, pieces.b, c, optimize=True),
        mode_covariance=sigma[of_level] ** 2
        * np.einsum("irG,rsG,jsG->ijG", to_b, pieces.h_inverse, to_b, optimize=True),
        mode_slope=slope,
        model_levels=stats.levels.model_levels,
        loglik=-0.5 * (engine.minus_two(pieces) - constant),
        loglik_saturated=None,
        n_obs=stats.n,
        df_model=p + n_theta + 1,
        null_df=p + 1,
        null_loglik=-0.5 * (bare - constant),
        rank=rank,
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
    at, levels, p = engine.layout, engine.stats.levels, len(pieces.beta)
    half = levels.level_totals(np.einsum("daG,rbG->drabG", pieces.e[:, :p], pieces.b[:, :p]))
    inner = (half + half.swapaxes(2, 3))[at.rows, at.columns].transpose(3, 0, 1, 2)  # (M, q, p, p)
    m_inverse = pieces.m_inverse.transpose(2, 0, 1)[:, None]
    by_entry = (sigma**2)[:, None, None, None] * (m_inverse @ inner @ m_inverse)
    by_sigma = (2.0 * sigma)[:, None, None, None] * m_inverse
    a = model.a[:, None]
    derivative = a.swapaxes(2, 3) @ np.concatenate([by_entry, by_sigma], axis=1) @ a
    v = (sigma**2)[:, None] * np.einsum("mqp,mqr,mrp->mp", model.a, m_inverse[:, 0], model.a, optimize=True)
    g = np.einsum("mkpp->mkp", derivative)
    spread = np.einsum("mkp,mkl,mlp->mp", g, found.vcov, g, optimize=True)
    return _Satterthwaite(2.0 * v**2 / spread, derivative, found.vcov)
