"""Gaussian responses; phi is the residual standard deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from polars_glmm.families import jet
from polars_glmm.families.base import Degrees, Density, Expected, Predictors, Rows, Tensor
from polars_glmm.families.distributions import DISTRIBUTIONS, Distribution
from polars_glmm.families.jet import Jet
from polars_glmm.families.location_scale import LocationScale
from polars_glmm.families.mean_family import Further, Kernel, Mean, precision_of
from polars_glmm.typing import BoolVec, Vec

LOG_ROOT_TWO_PI = 0.5 * float(np.log(2.0 * np.pi))


def identity_kernel(rows: Rows, at: Predictors, order: int, degrees: Degrees) -> Density:
    """Gaussian, identity link: f = −½ w r²/σ² − log σ with r = y − eta, everything else a multiple of r."""
    eta, zeta = at
    precision = np.exp(-2.0 * np.asarray(zeta))
    w = precision if rows.precision is None else precision * rows.precision
    r = rows.y - eta
    g = r * w
    square = r * g
    f = -0.5 * square
    f -= zeta
    if order == 0:
        return Density(f)
    slopes = (g, square - 1.0 if degrees[1] else None)
    if order == 1:
        return Density(f, slopes)
    w = np.broadcast_to(w, f.shape)
    second: Tensor = {(0, 0): w}
    third: Tensor = {(0, 0, 0): np.broadcast_to(np.float64(0.0), f.shape)}
    if degrees[1]:
        second[0, 1] = 2.0 * g
        third[0, 0, 1] = -2.0 * w
    if degrees[1] > 1:
        second[1, 1] = 2.0 * square
        third[0, 1, 1], third[1, 1, 1] = -4.0 * g, -4.0 * square
    return Density(f, slopes, second, third if order > 2 else {})


@dataclass(frozen=True, init=False, repr=False)
class Gaussian(LocationScale):
    """log p = −½ w (y − mu)²/phi² − log phi + ½ log w − ½ log 2π; phi = σ, w = precision."""

    name = "gaussian"
    has_phi = True
    takes_precision = True
    phi_definition = "residual standard deviation"
    phi_words = ("Residual standard deviation", "")
    residual = True
    links = ("identity", "log")
    canonical_link = "identity"
    concave_links = frozenset({"identity"})
    mean_range = "real"

    @property
    def linear(self) -> bool:
        return self.link.name == "identity"

    def least_log_phi(self, log_share: float, log_square: float) -> float:
        return 0.5 * (log_share + log_square)

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        return {"identity": identity_kernel}

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        (zeta,) = further
        return -0.5 * precision_of(rows) * jet.square(rows.y - mu.value) * jet.exp(-2.0 * zeta) - zeta

    @property
    def distribution(self) -> Distribution:
        return DISTRIBUTIONS["probit"]

    def standardised(self, y: Vec, rows: Rows, mu: Mean, further: Further) -> Jet:
        (zeta,) = further
        return (y - mu.value) * jet.exp(-1.0 * zeta) * np.sqrt(precision_of(rows))

    def width(self, low: Vec, high: Vec, rows: Rows, further: Further) -> Jet | Vec:
        (zeta,) = further
        return jet.exp(-1.0 * zeta) * ((high - low) * np.sqrt(precision_of(rows)))

    def constant(self, rows: Rows) -> Vec:
        return 0.5 * np.log(precision_of(rows)) - LOG_ROOT_TWO_PI + np.zeros_like(rows.y)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:
        """w·mu'²/σ²."""
        _, m1, m2 = self.link.value(eta, 2)
        precision = precision_of(rows) * np.exp(-2.0 * np.asarray(zeta))
        w = precision * m1 * m1
        return Expected.of(w, 2.0 * precision * m1 * m2, -2.0 * w)

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        assert phi is not None
        z = (rows.y - mu) * np.sqrt(precision_of(rows)) / phi
        return np.asarray(special.ndtr(-z if upper else z), dtype=np.float64)

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        """phi²; a row with precision w has this over w."""
        assert phi is not None
        return np.square(phi) + np.zeros_like(mu)

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:  # noqa: ARG002
        return precision_of(rows) * (rows.y - mu) ** 2

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:
        assert phi is not None
        return rng.normal(mu, phi / np.sqrt(precision_of(rows)))

    def outside_support(self, rows: Rows) -> BoolVec:
        return ~np.isfinite(rows.y)

    def first_mean(self, rows: Rows) -> Vec:
        """The response; on the log scale made positive."""
        y = rows.y
        if self.link.name == "identity":
            return y
        least = 0.1 * float(np.mean(np.abs(y))) or 1.0
        return np.maximum(y, least)

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """Root mean square residual, kept positive when the fit is perfect."""
        least = 1e-8 * (float(np.sqrt(np.mean(rows.y**2))) or 1.0)
        return max(float(np.sqrt(np.mean(precision_of(rows) * (rows.y - mu) ** 2))), least)
