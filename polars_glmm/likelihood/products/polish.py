"""From where a search over cross-products ended to an optimum with its Hessian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.optimum.newton import (
    CENTRAL,
    FORWARD,
    HESSIAN_STALE,
    ROUNDING,
    newton,
)
from polars_glmm.likelihood.parameters.state import Rank, State
from polars_glmm.likelihood.products.engine import ProductEngine
from polars_glmm.likelihood.products.profile import Profile
from polars_glmm.linalg.differences import jacobian, symmetric
from polars_glmm.typing import Mat, Vec

MANY_LEVELS = 1_000
"""Levels from which one gradient a column must do for cross-products."""


SETTLED = 1e-14
"""The same from cross-products, where an evaluation costs little."""


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
    state = replace(state, beta=pieces.beta)
    k = state.n_free
    p = len(state.beta)

    def split(s: State, at: Profile) -> tuple[Vec, Vec, Vec]:
        """∂log|H|, ∂log|M| (0 under ML), ∂rss in the free entries."""

        def pull(parts: list[Mat]) -> Vec:
            return s.pull(np.empty(0), engine.effects.inward(parts))

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
            state = replace(trial_state, beta=trial.beta)
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

    steps = FORWARD * np.concatenate([e.sizes(_row_sizes(f)) for f, e in zip(state.factors, state.free, strict=True)])
    d_h, d_m, d_r = split(state, pieces)
    many = sum(engine.stats.pattern.n_levels if engine.stats.pattern else ()) > MANY_LEVELS
    here = np.concatenate([d_h + d_m, d_r]) if many else None
    jac = jacobian(gradient, z0, steps if many else CENTRAL * steps, here)
    h = np.empty((k + 1, k + 1))
    h[:k, :k] = 0.5 * (symmetric(jac[:, :k]) + symmetric(jac[:, k:]) / sigma**2)
    h[:k, k] = h[k, :k] = -d_r / sigma**3
    h[k, k] = -engine.nu / sigma**2 + 3.0 * pieces.rss / sigma**4
    return h
