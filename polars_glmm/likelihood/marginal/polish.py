"""From where a search ended to an optimum with its Hessian: ranks settled, Newton steps, the certificate's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.errors import ConvergenceError
from polars_glmm.likelihood.marginal.engine import RowEngine
from polars_glmm.likelihood.marginal.slopes import KeptSlopes
from polars_glmm.likelihood.optimum.newton import (
    HESSIAN_STALE,
    NO_CURVATURE,
    ROUNDING,
    Scale,
    difference_steps,
    newton,
)
from polars_glmm.likelihood.parameters.curvature import Gradient
from polars_glmm.likelihood.parameters.state import Rank, State
from polars_glmm.linalg.differences import symmetric
from polars_glmm.typing import BoolVec, Mat, Vec


class Polished(NamedTuple):
    """An optimum: state, ℓ with gradient there, Hessian of −ℓ over the entries that are not held (or None), decrement.

    slopes    dû along each of those entries; None without random effects or Hessian
    """

    state: State
    ranks: list[Rank]
    gradient: Gradient
    hessian: Mat | None
    decrement: float
    held: BoolVec
    slopes: KeptSlopes | None


class Settled(NamedTuple):
    """Where a search ended, its ranks settled.

    warm        where the evaluation may start;  curvature of the search, in the state's vector if the shapes agree
    held        marks entries of the state's vector that stay where they are
    ended       entries that have run so far that the family is another: there is nothing but rounding to follow
    """

    state: State
    ranks: list[Rank]
    warm: Any
    curvature: Mat
    held: BoolVec
    ended: Sequence[int] = ()


def polish_rows(engine: RowEngine, settled: Settled, scale: Scale, *, hessian: bool) -> Polished:
    """Newton with the exact Hessian on the entries that are not held."""

    def at(s: State, warm: Any) -> Gradient:
        return engine.gradient(s.beta, list(s.factors), warm)

    state, ranks, warm, curvature, held, ended = settled
    now = at(state, warm)
    if not np.isfinite(now.value):
        msg = "The likelihood is not finite at the point that the search found. Use another link, or give start=."
        raise ConvergenceError(msg)
    x = state.vector()
    free = ~held
    bends = np.flatnonzero(~np.isin(np.flatnonzero(free), ended))
    if not hessian or not free.any():
        g = state.pull(now.beta, now.factors)[free]
        b = curvature[np.ix_(free, free)] if curvature.shape == (len(x),) * 2 else np.eye(int(free.sum()))
        return Polished(state, ranks, now, None, 0.5 * float(g @ np.linalg.lstsq(b, g, rcond=None)[0]), held, None)
    loose = None
    if curvature.shape == (len(x),) * 2:
        loose = 1.0 / np.sqrt(np.maximum(np.diag(curvature), 1e-300))
    h, decrement = np.empty((0, 0)), np.inf
    slopes: KeptSlopes | None = None
    for _ in range(3):
        h, slopes = _row_hessian(engine, state, now, free, difference_steps(state, scale, loose)[free])
        if not np.isfinite(h).all():
            return Polished(state, ranks, now, None, np.inf, held, None)
        for _ in range(4):
            g = -state.pull(now.beta, now.factors)[free]
            step = np.zeros(len(g))
            step[bends], decrement = newton(h[np.ix_(bends, bends)], g[bends], NO_CURVATURE)
            if decrement < ROUNDING:
                return Polished(state, ranks, now, h, decrement, held, slopes)
            trial_x = x.copy()
            trial_x[free] += step
            trial_state = state.moved(trial_x)
            trial = at(trial_state, now.warm)
            if not trial.value >= now.value - 1e-9 * (1.0 + abs(now.value)):
                return Polished(state, ranks, now, h, decrement, held, slopes)
            moved_far = decrement > HESSIAN_STALE
            state, x, now = trial_state, trial_x, trial
            if moved_far:
                break
        else:
            return Polished(state, ranks, now, h, decrement, held, slopes)
    return Polished(state, ranks, now, h, decrement, held, slopes)


def _row_hessian(
    engine: RowEngine, state: State, now: Gradient, free: BoolVec, steps: Vec
) -> tuple[Mat, KeptSlopes | None]:
    """Hessian of −ℓ on the free entries, by forward differences of the exact gradient, and the slopes of modes.

    Every difference starts from modes moved along their own slopes, so that a column costs one row pass, and all of
    them one question; with steps of 1e-5 of the scale on which ℓ bends, the error of first order is of that size too.
    """
    x = state.vector()
    here = -state.pull(now.beta, now.factors)[free]
    slopes = engine.mode_slopes(state, now.warm, free) if engine.effects.factors else None
    there, taken = [], []
    for at, h in zip(np.flatnonzero(free), steps, strict=True):
        moved = x.copy()
        moved[at] += h
        there.append(state.moved(moved))
        taken.append(moved[at] - x[at])
    found = engine.gradients(there, now.warm, slopes, steps)
    if not all(np.isfinite(g.value) for g in found):
        return np.full((len(here),) * 2, np.nan), None
    each = zip(there, found, taken, strict=True)
    rows = [(-s.pull(g.beta, g.factors)[free] - here) / h for s, g, h in each]
    return symmetric(np.array(rows)), slopes
