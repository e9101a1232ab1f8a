"""From where a search ended to an optimum with its Hessian: ranks settled, Newton steps, the certificate's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.errors import ConvergenceError
from polars_glmm.likelihood.engine import Gradient, ProductEngine, RowEngine
from polars_glmm.likelihood.gaussian import Profile
from polars_glmm.likelihood.state import Rank, State
from polars_glmm.linalg.differences import jacobian, symmetric
from polars_glmm.typing import BoolVec, Mat, Vec

CENTRAL = 50.0
"""Central differences, whose error is of second order, take steps this much longer."""
FORWARD, ERROR_SHARE, LONGEST = 1e-5, 1e-4, 1e-3
"""Steps of forward differences as shares of: the scale on which ℓ bends; a standard error, at most that scale."""
MANY_LEVELS = 1_000
"""Levels from which one gradient a column must do for cross-products."""
ROUNDING = 1e-13
"""Newton decrement that is rounding error of ℓ."""
SETTLED = 1e-14
"""The same from cross-products, where an evaluation costs little."""
HESSIAN_STALE = 1e-4
"""A step of a larger decrement than this leaves a Hessian that belongs to another point."""
FLAT = 1e-8
"""Eigenvalue of a Hessian with unit diagonal below which its direction is not identified."""


class Polished(NamedTuple):
    """An optimum: state, ℓ with gradient there, Hessian of −ℓ over the entries that are not held (or None), decrement.

    slopes    dû along each of those entries, (r_f, G_f) per factor; empty without random effects or Hessian
    """

    state: State
    ranks: list[Rank]
    gradient: Gradient
    hessian: Mat | None
    decrement: float
    held: BoolVec
    slopes: list[list[Mat]]


class Settled(NamedTuple):
    """Where a search ended, its ranks settled.

    warm        where the evaluation may start;  curvature of the search, in the state's vector if the shapes agree
    held        marks entries of the state's vector that stay where they are
    """

    state: State
    ranks: list[Rank]
    warm: Any
    curvature: Mat
    held: BoolVec


def polish_rows(engine: RowEngine, settled: Settled, scale: Scale, *, hessian: bool) -> Polished:
    """Newton with the exact Hessian on the entries that are not held."""

    def at(s: State, warm: Any) -> Gradient:
        return engine.gradient(s.beta, list(s.factors), s.gamma, warm)

    state, ranks, warm, curvature, held = settled
    now = at(state, warm)
    if not np.isfinite(now.value):
        msg = "The likelihood is not finite at the point that the search found. Use another link, or give start=."
        raise ConvergenceError(msg)
    x = state.vector()
    free = ~held
    if not hessian or not free.any():
        g = state.pull(now.beta, now.factors, now.gamma)[free]
        b = curvature[np.ix_(free, free)] if curvature.shape == (len(x),) * 2 else np.eye(int(free.sum()))
        return Polished(state, ranks, now, None, 0.5 * float(g @ np.linalg.lstsq(b, g, rcond=None)[0]), held, [])
    loose = None
    if curvature.shape == (len(x),) * 2:
        loose = 1.0 / np.sqrt(np.maximum(np.diag(curvature), 1e-300))
    h, decrement = np.empty((0, 0)), np.inf
    slopes: list[list[Mat]] = []
    for _ in range(3):
        h, slopes = _row_hessian(engine, state, now, free, _steps(state, scale, loose)[free])
        if not np.isfinite(h).all():
            return Polished(state, ranks, now, None, np.inf, held, [])
        for _ in range(4):
            g = -state.pull(now.beta, now.factors, now.gamma)[free]
            step, decrement = newton(h, g)
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
) -> tuple[Mat, list[list[Mat]]]:
    """Hessian of −ℓ on the free entries, by forward differences of the exact gradient, and the slopes of modes.

    Every difference starts from modes moved along their own slopes, so that a column costs one row pass; with steps of
    1e-5 of the scale on which ℓ bends, the error of first order is of that size too.
    """
    x = state.vector()
    here = -state.pull(now.beta, now.factors, now.gamma)[free]
    slopes = engine.mode_slopes(state, now.warm.modes, free) if now.warm.modes else []
    rows = []
    for at, h, slope in zip(np.flatnonzero(free), steps, slopes or [[]] * len(steps), strict=True):
        moved = x.copy()
        moved[at] += h
        warm = now.warm._replace(modes=[m + h * d for m, d in zip(now.warm.modes, slope, strict=True)])
        there = state.moved(moved)
        g = engine.gradient(there.beta, list(there.factors), there.gamma, warm)
        if not np.isfinite(g.value):
            return np.full((len(here),) * 2, np.nan), []
        rows.append((-there.pull(g.beta, g.factors, g.gamma)[free] - here) / (moved[at] - x[at]))
    return symmetric(np.array(rows)), slopes


def newton(h: Mat, g: Vec) -> tuple[Vec, float]:
    """−H⁻¹g and ½|g'H⁻¹g|; directions without curvature are left alone."""
    scale = np.sqrt(np.maximum(np.abs(np.diag(h)), 1e-300))
    values, vectors = np.linalg.eigh(h / np.outer(scale, scale))
    use = np.abs(values) > FLAT
    projected = vectors.T @ (g / scale)
    inverse = np.where(use, 1.0 / np.where(use, np.abs(values), 1.0), 0.0)
    return -(vectors @ (projected * inverse)) / scale, 0.5 * float((projected**2 * inverse).sum())


def widen(h: Inverted, held: BoolVec) -> Inverted:
    """The same with held parameters back in place, without variance."""
    if not held.any():
        return h
    free = ~held
    vcov = np.full((len(held),) * 2, np.nan)
    vcov[np.ix_(free, free)] = h.vcov
    flat = np.zeros(len(held), dtype=bool)
    flat[free] = h.flat
    return Inverted(vcov, h.smallest, flat)


class Inverted(NamedTuple):
    """(−∂²ℓ)⁻¹ with NaN where not identified; smallest eigenvalue of the Hessian at unit diagonal; flat (P,) marks."""

    vcov: Mat
    smallest: float
    flat: BoolVec


def invert(h: Mat) -> Inverted:
    """Covariance matrix of the parameters; those that load on a flat or wrong direction get NaN."""
    if not len(h):
        return Inverted(h, np.inf, np.zeros(0, dtype=bool))
    diag = np.diag(h)
    scale = np.sqrt(np.where(diag > 0, diag, 1.0))
    values, vectors = np.linalg.eigh(h / np.outer(scale, scale))
    bad = values < FLAT
    flat = (np.abs(vectors[:, bad]) > 1e-3).any(1) | ~(diag > 0)
    inverse = np.where(bad, 0.0, 1.0 / np.where(bad, 1.0, values))
    vcov = (vectors * inverse) @ vectors.T / np.outer(scale, scale)
    vcov[flat] = np.nan
    vcov[:, flat] = np.nan
    return Inverted(vcov, float(values[0]), flat)


class Scale(NamedTuple):
    """Sizes against which steps of differences are small: spread of a row in eta, and the scale on which ℓ bends."""

    row: float
    bend: float


def _steps(state: State, scale: Scale, std_error: Vec | None) -> Vec:
    """Steps of forward differences: 1e-5 of the scale on which ℓ bends, more where the data say little.

    A gradient is known to rounding error of its terms, so a step must be worth something in standard errors too.
    """
    small = min(scale.row, scale.bend)
    parts = [np.full(len(state.beta), small)]
    for f, e in zip(state.factors, state.free, strict=True):
        size = float(np.abs(f).max(initial=0.0)) if f.size else 0.0
        parts.append(np.full(len(e.rows), min(max(size, 1e-2 * small), scale.bend)))
    if state.gamma is not None:
        parts.append(np.ones(len(state.gamma)))
    steps = FORWARD * np.concatenate(parts)
    if std_error is None:
        return steps
    most = np.full(len(steps), LONGEST * scale.bend)
    enough: Vec = np.minimum(ERROR_SHARE * std_error, most)
    return np.asarray(np.maximum(steps, enough))


def _row_sizes(factor: Mat) -> Vec:
    """The scale on which ℓ bends in each row of a relative factor: of the row, or of the residual.

    A row is not measured by another: they may differ by many orders of magnitude. Below 1 all bend as the largest.
    """
    sizes = np.abs(factor).max(1)
    return np.asarray(np.maximum(sizes, np.clip(float(sizes.max()), 1e-2, 1.0)))


class PolishedProducts(NamedTuple):
    """A gaussian optimum: state (beta, F; sigma apart), pieces there, Hessian of −ℓ in (free F, σ), decrement."""

    state: State
    ranks: list[Rank]
    pieces: Profile
    sigma: float
    hessian: Mat | None
    decrement: float


def polish_products(
    engine: ProductEngine, state: State, ranks: list[Rank], pieces: Profile, *, hessian: bool
) -> PolishedProducts:
    """Newton on the profiled deviance over the free entries, and the Hessian of the unprofiled one.

    pieces at the state
    """
    nu = engine.nu
    sigma = float(np.sqrt(pieces.rss / nu))
    state = State(pieces.beta, state.factors, None, state.free)
    k = sum(len(e.rows) for e in state.free)
    p = len(state.beta)

    def split(s: State, at: Profile) -> tuple[Vec, Vec, Vec]:
        """∂log|H|, ∂log|M| (0 under ML), ∂rss in the free entries."""

        def pull(parts: list[Mat]) -> Vec:
            return s.pull(np.empty(0), engine.effects.inward(parts), None)

        log_m = pull(at.d_log_m) if engine.reml else np.zeros(k)
        return pull(at.d_log_h), log_m, pull(at.d_rss)

    if not k:
        h = np.array([[2.0 * nu / sigma**2]])
        return PolishedProducts(state, ranks, pieces, sigma, h if hessian else None, 0.0)
    stats = engine.stats
    enough = ROUNDING if stats.eliminator is not None and stats.eliminator.costly else SETTLED
    h, decrement = np.empty((0, 0)), np.inf
    for _ in range(6):
        h = _product_hessian(engine, state, pieces, sigma, split)
        if not np.isfinite(h).all():
            return PolishedProducts(state, ranks, pieces, sigma, None, np.inf)
        before = np.inf
        while True:
            d_h, d_m, d_r = split(state, pieces)
            g = 0.5 * (d_h + d_m + d_r / sigma**2)
            step, decrement = newton(h, np.append(g, 0.0))
            if decrement < enough or decrement > 0.1 * before:
                return PolishedProducts(state, ranks, pieces, sigma, h if hessian else None, decrement)
            trial_state = state.moved(np.concatenate([state.beta, state.vector()[p:] + step[:k]]))
            trial = engine.pieces(list(trial_state.factors))
            if trial is None or not engine.minus_two(trial) <= engine.minus_two(pieces) + 1e-9:
                return PolishedProducts(state, ranks, pieces, sigma, h if hessian else None, decrement)
            before, pieces = decrement, trial
            state = State(trial.beta, trial_state.factors, None, trial_state.free)
            sigma = float(np.sqrt(pieces.rss / nu))
            if before > HESSIAN_STALE:
                break
    return PolishedProducts(state, ranks, pieces, sigma, h if hessian else None, decrement)


def _product_hessian(
    engine: ProductEngine,
    state: State,
    pieces: Profile,
    sigma: float,
    split: Callable[[State, Profile], tuple[Vec, Vec, Vec]],
) -> Mat:
    """Hessian of −ℓ(β̂(F), F, σ) in (free entries of F, σ), by differences of the exact gradient in F."""
    p = len(state.beta)
    z0 = state.vector()[p:]
    k = len(z0)

    def gradient(z: Vec) -> Vec:
        s = state.moved(np.concatenate([state.beta, z]))
        at = engine.pieces(list(s.factors))
        if at is None:
            return np.full(2 * k, np.nan)
        d_h, d_m, d_r = split(s, at)
        return np.concatenate([d_h + d_m, d_r])

    steps = FORWARD * np.concatenate([_row_sizes(f)[e.rows] for f, e in zip(state.factors, state.free, strict=True)])
    d_h, d_m, d_r = split(state, pieces)
    many = sum(engine.stats.pattern.n_levels if engine.stats.pattern else ()) > MANY_LEVELS
    here = np.concatenate([d_h + d_m, d_r]) if many else None
    jac = jacobian(gradient, z0, steps if many else CENTRAL * steps, here)
    h = np.empty((k + 1, k + 1))
    h[:k, :k] = 0.5 * (symmetric(jac[:, :k]) + symmetric(jac[:, k:]) / sigma**2)
    h[:k, k] = h[k, :k] = -d_r / sigma**3
    h[k, k] = -engine.nu / sigma**2 + 3.0 * pieces.rss / sigma**4
    return h
