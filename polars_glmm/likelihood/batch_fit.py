"""Many small models fitted together, by Laplace or quadrature with one grouping factor.

What likelihood.fit_rows does for one model, step by step with the same rules. Models that leave the beaten track
(a dispersion at its limit, a lost rank of several, a flat direction, separation) are not answered here: the caller
fits them singly.
"""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from time import perf_counter
from typing import NamedTuple

import numpy as np

from polars_glmm.control import Control
from polars_glmm.design.keyed import KeyedDesign
from polars_glmm.families.base import Family
from polars_glmm.likelihood import report
from polars_glmm.likelihood.batch_engine import BatchRowEngine, Layout
from polars_glmm.likelihood.batch_estimate import BatchAnswer, BatchEstimate
from polars_glmm.likelihood.batch_marginal import BatchMarginal
from polars_glmm.likelihood.batch_model import BatchModel, prepare_batch
from polars_glmm.likelihood.batch_plain import BatchPlain
from polars_glmm.likelihood.batch_polish import BatchPolished, BatchScale, polish, settle
from polars_glmm.likelihood.batch_rows import BatchRows
from polars_glmm.likelihood.batch_report import covariance_report, inverted
from polars_glmm.likelihood.doubts import CONVERGED
from polars_glmm.likelihood.fit_rows import _GLM_TOLERANCE, _SEARCH_SHARE, _SLOWEST_GAMMA_STEP, _UNIT_LINKS
from polars_glmm.likelihood.model import _CONCAVE
from polars_glmm.likelihood.modes import RowDensity
from polars_glmm.likelihood.separation import _COUNTS, _LOOSE
from polars_glmm.linalg.quadrature import gauss_hermite
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.optimize.batch_search import minimise_all
from polars_glmm.spec.method import AGQ, Method
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

_BLOCK_ROWS = 32_768
_GAMMA_MARGIN = 0.5
"""A log dispersion beyond this share of the way to its limit is left to the single fit."""
_SHARP = float(np.log(1e-10))
"""log of a share of the response's size: with a smaller dispersion the single fit asks whether the fit is perfect."""


class _Question(NamedTuple):
    model: BatchModel
    family: Family
    method: Method
    control: Control
    density: RowDensity
    pool: Executor | None
    group: str | None


class _Base(NamedTuple):
    """Models without random effects: search vectors [β_c, γ], values of −ℓ, 1 / mean expected curvature, who is fine."""

    x: Mat
    value: Vec
    row_variance: Vec
    fine: BoolVec


def estimate_rows_batch(design: KeyedDesign, family: Family, method: Method, control: Control) -> BatchAnswer | None:
    """The models of a keyed design; None where all of them want a fit of their own."""
    threads = control.rows.threads or min(os.cpu_count() or 1, 8)
    with one_blas_thread(), ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        clock = {"start": perf_counter()}
        model = prepare_batch(design, family)
        answered = model.regular.copy()
        if not answered.any():
            return None
        if not answered.all():
            model = model.take(answered)
        density = RowDensity(family, (family.name, family.link.name) in _CONCAVE)
        question = _Question(model, family, method, control, density, pool, design.group)
        with np.errstate(all="ignore"):
            estimate, fine = _fit(question, clock)
    answered[np.flatnonzero(answered)[~fine]] = False
    return BatchAnswer(estimate.take(fine), answered) if fine.any() else None


def _fit(question: _Question, clock: dict[str, float]) -> tuple[BatchEstimate, BoolVec]:
    model, control = question.model, question.control
    p, s = model.a.shape[1], int(question.family.has_phi)
    base = _fit_glm(question, s)
    clock["glm"] = perf_counter()
    layout = Layout.of(p, model.terms, has_gamma=bool(s))
    low, high = _gamma_range(question)
    rule = None
    if isinstance(question.method, AGQ) and question.method.nodes > 1:
        rule = gauss_hermite(question.method.nodes, layout.r)
    marginal = BatchMarginal.of(model.rows, question.density, rule, question.pool, _BLOCK_ROWS)
    engine = BatchRowEngine(marginal, layout, high)
    size = _start_size(question.family, base.row_variance)[:, None]
    x = np.concatenate([base.x[:, :p], np.where(layout.diagonal, size, 0.0), base.x[:, p:]], axis=1)
    limit = np.full_like(x, np.inf)
    limit[:, p : p + layout.q] = 3.0 * size
    limit[:, p + layout.q :] = _SLOWEST_GAMMA_STEP
    found, modes = minimise_all(
        engine, x, tolerance=_SEARCH_SHARE * control.search.decrement,
        max_evaluations=control.search.max_evaluations, limit=limit,
    )  # fmt: skip
    fine = base.fine & np.isfinite(found.value) & found.settled
    clock["search"] = perf_counter()
    scale = BatchScale(np.sqrt(base.row_variance), _bend(question, found.x))
    settled = settle(engine, found.x, modes.u, base.row_variance)
    done = polish(engine, settled, modes.u, found.curvature, scale, hessian=control.search.hessian)
    if low is not None:
        fine &= (done.x[:, -1] > low) & (high is None or done.x[:, -1] < _GAMMA_MARGIN * high)
    fine &= done.regular & np.isfinite(done.value.value) & (done.decrement < CONVERGED)
    clock["hessian"] = perf_counter()
    counts = found.evaluations + done.evaluations
    return _report(question, engine, base, done, _Marks(settled.zero, fine, counts), clock)


class _Marks(NamedTuple):
    """Per model: a variance at zero, an answer that stands, evaluations."""

    zero: BoolVec
    fine: BoolVec
    evaluations: IntVec


def _report(
    question: _Question, engine: BatchRowEngine, base: _Base, done: BatchPolished, marks: _Marks, clock: dict[str, float]
) -> tuple[BatchEstimate, BoolVec]:
    model, family, at = question.model, question.family, engine.layout
    rows, p, s = model.rows, at.p, at.s
    conditional = engine.marginal.conditional(at.point(done.x), done.value.modes)
    fine = marks.fine.copy()
    spread, smallest = None, None
    if done.hessian is not None:
        found = inverted(done.hessian)
        spread, smallest = found.vcov, found.smallest
        fine &= ~found.flat
        if family.name in _COUNTS:
            fine &= (np.sqrt(np.einsum("mpp->mp", found.vcov)[:, :p]) < _LOOSE).all(1)
    lam = at.lam(done.x[:, p : p + at.q])
    cov = covariance_report(at, model.terms, lam, model.outward)
    beta = np.einsum("mpq,mp->mq", model.a, done.x[:, :p])
    phi = np.exp(done.x[:, -1]) if s else None
    values = np.concatenate([beta, cov.values, *([] if phi is None else [phi[:, None]])], axis=1)
    jac = np.zeros((len(beta), values.shape[1], at.size))
    jac[:, :p, :p] = model.a.swapaxes(1, 2)
    jac[:, p : p + cov.values.shape[1], p : p + at.q] = cov.jacobian
    if phi is not None:
        jac[:, -1, -1] = phi
    report_vcov = np.full((*values.shape, values.shape[1]), np.nan)
    if spread is not None:
        report_vcov = jac @ spread @ jac.swapaxes(1, 2)
        report_vcov[marks.zero, p : p + 1] = np.nan
        report_vcov[marks.zero, :, p : p + 1] = np.nan
    constant = rows.totals(family.constant(rows.data))
    saturated = family.saturated(rows.data)
    to_b = np.einsum("mij,jkm->ikm", model.outward, lam)[..., rows.of_level]
    slope = None
    if done.slopes is not None and done.slopes.size <= report.SLOPES_KEPT:
        inward = np.linalg.inv(model.a.swapaxes(1, 2)).transpose(1, 2, 0)[..., rows.of_level]
        slope = np.einsum("irG,krG,kqG->iqG", to_b, done.slopes, inward, optimize=True)
    clock["report"] = perf_counter()
    estimate = BatchEstimate(
        beta=beta,
        phi=phi,
        report=values,
        report_vcov=report_vcov,
        covariances=cov.matrices,
        factor=question.group,
        term_names=tuple(name for t in model.terms for name in t.names),
        structures=tuple(t.structure for t in model.terms),
        modes=np.einsum("irG,rG->iG", to_b, conditional.modes),
        mode_covariance=np.einsum("irG,rsG,jsG->ijG", to_b, conditional.covariance, to_b, optimize=True),
        mode_slope=slope,
        model_levels=rows.model_levels,
        loglik=done.value.value + constant,
        loglik_saturated=None if saturated is None else rows.totals(saturated),
        n_obs=rows.observations(),
        df_model=p + at.q + s,
        null_df=p + s,
        null_loglik=constant - base.value,
        singular=marks.zero,
        decrement=done.decrement,
        smallest=smallest,
        evaluations=marks.evaluations,
        row_passes=engine.passes,
        seconds={name: each / len(beta) for name, each in report.seconds(clock).items()},
    )
    return estimate, fine


def _bend(question: _Question, x: Mat) -> Vec:
    """As likelihood.fit_rows._bend, per model."""
    if question.family.link.name in _UNIT_LINKS:
        return np.ones(len(x))
    rows = question.model.rows
    eta = _eta(rows, x[:, : len(rows.x)])
    size = np.sqrt(rows.row_totals(eta**2) / rows.model_rows)
    return np.where(size > 0.0, size, 1.0)


def _fit_glm(question: _Question, s: int) -> _Base:
    """The models without random effects: where the search starts, and the null of the likelihood-ratio tests."""
    model, family = question.model, question.family
    rows = model.rows
    p = model.a.shape[1]
    eta = _start_eta(family, rows) - (0.0 if rows.offset is None else rows.offset)
    gram = np.array([[rows.row_totals(a * b) for b in rows.x] for a in rows.x]).reshape(p, p, -1).transpose(2, 0, 1)
    right = np.array([rows.row_totals(a * eta) for a in rows.x]).reshape(p, -1).T
    beta = np.linalg.solve(gram, right[..., None])[..., 0] if p else np.zeros((rows.n_models, 0))
    plain = BatchPlain.of(rows, question.density, question.pool, _BLOCK_ROWS, _gamma_range(question)[1])
    gamma = np.zeros((rows.n_models, s))
    if s:
        mu = family.mean(_eta(rows, beta) + (0.0 if rows.offset is None else rows.offset))
        gamma[:, 0] = [np.log(family.start_phi(data, mu[own])) for own, data in rows.pieces()]
    x = np.concatenate([beta, gamma], axis=1)
    if model.constant is not None:
        lost = ~np.isfinite(plain(x, None, curvature=False).value)
        if lost.any():
            level = rows.row_totals(eta) / rows.model_rows
            flat = np.linalg.solve(model.a.swapaxes(1, 2), (model.constant * level[:, None])[..., None])[..., 0]
            x[lost, :p] = flat[lost]
    limit = np.full_like(x, np.inf)
    limit[:, p:] = _SLOWEST_GAMMA_STEP
    most = question.control.search.max_evaluations
    found, _ = minimise_all(plain, x, tolerance=_GLM_TOLERANCE, max_evaluations=most, limit=limit)
    fine = np.isfinite(found.value)
    w = plain.mean_curvature(found.x)
    row_variance = np.where(w > 0.0, 1.0 / np.where(w > 0.0, w, 1.0), 1.0)
    return _Base(found.x, found.value, row_variance, fine)


def _eta(rows: BatchRows, beta: Mat) -> Vec:
    """Xβ per row for beta (M, p)."""
    eta = np.zeros(len(rows.data.y))
    for b, column in zip(beta.T, rows.x, strict=True):
        eta += rows.per_row(b) * column
    return eta


def _start_eta(family: Family, rows: BatchRows) -> Vec:
    """family.start of every model; gaussian starts look at all rows of a model."""
    if family.name != "gaussian" or family.link.name == "identity":
        return family.start(rows.data)
    return np.concatenate([family.start(data) for _, data in rows.pieces()])


def _start_size(family: Family, row_variance: Vec) -> Vec:
    """As likelihood.fit_rows._start_size, per model."""
    if family.link.name in _UNIT_LINKS:
        return np.full(len(row_variance), 1.0 if family.name == "binomial" else 0.5)
    return 0.5 * np.sqrt(row_variance)


def _gamma_range(question: _Question) -> tuple[Vec | None, Vec | None]:
    """Per model the log dispersions that the batch answers for: clear of perfect fits and of the Poisson limit."""
    if not question.family.has_phi:
        return None, None
    y, rows = question.model.rows.data.y, question.model.rows
    if question.family.name == "negative_binomial":
        return np.full(rows.n_models, -np.inf), np.log(1e8 * np.maximum(rows.row_totals(y * y), 1.0))
    mean, square = rows.row_totals(y) / rows.model_rows, rows.row_totals(y * y) / rows.model_rows
    spread = np.log(np.maximum(square, 1e-300))
    low = {"gaussian": 0.5 * (_SHARP + spread), "gamma": np.full_like(mean, _SHARP)}
    return low.get(question.family.name, _SHARP - 0.5 * spread), None
