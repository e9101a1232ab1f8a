"""Binomial counts out of `trials`, or Bernoulli outcomes without them; the mean is a probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from polars_glmm.families.base import Expected, Rows
from polars_glmm.families.binomial_kernels import cloglog_kernel, logit_kernel, probit_kernel
from polars_glmm.families.jet import Jet
from polars_glmm.families.mean_family import Further, Kernel, Mean, MeanFamily
from polars_glmm.families.poisson import not_counts
from polars_glmm.typing import BoolVec, Vec


@dataclass(frozen=True, init=False, repr=False)
class Binomial(MeanFamily):
    """log p = log C(n, y) + y log mu + (n − y) log(1 − mu); n = trials, or 1.

    Means, variances and simulated means are per trial: mu = E[y]/n, variance mu(1 − mu); y itself is a count.
    """

    name = "binomial"
    takes_trials = True
    discrete = True
    sufficient = True
    first_size = 1.0
    links = ("logit", "probit", "cloglog", "cauchit", "log", "identity")
    canonical_link = "logit"
    concave_links = frozenset({"logit", "probit", "cloglog", "log", "identity"})
    mean_range = "unit"

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        return {"logit": logit_kernel, "probit": probit_kernel, "cloglog": cloglog_kernel}

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:  # noqa: ARG002
        return rows.y * mu.log + (trials_of(rows) - rows.y) * mu.log_complement

    def constant(self, rows: Rows) -> Vec:
        """log C(n, y)."""
        if rows.trials is None:
            return np.zeros_like(rows.y)
        n, y = rows.trials, rows.y
        return np.asarray(-np.log1p(n) - special.betaln(n - y + 1.0, y + 1.0), dtype=np.float64)

    def saturated(self, rows: Rows) -> Vec | None:
        if rows.trials is None:  # one trial, fitted exactly
            return np.zeros_like(rows.y)
        n, y = rows.trials, rows.y
        p = y / n
        return np.asarray(self.constant(rows) + special.xlogy(y, p) + special.xlog1py(n - y, -p), dtype=np.float64)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """n·mu'²/(mu(1 − mu)) = −n·(log mu)'·(log(1 − mu))'."""
        _, a1, a2 = self.link.log(eta, 2)
        _, b1, b2 = self.link.log_complement(eta, 2)
        n = trials_of(rows)
        return Expected.of(-n * a1 * b1, -n * (a2 * b1 + a1 * b2))

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:  # noqa: ARG002
        """By the incomplete beta function: P(Y > k) = I_mu(k + 1, n − k) (Abramowitz & Stegun 26.5.24)."""
        k, n = np.floor(rows.y), trials_of(rows)
        inner = (k >= 0.0) & (k < n)
        a, b = np.where(inner, k + 1.0, 1.0), np.where(inner, n - k, 1.0)
        value = special.betainc(a, b, mu) if upper else special.betainc(b, a, 1.0 - mu)
        return _beyond(np.asarray(value, dtype=np.float64), k, n, upper=upper)

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:  # noqa: ARG002
        """Of one trial: mu(1 − mu). A count has n times this, a proportion a part 1/n of it."""
        return mu * (1.0 - mu)

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:  # noqa: ARG002
        n, y = trials_of(rows), rows.y
        p = y / n
        half = special.xlogy(y, p) - special.xlogy(y, mu) + special.xlog1py(n - y, -p) - special.xlog1py(n - y, -mu)
        deviance: Vec = np.maximum(2.0 * half, 0.0)
        return deviance

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        """Counts out of `rows.trials`."""
        return rng.binomial(np.asarray(trials_of(rows)).astype(np.int64), mu).astype(np.float64)

    def outside_support(self, rows: Rows) -> BoolVec:
        y = rows.y
        return not_counts(y) | (y > trials_of(rows))

    def first_mean(self, rows: Rows) -> Vec:
        return (rows.y + 0.5) / (trials_of(rows) + 1.0)


def _beyond(value: Vec, k: Vec, most: Vec | float, *, upper: bool) -> Vec:
    """Probabilities where k lies below every count or at the largest and above; NaN stays."""
    below, above = (1.0, 0.0) if upper else (0.0, 1.0)
    known = np.where(k < 0.0, below, np.where(k >= most, above, value))
    return np.where(np.isnan(value), np.nan, known)


def trials_of(rows: Rows) -> Vec:
    """The trials of the rows; 1, which broadcasts, where none were given."""
    return np.float64(1.0) if rows.trials is None else rows.trials  # type: ignore[return-value]
