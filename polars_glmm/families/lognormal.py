"""Responses whose logarithm is normal; phi is the standard deviation of the logarithm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from polars_glmm.families.base import Degrees, Density, Expected, Predictors, Rows
from polars_glmm.families.distributions import Distribution
from polars_glmm.families.gaussian import Gaussian, identity_kernel
from polars_glmm.families.jet import Jet
from polars_glmm.families.location_scale import LocationScale
from polars_glmm.families.mean_family import Further, Kernel, Mean
from polars_glmm.typing import BoolVec, Vec

_GAUSSIAN = Gaussian()


def _kernel(rows: Rows, at: Predictors, order: int, degrees: Degrees) -> Density:
    return identity_kernel(_logged(rows), at, order, degrees)


def _logged(rows: Rows) -> Rows:
    return rows._replace(y=np.log(rows.y))


@dataclass(frozen=True, init=False, repr=False)
class Lognormal(LocationScale):
    """log p = −½(log y − mu)²/φ² − log φ − log y − ½ log 2π; mu is the mean of log y, that of y exp(mu + φ²/2)."""

    name = "lognormal"
    has_phi = True
    residual = True
    of_times = True
    mu_is_mean = False
    phi_definition = "standard deviation of log y"
    phi_words = ("Standard deviation of log y", "")
    links = ("identity",)
    canonical_link = "identity"
    concave_links = frozenset({"identity"})
    mean_range = "real"

    def least_log_phi(self, log_share: float, log_square: float) -> float:  # noqa: ARG002  of any scale
        return 0.5 * log_share

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        return {"identity": _kernel}

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        return _GAUSSIAN.log_density(_logged(rows), mu, further)

    @property
    def distribution(self) -> Distribution:
        return _GAUSSIAN.distribution

    def standardised(self, y: Vec, rows: Rows, mu: Mean, further: Further) -> Jet:
        return _GAUSSIAN.standardised(np.log(y), rows, mu, further)

    def width(self, low: Vec, high: Vec, rows: Rows, further: Further) -> Jet | Vec:
        return _GAUSSIAN.width(np.zeros_like(low), np.log(high / low), rows, further)

    def constant(self, rows: Rows) -> Vec:
        return _GAUSSIAN.constant(rows) - np.log(rows.y)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:
        return _GAUSSIAN.information(rows, eta, zeta)

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        assert phi is not None
        with np.errstate(divide="ignore"):
            z = (np.log(np.maximum(rows.y, 0.0)) - mu) / phi
        return np.asarray(special.ndtr(-z if upper else z), dtype=np.float64)

    def quantile(self, p: Vec | float, mu: Vec, phi: Vec | float | None) -> Vec:
        assert phi is not None
        return np.asarray(np.exp(mu + phi * special.ndtri(p)))

    def at_response(self, rows: Rows) -> Vec:
        return np.log(rows.y)

    def expectation(self, mu: Vec, phi: Vec | float | None) -> tuple[Vec, Vec]:
        """exp(mu + φ²/2)."""
        assert phi is not None
        mean = np.exp(mu + 0.5 * np.square(phi))
        return mean, mean

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        """E[y]²(exp φ² − 1)."""
        assert phi is not None
        return np.square(self.expectation(mu, phi)[0]) * np.expm1(np.square(phi))

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:  # noqa: ARG002
        return np.square(np.log(rows.y) - mu)

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        assert phi is not None
        return np.exp(rng.normal(mu, phi))

    def outside_support(self, rows: Rows) -> BoolVec:
        return ~(np.isfinite(rows.y) & (rows.y > 0.0))

    def first_mean(self, rows: Rows) -> Vec:
        return np.log(rows.y)

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        return _GAUSSIAN.start_phi(_logged(rows), mu)
