"""Binomial counts whose probability varies by a beta distribution; phi is its precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.families import jet
from polars_glmm.families.base import Expected, Rows
from polars_glmm.families.binomial import Binomial, trials_of
from polars_glmm.families.jet import Jet
from polars_glmm.families.mean_family import Further, Mean, MeanFamily, log_of
from polars_glmm.families.poisson import not_counts
from polars_glmm.typing import BoolVec, Vec

PHI_LEAST, PHI_MOST = 1e-2, 1e4
"""Moment estimates are kept between: starts, not answers."""


@dataclass(frozen=True, init=False, repr=False)
class BetaBinomial(MeanFamily):
    """log p = log C(n, y) + log B(y + a, n − y + b) − log B(a, b), a = mu·φ, b = (1 − mu)φ.

    Variance of a count n mu(1 − mu)(φ + n)/(φ + 1) (Skellam 1948); means and variances are per trial.
    """

    name = "beta_binomial"
    has_phi = True
    takes_trials = True
    discrete = True
    knows_information = False
    first_size = 1.0
    phi_definition = "precision: variance n·mu(1 − mu)(phi + n)/(phi + 1); larger is less dispersed"
    phi_words = ("Precision", "The variance is n*mu(1 - mu)(phi + n)/(phi + 1): a larger phi is less dispersed.")
    links = ("logit", "probit")
    canonical_link = None
    concave_links = frozenset()
    mean_range = "unit"

    @property
    def limit(self) -> MeanFamily:
        return Binomial(self.link)

    def remoteness(self, rows: Rows) -> Vec:
        return np.square(trials_of(rows)) + np.zeros_like(rows.y)

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        """The binomial one and three rising products, which vanish as φ grows."""
        (zeta,) = further
        y, n = rows.y, trials_of(rows) + np.zeros_like(rows.y)
        log_mu, log_rest = mu.log, mu.log_complement
        over = jet.rising(y, log_mu + zeta) + jet.rising(n - y, log_rest + zeta) - jet.rising(n, zeta)
        return over + y * log_mu + (n - y) * log_rest

    def constant(self, rows: Rows) -> Vec:
        """log C(n, y)."""
        return Binomial().constant(rows)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:
        """n·mu'²/(mu(1 − mu))·(1 + φ)/(n + φ), that of the quasi-likelihood: the expectation itself is a sum."""
        w, dw = (next(iter(one.values())) for one in Binomial(self.link).information(rows, eta, 0.0))
        n, phi = trials_of(rows), np.exp(np.asarray(zeta))
        share = (1.0 + phi) / (n + phi)
        return Expected.of(w * share, dw * share, w * phi * (n - 1.0) / (n + phi) ** 2)

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        """Sums of probabilities from the nearer end, over the counts up to the largest asked for."""
        assert phi is not None
        if np.all(np.isinf(phi)):
            return Binomial().cdf(rows, mu, None, upper=upper)
        y, n, mu = np.broadcast_arrays(np.floor(rows.y), trials_of(rows), np.asarray(mu, dtype=np.float64))
        total, eta = np.zeros(mu.shape), self.link.forward(np.clip(mu, 1e-300, 1.0 - 1e-16))
        n = np.maximum(n, 0.0)
        for k in range(int(np.max(n, initial=0.0)) + 1):
            counted = (n >= k) & ((y < k) if upper else (y >= k))
            if counted.any():
                one = Rows(np.minimum(float(k), n), n)
                p = np.exp(self.density(one, (eta, log_of(phi)), 0).f + self.constant(one))
                total += np.where(counted, p, 0.0)
        return np.where(np.isnan(mu), np.nan, np.minimum(total, 1.0))

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:  # noqa: ARG002
        """Of one trial: mu(1 − mu), whatever phi."""
        return mu * (1.0 - mu)

    def response_variance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:
        assert phi is not None
        n = trials_of(rows)
        return mu * (1.0 - mu) / n * (1.0 + (n - 1.0) / (1.0 + np.asarray(phi)))

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:
        """Counts out of `rows.trials`, each with a probability of its own."""
        assert phi is not None
        finite = np.isfinite(phi)
        size = np.where(finite, phi, 1.0)
        a, b = np.maximum(mu * size, 1e-300), np.maximum((1.0 - mu) * size, 1e-300)
        p = np.where(finite, rng.beta(a, b), mu)
        return rng.binomial(np.asarray(trials_of(rows)).astype(np.int64), p).astype(np.float64)

    def outside_support(self, rows: Rows) -> BoolVec:
        y = rows.y
        return not_counts(y) | (y > trials_of(rows))

    def first_mean(self, rows: Rows) -> Vec:
        return (rows.y + 0.5) / (trials_of(rows) + 1.0)

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """From Σ(y − n mu)² = Σ n mu(1 − mu)[1 + (n − 1)/(1 + φ)], within bounds."""
        n = trials_of(rows)
        plain = n * mu * (1.0 - mu)
        excess = float(np.sum((rows.y - n * mu) ** 2 - plain))
        most = float(np.sum(plain * (n - 1.0)))
        return float(np.clip(most / excess - 1.0, PHI_LEAST, PHI_MOST)) if excess > 0.0 else PHI_MOST
