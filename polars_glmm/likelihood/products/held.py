"""Gaussian models with a standard deviation or phi held, exact from cross-products under ML and REML.

What is held is absolute, so σ is not profiled out: with the relative factor F = Λ/σ, ν = n or n − p, and β profiled,

    −2ℓ(Λ, σ) = log|H(F)| + [log|X'V⁻¹X|σ² = log|M(F)| under REML] + ν log 2πσ² + rss(F)/σ²
    ∂/∂Λ = (∂/∂F)/σ,   ∂/∂log σ = 2ν − 2 rss/σ² − ⟨∂/∂F, F⟩

and the search is over [θ of Λ, log σ] without what is held.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.errors import ConvergenceError
from polars_glmm.likelihood.given import Given, place
from polars_glmm.likelihood.model import NO_EFFECTS, Model
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.products.absolute import AbsoluteOptimum, AbsolutePoint, Start, optimum, search
from polars_glmm.likelihood.products.engine import ProductEngine, ProductModel
from polars_glmm.likelihood.products.profile import vcov_derivatives
from polars_glmm.typing import Cube, Mat, Vec


@dataclass(frozen=True, slots=True)
class OneSigma:
    """−ℓ over absolute factors and γ = [log σ]; the profile of a point is at relative factors Λ/σ."""

    products: ProductEngine

    @property
    def effects(self) -> Effects:
        return self.products.effects

    def point(self, factors: list[Mat], gamma: Vec) -> AbsolutePoint:
        sigma = float(np.exp(gamma[0]))
        relative = [f / sigma for f in factors]
        pieces = self.products.pieces(relative)
        if pieces is None or not np.isfinite(pieces.rss):
            return AbsolutePoint(np.inf, [np.zeros_like(f) for f in factors], np.zeros(1), None, np.empty(0), sigma)
        inner = [0.5 * g for g in self.products.gradients(pieces, sigma)]
        shrink = sum(float(np.vdot(g, f)) for g, f in zip(inner, relative, strict=True))
        slope = self.products.nu - pieces.rss / sigma**2 - shrink
        value = 0.5 * self.products.minus_two(pieces, sigma)
        return AbsolutePoint(value, [g / sigma for g in inner], np.array([slope]), pieces, pieces.beta, sigma)

    def gamma_information(self, gamma: Vec) -> Mat:  # noqa: ARG002  the same everywhere
        return np.array([[2.0 * self.products.nu]])


def find_held(engine: ProductEngine, model: Model | ProductModel, tolerance: float, given: Given) -> AbsoluteOptimum:
    """The optimum over what is not held. Raises ConvergenceError where no finite likelihood is found."""
    effects, p, q = model.effects, len(model.x.a), model.effects.n_theta
    placed = place(model, given)
    bare = ProductEngine(NO_EFFECTS, engine.stats, engine.reml, engine.p).pieces([], gradient=False)
    total = float(engine.stats.ww[-1, -1])
    sigma = given.asked.get("phi", float(np.sqrt((total if bare is None else bare.rss) / max(engine.nu, 1))))
    start, given_theta = effects.times(effects.start(), sigma), placed.values[p : p + q]
    theta = np.where(np.isnan(given_theta), start, given_theta)
    held = np.append(placed.held[p : p + q], "phi" in given.fixed)
    most = model.control.search.max_evaluations
    found = search(OneSigma(engine), Start(np.append(theta, np.log(sigma)), held), tolerance, most)
    if found.evaluation.state is None or not np.isfinite(found.evaluation.value):
        msg = "The likelihood is not finite with the parameters held by fixed=: hold other values."
        raise ConvergenceError(msg)
    return optimum(OneSigma(engine), found, held, tolerance, most)


def sigma_of(done: AbsoluteOptimum) -> float:
    """σ of an optimum."""
    return float(np.exp(done.gamma[0]))


def held_vcov_slopes(model: Model | ProductModel, done: AbsoluteOptimum) -> Cube:
    """∂vcov(β_c)/∂(free entries of Λ, σ), (K, p, p): with F = Λ/σ, σ² ∂M⁻¹/∂F and 2σM⁻¹ − σ⟨∂M⁻¹/∂F, F⟩."""
    pieces, sigma = done.point.pieces, sigma_of(done)
    assert pieces is not None
    p = len(pieces.beta)
    along = 2.0 * sigma * pieces.m_inverse
    entries: list[Mat] = []
    derivatives = vcov_derivatives(pieces)
    for f, free, factor, change in zip(
        model.effects.factors, done.state.free, done.state.factors, derivatives, strict=True
    ):
        inward = np.tensordot(f.basis.T, change, (1, 0))
        entries.extend(sigma * one for one in free.pull(inward))
        along = along - np.tensordot(factor, inward, 2)
    return np.array([*entries, along]).reshape(len(entries) + 1, p, p)
