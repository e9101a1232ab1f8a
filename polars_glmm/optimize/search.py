"""Quasi-Newton descent with a start curvature, stopped by the Newton decrement and never by a relative change.

scipy's BFGS takes a first step of length about one in the metric of its start matrix, however far the optimum; with a
curvature that is nearly right that costs most of the evaluations. So: full Newton steps with the curvature the
objective offers while far away, BFGS updates of it (Nocedal & Wright 2006, eq. 6.19) once near.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.linalg as sl
from scipy.linalg import lapack

from polars_glmm.typing import BoolVec, Mat, Vec

ARMIJO = 1e-4
SHRINK = (0.1, 0.5)
SMALLEST_STEP = 1e-10
STILL_STEEP, LONGEST = 0.6, 8.0
"""A full step that leaves this share of the slope is tried again longer, at most this many times as long."""
FAR = 0.5
"""Newton decrement above which the objective's own curvature is asked for at every step."""
FLOOR = 1e-10
"""Eigenvalues of a curvature, scaled to unit diagonal, are not taken to be smaller than this share of the largest."""


EASY = 1e-4
"""Determinant of a curvature, scaled to unit diagonal, that is positive definite with ease."""


class Evaluation(NamedTuple):
    """Value and gradient of the function to be minimised; its approximate curvature; state to start the next one."""

    value: float
    gradient: Vec
    curvature: Mat | None
    state: Any


class Objective(Protocol):
    """A function to be minimised; not-finite values stand outside its domain."""

    def __call__(self, x: Vec, warm: Any, /, *, curvature: bool) -> Evaluation:
        """Value, gradient and, where asked for, curvature at x."""


class Begin(NamedTuple):
    """What is known where a search begins: a curvature for it, and the evaluation there."""

    curvature: Mat | None = None
    evaluation: Evaluation | None = None


class Found(NamedTuple):
    """Where a search ended: x, its evaluation, the curvature in use, the decrement ½g'B⁻¹g, and what it took."""

    x: Vec
    evaluation: Evaluation
    curvature: Mat
    decrement: float
    evaluations: int
    settled: bool


def restrict(objective: Objective, x: Vec, free: BoolVec) -> Objective:
    """The objective over the free coordinates, the others held at x."""

    def call(z: Vec, warm: Any, *, curvature: bool) -> Evaluation:
        full = x.copy()
        full[free] = z
        e = objective(full, warm, curvature=curvature)
        b = None if e.curvature is None else e.curvature[np.ix_(free, free)]
        return Evaluation(e.value, e.gradient[free], b, e.state)

    return call


def newton_step(curvature: Mat, gradient: Vec, *, quick: bool = False) -> tuple[Vec, float]:
    """−B⁻¹g and ½g'B⁻¹g with B made positive definite by its scaled eigenvalues.

    quick   by Cholesky where B is so with ease, the same to rounding: with unit diagonal n eigenvalues add up to n, so
            that the product of all but the least, λ, is at most (n / (n − 1))ⁿ⁻¹ < e, and λ > det B / e. Searches over
            cross-products do without: on responses that are almost constant they end on their last digits.
    """
    diagonal = np.diag(curvature)
    if quick and len(gradient) and diagonal.min() > 0.0:
        scale = np.sqrt(diagonal)
        low, failed = lapack.dpotrf(curvature / scale / scale[:, None], lower=1)
        if not failed and np.prod(np.diag(low)) ** 2 > EASY:
            step = lapack.dpotrs(low, gradient / scale, lower=1)[0] / scale
            return -step, 0.5 * float(step @ gradient)
    scale, values, vectors = positive_eigen(curvature)
    projected = vectors.T @ (gradient / scale)
    step = -(vectors @ (projected / values)) / scale
    return step, 0.5 * float((projected**2 / values).sum())


def positive_eigen(curvature: Mat) -> tuple[Vec, Vec, Mat]:
    """Scale of the coordinates, eigenvalues at unit diagonal made positive, and eigenvectors."""
    scale = np.sqrt(np.maximum(np.abs(np.diag(curvature)), 1e-300))
    scale[~(scale > 0)] = 1.0
    values, vectors = np.linalg.eigh(curvature / np.outer(scale, scale))
    values = np.maximum(np.abs(values), FLOOR * max(float(np.abs(values).max(initial=0.0)), 1e-300))
    return scale, values, vectors


def at_least(curvature: Mat, base: Mat, share: float) -> Mat:
    """The curvature, its eigenvalues relative to `base` raised to a share; `base` itself if not positive definite."""
    low, failed = lapack.dpotrf(base, lower=1, clean=1)
    if failed:
        return base
    half = sl.solve_triangular(low, curvature, lower=True)
    values, vectors = np.linalg.eigh(sl.solve_triangular(low, half.T, lower=True))
    back = low @ vectors
    return np.asarray((back * np.maximum(values, share)) @ back.T)


def minimise(  # noqa: PLR0913  a search is told all of it
    objective: Objective,
    x: Vec,
    *,
    tolerance: float,
    max_evaluations: int,
    limit: Vec | None = None,
    begin: Begin | None = None,
    quick: bool = False,
) -> Found:
    """The minimum near x, from a curvature given or the objective's own; `quick` steps are those of `newton_step`.

    `limit` bounds a step in each coordinate that it would more than double (inf: free).
    """
    with np.errstate(all="ignore"):
        return _descend(objective, x, begin or Begin(), _Bounds(tolerance, max_evaluations, limit, quick))


class _Bounds(NamedTuple):
    """What ends a search, how far a step may go, and how it is solved for."""

    tolerance: float
    max_evaluations: int
    limit: Vec | None
    quick: bool

    def shorten(self, x: Vec, step: Vec, gradient: Vec) -> Vec:
        """The step, as a whole within the limit of every coordinate; one that would pass its own for nothing stays.

        What has run to where ℓ is flat would else take the step from all others, and double with every one. What is
        left gains 2·decrement less those next to nothings, so it goes down.
        """
        if self.limit is None:
            return step
        room = np.maximum(self.limit, np.abs(x))
        idle = (np.abs(step) > room) & (np.abs(step * gradient) < self.tolerance / len(step))
        step = np.where(idle, 0.0, step)
        return step * min(1.0, float(np.min(room / np.maximum(np.abs(step), 1e-300))))


def _descend(objective: Objective, x: Vec, begin: Begin, bounds: _Bounds) -> Found:
    """The descent itself."""
    b, now = begin.curvature, begin.evaluation
    count = 0
    if now is None:
        now, count = objective(x, None, curvature=b is None), 1
    if b is None:
        b = now.curvature
    if b is None:
        b = np.eye(len(x)) * max(float(np.abs(now.gradient).max(initial=0.0)), 1.0)
    own = now.curvature is not None
    if not len(x):
        return Found(x, now, b, 0.0, count, settled=True)
    stalled = False
    while True:
        step, decrement = newton_step(b, now.gradient, quick=bounds.quick)
        if decrement < bounds.tolerance or count >= bounds.max_evaluations:
            return Found(x, now, b, decrement, count, settled=decrement < bounds.tolerance)
        step = bounds.shorten(x, step, now.gradient)
        most = bounds.max_evaluations - count
        line = _backtrack(objective, x, step, now, far=own and decrement > FAR, most=most)
        count += line.evaluations
        if line.trial is None:
            if stalled or not own:
                return Found(x, now, b, decrement, count, settled=False)
            stalled = True
            again = objective(x, now.state, curvature=True)
            count += 1
            b = again.curvature if again.curvature is not None else b
            continue
        stalled = False
        s, y = line.t * step, line.trial.gradient - now.gradient
        b = _bfgs(b, s, y) if line.trial.curvature is None else line.trial.curvature
        x, now = x + s, line.trial


class _Line(NamedTuple):
    """The share t of a step that was taken, the evaluation there (None: no share will do), and what it took."""

    t: float
    trial: Evaluation | None
    evaluations: int


def _backtrack(objective: Objective, x: Vec, step: Vec, now: Evaluation, *, far: bool, most: int) -> _Line:
    """The first share of a step that lowers the value enough (Armijo); a full one that ends steep is made longer."""
    slope = float(step @ now.gradient)
    t, count = 1.0, 0
    while True:
        trial = objective(x + t * step, now.state, curvature=far and t == 1.0)
        count += 1
        rounding = 1e-12 * abs(now.value)
        if trial.value <= now.value + ARMIJO * t * slope + rounding:
            break
        if count >= most or t < SMALLEST_STEP:
            return _Line(t, None, count)
        t *= _shrink(now.value, slope * t, trial.value)
    ahead = float(step @ trial.gradient)
    if t == 1.0 and ahead < STILL_STEEP * slope and trial.curvature is None:
        reach = min(slope / (slope - ahead), LONGEST) if ahead > slope else LONGEST
        further = objective(x + reach * step, trial.state, curvature=False)
        count += 1
        if further.value < trial.value:
            return _Line(reach, further, count)
    return _Line(t, trial, count)


def _shrink(f0: float, slope: float, f1: float) -> float:
    """Share of the step to try next: the minimum of the parabola through what is known."""
    if not np.isfinite(f1):
        return 0.25
    bend = f1 - f0 - slope
    share = -slope / (2.0 * bend) if bend > 0 else SHRINK[1]
    return float(np.clip(share, *SHRINK))


def _bfgs(b: Mat, s: Vec, y: Vec) -> Mat:
    """The BFGS update of B, made positive definite as the step had it; skipped where s'y is not positive."""
    if lapack.dpotrf(b, lower=1)[1]:
        scale, values, vectors = positive_eigen(b)
        b = (vectors * values) @ vectors.T * np.outer(scale, scale)
    sy = float(s @ y)
    bs = b @ s
    sbs = float(s @ bs)
    if sy <= 1e-8 * abs(sbs) or sbs <= 0:
        return b
    return b - np.outer(bs, bs) / sbs + np.outer(y, y) / sy
