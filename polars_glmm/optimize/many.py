"""The search of optimize.search for many functions at once: every round evaluates one point of each that is not done.

Each function keeps its own place in the algorithm (a step, a halved step, a longer one, a fresh curvature); those that
are done drop out, and the objective is cut anew when they are a good share.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import numpy as np

from polars_glmm.optimize.search import (
    ARMIJO,
    FAR,
    LONGEST,
    SHRINK,
    SMALLEST_STEP,
    STILL_STEEP,
    newton_step,
    positive_eigen,
)
from polars_glmm.typing import BoolVec, Cube, IntVec, Mat, Vec

PATIENCE = 40
"""Evaluations that most searches need no more than: who does is better off alone than holding up the others."""
_RECUT = 0.75
"""The objective is cut anew when fewer than this share of its functions are still searched."""
_STEP, _REACH, _AGAIN = 0, 1, 2
"""What the point of a round is: a step, a longer one, the same place with a fresh curvature."""
_COMFORTABLE = 1e-5
"""Smallest squared pivot of a curvature with unit diagonal for which its eigenvalues need not be looked at."""


class BatchEvaluation(NamedTuple):
    """value (M,), gradient (M, P), curvature (M, P, P) or None, state with `take(keep)` and `where(mask, other)`."""

    value: Vec
    gradient: Mat
    curvature: Cube | None
    state: Any


class BatchObjective(Protocol):
    """Functions to be minimised; not-finite values stand outside their domains."""

    def __call__(self, x: Mat, warm: Any, *, curvature: bool) -> BatchEvaluation:
        """Values, gradients and, where asked for, curvatures at x (M, P)."""

    def take(self, keep: BoolVec) -> BatchObjective:
        """Some of the functions."""


class BatchFound(NamedTuple):
    """As optimize.search.Found, with the functions on the first axis; the state is that of all."""

    x: Mat
    value: Vec
    gradient: Mat
    curvature: Cube
    decrement: Vec
    evaluations: IntVec
    settled: BoolVec


@dataclass(slots=True, eq=False)
class _Places:
    """Where every function stands; all arrays have the functions on the first axis."""

    index: IntVec
    x: Mat
    value: Vec
    gradient: Mat
    b: Cube
    limit: Mat
    count: IntVec
    phase: IntVec
    fresh: BoolVec
    stalled: BoolVec
    done: BoolVec
    settled: BoolVec
    decrement: Vec
    step: Mat
    slope: Vec
    t: Vec
    want: BoolVec
    trial_value: Vec
    trial_gradient: Mat
    reach: Vec

    def take(self, keep: BoolVec) -> None:
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name)[keep])


def newton_steps(curvature: Cube, gradient: Mat) -> tuple[Mat, Vec]:
    """−B⁻¹g and ½g'B⁻¹g with every B made positive definite by its scaled eigenvalues: (M, P), (M,)."""
    diag = np.abs(np.einsum("mpp->mp", curvature))
    scale = np.sqrt(np.maximum(diag, 1e-300))
    scaled = curvature / (scale[:, :, None] * scale[:, None, :])
    g = gradient / scale
    low, definite = _cholesky(scaled)
    half = _forward(low, g)
    step = -_backward(low, half) / scale
    decrement = 0.5 * (half**2).sum(1)
    for m in np.flatnonzero(~definite):
        step[m], decrement[m] = newton_step(np.nan_to_num(curvature[m]), gradient[m])
    return step, decrement


def _cholesky(a: Cube) -> tuple[Cube, BoolVec]:
    """Lower factors of (M, P, P) with unit diagonals, and which of them are comfortably positive definite."""
    p = a.shape[1]
    low = np.zeros_like(a)
    definite = np.isfinite(a).all((1, 2))
    for j in range(p):
        pivot = a[:, j, j] - (low[:, j, :j] ** 2).sum(1)
        definite &= pivot > _COMFORTABLE
        low[:, j, j] = np.sqrt(np.where(definite, pivot, 1.0))
        rest = a[:, j + 1 :, j] - np.einsum("mik,mk->mi", low[:, j + 1 :, :j], low[:, j, :j])
        low[:, j + 1 :, j] = rest / low[:, j, j][:, None]
    return low, np.asarray(definite)


def _forward(low: Cube, b: Mat) -> Mat:
    x = np.empty_like(b)
    for i in range(b.shape[1]):
        x[:, i] = (b[:, i] - (low[:, i, :i] * x[:, :i]).sum(1)) / low[:, i, i]
    return x


def _backward(low: Cube, b: Mat) -> Mat:
    x = np.empty_like(b)
    for i in range(b.shape[1] - 1, -1, -1):
        x[:, i] = (b[:, i] - (low[:, i + 1 :, i] * x[:, i + 1 :]).sum(1)) / low[:, i, i]
    return x


def minimise_all(
    objective: BatchObjective, x: Mat, *, tolerance: float, max_evaluations: int, limit: Mat
) -> tuple[BatchFound, Any]:
    """The minimum of each function near its x (M, P), and the state there. `limit` (M, P) bounds steps as there."""
    n, p = x.shape
    now = objective(x, None, curvature=True)
    assert now.curvature is not None
    found = BatchFound(
        x.copy(), now.value.copy(), now.gradient.copy(), now.curvature.copy(), np.zeros(n), np.ones(n, dtype=np.intp),
        np.ones(n, dtype=bool),
    )  # fmt: skip
    whole = state = now.state
    if not p:
        return found, whole
    at = _Places(
        index=np.arange(n), x=x.copy(), value=now.value.copy(), gradient=now.gradient.copy(), b=now.curvature.copy(),
        limit=limit, count=np.ones(n, dtype=np.intp), phase=np.zeros(n, dtype=np.intp), fresh=np.ones(n, dtype=bool),
        stalled=np.zeros(n, dtype=bool), done=~np.isfinite(now.value), settled=np.zeros(n, dtype=bool),
        decrement=np.full(n, np.inf), step=np.zeros((n, p)), slope=np.zeros(n), t=np.ones(n),
        want=np.zeros(n, dtype=bool), trial_value=np.zeros(n), trial_gradient=np.zeros((n, p)), reach=np.ones(n),
    )  # fmt: skip
    while True:
        _aim(at, tolerance, max_evaluations)
        if at.done.any():
            _record(found, at)
        if at.done.all():
            return found, whole.put(at.index, state)
        if (~at.done).mean() < _RECUT:
            whole = whole.put(at.index, state)
            keep = ~at.done
            objective, state = objective.take(keep), state.take(keep)
            at.take(keep)
        length = np.where(at.phase == _REACH, at.reach, np.where(at.phase == _AGAIN, 0.0, at.t))
        length[at.done] = 0.0
        points = at.x + length[:, None] * at.step
        e = objective(points, state, curvature=bool((at.want & ~at.done).any()))
        at.count[~at.done] += 1
        accepted = _decide(at, e, max_evaluations)
        state = state.where(accepted, e.state)


def _aim(at: _Places, tolerance: float, max_evaluations: int) -> None:
    """New steps for functions that were just moved; those that are there are done."""
    new = at.fresh & ~at.done
    if not new.any():
        return
    step, decrement = newton_steps(at.b[new], at.gradient[new])
    at.decrement[new] = decrement
    at.settled[new] = decrement < tolerance
    at.done[new] = at.settled[new] | (at.count[new] >= max_evaluations)
    room = np.maximum(at.limit[new], np.abs(at.x[new]))
    share = (room / np.maximum(np.abs(step), 1e-300)).min(1)
    at.step[new] = step * np.minimum(1.0, share)[:, None]
    at.slope[new] = np.einsum("mp,mp->m", at.step[new], at.gradient[new])
    at.t[new] = 1.0
    at.want[new] = decrement > FAR
    at.phase[new] = _STEP
    at.fresh[new] = False


def _decide(at: _Places, e: BatchEvaluation, max_evaluations: int) -> BoolVec:
    """What the evaluated points mean; marks the functions that moved to theirs."""
    live = ~at.done
    stepping = live & (at.phase == _STEP)
    fine = e.value <= at.value + ARMIJO * at.t * at.slope + 1e-12 * np.abs(at.value)
    good = stepping & fine
    ahead = np.einsum("mp,mp->m", at.step, e.gradient)
    longer = good & (at.t == 1.0) & (ahead < STILL_STEEP * at.slope) & ~at.want
    reached = live & (at.phase == _REACH)
    better = reached & (e.value < at.trial_value)
    again = live & (at.phase == _AGAIN)
    rejected = stepping & ~fine
    if again.any():
        assert e.curvature is not None
        at.b[again] = e.curvature[again]
        at.fresh |= again
    kept = reached & ~better  # the step before the longer one
    moved = (good & ~longer) | better
    _move(at, moved, e, np.where(at.phase == _REACH, at.reach, at.t))
    if kept.any():
        stored = BatchEvaluation(at.trial_value, at.trial_gradient, None, None)
        _move(at, kept, stored, at.t)
    if longer.any():
        at.phase[longer] = _REACH
        at.trial_value[longer] = e.value[longer]
        at.trial_gradient[longer] = e.gradient[longer]
        turning = longer & (ahead > at.slope)
        at.reach[longer] = LONGEST
        at.reach[turning] = np.minimum(at.slope[turning] / (at.slope - ahead)[turning], LONGEST)
    if rejected.any():
        _retry(at, rejected, e, max_evaluations)
    return np.asarray(moved)


def _move(at: _Places, moved: BoolVec, e: BatchEvaluation, t: Vec) -> None:
    """Take the evaluated points as the new places, with new curvatures."""
    if not moved.any():
        return
    s = t[moved, None] * at.step[moved]
    y = e.gradient[moved] - at.gradient[moved]
    b = _bfgs(at.b[moved], s, y)
    own = at.want[moved] & (at.phase[moved] == _STEP) & (t[moved] == 1.0)
    if e.curvature is not None:
        b = np.where(own[:, None, None], e.curvature[moved], b)
    at.b[moved] = b
    at.x[moved] += s
    at.value[moved], at.gradient[moved] = e.value[moved], e.gradient[moved]
    at.stalled[moved] = False
    at.fresh |= moved


def _retry(at: _Places, rejected: BoolVec, e: BatchEvaluation, max_evaluations: int) -> None:
    """Shorter steps; where they are too short a fresh curvature once, then the end."""
    spent = rejected & ((at.count >= max_evaluations) | (at.t < SMALLEST_STEP))
    at.done |= spent & at.stalled
    once = spent & ~at.stalled
    at.stalled |= once
    at.phase[once] = _AGAIN
    at.want[once] = True
    shorter = rejected & ~spent
    slope = at.slope * at.t
    with np.errstate(all="ignore"):
        bend = e.value - at.value - slope
        share = np.clip(np.where(bend > 0, -slope / (2.0 * bend), SHRINK[1]), *SHRINK)
    at.t[shorter] *= np.where(np.isfinite(e.value), share, 0.25)[shorter]
    at.want[shorter] = False


def _bfgs(b: Cube, s: Mat, y: Mat) -> Cube:
    """The BFGS update of each B, made positive definite as its step had it; skipped where s'y is not positive."""
    scale = np.sqrt(np.maximum(np.abs(np.einsum("mpp->mp", b)), 1e-300))
    for m in np.flatnonzero(~_cholesky(b / (scale[:, :, None] * scale[:, None, :]))[1]):
        own, values, vectors = positive_eigen(np.nan_to_num(b[m]))
        b[m] = (vectors * values) @ vectors.T * np.outer(own, own)
    sy = np.einsum("mp,mp->m", s, y)
    bs = np.einsum("mpq,mq->mp", b, s)
    sbs = np.einsum("mp,mp->m", s, bs)
    skip = (sy <= 1e-8 * np.abs(sbs)) | (sbs <= 0)
    sy, sbs = np.where(skip, 1.0, sy), np.where(skip, 1.0, sbs)
    change = y[:, :, None] * y[:, None, :] / sy[:, None, None] - bs[:, :, None] * bs[:, None, :] / sbs[:, None, None]
    return b + np.where(skip[:, None, None], 0.0, change)


def _record(found: BatchFound, at: _Places) -> None:
    done = at.done
    where = at.index[done]
    found.x[where], found.value[where], found.gradient[where] = at.x[done], at.value[done], at.gradient[done]
    found.curvature[where], found.decrement[where] = at.b[done], at.decrement[done]
    found.evaluations[where], found.settled[where] = at.count[done], at.settled[done]
