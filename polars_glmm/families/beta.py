"""Shares strictly between 0 and 1; phi is the precision of a beta distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from polars_glmm.families import jet
from polars_glmm.families.base import Expected, Rows
from polars_glmm.families.gaussian import LOG_ROOT_TWO_PI
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import ETA_OVERFLOW
from polars_glmm.families.mean_family import Further, Mean, MeanFamily
from polars_glmm.families.special import digamma_rest, digamma_rest_bend
from polars_glmm.typing import BoolVec, Vec

PHI_LEAST, PHI_MOST = 1e-2, 1e6
"""Moment estimates are kept between: starts, not answers."""


@dataclass(frozen=True, init=False, repr=False)
class Beta(MeanFamily):
    """log p = log Γ(φ) − log Γ(a) − log Γ(b) + (a − 1) log y + (b − 1) log(1 − y), a = mu·φ, b = (1 − mu)φ.

    Variance mu(1 − mu)/(1 + φ) (Ferrari & Cribari-Neto 2004, eq. 4).
    """

    name = "beta"
    has_phi = True
    phi_definition = "precision: variance mu(1 − mu)/(1 + phi)"
    phi_words = ("Precision", "The variance is mu(1 - mu)/(1 + phi): a larger phi is less dispersed.")
    links = ("logit", "probit")
    canonical_link = None
    concave_links = frozenset()
    mean_range = "unit"
    first_size = 1.0
    precise = True

    def least_log_phi(self, log_share: float, log_square: float) -> float:  # noqa: ARG002  shares have a scale
        return -log_share

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        """−φ KL(mu‖y) + ½ log φ mu(1 − mu) and three rests of Stirling's series: nothing of the size φ cancels."""
        (zeta,) = further
        log_mu, log_rest = mu.log, mu.log_complement
        apart = jet.exp(log_mu) * (log_mu - np.log(rows.y)) + jet.exp(log_rest) * (log_rest - np.log1p(-rows.y))
        rests = jet.stirling(zeta) - jet.stirling(log_mu + zeta) - jet.stirling(log_rest + zeta)
        return rests - jet.exp(zeta) * apart + 0.5 * (zeta + log_mu + log_rest)

    def constant(self, rows: Rows) -> Vec:
        return -np.log(rows.y) - np.log1p(-rows.y) - LOG_ROOT_TWO_PI

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """a²ψ'(a)·(log mu)'² + b²ψ'(b)·(log(1 − mu))'²."""
        total: list[Vec] = [np.zeros_like(eta) for _ in range(3)]
        for view in (self.link.log, self.link.log_complement):
            log, a1, a2 = view(eta, 2)
            a = np.exp(np.clip(log + zeta, -ETA_OVERFLOW, ETA_OVERFLOW))
            away, (once, twice) = digamma_rest(a), digamma_rest_bend(a)
            spread = away + 0.5 + a - once  # a²ψ'(a)
            bend = once + a - twice
            total[0] += spread * a1 * a1
            total[1] += bend * a1**3 + 2.0 * spread * a1 * a2
            total[2] += bend * a1 * a1
        return Expected.of(*total)

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        """The incomplete beta function."""
        assert phi is not None
        y, a, b = np.clip(rows.y, 0.0, 1.0), mu * phi, (1.0 - mu) * phi
        below, above = special.betainc(a, b, y), special.betainc(b, a, 1.0 - y)
        value = np.where(y < 0.5, 1.0 - below, above) if upper else np.where(y < 0.5, below, 1.0 - above)
        return np.asarray(value, dtype=np.float64)

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        assert phi is not None
        return mu * (1.0 - mu) / (1.0 + phi)

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        """Kept off 0 and 1, which rounding may reach."""
        assert phi is not None
        a, b = np.maximum(mu * phi, 1e-300), np.maximum((1.0 - mu) * phi, 1e-300)
        return np.clip(rng.beta(a, b), np.finfo(float).tiny, 1.0 - np.finfo(float).epsneg)

    def outside_support(self, rows: Rows) -> BoolVec:
        return ~((rows.y > 0.0) & (rows.y < 1.0))

    def advice(self, y: float) -> str:
        if y == 0.0:
            return (
                ' A beta response lies strictly between 0 and 1. Zeros of their own have a further formula, "zi ~ 1"; '
                "shares of a number of trials are family='binomial'."
            )
        if y == 1.0:
            return " A beta response lies strictly between 0 and 1; shares of a number of trials are family='binomial'."
        return " A beta response lies strictly between 0 and 1."

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """Σmu(1 − mu)/Σ(y − mu)² − 1, within bounds."""
        ratio = float(np.sum(mu * (1.0 - mu))) / max(float(np.sum((rows.y - mu) ** 2)), 1e-300)
        return float(np.clip(ratio - 1.0, PHI_LEAST, PHI_MOST))
