"""Two engines with one face: −ℓ and its gradient at a state, from rows or from cross-products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.errors import IdentifiabilityError
from polars_glmm.likelihood.average_information import average_information
from polars_glmm.likelihood.doubts import reproduced_text, spread_name
from polars_glmm.likelihood.effects import Effects
from polars_glmm.likelihood.gaussian import Profile, profile
from polars_glmm.likelihood.information import Information
from polars_glmm.likelihood.marginal import Marginal, Value
from polars_glmm.likelihood.modes import Point
from polars_glmm.likelihood.products import CrossProducts
from polars_glmm.likelihood.slopes import mode_slopes
from polars_glmm.likelihood.state import State
from polars_glmm.linalg import cholesky
from polars_glmm.linalg.scaling import reduction
from polars_glmm.optimize.search import Evaluation, at_least, newton_step
from polars_glmm.typing import BoolVec, Cube, Mat, Vec

_SLOPE_SHARE = 0.3
"""Cost of one direction of the modes' slopes, in row passes."""
SMALL_PIVOT = 1e-3
"""Directions of Λ smaller than this share are left out of the curvature that starts a search."""
_LEAST_INFORMATION = 0.1
"""Share of the expected information within levels that is granted to any direction, identified or not."""
_AVERAGE_BELOW = 10.0
"""Newton decrement below which the average information is trusted: far away it is worse than the expected one."""


_PERFECT_FIT = (
    "The model reproduces the response exactly, so its dispersion is zero and the likelihood has no bound. "
    "Check for a constant response, or a column that is a copy of it."
)


class Gradient(NamedTuple):
    """ℓ (no constant) with its gradient in beta, F_f (r_f, r_f) and gamma, and what the next evaluation starts from."""

    value: float
    beta: Vec
    factors: list[Mat]
    gamma: Vec | None
    warm: Any
    passes: float


class Engine(Protocol):
    """What polishing and reports need of a likelihood."""

    effects: Effects

    def gradient(self, beta: Vec, factors: list[Mat], gamma: Vec | None, warm: Any) -> Gradient:
        """ℓ and its gradient at scaled factors F_f."""


def theta_information(effects: Effects, lambdas: list[Mat], levels: list[Cube]) -> Mat:
    """Expected information of θ in the tangent linear mixed model, ½ Σ_l tr(G ∂Σ_j G ∂Σ_k), G = Z'V⁻¹Z per level.

    (Searle, Casella & McCulloch 1992, §6.3, within levels only: a start for a search.)  levels[f] = I − (H⁻¹)_ff =
    Λ'GΛ, the share of each spherical effect's prior variance that the data take away, (r_f, r_f, G_f).
    """
    out = np.zeros((effects.n_theta, effects.n_theta))
    for f, lam, taken in zip(effects.factors, lambdas, levels, strict=True):
        back: Mat = np.asarray(np.linalg.pinv(lam, rcond=SMALL_PIVOT), dtype=np.float64)
        gw = cholesky.quadratic(back, taken, back)
        for t in f.terms:
            block = lam[t.start : t.stop, t.start : t.stop]
            rows, columns = STRUCTURES[t.structure].entries(t.r)
            own = gw[t.start : t.stop, t.start : t.stop]
            products = []
            for i, j in zip(rows, columns, strict=True):
                change = np.zeros((t.r, t.r))
                change[i] += block[:, j]
                change[:, i] += block[:, j]
                products.append(np.tensordot(change, own, (1, 0)).swapaxes(0, 1))
            for a, pa in enumerate(products):
                for b in range(a + 1):
                    value = 0.5 * float(np.vdot(pa, products[b].swapaxes(0, 1)))
                    ia, ib = t.theta.start + a, t.theta.start + b
                    out[ia, ib] = out[ib, ia] = value
    return out


def bending(effects: Effects, lambdas: list[Mat], gradients: list[Mat], step: Vec | None = None) -> Mat:
    """What ∂²/∂θ² has beyond ∂²/∂Σ², from gradients in Λ_f (r_f, r_f): tr(S ∂²Σ), S = ∂/∂Σ, its positive part.

    With Σ = ΛΛ' the gradient in Λ is 2SΛ and the entries (i, j), (k, l) of Λ get 2 S_ik where j = l. At an optimum
    inside S is zero; on the boundary it is all the curvature that is left. With a `step` in θ only the terms whose Σ
    would lose a direction by it: far from the boundary bending shortens steps that are right without.
    """
    changes = [None] * len(lambdas) if step is None else effects.lambdas(step)
    out = np.zeros((effects.n_theta, effects.n_theta))
    for f, lam, gradient, change in zip(effects.factors, lambdas, gradients, changes, strict=True):
        for t in f.terms:
            own = slice(t.start, t.stop)
            if t.r == 1:
                at, slope = float(lam[t.start, t.start]), float(gradient[t.start, t.start])
                leaves = change is None or (at != 0.0 and 1.0 + 2.0 * float(change[t.start, t.start]) / at <= 0.0)
                out[t.theta, t.theta] = max(slope / at, 0.0) if leaves and at != 0.0 else 0.0
                continue
            if not np.isfinite(gradient[own, own]).all():
                continue
            back = np.linalg.pinv(lam[own, own])
            if change is not None:
                relative = back @ change[own, own]
                if (
                    not np.isfinite(relative).all()
                    or float(np.linalg.eigvalsh(np.eye(t.r) + relative + relative.T)[0]) > 0.0
                ):
                    continue
            half = 0.5 * gradient[own, own] @ back
            values, vectors = np.linalg.eigh(0.5 * (half + half.T))
            score = (vectors * np.maximum(values, 0.0)) @ vectors.T
            rows, columns = STRUCTURES[t.structure].entries(t.r)
            out[t.theta, t.theta] = 2.0 * score[np.ix_(rows, rows)] * (columns[:, None] == columns)
    return out


@dataclass(slots=True, eq=False)
class RowEngine:
    """Laplace or quadrature over rows. Counts its work; nothing else changes."""

    effects: Effects
    marginal: Marginal
    evaluations: int = 0
    passes: float = 0.0

    def _value(self, beta: Vec, factors: list[Mat], gamma: Vec | None, warm: Any, *, information: bool) -> Value:
        at = Point(beta, self.effects.effective(factors), gamma)
        value = self.marginal.evaluate(at, warm, information=information)
        self.evaluations += 1
        self.passes += value.passes
        return value

    def gradient(self, beta: Vec, factors: list[Mat], gamma: Vec | None, warm: Any) -> Gradient:
        v = self._value(beta, factors, gamma, warm, information=False)
        inward = self.effects.inward(v.factors) if np.isfinite(v.value) else []
        return Gradient(v.value, v.beta, inward, v.gamma, v.warm, v.passes)

    def mode_slopes(self, state: State, modes: list[Mat], free: BoolVec) -> list[list[Mat]]:
        """dû along every free coordinate of a state's vector."""
        at = Point(state.beta, self.effects.effective(list(state.factors)), state.gamma)
        still = State(
            np.zeros_like(state.beta),
            tuple(np.zeros_like(f) for f in state.factors),
            None if state.gamma is None else np.zeros_like(state.gamma),
            state.free,
        )
        directions = []
        for e in np.eye(len(free))[free]:
            d = still.moved(e)
            directions.append(Point(d.beta, self.effects.effective(list(d.factors)), d.gamma))
        self.passes += 1 + _SLOPE_SHARE * len(directions)
        return mode_slopes(self.marginal, at, modes, directions)

    def objective(self, p: int, gamma_size: int, gamma_range: tuple[float, float] | None = None) -> Any:
        """−ℓ over [beta, θ, gamma], for the search.

        A single gamma has a range: beyond its upper end −ℓ is flat; below its lower end nothing is left of the
        dispersion, the likelihood has no bound, and IdentifiabilityError says so.
        """
        q = self.effects.n_theta

        def call(x: Vec, warm: Any, *, curvature: bool) -> Evaluation:
            lambdas = self.effects.lambdas(x[p : p + q])
            gamma = x[p + q :] if gamma_size else None
            capped = gamma is not None and gamma_range is not None and gamma[0] > gamma_range[1]
            if gamma is not None and gamma_range is not None:
                if gamma[0] < gamma_range[0]:
                    spread = spread_name(self.marginal.density.family)
                    raise IdentifiabilityError(
                        reproduced_text(self.effects, spread) if self.effects.factors else _PERFECT_FIT
                    )
                gamma = np.minimum(gamma, gamma_range[1])
            v = self._value(x[:p], lambdas, gamma, warm, information=curvature)
            if not np.isfinite(v.value):
                return Evaluation(np.inf, np.zeros_like(x), None, warm)
            theta = self.effects.pullback(self.effects.inward(v.factors))
            g = np.concatenate([v.beta, theta, v.gamma if v.gamma is not None else np.empty(0)])
            if capped:
                g[-1] = 0.0
            b = None
            if v.information is not None:
                b = self._curvature(v.information, lambdas, p, gamma_size)
                step = newton_step(b, -g)[0][p : p + q]
                slopes = [-f for f in self.effects.inward(v.factors)]
                b[p : p + q, p : p + q] += bending(self.effects, lambdas, slopes, step)
            return Evaluation(-v.value, -g, b, v.warm)

        return call

    def _curvature(self, info: Information, lambdas: list[Mat], p: int, gamma_size: int) -> Mat:
        q = self.effects.n_theta
        b = np.zeros((p + q + gamma_size,) * 2)
        b[:p, :p] = info.beta
        if q:
            b[p : p + q, p : p + q] = theta_information(self.effects, lambdas, info.levels)
        if info.gamma is not None:
            b[p + q :, p + q :] = info.gamma
        return b


@dataclass(slots=True, eq=False)
class ProductEngine:
    """Exact gaussian ML or REML from cross-products; σ profiled out of the search."""

    effects: Effects
    stats: CrossProducts
    reml: bool
    p: int
    evaluations: int = 0

    @property
    def nu(self) -> int:
        """Degrees of freedom of the residual: n, or n − p under REML."""
        return self.stats.n - (self.p if self.reml else 0)

    def pieces(self, lambdas: list[Mat], *, gradient: bool = True) -> Profile | None:
        self.evaluations += 1
        return profile(self.stats, self.effects.effective(lambdas), gradient=gradient)

    def minus_two(self, pieces: Profile) -> float:
        """Profiled −2ℓ in the computing basis."""
        log_m = pieces.log_m if self.reml else 0.0
        return float(pieces.log_h + log_m + self.nu * (1.0 + np.log(2.0 * np.pi * pieces.rss / self.nu)))

    def gradients(self, pieces: Profile, sigma: float) -> list[Mat]:
        """∂(−2ℓ)/∂F_f at a given σ."""
        reml = 1.0 if self.reml else 0.0
        total = [
            h + reml * m + r / sigma**2 for h, m, r in zip(pieces.d_log_h, pieces.d_log_m, pieces.d_rss, strict=True)
        ]
        return self.effects.inward(total)

    def objective(self, *, scoring: bool = False) -> Any:
        """Half the profiled −2ℓ over θ, for the search; its curvature is for quasi-Newton or, if asked, for scoring.

        For scoring: the expected information, right for steps in the covariances from however far. Otherwise `nearby`.
        """

        def call(theta: Vec, warm: Any, *, curvature: bool) -> Evaluation:
            lambdas = self.effects.lambdas(theta)
            pieces = self.pieces(lambdas)
            if pieces is None or not np.isfinite(pieces.rss):
                return Evaluation(np.inf, np.zeros_like(theta), None, warm)
            sigma = np.sqrt(pieces.rss / self.nu)
            g = 0.5 * self.effects.pullback(self.gradients(pieces, sigma))
            at = Evaluation(0.5 * self.minus_two(pieces), g, None, pieces)
            if not curvature:
                return at
            expected = theta_information(self.effects, lambdas, [reduction(block) for block in pieces.h_inverse])
            at = at._replace(curvature=expected)
            return at if scoring else at._replace(curvature=self.nearby(theta, at))

        return call

    def nearby(self, theta: Vec, at: Evaluation) -> Mat:
        """The curvature with which a search goes on from an evaluation for scoring: average information and `bending`.

        No direction gets less than a share of the information within levels: a sum of variances may be identified
        where they are not.
        """
        b = at.curvature
        assert b is not None  # an evaluation for scoring has one
        if not len(theta):
            return b
        lambdas = self.effects.lambdas(theta)
        if newton_step(b, at.gradient)[1] <= _AVERAGE_BELOW:
            average = average_information(self.effects, self.stats, lambdas, at.state, self.nu)
            b = at_least(average, b, _LEAST_INFORMATION)
        slopes = self.gradients(at.state, float(np.sqrt(at.state.rss / self.nu)))
        return b + bending(self.effects, lambdas, [0.5 * g for g in slopes])
