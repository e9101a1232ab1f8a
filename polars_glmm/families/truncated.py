"""Counts above zero: Poisson and negative binomial counts of which zeros are not seen."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from polars_glmm.families import jet
from polars_glmm.families.base import Expected, Rows
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import LINKS
from polars_glmm.families.mean_family import Further, Mean, MeanFamily, log_of
from polars_glmm.families.negative_binomial import NegativeBinomial
from polars_glmm.families.negative_binomial1 import NegativeBinomial1
from polars_glmm.families.poisson import Poisson
from polars_glmm.families.special import log1p_ratio
from polars_glmm.typing import BoolVec, Vec

_ROWS = 10_000
"""Rows that a moment estimate is made of: it is a start."""
_HALVINGS = 40
_NEWTON = 30


@dataclass(frozen=True, init=False, repr=False)
class _Truncated(MeanFamily):
    """log p = log p of the whole distribution − log(1 − p₀); mu is the mean of the counts with their zeros.

    E[y] = mu/(1 − p₀) (Cameron & Trivedi 2013, § 4.3).
    """

    discrete = True
    mu_is_mean = False
    links = ("log",)
    canonical_link = None
    concave_links = frozenset()
    mean_range = "positive"

    @property
    @abstractmethod
    def whole(self) -> Any:
        """The family of the counts with their zeros."""

    @abstractmethod
    def hazard(self, mu: Vec, phi: Vec | float | None) -> tuple[Vec, Vec]:
        """t = −log p₀ and its slope in mu."""

    def least_log_phi(self, log_share: float, log_square: float) -> float | None:
        found: float | None = self.whole.least_log_phi(log_share, log_square)
        return found

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        whole = self.whole
        found: Jet = whole.log_density(rows, mu, further) - jet.log1mexp(whole.log_minus_log_p0(mu, further))
        return found

    def constant(self, rows: Rows) -> Vec:
        found: Vec = self.whole.constant(rows)
        return found

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:
        """That of the whole distribution."""
        found: Expected = self.whole.information(rows, eta, zeta)
        return found

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        t, _ = self.hazard(mu, phi)
        seen = -np.expm1(-t)
        above = np.where(rows.y < 1.0, 1.0, self.whole.cdf(rows, mu, phi, upper=True) / seen)
        above = np.where(np.isnan(mu), np.nan, np.minimum(above, 1.0))
        if upper:
            return above
        below = (self.whole.cdf(rows, mu, phi) - np.exp(-t)) / seen
        return np.where(above < 0.5, 1.0 - above, np.where(rows.y < 1.0, 0.0, np.maximum(below, 0.0)))

    def expectation(self, mu: Vec, phi: Vec | float | None) -> tuple[Vec, Vec]:
        t, slope = self.hazard(mu, phi)
        seen = -np.expm1(-t)
        mean = mu / seen
        return mean, (1.0 - mean * slope * np.exp(-t)) / seen

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        """Of the counts above zero."""
        seen = -np.expm1(-self.hazard(mu, phi)[0])
        mean = mu / seen
        squares: Vec = (self.whole.variance(mu, phi) + mu * mu) / seen
        return np.maximum(squares - mean * mean, 0.0)

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:
        """2[log p at the mu whose counts above zero have the mean y − log p]."""
        best = self.mu_of_mean(rows.y, phi)

        def log_density(m: Vec) -> Vec:
            return self.density(rows, (np.log(m),) if phi is None else (np.log(m), log_of(phi)), 0).f

        with np.errstate(all="ignore"):
            return np.maximum(2.0 * (log_density(best) - log_density(mu)), 0.0)

    def mu_of_mean(self, mean: Vec, phi: Vec | float | None) -> Vec:
        """mu with E[y] = mean, by Newton's method on its logarithm; next to zero where the mean is one."""
        log_mu = np.log(np.maximum(np.asarray(mean, dtype=np.float64) - 1.0, 1e-12))
        for _ in range(_NEWTON):
            mu = np.exp(log_mu)
            value, slope = self.expectation(mu, phi)
            log_mu = log_mu - np.clip((value - mean) / np.maximum(slope * mu, 1e-300), -2.0, 2.0)
            log_mu = np.clip(log_mu, -40.0, 40.0)
        return np.exp(log_mu)

    def outside_support(self, rows: Rows) -> BoolVec:
        wrong: BoolVec = self.whole.outside_support(rows) | (rows.y < 1.0)
        return wrong

    def advice(self, y: float) -> str:
        return f" Zeros belong to family={self.whole.name!r}." if y == 0.0 else ""

    def first_mean(self, rows: Rows) -> Vec:
        return np.maximum(rows.y - 0.9, 0.1)

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """Where Σy²(1 − p₀) is what mu and phi say, by halving; within bounds."""
        if not self.has_phi:
            return float("nan")
        every = max(1, len(rows.y) // _ROWS)
        y, mu = rows.y[::every], mu[::every]
        low, high = np.log(1e-3), np.log(1e4)

        def excess(zeta: float) -> float:
            phi = float(np.exp(zeta))
            seen = -np.expm1(-self.hazard(mu, phi)[0])
            return float(np.sum((self.whole.variance(mu, phi) + mu * mu) / seen - y * y))

        rising = excess(high) > excess(low)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            if (excess(middle) > 0.0) == rising:
                high = middle
            else:
                low = middle
        return float(np.exp(0.5 * (low + high)))

    @staticmethod
    def _first(rng: np.random.Generator, t: Vec) -> Vec:
        """The first event of a Poisson process within t, given that there is one."""
        return np.minimum(-np.log1p(rng.uniform(size=np.shape(t)) * np.expm1(-t)), t)


@dataclass(frozen=True, init=False, repr=False)
class TruncatedPoisson(_Truncated):
    """log p = y log mu − mu − log y! − log(1 − exp −mu), y ≥ 1."""

    name = "truncated_poisson"
    concave_links = frozenset({"log"})

    @property
    def whole(self) -> Poisson:
        return Poisson(self.link)

    def hazard(self, mu: Vec, phi: Vec | float | None) -> tuple[Vec, Vec]:  # noqa: ARG002
        return np.asarray(mu, dtype=np.float64), np.ones_like(mu)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """mu − ∂² log(1 − exp −mu), which no response enters."""
        value, log_seen = self.link.value(eta, 3), LINKS["cloglog"].log(eta, 3)
        return Expected.of(value[2] + log_seen[2], value[3] + log_seen[3])

    @property
    def canonical(self) -> bool:
        return True

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        """One, and what a Poisson process brings after its first event."""
        return np.asarray(1.0 + rng.poisson(mu - self._first(rng, mu)), dtype=np.float64)


@dataclass(frozen=True, init=False, repr=False)
class _TruncatedNegativeBinomial(_Truncated):
    """A negative binomial is a Poisson number of clusters of logarithmic size (Quenouille 1949)."""

    has_phi = True
    knows_information = False

    @property
    def limit(self) -> MeanFamily:
        return TruncatedPoisson(self.link)

    @abstractmethod
    def odds(self, mu: Vec, phi: Vec) -> Vec:
        """q/(1 − q) of the logarithmic distribution."""

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:
        """The first cluster, and what comes after it."""
        assert phi is not None
        mu, phi = np.broadcast_arrays(mu, np.asarray(phi, dtype=np.float64))
        plain = phi == self.limit_phi
        own = np.where(plain, 1.0, phi)
        t, odds = self.hazard(mu, own)[0], self.odds(mu, own)
        size = (t - self._first(rng, t)) / np.log1p(odds)
        rest = rng.poisson(odds * rng.gamma(np.maximum(size, 0.0)))
        mixed = rng.logseries(np.minimum(odds / (1.0 + odds), 1.0 - 1e-15)) + rest
        return np.where(plain, TruncatedPoisson(self.link).draw(rng, mu, None, rows), mixed).astype(np.float64)


@dataclass(frozen=True, init=False, repr=False)
class TruncatedNegativeBinomial(_TruncatedNegativeBinomial):
    """Negative binomial counts above zero; phi is the size of the whole distribution."""

    name = "truncated_negative_binomial"
    phi_definition = "size: variance mu + mu²/phi with zeros; larger is less dispersed"
    phi_words = ("Size", "With zeros the variance is mu + mu^2/phi: a larger phi is less dispersed.")

    @property
    def whole(self) -> NegativeBinomial:
        return NegativeBinomial(self.link)

    def hazard(self, mu: Vec, phi: Vec | float | None) -> tuple[Vec, Vec]:
        assert phi is not None
        x = np.asarray(mu, dtype=np.float64) / phi
        return mu * log1p_ratio(x), 1.0 / (1.0 + x)

    def odds(self, mu: Vec, phi: Vec) -> Vec:
        return mu / phi

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        """y log mu − (y + φ) log(1 + mu/φ) and a rising product, less log(1 − p₀)."""
        (zeta,) = further
        log_t = self.whole.log_minus_log_p0(mu, further)
        whole = rows.y * mu.log - rows.y * jet.softplus(mu.log - zeta) - jet.exp(log_t) + jet.rising(rows.y, zeta)
        return whole - jet.log1mexp(log_t)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """(E[y] + φ)·s(1 − s) + ∂² log(1 − p₀) with s = mu/(mu + φ), for log p bends linearly in y.

        That of the whole distribution vanishes with mu; this does not where φ goes with it, towards the logarithmic
        series (Fisher, Corbet & Williams 1943).
        """
        mu, size = Mean(self.link, eta, 3), jet.variable(zeta, 1, 3, 1)
        seen, share = jet.log1mexp(self.whole.log_minus_log_p0(mu, (size,))), mu.log - size
        bend = (jet.exp(mu.log - seen) + jet.exp(size)) * jet.exp(-jet.softplus(share) - jet.softplus(-share))
        w, dw, w_zeta = (bend.parts[at] + seen.parts[0, 0, *at] for at in ((), (0,), (1,)))
        return Expected.of(w, dw, w_zeta)


@dataclass(frozen=True, init=False, repr=False)
class TruncatedNegativeBinomial1(_TruncatedNegativeBinomial):
    """Negative binomial counts of linear variance above zero; phi is the excess of the whole distribution."""

    name = "truncated_negative_binomial1"
    phi_definition = "excess: variance mu(1 + phi) with zeros"
    phi_words = ("Excess", "With zeros the variance is mu(1 + phi).")
    limit_phi = 0.0

    @property
    def whole(self) -> NegativeBinomial1:
        return NegativeBinomial1(self.link)

    def hazard(self, mu: Vec, phi: Vec | float | None) -> tuple[Vec, Vec]:
        assert phi is not None
        ratio = log1p_ratio(np.asarray(phi, dtype=np.float64))
        return mu * ratio, ratio + np.zeros_like(mu)

    def odds(self, mu: Vec, phi: Vec) -> Vec:  # noqa: ARG002
        return phi
