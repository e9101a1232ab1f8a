"""Inverse Gaussian responses; phi is the dispersion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from polars_glmm.families import jet
from polars_glmm.families.base import Degrees, Density, Expected, Predictors, Rows, Tensor
from polars_glmm.families.gaussian import LOG_ROOT_TWO_PI
from polars_glmm.families.jet import Jet
from polars_glmm.families.mean_family import Further, Kernel, Mean, MeanFamily, precision_of
from polars_glmm.typing import BoolVec, Vec


def log_kernel(rows: Rows, at: Predictors, order: int, degrees: Degrees) -> Density:
    """Inverse Gaussian, log link: f = −½ s (yq − 1)²/y − ½ zeta with q = 1/mu and s = w/φ."""
    eta, zeta = at
    scale = np.exp(-np.asarray(zeta))
    if rows.precision is not None:
        scale = scale * rows.precision
    q = np.exp(-eta)
    ratio = rows.y * q
    r = ratio - 1.0
    half = r * r
    half /= rows.y
    half *= 0.5 * scale
    f = -half
    f -= 0.5 * np.asarray(zeta)
    if order == 0:
        return Density(f)
    q *= scale
    g = q * r
    slopes = (g, half - 0.5 if degrees[1] else None)
    if order == 1:
        return Density(f, slopes)
    w = r
    w += ratio
    w *= q
    second: Tensor = {(0, 0): w}
    if degrees[1]:
        second[0, 1] = g
    if degrees[1] > 1:
        second[1, 1] = half
    if order == 2:
        return Density(f, slopes, second)
    ratio *= -4.0
    ratio += 1.0
    ratio *= q
    third: Tensor = {(0, 0, 0): ratio}
    if degrees[1]:
        third[0, 0, 1] = -w
    if degrees[1] > 1:
        third[0, 1, 1], third[1, 1, 1] = -g, -half
    return Density(f, slopes, second, third)


@dataclass(frozen=True, init=False, repr=False)
class InverseGaussian(MeanFamily):
    """log p = −½ w (y − mu)²/(phi·mu²·y) − ½ log phi + ½ log w − ½ log 2πy³; variance phi·mu³/w."""

    name = "inverse_gaussian"
    has_phi = True
    takes_precision = True
    phi_definition = "dispersion: variance phi·mu³"
    phi_words = ("Dispersion", "The variance is phi*mu^3.")
    links = ("log", "inverse_squared", "inverse", "identity")
    canonical_link = "inverse_squared"
    concave_links = frozenset({"inverse_squared", "inverse"})
    mean_range = "positive"

    def least_log_phi(self, log_share: float, log_square: float) -> float:
        return log_share - 0.5 * log_square

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        return {"log": log_kernel}

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        (zeta,) = further
        y = rows.y
        return (-0.5 * precision_of(rows) / y) * jet.square(y * mu.reciprocal - 1.0) * jet.exp(-zeta) - 0.5 * zeta

    def constant(self, rows: Rows) -> Vec:
        return 0.5 * np.log(precision_of(rows)) - LOG_ROOT_TWO_PI - 1.5 * np.log(rows.y)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:
        """(w/phi)·mu'²/mu³ = (w/phi)·(log mu)'²/mu."""
        q, q1, _ = self.link.reciprocal(eta, 2)
        _, a1, a2 = self.link.log(eta, 2)
        scale = precision_of(rows) * np.exp(-np.asarray(zeta))
        w = scale * a1 * a1 * q
        return Expected.of(w, scale * a1 * (2.0 * a2 * q + a1 * q1), -w)

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        """Φ(r(y/mu − 1)) + exp(2s/mu) Φ(−r(y/mu + 1)), r = √(s/y), s = w/phi (Shuster 1968)."""
        assert phi is not None
        scale = precision_of(rows) / phi
        y = np.where(rows.y > 0.0, rows.y, 1.0)
        root, ratio = np.sqrt(scale / y), y / mu
        second = np.exp(2.0 * scale / mu + special.log_ndtr(-root * (ratio + 1.0)))
        first = root * (ratio - 1.0)
        value = np.maximum(special.ndtr(-first) - second, 0.0) if upper else special.ndtr(first) + second
        return np.where((rows.y <= 0.0) & ~np.isnan(value), 1.0 if upper else 0.0, np.minimum(value, 1.0))

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        """phi·mu³; a row with precision w has this over w."""
        assert phi is not None
        return phi * np.power(mu, 3.0)

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:  # noqa: ARG002
        return precision_of(rows) * (rows.y / mu - 1.0) ** 2 / rows.y

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:
        assert phi is not None
        return rng.wald(mu, precision_of(rows) / phi)

    def outside_support(self, rows: Rows) -> BoolVec:
        return ~(np.isfinite(rows.y) & (rows.y > 0.0))

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """Mean squared Pearson residual."""
        least = 1e-12 / float(np.mean(rows.y))
        return max(float(np.mean(precision_of(rows) * (rows.y / mu - 1.0) ** 2 / mu)), least)
