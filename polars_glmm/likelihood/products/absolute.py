"""Optima of gaussian models over absolute factors Λ and log residual sds γ, some of them held; β is profiled out.

Where a parameter is held, or rows have several residual variances, σ is no common factor to be profiled out. The search
is over [θ of Λ, γ]; what it ends at is settled on its ranks and polished by Newton steps with the Hessian by central
differences of the exact gradient.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from polars_glmm.likelihood.optimum.boundary import SNAP_LOSS, Unsettled, leaving, settle_ranks
from polars_glmm.likelihood.optimum.elsewhere import Ended, highest
from polars_glmm.likelihood.optimum.newton import newton
from polars_glmm.likelihood.parameters.curvature import Gradient, bending, theta_information
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.parameters.state import Rank, State
from polars_glmm.likelihood.products.polish import SETTLED
from polars_glmm.likelihood.products.profile import Profile
from polars_glmm.linalg.differences import jacobian, symmetric
from polars_glmm.linalg.scaling import reduction
from polars_glmm.optimize.search import Evaluation, Found, minimise, newton_step, restrict
from polars_glmm.typing import BoolVec, Mat, Vec

_STEP = 1e-4
"""Steps of central differences, as a share of the largest entry of a factor, and of 1 in γ."""
_LONGEST = 3.0
"""The longest step of γ."""
_MOST_LEAVINGS = 3


class AbsolutePoint(NamedTuple):
    """−ℓ at absolute factors and γ, with its gradient in both; the profile there, or None outside the domain.

    beta (p,) in the computing basis;  noise: a residual sd at which sizes of random effects are large or small
    """

    value: float
    factors: list[Mat]
    gamma: Vec
    pieces: Profile | None
    beta: Vec
    noise: float


class AbsoluteEngine(Protocol):
    """Exact gaussian ML or REML at absolute factors Λ_f (r_f, r_f) and γ (s,)."""

    @property
    def effects(self) -> Effects: ...

    def point(self, factors: list[Mat], gamma: Vec) -> AbsolutePoint:
        """−ℓ and its gradient, without constants."""

    def gamma_information(self, gamma: Vec) -> Mat:
        """Expected information of γ without random effects, (s, s): a start for a search."""


class Start(NamedTuple):
    """Where a search begins, [θ, γ], and what of it stays."""

    x: Vec
    held: BoolVec


class AbsoluteOptimum(NamedTuple):
    """An optimum with some parameters held.

    state      β_c, absolute factors Λ and their free entries;  gamma (s,)
    held       marks the entries of (free Λ, γ) that stay
    hessian    of −ℓ over those that are not held, or None
    slopes     ∂β̂_c/∂ of those entries (k, p); empty without Hessian
    """

    state: State
    gamma: Vec
    ranks: list[Rank]
    point: AbsolutePoint
    held: BoolVec
    hessian: Mat | None
    slopes: Mat
    decrement: float


def search(engine: AbsoluteEngine, start: Start, tolerance: float, most: int) -> Found:
    """The search over what is not held; x comes back whole."""
    x, held = start
    objective, free = _objective(engine), ~held
    if not free.any():
        at = objective(x, None, curvature=False)
        return Found(x, at, np.eye(len(x)), 0.0, 1, settled=True)
    q = engine.effects.n_theta
    limit = np.append(np.full(q, np.inf), np.full(len(x) - q, _LONGEST))[free]
    found = minimise(
        restrict(objective, x, free), x[free], tolerance=tolerance, max_evaluations=most, limit=limit
    )  # fmt: skip
    whole = x.copy()
    whole[free] = found.x
    return found._replace(x=whole)


def _objective(engine: AbsoluteEngine) -> Any:
    effects, q = engine.effects, engine.effects.n_theta

    def call(x: Vec, warm: Any, *, curvature: bool) -> Evaluation:
        lambdas = effects.lambdas(x[:q])
        at = engine.point(lambdas, x[q:])
        if at.pieces is None:
            return Evaluation(np.inf, np.zeros_like(x), None, warm)
        gradient = np.append(effects.pullback(x[:q], at.factors), at.gamma)
        b = None
        if curvature:
            b = np.zeros((len(x),) * 2)
            b[q:, q:] = engine.gamma_information(x[q:])
            b[:q, :q] = theta_information(effects, x[:q], lambdas, [reduction(h) for h in at.pieces.h_inverse])
            step = newton_step(b, gradient)[0][:q]
            b[:q, :q] += bending(effects, lambdas, at.factors, step)
        return Evaluation(at.value, gradient, b, at)

    return call


def optimum(engine: AbsoluteEngine, found: Found, held: BoolVec, tolerance: float, most: int) -> AbsoluteOptimum:
    """The optimum that a search found, its ranks settled; leaves the boundary where ℓ rises from it."""
    effects, q, rise = engine.effects, engine.effects.n_theta, None
    noise = found.evaluation.state.noise
    ended = Ended(found, slice(None, q), held[:q], noise, noise**2)
    found = highest(effects, ended, lambda x, stays: search(engine, Start(x, _held(held, stays)), tolerance, most))
    for left in reversed(range(_MOST_LEAVINGS + 1)):
        here, gamma = found.evaluation.state, found.x[q:]
        scale = here.noise**2

        def loglik(state: State) -> float:
            return -engine.point(list(state.factors), gamma).value  # noqa: B023  # asked within the loop

        def slopes(state: State) -> Gradient:
            return _gradient(engine, state, gamma)  # noqa: B023

        keep = held[:q] if held[:q].any() else None
        at = Unsettled(here.beta, found.x[:q], keep)
        state, ranks = settle_ranks(effects, at, scale, loglik)
        rise = None if held[:q].any() else leaving(effects, state, ranks, scale, slopes)
        if rise is None or not left:
            break
        before = loglik(state)
        found = search(engine, Start(np.append(rise.away.theta(effects), gamma), held), tolerance, most)
        if before > -found.evaluation.value - SNAP_LOSS:  # it rises, but to nothing that would not be set to zero again
            rise = None
            break
    marks = np.append(state.held(effects, np.zeros(0, dtype=bool), held[:q]), held[q:])
    return _polished(engine, (state, gamma), ranks, marks, 0.0 if rise is None else rise.score)


def _held(held: BoolVec, stays: BoolVec) -> BoolVec:
    """What is held, and what of θ, which comes first, stays for now."""
    out = held.copy()
    out[: len(stays)] |= stays
    return out


def _gradient(engine: AbsoluteEngine, state: State, gamma: Vec) -> Gradient:
    at = engine.point(list(state.factors), gamma)
    return Gradient(-at.value, at.beta, [-g for g in at.factors], None, 0.0)


def _polished(
    engine: AbsoluteEngine, place: tuple[State, Vec], ranks: list[Rank], held: BoolVec, rises: float
) -> AbsoluteOptimum:
    """Newton in (free entries of Λ, γ) without what is held, from a state and its γ."""
    (state, gamma), free = place, ~held
    p, n_free = len(state.beta), len(held) - len(place[1])

    def moved(z: Vec) -> tuple[State, Vec]:
        whole = np.append(state.vector()[p:], gamma)
        whole[free] = z
        return state.moved(np.append(state.beta, whole[:n_free])), whole[n_free:]

    def gradient(z: Vec) -> Vec:
        """∂(−ℓ) and, beside it, β̂."""
        there, log_phi = moved(z)
        at = engine.point(list(there.factors), log_phi)
        if at.pieces is None:
            return np.full(int(free.sum()) + p, np.nan)
        return np.append(np.append(there.pull(np.empty(0), at.factors), at.gamma)[free], at.beta)

    z = np.append(state.vector()[p:], gamma)[free]
    noise = engine.point(list(state.factors), gamma).noise
    largest = max([noise, *(float(np.abs(f).max(initial=0.0)) for f in state.factors)])
    steps = np.append(np.full(n_free, _STEP * largest), np.full(len(gamma), _STEP))[free]
    hessian, slopes, decrement = np.empty((0, 0)), np.empty((0, p)), 0.0
    for _ in range(6 if len(z) else 0):
        jac = jacobian(gradient, z, steps)
        hessian, slopes, g = symmetric(jac[:, : len(z)]), jac[:, len(z) :], gradient(z)[: len(z)]
        if not np.isfinite(hessian).all():
            return _there(engine, *moved(z), ranks)._replace(held=held, decrement=np.inf)
        step, decrement = newton(hessian, g)
        if decrement < SETTLED:
            break
        z = z + step
    found = _there(engine, *moved(z), ranks)
    return found._replace(held=held, hessian=hessian, slopes=slopes, decrement=max(decrement, rises))


def _there(engine: AbsoluteEngine, state: State, gamma: Vec, ranks: list[Rank]) -> AbsoluteOptimum:
    """What is known at a state without its Hessian."""
    at = engine.point(list(state.factors), gamma)
    state = replace(state, beta=at.beta)
    nothing = np.zeros(len(state.vector()) - len(at.beta) + len(gamma), dtype=bool)
    return AbsoluteOptimum(state, gamma, ranks, at, nothing, None, np.empty((0, len(at.beta))), 0.0)
