"""Gaussian models with a standard deviation or phi held, exact from cross-products under ML and REML.

What is held is absolute, so σ is not profiled out: with the relative factor F = Λ/σ, ν = n or n − p, and β profiled,

    −2ℓ(Λ, σ) = log|H(F)| + [log|X'V⁻¹X|σ² = log|M(F)| under REML] + ν log 2πσ² + rss(F)/σ²
    ∂/∂Λ = (∂/∂F)/σ,   ∂/∂log σ = 2ν − 2 rss/σ² − ⟨∂/∂F, F⟩

and the search is over [θ of Λ, log σ] without what is held.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from polars_glmm.errors import ConvergenceError
from polars_glmm.likelihood.given import Given, place
from polars_glmm.likelihood.model import NO_EFFECTS, Model
from polars_glmm.likelihood.optimum.boundary import settle_ranks
from polars_glmm.likelihood.optimum.newton import newton
from polars_glmm.likelihood.parameters.curvature import theta_information
from polars_glmm.likelihood.parameters.state import Rank, State
from polars_glmm.likelihood.products.engine import ProductEngine, ProductModel
from polars_glmm.likelihood.products.polish import SETTLED
from polars_glmm.likelihood.products.profile import Profile, vcov_derivatives
from polars_glmm.linalg.differences import jacobian, symmetric
from polars_glmm.linalg.scaling import reduction
from polars_glmm.optimize.search import Evaluation, minimise, restrict
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

_STEP = 1e-4
"""Steps of central differences, as a share of the largest entry of a factor, and of 1 in log σ."""


class HeldOptimum(NamedTuple):
    """An optimum with some parameters held.

    state        absolute factors Λ, free entries;  held marks the entries of (free Λ, log σ) that stay
    hessian      of −ℓ over those that are not held, or None
    """

    state: State
    ranks: list[Rank]
    pieces: Profile
    sigma: float
    held: BoolVec
    hessian: Mat | None
    decrement: float

    @property
    def relative(self) -> tuple[Mat, ...]:
        """F = Λ/σ per factor."""
        return tuple(f / self.sigma for f in self.state.factors)


class _Point(NamedTuple):
    """−ℓ at absolute factors and σ, with its gradient in both; the profile there, or None outside the domain."""

    value: float
    factors: list[Mat]
    log_sigma: float
    pieces: Profile | None


def _evaluate(engine: ProductEngine, factors: list[Mat], sigma: float) -> _Point:
    relative = [f / sigma for f in factors]
    pieces = engine.pieces(relative)
    if pieces is None or not np.isfinite(pieces.rss):
        return _Point(np.inf, [np.zeros_like(f) for f in factors], 0.0, None)
    q, value = pieces.rss / sigma**2, 0.5 * engine.minus_two(pieces, sigma)
    inner = [0.5 * g for g in engine.gradients(pieces, sigma)]
    shrink = sum(float(np.vdot(g, f)) for g, f in zip(inner, relative, strict=True))
    return _Point(value, [g / sigma for g in inner], float(engine.nu - q - shrink), pieces)


def find_held(engine: ProductEngine, model: Model | ProductModel, tolerance: float, given: Given) -> HeldOptimum:
    """The optimum over what is not held. Raises ConvergenceError where no finite likelihood is found."""
    effects, p, q = model.effects, len(model.x.a), model.effects.n_theta
    placed = place(model, given)
    bare = ProductEngine(NO_EFFECTS, engine.stats, engine.reml, engine.p).pieces([], gradient=False)
    total = float(engine.stats.ww[-1, -1])
    sigma = given.asked.get("phi", float(np.sqrt((total if bare is None else bare.rss) / max(engine.nu, 1))))
    x = np.append(np.where(np.isnan(placed.values[p : p + q]), effects.start() * sigma, placed.values[p : p + q]), 0.0)
    x[-1] = np.log(sigma)
    held = np.append(placed.held[p : p + q], "phi" in given.fixed)

    def objective(z: Vec, warm: Any, *, curvature: bool) -> Evaluation:
        spread = float(np.exp(z[-1]))
        at = _evaluate(engine, effects.lambdas(z[:-1]), spread)
        if at.pieces is None:
            return Evaluation(np.inf, np.zeros_like(z), None, warm)
        gradient = np.append(effects.pullback(at.factors), at.log_sigma)
        b = None
        if curvature:
            b = np.zeros((q + 1, q + 1))
            levels = [reduction(block) for block in at.pieces.h_inverse]
            b[:q, :q] = theta_information(effects, effects.lambdas(z[:-1] / spread), levels) / spread**2
            b[q, q] = 2.0 * engine.nu
        return Evaluation(at.value, gradient, b, at.pieces)

    free = ~held
    if free.any():
        found = minimise(
            restrict(objective, x, free), x[free], tolerance=tolerance,
            max_evaluations=model.control.search.max_evaluations,
        )  # fmt: skip
        x[free] = found.x
    sigma = float(np.exp(x[-1]))
    if not np.isfinite(objective(x, None, curvature=False).value):
        msg = "The likelihood is not finite with the parameters held by fixed=: hold other values."
        raise ConvergenceError(msg)

    def loglik(state: State) -> float:
        return -_evaluate(engine, list(state.factors), sigma).value

    state, ranks = settle_ranks(effects, np.zeros(p), effects.lambdas(x[:-1]), sigma**2, loglik)
    marks = state.held(effects, np.zeros(p, dtype=bool), held[:-1])[p:]
    return _polished(engine, model, state, ranks, np.append(marks, held[-1]), sigma)


def _polished(
    engine: ProductEngine, model: Model | ProductModel, state: State, ranks: list[Rank], held: BoolVec, sigma: float
) -> HeldOptimum:
    """Newton with the Hessian by central differences of the exact gradient in (free entries of Λ, log σ)."""
    p, free = len(state.beta), ~held

    def moved(z: Vec) -> tuple[State, float]:
        whole = np.append(state.vector()[p:], np.log(sigma))
        whole[free] = z
        return state.moved(np.concatenate([state.beta, whole[:-1]])), float(np.exp(whole[-1]))

    def gradient(z: Vec) -> Vec:
        there, spread = moved(z)
        at = _evaluate(engine, list(there.factors), spread)
        if at.pieces is None:
            return np.full(int(free.sum()), np.nan)
        return np.append(there.pull(np.empty(0), at.factors), at.log_sigma)[free]

    z = np.append(state.vector()[p:], np.log(sigma))[free]
    largest = max([sigma, *(float(np.abs(f).max(initial=0.0)) for f in state.factors)])
    steps = np.append(np.full(len(free) - 1, _STEP * largest), _STEP)[free]
    hessian, decrement = np.empty((0, 0)), 0.0
    for _ in range(6 if len(z) else 0):
        hessian, g = symmetric(jacobian(gradient, z, steps)), gradient(z)
        if not np.isfinite(hessian).all():
            return HeldOptimum(*_there(engine, *moved(z), ranks), held, None, np.inf)
        step, decrement = newton(hessian, g)
        if decrement < SETTLED or not model.control.search.hessian:
            break
        z = z + step
    found = _there(engine, *moved(z), ranks)
    return HeldOptimum(*found, held, hessian if model.control.search.hessian else None, decrement)


def _there(
    engine: ProductEngine, state: State, sigma: float, ranks: list[Rank]
) -> tuple[State, list[Rank], Profile, float]:
    pieces = engine.pieces([f / sigma for f in state.factors])
    assert pieces is not None  # the likelihood was finite here
    return State(pieces.beta, state.factors, state.free), ranks, pieces, sigma


def held_vcov_slopes(model: Model | ProductModel, done: HeldOptimum) -> Cube:
    """∂vcov(β_c)/∂(free entries of Λ, σ), (K, p, p): with F = Λ/σ, σ² ∂M⁻¹/∂F and 2σM⁻¹ − σ⟨∂M⁻¹/∂F, F⟩."""
    p, sigma = len(done.pieces.beta), done.sigma
    along = 2.0 * sigma * done.pieces.m_inverse
    entries: list[Mat] = []
    derivatives = vcov_derivatives(done.pieces)
    for f, free, factor, change in zip(model.effects.factors, done.state.free, done.relative, derivatives, strict=True):
        inward = np.tensordot(f.basis.T, change, (1, 0))
        entries.extend(sigma * inward[i, j] for i, j in zip(free.rows, free.columns, strict=True))
        along = along - sigma * np.tensordot(factor, inward, 2)
    return np.array([*entries, along]).reshape(len(entries) + 1, p, p)
