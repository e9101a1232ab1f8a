"""From where a batched search ended to optima with Hessians: likelihood.polish for many models with one factor."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.batch_engine import BatchRowEngine, Layout
from polars_glmm.likelihood.batch_gaussian import BatchProductEngine
from polars_glmm.likelihood.batch_marginal import BatchValue
from polars_glmm.likelihood.polish import (
    _ERROR_SHARE,
    _FORWARD,
    _HESSIAN_STALE,
    _LONGEST,
    _RANK_TOLERANCE,
    _ROUNDING,
    _SUSPECT,
    SNAP_LOSS,
)
from polars_glmm.optimize.batch_search import newton_steps
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

_RISES = 1e-3
"""One-sided score, in log-likelihood per unit of relative variance, from which a boundary is left."""
_MOST_STEPS = 4


class BatchSettled(NamedTuple):
    """Search vectors with a variance of zero where ℓ does not miss it (marks in `zero`); who is in the ordinary."""

    x: Mat
    zero: BoolVec
    regular: BoolVec


class BatchScale(NamedTuple):
    """As likelihood.polish.Scale, (M,) each: spread of a row in eta, and the scale on which ℓ bends."""

    row: Vec
    bend: Vec


class BatchPolished(NamedTuple):
    """Optima x (M, P) with ℓ there, Hessians of −ℓ (M, P, P) or None, decrements, mode slopes (k, r, G) along β.

    A variance at zero keeps its place in the vector, with a Hessian of 1 and nothing beside it.
    """

    x: Mat
    value: BatchValue
    hessian: Cube | None
    decrement: Vec
    slopes: Cube | None
    evaluations: IntVec
    regular: BoolVec


def settle(engine: BatchRowEngine | BatchProductEngine, x: Mat, modes: Mat, row_variance: Vec) -> BatchSettled:
    """Ranks of all models: one variance may be zero; anything else near the boundary is left to the single fit."""
    at = engine.layout
    x = x.copy()
    regular = np.ones(len(x), dtype=bool)
    zero = np.zeros(len(x), dtype=bool)
    theta = slice(at.p, at.p + at.q)
    lam = at.lam(x[:, theta])
    if at.r > 1:
        sigma = np.einsum("drm,erm->mde", lam, lam)
        # block diagonal: the smallest eigenvalue over the largest, of all terms together, is the stricter rule
        values = np.linalg.eigvalsh(sigma)
        regular = values[:, 0] > _SUSPECT * np.maximum(values[:, -1], row_variance)
        signs = np.sign(np.einsum("rrm->rm", lam))
        signs[signs == 0.0] = 1.0
        x[:, theta] = (lam * signs)[at.rows, at.columns].T
        return BatchSettled(x, zero, regular)
    x[:, at.p] = np.abs(x[:, at.p])
    variance = x[:, at.p] ** 2
    largest = np.maximum(variance, row_variance)
    zero = variance <= _RANK_TOLERANCE * largest
    doubtful = ~zero & (variance <= _SUSPECT * largest)
    if doubtful.any():
        some, warm = engine.take(doubtful), modes[:, doubtful[engine.of_level]]
        at_zero = x[doubtful]
        at_zero[:, at.p] = 0.0
        gain = some.evaluate(x[doubtful], warm).value - some.evaluate(at_zero, warm).value
        zero[np.flatnonzero(doubtful)[gain < SNAP_LOSS]] = True
    if zero.any():
        some, size = engine.take(zero), 1e-3 * np.sqrt(row_variance[zero])
        beside = x[zero]
        beside[:, at.p] = size
        slope = some.evaluate(beside, None).lam[0, 0] / (2.0 * size)
        regular[np.flatnonzero(zero)[~(slope * row_variance[zero] <= _RISES)]] = False
        x[zero, at.p] = 0.0
    return BatchSettled(x, zero, regular)


def polish(
    engine: BatchRowEngine, settled: BatchSettled, modes: Mat, curvature: Cube, scale: BatchScale, *, hessian: bool
) -> BatchPolished:
    """Newton with the exact Hessians; models whose Hessian belongs to another point are left to the single fit."""
    at, x, zero = engine.layout, settled.x, settled.zero
    regular = settled.regular.copy()
    now = engine.evaluate(x, modes)
    evaluations = np.ones(len(x), dtype=np.intp)
    gradient = _free(-at.pull(now), zero, at)
    if not hessian:
        h = fill_zero(curvature, zero, at.p)
        return BatchPolished(x, now, None, newton_steps(h, gradient)[1], None, evaluations, regular)
    h, slopes = _hessian(engine, x, now, gradient, _steps(at, x, scale, curvature, zero))
    evaluations += at.size
    h = fill_zero(h, zero, at.p)
    regular &= np.isfinite(h).all((1, 2))
    h[~regular] = np.eye(at.size)
    step, decrement = newton_steps(h, gradient)
    done = (decrement < _ROUNDING) | ~regular
    for _ in range(_MOST_STEPS):
        if done.all():
            break
        regular &= done | (decrement <= _HESSIAN_STALE)
        trial_x = np.where(done[:, None], x, x + step)
        trial = engine.evaluate(trial_x, now.modes)
        evaluations[~done] += 1
        worse = ~(trial.value >= now.value - 1e-9 * (1.0 + np.abs(now.value)))
        taken = ~done & ~worse
        x = np.where(taken[:, None], trial_x, x)
        now = _merge(now, trial, taken, engine.of_level)
        step, after = newton_steps(h, _free(-at.pull(now), zero, at))
        decrement = np.where(taken, after, decrement)
        done |= worse | (decrement < _ROUNDING)
    return BatchPolished(x, now, h, decrement, slopes, evaluations, regular)


def _merge(now: BatchValue, trial: BatchValue, taken: BoolVec, of_level: IntVec) -> BatchValue:
    return BatchValue(
        np.where(taken, trial.value, now.value),
        np.where(taken, trial.beta, now.beta),
        np.where(taken, trial.lam, now.lam),
        None if now.zeta is None or trial.zeta is None else np.where(taken, trial.zeta, now.zeta),
        np.where(taken[of_level], trial.modes, now.modes),
        now.passes + trial.passes,
        None,
    )


def _free(gradient: Mat, zero: BoolVec, at: Layout) -> Mat:
    """The gradient without the coordinate of a variance at zero."""
    if zero.any():
        gradient[zero, at.p] = 0.0
    return gradient


def fill_zero(h: Cube, zero: BoolVec, place: int) -> Cube:
    """Hessians with 1 for a variance at zero, and nothing beside it."""
    h = h.copy()
    if zero.any():
        h[zero, place] = 0.0
        h[zero, :, place] = 0.0
        h[zero, place, place] = 1.0
    return h


def _steps(at: Layout, x: Mat, scale: BatchScale, curvature: Cube, zero: BoolVec) -> Mat:
    """Steps of the differences, (M, P): small against the scale on which ℓ bends, more where the data say little."""
    small = np.minimum(scale.row, scale.bend)
    out = np.ones_like(x)
    out[:, : at.p] = small[:, None]
    size = np.abs(x[:, at.p : at.p + at.q]).max(1)
    out[:, at.p : at.p + at.q] = np.minimum(np.maximum(size, 1e-2 * small), scale.bend)[:, None]
    std_error = 1.0 / np.sqrt(np.maximum(np.einsum("mpp->mp", curvature), 1e-300))
    std_error[zero] = 0.0  # the search's curvature is of another model, as in the single fit
    return np.maximum(_FORWARD * out, np.minimum(_ERROR_SHARE * std_error, _LONGEST * scale.bend[:, None]))


def _hessian(engine: BatchRowEngine, x: Mat, now: BatchValue, gradient: Mat, steps: Mat) -> tuple[Cube, Cube | None]:
    """Hessians of −ℓ by forward differences of exact gradients, from modes moved along their slopes; those along β."""
    at, n = engine.layout, len(x)
    directions = [at.point(np.tile(e, (n, 1))) for e in np.eye(at.size)]
    slopes = engine.marginal.mode_slopes(at.point(x), now.modes, directions)
    of_level = engine.of_level
    columns = []
    for k in range(at.size):
        moved = x.copy()
        moved[:, k] += steps[:, k]
        h = moved[:, k] - x[:, k]
        warm = now.modes + h[of_level] * slopes[k]
        there = -at.pull(engine.evaluate(moved, warm))
        columns.append((there - gradient) / h[:, None])
    full = np.array(columns).transpose(1, 0, 2)
    return 0.5 * (full + full.swapaxes(1, 2)), np.array(slopes[: at.p]) if at.p else None
