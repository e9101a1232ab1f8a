"""Negative binomial counts with linear variance; phi is the excess of the variance over the mean, per unit of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from polars_glmm.families import jet
from polars_glmm.families.base import Expected, Rows
from polars_glmm.families.jet import Jet
from polars_glmm.families.mean_family import Further, Mean, MeanFamily
from polars_glmm.families.negative_binomial import negative_binomial_cdf
from polars_glmm.families.poisson import Poisson, not_counts
from polars_glmm.typing import BoolVec, Vec

PHI_LEAST, PHI_MOST = 1e-4, 1e4
"""Moment estimates are kept between: starts, not answers."""


@dataclass(frozen=True, init=False, repr=False)
class NegativeBinomial1(MeanFamily):
    """Size s = mu/φ: log p = log Γ(y+s) − log Γ(s) − log y! + y log(φ/(1+φ)) − s log(1+φ); variance mu(1 + φ).

    Hardin & Hilbe (2007, Generalized linear models and extensions, ch. 13): NB1; glmmTMB's nbinom1.
    """

    name = "negative_binomial1"
    has_phi = True
    discrete = True
    knows_information = False
    phi_definition = "excess: variance mu(1 + phi)"
    phi_words = ("Excess", "The variance is mu(1 + phi).")
    links = ("log",)
    canonical_link = None
    concave_links = frozenset()
    mean_range = "positive"
    limit_phi = 0.0

    @property
    def limit(self) -> MeanFamily:
        return Poisson(self.link)

    def log_minus_log_p0(self, mu: Mean, further: Further) -> Jet:
        """log of −log P(y = 0) = mu·log(1+φ)/φ."""
        (zeta,) = further
        return mu.log + jet.log_softplus(zeta) - zeta

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        """Every term tends to Poisson's as φ vanishes, and none cancels."""
        (zeta,) = further
        overdispersed = jet.rising(rows.y, mu.log - zeta) - rows.y * jet.softplus(zeta)
        return overdispersed + rows.y * mu.log - jet.exp(self.log_minus_log_p0(mu, further))

    def constant(self, rows: Rows) -> Vec:
        return -np.asarray(special.gammaln(rows.y + 1.0), dtype=np.float64)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """mu/(1 + φ), that of the quasi-likelihood: the expectation itself is an endless sum."""
        zeta = np.asarray(zeta)
        w = self.link.value(eta, 0)[0] * special.expit(-zeta)
        return Expected.of(w, w, -w * special.expit(zeta))

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        """That of the size mu/phi."""
        assert phi is not None
        with np.errstate(divide="ignore"):
            return negative_binomial_cdf(rows.y, mu, np.asarray(mu) / phi, upper=upper)

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        """mu(1 + phi); phi = 0 is Poisson's."""
        assert phi is not None
        return mu * (1.0 + phi)

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        """Poisson counts with gamma means."""
        assert phi is not None
        mu, phi = np.broadcast_arrays(mu, np.asarray(phi, dtype=np.float64))
        mixed = phi > 0.0
        scale = np.where(mixed, phi, 1.0)
        return rng.poisson(np.where(mixed, scale * rng.gamma(mu / scale), mu)).astype(np.float64)

    def outside_support(self, rows: Rows) -> BoolVec:
        return not_counts(rows.y)

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y + 0.1

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """Σ(y − mu)²/Σmu − 1, within bounds."""
        excess = float(np.sum((rows.y - mu) ** 2)) / max(float(np.sum(mu)), 1e-300) - 1.0
        return float(np.clip(excess, PHI_LEAST, PHI_MOST))
