"""The engine over cross-products: exact gaussian ML or REML, σ profiled out, made from a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from polars_glmm.control import Control
from polars_glmm.families.base import Family
from polars_glmm.likelihood.dense_limit import refuse_beyond_memory
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.likelihood.parameters.curvature import bending, theta_information
from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.parameters.parts import Part, mean_alone
from polars_glmm.likelihood.products.average_information import average_information
from polars_glmm.likelihood.products.cross import CrossProducts, cross_products
from polars_glmm.likelihood.products.profile import Profile, profile
from polars_glmm.linalg.scaling import reduction
from polars_glmm.optimize.search import Evaluation, at_least, newton_step
from polars_glmm.spec.method import REML, Method
from polars_glmm.typing import Mat, Vec

_LEAST_INFORMATION = 0.1
"""Share of the expected information within levels that is granted to any direction, identified or not."""


_AVERAGE_BELOW = 10.0
"""Newton decrement below which the average information is trusted: far away it is worse than the expected one."""


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

    def minus_two(self, pieces: Profile, sigma: float | None = None) -> float:
        """−2ℓ in the computing basis at a given σ, or profiled over it."""
        log_m = pieces.log_m if self.reml else 0.0
        if sigma is None:
            return float(pieces.log_h + log_m + self.nu * (1.0 + np.log(2.0 * np.pi * pieces.rss / self.nu)))
        return float(pieces.log_h + log_m + self.nu * np.log(2.0 * np.pi * sigma**2) + pieces.rss / sigma**2)

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
            g = 0.5 * self.effects.pullback(theta, self.gradients(pieces, sigma))
            at = Evaluation(0.5 * self.minus_two(pieces), g, None, pieces)
            if not curvature:
                return at
            expected = theta_information(self.effects, theta, lambdas, [reduction(h) for h in pieces.h_inverse])
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
            average = average_information(self.effects, self.stats, theta, at.state, self.nu)
            b = at_least(average, b, _LEAST_INFORMATION)
        slopes = self.gradients(at.state, float(np.sqrt(at.state.rss / self.nu)))
        return b + bending(self.effects, lambdas, [0.5 * g for g in slopes])


@dataclass(frozen=True, slots=True, eq=False)
class ProductModel:
    """A gaussian identity-link model of which only cross-products are known: no rows behind it.

    x holds the basis of the fixed columns and no columns; effects know no codes
    """

    names: tuple[str, ...]
    family: Family
    method: Method
    control: Control
    x: Basis
    effects: Effects
    stats: CrossProducts

    exact: ClassVar[bool] = True
    residual_names: ClassVar[tuple[str, ...]] = ()

    @property
    def n_obs(self) -> int:
        return self.stats.n

    @property
    def parts(self) -> tuple[Part, ...]:
        """The mean; the residual variance is profiled out."""
        return mean_alone(self.names, self.x)


def product_engine(model: Model | ProductModel) -> ProductEngine:
    """The engine over a model's cross-products, which a model of rows sums first.

    Raises ResourceError where what crossed factors leave is larger than a fit may use.
    """
    if isinstance(model, ProductModel):
        stats = model.stats
    else:
        stats = cross_products(model.held_in_memory(), model.x, model.effects, model.control.rows.block)
    if stats.eliminator is not None:
        refuse_beyond_memory(stats.eliminator, model.effects, model.control)
    return ProductEngine(model.effects, stats, isinstance(model.method, REML), len(model.x.a))
