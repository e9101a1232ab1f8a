"""Many small models fitted together, by Laplace or quadrature with one grouping factor.

What likelihood.marginal.fit does for one model, step by step with the same rules. Models that leave the beaten track
(a dispersion at its limit, a lost rank of several, a flat direction, separation) are not answered here: the caller
fits them singly.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from time import perf_counter
from typing import NamedTuple

import numpy as np

from polars_glmm.control import Control
from polars_glmm.cores import workers
from polars_glmm.design.by_key.records import KeyedDesign
from polars_glmm.families.base import Family, towards_limit
from polars_glmm.likelihood.many.engine import BatchRowEngine, SearchLayout
from polars_glmm.likelihood.many.estimate import BatchAnswer, among
from polars_glmm.likelihood.many.model import prepare_batch
from polars_glmm.likelihood.many.plain import BatchPlain
from polars_glmm.likelihood.many.polish import BatchScale, polish
from polars_glmm.likelihood.many.report_rows import Question, report_rows
from polars_glmm.likelihood.many.rows import BatchRows
from polars_glmm.likelihood.many.settle import settle
from polars_glmm.likelihood.many.value import BatchMarginal
from polars_glmm.likelihood.marginal.dispersion_limit import ENOUGH
from polars_glmm.likelihood.marginal.fit import (
    GLM_TOLERANCE,
    LIMIT_LOSS,
    SEARCH_SHARE,
    SLOWEST_GAMMA_STEP,
)
from polars_glmm.likelihood.optimum.notes import no_overdispersion_note
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.optimize.many import PATIENCE, minimise_all
from polars_glmm.spec.method import AGQ, Method
from polars_glmm.typing import BoolVec, Mat, Vec

_BLOCK_ROWS = 32_768
_GAMMA_MARGIN = 0.5
"""A log size beyond this share of its limit is the Poisson limit."""
_SHARP = float(np.log(1e-10))
"""log of a share of the response's size: with a smaller dispersion the single fit asks whether the fit is perfect."""


class _Base(NamedTuple):
    """Models without random effects: vectors [β_c, γ], values of −ℓ, 1 / mean expected curvature, who is fine."""

    x: Mat
    value: Vec
    row_variance: Vec
    fine: BoolVec


def estimate_rows_batch(design: KeyedDesign, family: Family, method: Method, control: Control) -> list[BatchAnswer]:
    """Answers for the models of a keyed design, by rank of covariances; what none marks wants a single fit."""
    threads = workers(control.rows.threads)
    with one_blas_thread(), ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as pool:
        clock = {"start": perf_counter()}
        model = prepare_batch(design, family)
        usual = model.regular
        if not usual.any():
            return []
        model = model if usual.all() else model.take(usual)
        question = Question(model, family, method, control, pool, design.group)
        with np.errstate(all="ignore"):
            answers = _fit(question, clock)
    return [BatchAnswer(estimate, among(usual, models)) for estimate, models in answers]


def _fit(question: Question, clock: dict[str, float]) -> list[BatchAnswer]:
    model, control = question.model, question.control
    p, s = question.p, question.s
    base = _fit_glm(question)
    clock["glm"] = perf_counter()
    layout = SearchLayout.of(p, model.terms, has_gamma=bool(s))
    low, high = _gamma_range(question)
    nodes = question.method.nodes if isinstance(question.method, AGQ) else 1
    marginal = BatchMarginal.of(model.rows, question.density, nodes, question.pool, _BLOCK_ROWS)
    engine = BatchRowEngine(marginal, layout, high)
    size = _start_size(question.family, base.row_variance)[:, None]
    x = np.concatenate([base.x[:, :p], np.where(layout.diagonal, size, 0.0), base.x[:, p:]], axis=1)
    limit = np.full_like(x, np.inf)
    limit[:, p : p + layout.q] = 3.0 * size
    limit[:, p + layout.q :] = SLOWEST_GAMMA_STEP
    found, modes = minimise_all(
        engine, x, tolerance=SEARCH_SHARE * control.search.decrement,
        max_evaluations=min(PATIENCE, control.search.max_evaluations), limit=limit,
    )  # fmt: skip
    fine = base.fine & np.isfinite(found.value) & found.settled
    at_limit = np.zeros_like(fine)
    if low is not None:
        if question.family.limit is not None:
            away = towards_limit(question.family) * found.x[:, -1]
            at_limit = fine & (away > _GAMMA_MARGIN * (high if high is not None else -low))
        fine &= (found.x[:, -1] > low) & ~at_limit
    clock["search"] = perf_counter()
    scale = BatchScale(np.sqrt(base.row_variance), _bend(question, found.x))
    answers = []
    for group in settle(engine, model.terms, found.x, modes.u, base.row_variance):
        models = group.models
        own = engine.of_group(models, group.layout)
        curvature = None if group.singular else found.curvature[models]
        done = polish(
            own, group.x, modes.u[:, models[engine.of_level]], curvature,
            BatchScale(scale.row[models], scale.bend[models]), hessian=control.search.hessian,
        )  # fmt: skip
        done = done._replace(
            evaluations=done.evaluations + found.evaluations[models], regular=done.regular & fine[models]
        )
        clock["hessian"] = perf_counter()
        of_group = question._replace(model=model if models.all() else model.take(models))
        estimate, stands = report_rows(of_group, own, done, base.value[models], (layout.q, group.rank), clock)
        if stands.any():
            answers.append(BatchAnswer(estimate.take(stands), among(models, stands)))
    if at_limit.any():
        answers += _poisson_limits(question, at_limit, found.value)
    return answers


def _poisson_limits(question: Question, at_limit: BoolVec, value: Vec) -> list[BatchAnswer]:
    """Negative binomials without overdispersion: the Poisson fits with phi = inf, where they are as good; and so on."""
    model = question.model.take(at_limit)
    assert question.family.limit is not None
    poisson = question._replace(model=model, family=question.family.limit)
    asked = model.rows.totals(question.family.constant(model.rows.data)) - value[at_limit] - LIMIT_LOSS
    answers = []
    for estimate, models in _fit(poisson, {"start": perf_counter()}):
        good = estimate.loglik >= asked[models]
        if good.any():
            note = no_overdispersion_note(question.family)
            kept = estimate.take(good).without_dispersion(question.family.limit_phi, note)
            answers.append(BatchAnswer(kept, among(at_limit, among(models, good))))
    return answers


def _bend(question: Question, x: Mat) -> Vec:
    """As likelihood.marginal.fit.predictor_bend, per model."""
    if question.family.unit is not None:
        return np.ones(len(x))
    rows = question.model.rows
    eta = _eta(rows, x[:, : len(rows.x)])
    size = np.sqrt(rows.row_totals(eta**2) / rows.model_rows)
    return np.where(size > 0.0, size, 1.0)


def _fit_glm(question: Question) -> _Base:
    """The models without random effects: where the search starts, and the null of the likelihood-ratio tests."""
    model, family = question.model, question.family
    rows, p, s = model.rows, question.p, question.s
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
    limit[:, p:] = SLOWEST_GAMMA_STEP
    most = min(PATIENCE, question.control.search.max_evaluations)
    found, _ = minimise_all(plain, x, tolerance=GLM_TOLERANCE, max_evaluations=most, limit=limit)
    fine = np.isfinite(found.value) & found.settled
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
    if not family.residual or family.linear:
        return family.start(rows.data)
    return np.concatenate([family.start(data) for _, data in rows.pieces()])


def _start_size(family: Family, row_variance: Vec) -> Vec:
    """As likelihood.marginal.fit._start_size, per model."""
    if family.unit is not None:
        return np.full(len(row_variance), family.first_size)
    return 0.5 * np.sqrt(row_variance)


def _gamma_range(question: Question) -> tuple[Vec | None, Vec | None]:
    """Per model the log dispersions that the batch answers for: clear of perfect fits and of the Poisson limit."""
    if not question.family.has_phi:
        return None, None
    y, rows = question.model.rows.data.y, question.model.rows
    if question.family.limit is not None:
        cap = np.log(ENOUGH * np.maximum(rows.row_totals(question.family.remoteness(rows.data)), 1.0))
        return (np.full(rows.n_models, -np.inf), cap) if towards_limit(question.family) > 0.0 else (-cap, None)
    square = rows.row_totals(y * y) / rows.model_rows
    least = [question.family.least_log_phi(_SHARP, spread) for spread in np.log(np.maximum(square, 1e-300))]
    return np.array([-np.inf if low is None else low for low in least]), None
