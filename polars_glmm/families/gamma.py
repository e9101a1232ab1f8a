"""Gamma responses; phi is the dispersion, the shape is precision/phi."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from polars_glmm.families import jet
from polars_glmm.families.base import Degrees, Density, Expected, Predictors, Rows, Tensor
from polars_glmm.families.gamma_mass import log_mass
from polars_glmm.families.gaussian import LOG_ROOT_TWO_PI
from polars_glmm.families.jet import Jet
from polars_glmm.families.location_scale import Side, Tailed
from polars_glmm.families.mean_family import Further, Kernel, Mean, precision_of
from polars_glmm.families.special import digamma_rest, digamma_rest_bend, stirling_rest
from polars_glmm.typing import BoolVec, Vec

_SHARP = 1e6
"""Shape from which a response tells its mean to three digits and more."""


def log_kernel(rows: Rows, at: Predictors, order: int, degrees: Degrees) -> Density:
    """Gamma, log link: f = −ν(r − 1 − log r) + ν log ν − ν − log Γ(ν) with r = y/mu and shape ν.

    The terms in ν alone are ½ log ν − ½ log 2π − stirling_rest(ν), which does not cancel at a small dispersion.
    """
    eta, zeta = at
    shape = np.exp(-np.asarray(zeta))
    if rows.precision is not None:
        shape = shape * rows.precision
    excess = np.log(rows.y) - eta
    if np.max(shape, initial=0.0) > _SHARP:  # r is near 1, and r − 1 must keep its digits
        above = np.expm1(excess)
        r = 1.0 + above
    else:
        r = rows.y * np.exp(-eta)
        above = r - 1.0
    np.subtract(above, excess, out=excess)
    excess *= shape
    f = (0.5 * np.log(shape) - LOG_ROOT_TWO_PI - stirling_rest(shape)) - excess
    if order == 0:
        return Density(f)
    w = r * shape
    g = above * shape if np.max(shape, initial=0.0) > _SHARP else w - shape
    slopes = (g, excess - (0.5 + digamma_rest(shape)) if degrees[1] else None)
    if order == 1:
        return Density(f, slopes)
    second: Tensor = {(0, 0): w}
    third: Tensor = {}
    if order > 2:
        third[0, 0, 0] = -w
    if degrees[1]:
        second[0, 1] = g
    if degrees[1] and order > 2:
        third[0, 0, 1] = third[0, 0, 0]
    if degrees[1] > 1:
        first, bend = digamma_rest_bend(shape)
        second[1, 1] = excess - first
        if order > 2:
            third[0, 1, 1], third[1, 1, 1] = -g, bend - excess
    return Density(f, slopes, second, third)


@dataclass(frozen=True, init=False, repr=False)
class Gamma(Tailed):
    """log p = ν log ν − log Γ(ν) − ν log mu + (ν − 1) log y − ν y/mu, shape ν = w/phi, variance phi·mu²/w."""

    name = "gamma"
    has_phi = True
    takes_precision = True
    of_times = True
    phi_definition = "dispersion: variance phi·mu²"
    phi_words = ("Dispersion", "The variance is phi*mu^2.")
    links = ("log", "inverse", "identity")
    canonical_link = "inverse"
    concave_links = frozenset({"log", "inverse"})
    mean_range = "positive"

    def least_log_phi(self, log_share: float, log_square: float) -> float:  # noqa: ARG002  of any scale
        return log_share

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        return {"log": log_kernel}

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        (zeta,) = further
        log_shape = -zeta + np.log(precision_of(rows))
        shape = jet.exp(log_shape)
        return shape * (log_shape - mu.log - mu.reciprocal * rows.y + np.log(rows.y)) - jet.lgamma(shape)

    @property
    def concave_tails(self) -> bool:
        """log Y has a log-concave density, which the logarithm of the mean moves (Prékopa 1973)."""
        return self.link.name == "log"

    def log_tail(self, rows: Rows, mu: Mean, further: Further, side: Side) -> Jet:
        """By the mass of log(νY/mu), whose ends move with log ν − log mu."""
        log_shape = -further[0] + np.log(precision_of(rows))
        w, shape = log_shape - mu.log + np.log(rows.y), jet.exp(log_shape)
        end, none = w.f, np.full_like(w.f, np.inf)
        if side == "between":
            assert rows.censoring is not None
            assert rows.censoring.upper is not None
            ends = end, end + np.log(rows.censoring.upper / rows.y)
        else:
            ends = (end, none) if side == "above" else (-none, end)
        return jet.through_both(log_mass(*ends, shape.f, w.order), w, shape)

    def quantile(self, p: Vec | float, mu: Vec, phi: Vec | float | None) -> Vec:
        assert phi is not None
        shape = 1.0 / np.asarray(phi)
        return np.asarray(special.gammaincinv(shape, p) * mu / shape)

    def constant(self, rows: Rows) -> Vec:
        return -np.log(rows.y)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:
        """ν·mu'²/mu² = ν·(log mu)'²."""
        shape = precision_of(rows) * np.exp(-np.asarray(zeta))
        _, a1, a2 = self.link.log(eta, 2)
        w = shape * a1 * a1
        return Expected.of(w, 2.0 * shape * a1 * a2, -w)

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        assert phi is not None
        shape = precision_of(rows) / phi
        ratio = shape * np.maximum(rows.y, 0.0) / mu
        return np.asarray(special.gammaincc(shape, ratio) if upper else special.gammainc(shape, ratio))

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        """phi·mu²; a row with precision w has this over w."""
        assert phi is not None
        return phi * np.square(mu)

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:  # noqa: ARG002
        r = rows.y / mu
        return np.maximum(2.0 * precision_of(rows) * (r - 1.0 - np.log(r)), 0.0)

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:
        assert phi is not None
        shape = precision_of(rows) / phi
        return rng.gamma(shape, mu / shape)

    def outside_support(self, rows: Rows) -> BoolVec:
        return ~(np.isfinite(rows.y) & (rows.y > 0.0))

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """Mean squared Pearson residual."""
        return max(float(np.mean(precision_of(rows) * (rows.y / mu - 1.0) ** 2)), 1e-12)
