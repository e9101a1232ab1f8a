"""−ℓ and its gradient at coordinates of a chart: from cross-products with β profiled out, or over rows.

A coefficient of a gaussian model is held exactly: with M = X'V⁻¹X/σ² scaled to σ = 1 and a'β = v,

    β_v = β̂ − M⁻¹a λ,  λ = (a'β̂ − v)/(a'M⁻¹a),  rss_v = rss + λ²·a'M⁻¹a,  ∂(−ℓ)/∂v = −λ/σ²
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from polars_glmm.likelihood.marginal.engine import RowEngine
from polars_glmm.likelihood.products.engine import ProductEngine
from polars_glmm.likelihood.residual.engine import ResidualEngine
from polars_glmm.typing import Mat, Vec


class HeldAt(NamedTuple):
    """A linear combination a'β_c that is held at a value, in the computing basis."""

    a: Vec
    value: float


class At(NamedTuple):
    """−ℓ, its gradient in β_c, Λ_f and the tail (log σ, or the parameters of phi); the slope along a held coefficient.

    beta    β_c there; warm: what the next evaluation starts from
    """

    value: float
    d_beta: Vec
    d_factors: list[Mat]
    d_tail: Vec
    slope: float
    beta: Vec
    warm: Any


class Criterion(Protocol):
    """What is profiled. n_beta: how many β_c are among the coordinates (0 where they are profiled out); n_tail."""

    @property
    def n_beta(self) -> int: ...
    @property
    def n_tail(self) -> int: ...
    def at(self, beta: Vec, factors: list[Mat], tail: Vec, warm: Any, held: HeldAt | None) -> At | None:
        """The value at absolute factors; None outside the domain."""


@dataclass(frozen=True, slots=True, eq=False)
class ProductCriterion:
    """Gaussian models: β profiled out, the tail is log σ."""

    engine: ProductEngine
    n_beta: int = 0
    n_tail: int = 1

    def at(self, beta: Vec, factors: list[Mat], tail: Vec, warm: Any, held: HeldAt | None) -> At | None:  # noqa: ARG002
        engine, sigma = self.engine, float(np.exp(tail[0]))
        relative = [f / sigma for f in factors]
        pieces = engine.pieces(relative)
        if pieces is None or not np.isfinite(pieces.rss):
            return None
        beta, rss, d_rss, slope = pieces.beta, pieces.rss, pieces.d_rss, 0.0
        if held is not None:
            along = pieces.m_inverse @ held.a
            size = float(held.a @ along)
            push = float(held.a @ beta - held.value) / size
            beta, rss, slope = beta - push * along, rss + push**2 * size, -push / sigma**2
            c = np.append(-beta, 1.0)
            d_rss = [
                -2.0 * np.einsum("dwG,w->dG", e, c) @ np.einsum("rwG,w->rG", b, c).T
                for b, e in zip(pieces.b, pieces.e, strict=True)
            ]
        reml = 1.0 if engine.reml else 0.0
        q = rss / sigma**2
        value = pieces.log_h + reml * pieces.log_m + engine.nu * np.log(2.0 * np.pi * sigma**2) + q
        inner = engine.effects.inward(
            [0.5 * (h + reml * m + r / sigma**2) for h, m, r in zip(pieces.d_log_h, pieces.d_log_m, d_rss, strict=True)]
        )
        shrink = sum(float(np.vdot(g, f)) for g, f in zip(inner, relative, strict=True))
        d_tail = np.array([engine.nu - q - shrink])
        return At(0.5 * float(value), np.empty(0), [g / sigma for g in inner], d_tail, slope, beta, None)


@dataclass(frozen=True, slots=True, eq=False)
class ResidualCriterion:
    """Gaussian models with correlated residuals: β profiled out, the tail is [log φ or its coefficients, x]."""

    engine: ResidualEngine
    n_tail: int
    n_beta: int = 0

    def at(self, beta: Vec, factors: list[Mat], tail: Vec, warm: Any, held: HeldAt | None) -> At | None:  # noqa: ARG002
        best = self.engine.point(factors, tail)
        if best.pieces is None:
            return None
        if held is None:
            return At(best.value, np.empty(0), best.factors, best.gamma, 0.0, best.beta, None)
        along = best.pieces.m_inverse @ held.a
        push = float(held.a @ best.beta - held.value) / float(held.a @ along)
        moved = best.beta - push * along
        there = self.engine.value_at(factors, tail, moved)
        return At(there.value, np.empty(0), there.factors, there.gamma, -push, moved, None)


@dataclass(frozen=True, slots=True, eq=False)
class RowCriterion:
    """Laplace or quadrature over rows: β_c among the coordinates.

    root    the tail is φ^(−½), in which a negative binomial meets its Poisson limit smoothly at 0 (ℓ is even in it);
            else the parameters of log phi in the computing basis
    cap     log phi beyond which it counts as infinite
    """

    engine: RowEngine
    n_beta: int
    n_tail: int
    root: bool = False
    cap: float = np.inf

    def at(self, beta: Vec, factors: list[Mat], tail: Vec, warm: Any, held: HeldAt | None) -> At | None:
        assert held is None  # coefficients are coordinates here
        further, change = tail, np.ones(self.n_tail)
        if self.root:
            log_phi = -2.0 * np.log(np.maximum(np.abs(tail), 1e-300))
            further = np.minimum(log_phi, self.cap)
            change = np.where(log_phi < self.cap, -2.0 / np.where(tail == 0.0, 1.0, tail), 0.0)
        found = self.engine.gradient(np.concatenate([beta, further]), factors, warm)
        if not np.isfinite(found.value):
            return None
        d_beta, d_tail = -found.beta[: len(beta)], -found.beta[len(beta) :] * change
        return At(-found.value, d_beta, [-g for g in found.factors], d_tail, 0.0, beta, found.warm)
