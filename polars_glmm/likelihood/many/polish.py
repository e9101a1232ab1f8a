"""From where a batched search ended to optima with Hessians: likelihood.marginal.polish for many models."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.many.engine import BatchRowEngine, SearchLayout
from polars_glmm.likelihood.many.value import BatchValue
from polars_glmm.likelihood.optimum.newton import ERROR_SHARE, FORWARD, HESSIAN_STALE, LONGEST, ROUNDING
from polars_glmm.linalg.side_by_side import LevelsOf
from polars_glmm.optimize.many import newton_steps
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

_MOST_STEPS = 4


class BatchScale(NamedTuple):
    """As likelihood.optimum.newton.Scale, (M,) each: spread of a row in eta, and the scale on which ℓ bends."""

    row: Vec
    bend: Vec


class BatchPolished(NamedTuple):
    """Optima x (M, P) with ℓ there, Hessians of −ℓ (M, P, P) or None, decrements.

    slopes   of modes along β, (p, r_f, G_f) per factor
    """

    x: Mat
    value: BatchValue
    hessian: Cube | None
    decrement: Vec
    slopes: list[Cube] | None
    evaluations: IntVec
    regular: BoolVec


def polish(
    engine: BatchRowEngine, x: Mat, modes: list[Mat], curvature: Cube | None, scale: BatchScale, *, hessian: bool
) -> BatchPolished:
    """Newton with the exact Hessians; models whose Hessian belongs to another point are left to the single fit.

    curvature (M, P, P) of the search, or None where it is of other parameters
    """
    at = engine.layout
    now = engine.evaluate(x, modes)
    gradient = -at.pull(now)
    evaluations = np.ones(len(x), dtype=np.intp)
    regular = np.isfinite(now.value)
    if not hessian or not at.size:
        b = np.tile(np.eye(at.size), (len(x), 1, 1)) if curvature is None else curvature
        return BatchPolished(x, now, None, newton_steps(b, gradient)[1], None, evaluations, regular)
    h, slopes = _hessian(engine, x, now, gradient, _steps(at, x, scale, curvature))
    evaluations += at.size
    regular &= np.isfinite(h).all((1, 2))
    h[~regular] = np.eye(at.size)
    step, decrement = newton_steps(h, gradient)
    done = (decrement < ROUNDING) | ~regular
    for _ in range(_MOST_STEPS):
        if done.all():
            break
        regular &= done | (decrement <= HESSIAN_STALE)
        trial_x = np.where(done[:, None], x, x + step)
        trial = engine.evaluate(trial_x, now.modes)
        evaluations[~done] += 1
        worse = ~(trial.value >= now.value - 1e-9 * (1.0 + np.abs(now.value)))
        taken = ~done & ~worse
        x = np.where(taken[:, None], trial_x, x)
        now = _merge(now, trial, taken, engine.levels)
        step, after = newton_steps(h, -at.pull(now))
        decrement = np.where(taken, after, decrement)
        done |= worse | (decrement < ROUNDING)
    return BatchPolished(x, now, h, decrement, slopes, evaluations, regular)


def _merge(now: BatchValue, trial: BatchValue, taken: BoolVec, levels: tuple[LevelsOf, ...]) -> BatchValue:
    return BatchValue(
        np.where(taken, trial.value, now.value),
        np.where(taken, trial.beta, now.beta),
        np.where(taken, trial.lam, now.lam),
        None if now.zeta is None or trial.zeta is None else np.where(taken, trial.zeta, now.zeta),
        [np.where(taken[at.model], new, old) for old, new, at in zip(now.modes, trial.modes, levels, strict=True)],
        now.passes + trial.passes,
        None,
    )


def _steps(at: SearchLayout, x: Mat, scale: BatchScale, curvature: Cube | None) -> Mat:
    """Steps of the differences, (M, P): small against the scale on which ℓ bends, more where the data say little."""
    small = np.minimum(scale.row, scale.bend)
    out = np.ones_like(x)
    out[:, : at.p] = small[:, None]
    lam = np.abs(at.lam(x[:, at.p : at.p + at.q]))
    for own in at.factors:
        size = lam[own].max((0, 1), initial=0.0)
        out[:, at.p + at.within(own)] = np.minimum(np.maximum(size, 1e-2 * small), scale.bend)[:, None]
    if curvature is None:
        return FORWARD * out
    std_error = 1.0 / np.sqrt(np.maximum(np.einsum("mpp->mp", curvature), 1e-300))
    return np.asarray(np.maximum(FORWARD * out, np.minimum(ERROR_SHARE * std_error, LONGEST * scale.bend[:, None])))


def _hessian(
    engine: BatchRowEngine, x: Mat, now: BatchValue, gradient: Mat, steps: Mat
) -> tuple[Cube, list[Cube] | None]:
    """Hessians of −ℓ by forward differences of exact gradients, from modes moved along their slopes; those along β."""
    at, n = engine.layout, len(x)
    directions = [at.point(np.tile(e, (n, 1))) for e in np.eye(at.size)]
    slopes = engine.marginal.mode_slopes(at.point(x), now.modes, directions)
    columns = []
    for k in range(at.size):
        moved = x.copy()
        moved[:, k] += steps[:, k]
        h = moved[:, k] - x[:, k]
        both = zip(now.modes, slopes[k], engine.levels, strict=True)
        warm = [u + h[own.model] * slope for u, slope, own in both]
        there = -at.pull(engine.evaluate(moved, warm))
        columns.append((there - gradient) / h[:, None])
    full = np.array(columns).transpose(1, 0, 2)
    along = [np.array(own) for own in zip(*slopes[: at.p], strict=True)]
    return 0.5 * (full + full.swapaxes(1, 2)), along or None
