"""Negative binomial counts with quadratic variance; phi is the size, R's theta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from polars_glmm.families import jet
from polars_glmm.families.base import Degrees, Density, Expected, Predictors, Rows, Tensor
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import ETA_OVERFLOW
from polars_glmm.families.mean_family import Further, Kernel, Mean, MeanFamily
from polars_glmm.families.poisson import Poisson, not_counts, poisson_cdf
from polars_glmm.families.special import log1p_rest, rising, rising_bend
from polars_glmm.typing import BoolVec, Vec

SIZE_LEAST, SIZE_MOST = 1e-3, 1e4
"""Moment estimates of the size are kept between: starts, not answers."""


def log_kernel(rows: Rows, at: Predictors, order: int, degrees: Degrees) -> Density:
    """Negative binomial, log link: f = y·eta − (y + φ) log(1 + mu/φ) + Σ_{k<y} log(1 + k/φ).

    In this form every term tends to Poisson's as the size φ grows and none cancels; s = mu/(mu + φ):
    g = y(1 − s) − φs,  w = (y + φ) s(1 − s),  ∂g/∂zeta = s·g,  f_zeta = ys − φ[log(1 + mu/φ) − s] − Σ k/(k + φ).
    """
    y, eta, zeta = rows.y, np.asarray(at[0]), at[1]
    phi = np.exp(np.asarray(zeta))
    log_x = eta - zeta
    x = np.exp(np.minimum(log_x, ETA_OVERFLOW))
    log1p_x = np.log1p(x)
    if log_x.size and log_x.max() > ETA_OVERFLOW:  # log(1 + x) is log x there, and must go on as y·eta does
        log1p_x = np.maximum(log1p_x, log_x)
    total = y + phi
    want_zeta = degrees[1] > 0 and order > 0
    value, slope = rising(y, phi, slope=want_zeta)
    f = y * eta
    f -= total * log1p_x
    f += value
    if order == 0:
        return Density(f)
    c = 1.0 / (1.0 + x)
    s = x * c
    size_s = phi * s
    ys = y * s
    g = y * c
    g -= size_s
    f_zeta = rest = None
    if want_zeta:
        rest = phi * log1p_rest(x, log1p_x, s)
        f_zeta = ys - rest
        f_zeta += slope
    if order == 1:
        return Density(f, (g, f_zeta))
    sc = s * c
    second: Tensor = {(0, 0): total * sc}
    if want_zeta:
        second[0, 1] = s * g
        np.negative(second[0, 1], out=second[0, 1])
    third: Tensor = {}
    if order > 2:
        bend = c - s
        third[0, 0, 0] = second[0, 0] * bend
    if degrees[1] > 1 and rest is not None:
        first, again = rising_bend(y, phi)
        second[1, 1] = ys * c + rest - size_s * s - first
        if order > 2:
            third[0, 1, 1] = -second[0, 1] * bend
            third[1, 1, 1] = rest - ys * c * bend - 2.0 * size_s * s * s - again
    if want_zeta and order > 2:
        bend *= y
        w_zeta = 2.0 * size_s
        w_zeta -= bend
        w_zeta *= sc
        third[0, 0, 1] = w_zeta
    return Density(f, (g, f_zeta), second, third)


@dataclass(frozen=True, init=False, repr=False)
class NegativeBinomial(MeanFamily):
    """log p = log Γ(y+φ) − log Γ(φ) − log y! + φ log(φ/(φ+mu)) + y log(mu/(φ+mu)); variance mu + mu²/φ, φ = phi."""

    name = "negative_binomial"
    has_phi = True
    discrete = True
    phi_definition = "size: variance mu + mu²/phi; larger is less dispersed"
    phi_words = ("Size", "The variance is mu + mu^2/phi: a larger phi is less dispersed.")
    links = ("log",)
    canonical_link = None
    concave_links = frozenset({"log"})
    mean_range = "positive"

    @property
    def limit(self) -> Poisson:
        return Poisson(self.link)

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        return {"log": log_kernel}

    def log_minus_log_p0(self, mu: Mean, further: Further) -> Jet:
        """log of −log P(y = 0) = φ·log(1 + mu/φ)."""
        (zeta,) = further
        return zeta + jet.log_softplus(mu.log - zeta)

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        (zeta,) = further
        phi, odds = jet.exp(zeta), mu.log - zeta
        return (
            jet.lgamma(phi + rows.y) - jet.lgamma(phi)
            - rows.y * jet.softplus(-odds) - phi * jet.softplus(odds)
        )  # fmt: skip

    def constant(self, rows: Rows) -> Vec:
        return -np.asarray(special.gammaln(rows.y + 1.0), dtype=np.float64)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """mu/(1 + mu/φ) = φ s."""
        phi = np.exp(np.asarray(zeta))
        x = np.exp(np.minimum(eta - zeta, ETA_OVERFLOW))
        c = 1.0 / (1.0 + x)
        s = x * c
        w = phi * s
        return Expected.of(w, w * c, w * s)

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        assert phi is not None
        return negative_binomial_cdf(rows.y, mu, phi, upper=upper)

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        """mu + mu²/phi; phi = inf is Poisson's."""
        assert phi is not None
        return mu * (1.0 + mu / phi)

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:
        """2[y log(y/mu) − (y + φ) log((y + φ)/(mu + φ))]; phi = inf is Poisson's."""
        assert phi is not None
        y = rows.y
        if np.all(np.isinf(phi)):
            return np.maximum(2.0 * special.kl_div(y, mu), 0.0)
        excess = (y - mu) / (mu + phi)
        return np.maximum(2.0 * (special.xlogy(y, y / mu) - (y + phi) * np.log1p(excess)), 0.0)

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        """Poisson counts with gamma means."""
        assert phi is not None
        if np.all(np.isinf(phi)):
            return rng.poisson(mu).astype(np.float64)
        return rng.poisson(mu * rng.gamma(phi, 1.0 / np.asarray(phi), size=np.shape(mu))).astype(np.float64)

    def outside_support(self, rows: Rows) -> BoolVec:
        return not_counts(rows.y)

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y + 0.1

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """Size by moments, Σmu²/Σ[(y − mu)² − mu], within bounds."""
        excess = float(np.sum((rows.y - mu) ** 2 - mu))
        square = float(np.sum(mu * mu))
        return float(np.clip(square / excess, SIZE_LEAST, SIZE_MOST)) if excess > 0.0 else SIZE_MOST


def negative_binomial_cdf(y: Vec, mu: Vec, size: Vec | float, *, upper: bool) -> Vec:
    """By the incomplete beta function: P(Y ≤ k) = I_q(φ, k + 1), q = φ/(φ + mu), φ the size; inf is Poisson's."""
    size, mu = np.broadcast_arrays(np.asarray(size, dtype=np.float64), np.asarray(mu, dtype=np.float64))
    plain = np.isinf(size)
    limit = poisson_cdf(y, mu, upper=upper) if plain.any() else np.zeros(1)
    if plain.all():
        return limit
    size, k = np.where(plain, 1.0, size), np.floor(y)
    above, total = np.maximum(k, 0.0) + 1.0, size + mu
    value = special.betainc(above, size, mu / total) if upper else special.betainc(size, above, size / total)
    value = np.where((k < 0.0) & ~np.isnan(value), 1.0 if upper else 0.0, value)
    return np.where(plain, limit, value)
