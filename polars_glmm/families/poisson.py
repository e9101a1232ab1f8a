"""Poisson counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from polars_glmm.families.base import Degrees, Density, Expected, Predictors, Rows
from polars_glmm.families.jet import Jet
from polars_glmm.families.mean_family import Further, Kernel, Mean, MeanFamily
from polars_glmm.typing import BoolVec, Vec


def log_kernel(rows: Rows, at: Predictors, order: int, degrees: Degrees) -> Density:  # noqa: ARG001
    """Poisson, log link: f = y·eta − exp eta."""
    eta = np.asarray(at[0])
    mu = np.exp(eta)
    f = rows.y * eta
    f -= mu
    if order == 0:
        return Density(f)
    g = rows.y - mu
    return Density(f, (g,), {(0, 0): mu} if order > 1 else {}, {(0, 0, 0): mu} if order > 2 else {})


@dataclass(frozen=True, init=False, repr=False)
class Poisson(MeanFamily):
    """Counts with variance mu: log p = y log mu − mu − log y!."""

    name = "poisson"
    discrete = True
    sufficient = True
    links = ("log", "identity", "sqrt")
    canonical_link = "log"
    concave_links = frozenset({"log", "identity", "sqrt"})
    mean_range = "positive"

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        return {"log": log_kernel}

    def log_minus_log_p0(self, mu: Mean, further: Further) -> Jet:  # noqa: ARG002
        """log of −log P(y = 0) = mu."""
        return mu.log

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:  # noqa: ARG002
        return rows.y * mu.log - mu.value

    def constant(self, rows: Rows) -> Vec:
        return -np.asarray(special.gammaln(rows.y + 1.0), dtype=np.float64)

    def saturated(self, rows: Rows) -> Vec | None:
        return self.constant(rows) + special.xlogy(rows.y, rows.y) - rows.y

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """mu'²/mu = mu'·(log mu)'."""
        _, m1, m2 = self.link.value(eta, 2)
        _, a1, a2 = self.link.log(eta, 2)
        return Expected.of(m1 * a1, m2 * a1 + m1 * a2)

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:  # noqa: ARG002
        return poisson_cdf(rows.y, mu, upper=upper)

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:  # noqa: ARG002
        return np.asarray(mu, dtype=np.float64)

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:  # noqa: ARG002
        return np.maximum(2.0 * special.kl_div(rows.y, mu), 0.0)

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        return rng.poisson(mu).astype(np.float64)

    def outside_support(self, rows: Rows) -> BoolVec:
        return not_counts(rows.y)

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y + 0.1


def poisson_cdf(y: Vec, mu: Vec, *, upper: bool) -> Vec:
    """By the incomplete gamma function: P(Y > k) = P(k + 1, mu) (Abramowitz & Stegun 26.4.21)."""
    k = np.floor(y)
    shape = np.maximum(k, 0.0) + 1.0
    value = np.asarray(special.gammainc(shape, mu) if upper else special.gammaincc(shape, mu), dtype=np.float64)
    return np.where((k < 0.0) & ~np.isnan(value), 1.0 if upper else 0.0, value)


def not_counts(y: Vec) -> BoolVec:
    """True where y is not a whole number ≥ 0."""
    wrong: BoolVec = ~np.isfinite(y) | (y < 0.0) | (y != np.floor(y))
    return wrong
