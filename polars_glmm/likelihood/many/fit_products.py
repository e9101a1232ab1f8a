"""Many gaussian identity-link models fitted together: likelihood.products.fit side by side.

Models that leave the beaten track (a perfect fit, a lost rank of several) are left to the single fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from polars_glmm.control import Control
from polars_glmm.design.by_key.records import KeyedDesign
from polars_glmm.families.base import Family
from polars_glmm.likelihood.many.begin import BatchStart
from polars_glmm.likelihood.many.company import ROOM, ROOM_OF_FIT, companies
from polars_glmm.likelihood.many.engine import SearchLayout
from polars_glmm.likelihood.many.estimate import BatchAnswer, OptimaAnswer, among
from polars_glmm.likelihood.many.model import BatchModel, prepare_batch
from polars_glmm.likelihood.many.profile import (
    BatchProductEngine,
    BatchProfile,
    batch_products,
    least_squares,
)
from polars_glmm.likelihood.many.report_products import (
    PolishedBatch,
    ProductGroup,
    product_optima,
    report_products,
    stands,
)
from polars_glmm.likelihood.many.settle import settle
from polars_glmm.likelihood.optimum.newton import CENTRAL, FORWARD, HESSIAN_STALE
from polars_glmm.likelihood.products.degenerate import STRONG
from polars_glmm.likelihood.products.fit import LONGEST_STEP, TOLERANCE
from polars_glmm.likelihood.products.polish import MANY_LEVELS, SETTLED
from polars_glmm.likelihood.products.starts import SMALL_START, has_few_rows
from polars_glmm.linalg.side_by_side import LevelsOf
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.optimize.many import PATIENCE, BatchFound, minimise_all, newton_steps
from polars_glmm.spec.method import REML, Method
from polars_glmm.typing import BoolVec, Cube, Mat

_SHARP = 1e-5
"""Share of the response's sum of squares: where the model leaves less of it, the single fit looks closer."""
_MOST_STEPS = 10


def estimate_products_batch(design: KeyedDesign, family: Family, method: Method, control: Control) -> list[BatchAnswer]:
    """Answers for the models of a keyed design, by rank of covariances; what none marks wants a single fit."""
    answers, clock = [], {"start": perf_counter()}
    for found, models in _groups(design, family, method, control, None, clock):
        estimate, there = report_products(found, clock)
        if there.any():
            answers.append(BatchAnswer(estimate.take(there), among(models, there)))
    return answers


def optima_of_products(
    design: KeyedDesign, family: Family, method: Method, control: Control, begin: BatchStart
) -> list[OptimaAnswer]:
    """Optima of the models of a keyed design and nothing else; what none marks wants a single fit."""
    answers = []
    for found, models in _groups(design, family, method, control, begin, {"start": perf_counter()}):
        there = stands(found.done)
        if there.any():
            answers.append(OptimaAnswer(product_optima(found).take(there), among(models, there)))
    return answers


def _groups(
    design: KeyedDesign, family: Family, method: Method, control: Control, begin: BatchStart | None,
    clock: dict[str, float],
) -> Iterator[tuple[ProductGroup, BoolVec]]:  # fmt: skip
    """The optima by rank of the models that the batch can answer for, with marks of these among all."""
    with one_blas_thread(), np.errstate(all="ignore"):
        model = prepare_batch(design, family)
        few = design.model_levels if begin is not None else np.sum(design.counts, axis=0)  # of whom a Hessian is made
        model = replace(model, regular=model.regular & (few <= MANY_LEVELS))
        for asked in companies(model, ROOM_OF_FIT if begin is None else ROOM):
            for found in _fit(model.take(asked), method, control, begin, clock):
                yield found, among(asked, found.models)


def _fit(
    model: BatchModel, method: Method, control: Control, begin: BatchStart | None, clock: dict[str, float]
) -> Iterator[ProductGroup]:
    """The optima of all models by rank; from where another fit ended, a search that ended is not polished."""
    stats = batch_products(model)
    layout = SearchLayout.of(0, model.terms, has_gamma=False, factors=model.factors)
    engine = BatchProductEngine(stats, layout, isinstance(method, REML))
    clock["products"] = perf_counter()
    fine = _leaves_something(engine)
    n = stats.n_models
    start = np.tile(layout.diagonal.astype(float), (n, 1)) if begin is None else begin.theta(model, layout, begin.phi)
    found = _search(engine, start, control)
    few = has_few_rows(stats.n, layout.q) if begin is None else np.zeros(n, dtype=bool)
    if few.any():
        found = _lower(found, _search(engine.take(few), SMALL_START * start[few], control), few)
    fine &= np.isfinite(found.value) & found.settled
    clock["search"] = perf_counter()
    for group in settle(engine, model.terms, found.x, np.zeros((layout.r, 0)), np.ones(n)):
        models = group.models
        own = engine.of_group(models, group.layout)
        if begin is None:
            done = _polish(own, group.x, hessian=control.search.hessian)
        else:
            here = own.pieces(group.x)
            regular = np.isfinite(own.minus_two(here))
            done = PolishedBatch(group.x, here, None, found.decrement[models], np.ones(len(here.rss), np.intp), regular)
        done = done._replace(
            evaluations=done.evaluations + found.evaluations[models], regular=done.regular & fine[models]
        )
        clock["hessian"] = perf_counter()
        yield ProductGroup(models, model.take(models), own, done, layout.q, group.ranks)


def _search(engine: BatchProductEngine, start: Mat, control: Control) -> BatchFound:
    return minimise_all(
        engine, start, tolerance=min(control.search.decrement, TOLERANCE),
        max_evaluations=min(PATIENCE, control.search.max_evaluations), limit=np.full_like(start, LONGEST_STEP),
    )[0]  # fmt: skip


def _lower(found: BatchFound, other: BatchFound, tried: BoolVec) -> BatchFound:
    """Where all searches ended, or second ones of some models that ended lower."""
    better = (other.value < found.value[tried]) & (other.settled | ~found.settled[tried])
    out = found._replace(**{name: field.copy() for name, field in found._asdict().items()})
    for mine, theirs in zip(out, other, strict=True):
        mine[among(tried, better)] = theirs[better]
    out.evaluations[tried] = found.evaluations[tried] + other.evaluations
    return out


def _leaves_something(engine: BatchProductEngine) -> BoolVec:
    """Models that neither their fixed effects nor all effects together, where rounding lets tell, reproduce."""
    stats, at = engine.stats, engine.layout
    total = stats.ww[-1, -1]
    bare = least_squares(stats.ww)[3]
    strong = engine.pieces(np.tile(at.diagonal * STRONG, (len(total), 1))).rss
    return np.asarray((bare > _SHARP * total) & ~(strong <= _SHARP * total))


def _polish(engine: BatchProductEngine, theta: Mat, *, hessian: bool) -> PolishedBatch:
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
        pieces = _merge(pieces, trial, ~done, engine.stats.levels)
        before = np.where(done, before, decrement)
    return PolishedBatch(theta, pieces, h if hessian else None, decrement, evaluations, np.asarray(regular))


def _merge(old: BatchProfile, new: BatchProfile, taken: BoolVec, levels: tuple[LevelsOf, ...]) -> BatchProfile:
    """New pieces where taken; those of levels by the model of the level."""
    merged: list[Any] = []
    both: Iterator[tuple[Any, Any]] = zip(old, new, strict=True)
    for a, b in both:
        if isinstance(a, list):
            merged.append([np.where(taken[at.model], y, x) for x, y, at in zip(a, b, levels, strict=True)])
        else:
            merged.append(np.where(taken, b, a))
    return BatchProfile(*merged)


def _gradient(engine: BatchProductEngine, pieces: BatchProfile) -> Mat:
    """Gradient of half the profiled −2ℓ in θ, and 0 for σ."""
    at = engine.layout
    g = 0.5 * engine.gradients(pieces)[at.rows, at.columns].T
    return np.column_stack([g, np.zeros(len(g))])


def _row_sizes(at: SearchLayout, theta: Mat) -> Mat:
    """As products.polish measures the rows of each factor, (M, q): by themselves, below 1 by the largest."""
    sizes = np.abs(at.lam(theta)).max(1, initial=0.0)
    for own in at.factors:
        sizes[own] = np.maximum(sizes[own], np.clip(sizes[own].max(0, initial=0.0), 1e-2, 1.0))
    return np.asarray(sizes[at.rows].T)


def _hessian(engine: BatchProductEngine, theta: Mat, pieces: BatchProfile) -> Cube:
    """Hessians of −ℓ(β̂(F), F, σ) in (θ, σ), by central differences of the exact gradient in θ."""
    at, q = engine.layout, engine.layout.q
    reml = 1.0 if engine.reml else 0.0

    def split(x: BatchProfile) -> tuple[Mat, Mat]:
        log = x.d_log_h + reml * x.d_log_m
        return log[at.rows, at.columns].T, x.d_rss[at.rows, at.columns].T

    step = CENTRAL * FORWARD * _row_sizes(at, theta)
    variance = pieces.rss / engine.nu
    h = np.empty((len(theta), q + 1, q + 1))
    logs, squares = np.empty((len(theta), q, q)), np.empty((len(theta), q, q))
    for k in range(q):
        up, down = theta.copy(), theta.copy()
        up[:, k] += step[:, k]
        down[:, k] -= step[:, k]
        above, below = split(engine.pieces(up)), split(engine.pieces(down))
        width = (up[:, k] - down[:, k])[:, None]
        logs[:, k], squares[:, k] = (above[0] - below[0]) / width, (above[1] - below[1]) / width
    inner = logs + squares / variance[:, None, None]
    h[:, :q, :q] = 0.25 * (inner + inner.swapaxes(1, 2))
    h[:, :q, q] = h[:, q, :q] = -split(pieces)[1] / variance[:, None] ** 1.5
    h[:, q, q] = -engine.nu / variance + 3.0 * pieces.rss / variance**2
    return h
