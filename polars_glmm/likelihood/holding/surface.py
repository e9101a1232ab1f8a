"""The criterion of a model over the coordinates of one chart, with its optimum and curvature there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from polars_glmm.likelihood.holding.chart import Chart
from polars_glmm.likelihood.holding.criterion import At, Criterion, HeldAt, RowCriterion
from polars_glmm.linalg.differences import jacobian, symmetric
from polars_glmm.optimize.search import Begin, Evaluation, Found, minimise
from polars_glmm.typing import BoolVec, Mat, Vec

TOLERANCE, MOST = 1e-9, 200
"""Decrement at which a search ends, and its most evaluations. By the envelope theorem a value is as sharp."""
_STEP, _LEAST_SHARE, _OFF_ZERO = 1e-4, 1e-2, 0.05
_NEARLY = 1e-3
"""Share of a noticeable standard deviation below which a direction of the random effects is on the boundary."""


class WarmSurface(NamedTuple):
    """Where an evaluation was: what the criterion starts from next, all it said, and the gradient in x."""

    inner: Any
    at: At
    gradient: Vec


@dataclass(eq=False)
class Surface:
    """−ℓ over x = [β_c, coordinates of the chart, tail].

    free      (n,) marks coordinates that are not held by the user
    scale     size of a noticeable effect on the scale of the linear predictor
    constant  what ℓ has beside the criterion
    """

    criterion: Criterion
    chart: Chart
    free: BoolVec
    scale: float
    beta_steps: Vec
    constant: float
    x: Vec = field(default_factory=lambda: np.empty(0))
    value: float = np.inf
    hessian: Mat = field(default_factory=lambda: np.empty((0, 0)))
    warm: Any = None

    @property
    def deviance(self) -> float:
        """−2ℓ at the optimum, with all constants."""
        return 2.0 * self.value - 2.0 * self.constant

    @property
    def singular(self) -> bool:
        """Whether some direction of the random effects has next to no variance."""
        own = self.split(self.x)[1]
        triangles = [c.triangle(own[c.place]) for c in self.chart.terms]
        least = (np.linalg.svd(one, compute_uv=False).min(initial=np.inf) for one in triangles)
        return any(size < _NEARLY * self.scale for size in least)

    def split(self, x: Vec) -> tuple[Vec, Vec, Vec]:
        """β_c, the chart's coordinates, the tail."""
        p, end = self.criterion.n_beta, self.criterion.n_beta + self.chart.size
        return x[:p], x[p:end], x[end:]

    def evaluate(self, x: Vec, warm: Any, held: HeldAt | None = None) -> Evaluation:
        """−ℓ and its gradient in x."""
        beta, own, tail = self.split(x)
        with np.errstate(all="ignore"):
            factors = self.chart.factors(own)
            at = self.criterion.at(beta, factors, tail, None if warm is None else warm.inner, held)
            if at is None:
                return Evaluation(np.inf, np.zeros_like(x), None, warm)
            g = np.concatenate([at.d_beta, self.chart.pull(own, at.d_factors), at.d_tail])
        return Evaluation(at.value, g, None, WarmSurface(at.warm, at, g))

    def search(self, x: Vec, moving: Mat, curvature: Mat, warm: Any, held: HeldAt | None = None) -> tuple[Vec, Found]:
        """The minimum over x + moving·z, and what the search says of it."""

        def along(z: Vec, state: Any, *, curvature: bool) -> Evaluation:  # noqa: ARG001
            at = self.evaluate(x + moving @ z, state, held)
            return at._replace(gradient=moving.T @ at.gradient)

        z = np.zeros(moving.shape[1])
        first = along(z, warm, curvature=False)
        found = minimise(along, z, tolerance=TOLERANCE, max_evaluations=MOST, begin=Begin(curvature, first))
        return x + moving @ found.x, found

    def settle(self, x: Vec) -> None:
        """Take the optimum near x for the surface's own, with the Hessian there."""
        moving = np.eye(len(x))[:, self.free]
        self.x = x
        self.hessian = self._hessian(x)
        x, found = self.search(x, moving, moving.T @ self.hessian @ moving, self.warm)
        self.x = self._upright(x)
        self.value, self.warm = found.evaluation.value, found.evaluation.state
        self.hessian = self._hessian(self.x)

    def _upright(self, x: Vec) -> Vec:
        """The same model on the side of zero that natural values are counted on: −ℓ is even in what is zero there."""
        beta, own, tail = self.split(x)
        even = isinstance(self.criterion, RowCriterion) and self.criterion.root
        return np.concatenate([beta, self.chart.upright(own), np.abs(tail) if even else tail])

    def steps(self, x: Vec) -> Vec:
        """Steps of differences: small on the scale on which −ℓ bends."""
        _, own, tail = self.split(x)
        spread = np.maximum(self.chart.spread(own), _LEAST_SHARE * self.scale)
        return np.concatenate([self.beta_steps, _STEP * spread, np.full(len(tail), _STEP)])

    def off_zero(self, x: Vec) -> Vec:
        """x with no effect at a variance of zero, where −ℓ has no slope to leave by."""
        beta, own, tail = self.split(x)
        return np.concatenate([beta, self.chart.off_zero(own, _OFF_ZERO * self.scale), tail])

    def _hessian(self, x: Vec) -> Mat:
        here = self.evaluate(x, self.warm)
        self.warm = here.state
        found = jacobian(lambda y: self.evaluate(y, here.state).gradient, x, self.steps(x), here.gradient)
        return symmetric(np.where(np.isfinite(found), found, 0.0))
