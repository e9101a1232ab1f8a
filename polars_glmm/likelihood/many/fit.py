"""Many small models fitted together, by Laplace, or quadrature with one grouping factor.

What likelihood.marginal.fit does for one model, step by step with the same rules. Models that leave the beaten track
(a dispersion at its limit, a lost rank of several, a flat direction, separation) are not answered here: the caller
fits them singly.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

import numpy as np

from polars_glmm.control import Control
from polars_glmm.cores import workers
from polars_glmm.design.by_key.records import KeyedDesign
from polars_glmm.families.base import Family, towards_limit
from polars_glmm.likelihood.many.begin import BatchStart
from polars_glmm.likelihood.many.company import ROOM, ROOM_OF_FIT, companies
from polars_glmm.likelihood.many.engine import BatchModes, BatchRowEngine, SearchLayout
from polars_glmm.likelihood.many.estimate import BatchAnswer, OptimaAnswer, among
from polars_glmm.likelihood.many.model import prepare_batch
from polars_glmm.likelihood.many.plain import BatchPlain
from polars_glmm.likelihood.many.polish import BatchPolished, BatchScale, polish
from polars_glmm.likelihood.many.report_rows import Question, bare_optima, report_rows
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
from polars_glmm.optimize.many import PATIENCE, BatchFound, minimise_all
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
    answers = []
    for question, asked in _questions(design, family, method, control, ROOM_OF_FIT):
        for estimate, models in _estimates(question, {"start": perf_counter()}):
            answers.append(BatchAnswer(estimate, among(asked, models)))
    return answers


def optima_of_rows(
    design: KeyedDesign, family: Family, method: Method, control: Control, begin: BatchStart
) -> list[OptimaAnswer]:
    """Optima of the models of a keyed design and nothing else; what none marks wants a single fit."""
    answers = []
    for question, asked in _questions(design, family, method, control, ROOM):
        for optima, models in _optima(question, begin):
            answers.append(OptimaAnswer(optima, among(asked, models)))
    return answers


def _questions(
    design: KeyedDesign, family: Family, method: Method, control: Control, most: int
) -> Iterator[tuple[Question, BoolVec]]:
    """What is asked of the models that go together, and marks of these; most: room up to which they gain by that."""
    threads = workers(control.rows.threads)
    pool = ThreadPoolExecutor(threads) if threads > 1 else nullcontext()
    with one_blas_thread(), np.errstate(all="ignore"), pool as workers_of:
        model = prepare_batch(design, family)
        for asked in companies(model, most):
            yield Question(model.take(asked), family, method, control, workers_of), asked


class _Group(NamedTuple):
    """Models whose factors are free in the same entries, marked in `models`; their optima; ranks by term."""

    models: BoolVec
    question: Question
    engine: BatchRowEngine
    done: BatchPolished
    ranks: tuple[int, ...]


def _estimates(question: Question, clock: dict[str, float]) -> list[BatchAnswer]:
    """The estimates of all models."""
    base = _fit_glm(question)
    clock["glm"] = perf_counter()
    begun = _begun(question, base)
    searched, answers = _searched(question, begun), []
    clock["search"] = perf_counter()
    for found in _polished(question, begun, searched, clock):
        sizes = (begun.engine.layout.q, found.ranks)
        estimate, there = report_rows(found.question, found.engine, found.done, base.value[found.models], sizes, clock)
        if there.any():
            answers.append(BatchAnswer(estimate.take(there), among(found.models, there)))
    if searched.at_limit.any():
        answers += _poisson_limits(question, searched.at_limit, searched.found.value)
    return answers


def _optima(question: Question, begin: BatchStart) -> list[OptimaAnswer]:
    """The optima of all models from where another fit ended, or from the models without random effects."""
    inside = _inside(question, begin)
    begun = _begun(question, _fit_glm(question)) if inside is None else inside
    searched, answers = _searched(question, begun), []
    for found in _polished(question, begun, searched, {"start": perf_counter()}):
        singular = sum(found.ranks) < found.engine.layout.r
        optima, there = bare_optima(found.question, found.engine, found.done, singular=singular)
        if there.any():
            answers.append(OptimaAnswer(optima.take(there), among(found.models, there)))
    if searched.at_limit.any():
        limit, asked = _limit_question(question, searched.at_limit, searched.found.value)
        for optima, models in _optima(limit, replace(begin, phi=None)):
            good = optima.loglik >= asked[models]
            if good.any():
                kept = optima.take(good)
                phi = np.full(len(kept.beta), question.family.limit_phi)
                answers.append(OptimaAnswer(kept._replace(phi=phi), among(searched.at_limit, among(models, good))))
    return answers


class _Searched(NamedTuple):
    """Where all searches ended: modes there; which models are fine, and which at the limit of a dispersion (M,)."""

    found: BatchFound
    modes: BatchModes
    fine: BoolVec
    at_limit: BoolVec


class _SearchStart(NamedTuple):
    """Where the search of every model begins, how far a step may go, and what is known of a row there.

    row_variance (M,)   1 / mean expected curvature;  fine (M,): nothing is wrong yet
    """

    engine: BatchRowEngine
    x: Mat
    limit: Mat
    row_variance: Vec
    fine: BoolVec


def _engine(question: Question) -> BatchRowEngine:
    model = question.model
    layout = SearchLayout.of(question.p, model.terms, has_gamma=bool(question.s), factors=model.factors)
    nodes = question.method.nodes if isinstance(question.method, AGQ) else 1
    marginal = BatchMarginal.of(model.rows, question.density, nodes, question.pool, _BLOCK_ROWS)
    return BatchRowEngine(marginal, layout, _gamma_range(question)[1])


def _begun(question: Question, base: _Base) -> _SearchStart:
    """The start from the models without random effects."""
    engine, p = _engine(question), question.p
    size = _start_size(question.family, base.row_variance)[:, None]
    x = np.concatenate([base.x[:, :p], np.where(engine.layout.diagonal, size, 0.0), base.x[:, p:]], axis=1)
    return _SearchStart(engine, x, _step_limit(engine.layout, x, size), base.row_variance, base.fine)


def _inside(question: Question, begin: BatchStart) -> _SearchStart | None:
    """The start from another fit; None where that has not all coefficients."""
    if begin.beta is None or (begin.phi is None and question.s):
        return None
    model, engine = question.model, _engine(question)
    n = model.rows.n_models
    beta = np.linalg.solve(model.a.swapaxes(1, 2), np.tile(begin.beta, (n, 1))[..., None])[..., 0]
    gamma = np.full((n, question.s), np.log(begin.phi or 1.0))
    plain = BatchPlain.of(model.rows, question.density, question.pool, _BLOCK_ROWS, _gamma_range(question)[1])
    row_variance = _row_variance(plain, np.concatenate([beta, gamma], axis=1))
    x = np.concatenate([beta, begin.theta(model, engine.layout), gamma], axis=1)
    size = _start_size(question.family, row_variance)[:, None]
    return _SearchStart(engine, x, _step_limit(engine.layout, x, size), row_variance, np.ones(n, dtype=bool))


def _step_limit(layout: SearchLayout, x: Mat, size: Mat) -> Mat:
    limit = np.full_like(x, np.inf)
    limit[:, layout.p : layout.p + layout.q] = 3.0 * size
    limit[:, layout.p + layout.q :] = SLOWEST_GAMMA_STEP
    return limit


def _searched(question: Question, begun: _SearchStart) -> _Searched:
    """The searches of all models together."""
    control, engine = question.control, begun.engine
    low, high = _gamma_range(question)
    found, modes = minimise_all(
        engine, begun.x, tolerance=SEARCH_SHARE * control.search.decrement,
        max_evaluations=min(PATIENCE, control.search.max_evaluations), limit=begun.limit,
    )  # fmt: skip
    fine = begun.fine & np.isfinite(found.value) & found.settled
    at_limit = np.zeros_like(fine)
    if low is not None:
        if question.family.limit is not None:
            away = towards_limit(question.family) * found.x[:, -1]
            at_limit = fine & (away > _GAMMA_MARGIN * (high if high is not None else -low))
        fine &= (found.x[:, -1] > low) & ~at_limit
    return _Searched(found, modes, fine, at_limit)


def _polished(
    question: Question, begun: _SearchStart, searched: _Searched, clock: dict[str, float]
) -> Iterator[_Group]:
    """The optima of all models, by rank of their covariances."""
    model, control, engine = question.model, question.control, begun.engine
    found, modes = searched.found, searched.modes
    scale = BatchScale(np.sqrt(begun.row_variance), _bend(question, found.x))
    for group in settle(engine, model.terms, found.x, modes, begun.row_variance):
        models = group.models
        own = engine.of_group(models, group.layout)
        curvature = None if group.singular else found.curvature[models]
        done = polish(
            own, group.x, modes.of(models), curvature,
            BatchScale(scale.row[models], scale.bend[models]), hessian=control.search.hessian,
        )  # fmt: skip
        done = done._replace(
            evaluations=done.evaluations + found.evaluations[models], regular=done.regular & searched.fine[models]
        )
        clock["hessian"] = perf_counter()
        yield _Group(models, question._replace(model=model.take(models)), own, done, group.ranks)


def _limit_question(question: Question, at_limit: BoolVec, value: Vec) -> tuple[Question, Vec]:
    """The question at the limit of the dispersion for some models, and the ℓ that it must reach; value: −ℓ of all."""
    model = question.model.take(at_limit)
    assert question.family.limit is not None  # or there is no limit to be at
    asked = model.rows.totals(question.family.constant(model.rows.data)) - value[at_limit] - LIMIT_LOSS
    model = replace(model, rows=replace(model.rows, constant_phi=question.family.limit.has_phi))
    return question._replace(model=model, family=question.family.limit), asked


def _poisson_limits(question: Question, at_limit: BoolVec, value: Vec) -> list[BatchAnswer]:
    """Negative binomials without overdispersion: the Poisson fits with phi = inf, where they are as good; and so on."""
    poisson, asked = _limit_question(question, at_limit, value)
    answers = []
    for estimate, models in _estimates(poisson, {"start": perf_counter()}):
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
    return _Base(found.x, found.value, _row_variance(plain, found.x), fine)


def _row_variance(plain: BatchPlain, x: Mat) -> Vec:
    """1 / mean expected curvature of a row of each model, (M,)."""
    w = plain.mean_curvature(x)
    return np.where(w > 0.0, 1.0 / np.where(w > 0.0, w, 1.0), 1.0)


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
    if question.family.precise:
        return np.full(rows.n_models, -np.inf), np.array([np.inf if high is None else high for high in least])
    return np.array([-np.inf if low is None else low for low in least]), None
