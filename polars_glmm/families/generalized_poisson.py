"""Counts with a variance in proportion to the mean, above or below it; phi is the proportion."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from polars_glmm.families import jet
from polars_glmm.families.base import Expected, Rows
from polars_glmm.families.jet import Jet
from polars_glmm.families.mean_family import Further, Mean, MeanFamily, log_of
from polars_glmm.families.poisson import not_counts
from polars_glmm.typing import BoolVec, Vec

PHI_LEAST, PHI_MOST = 0.2, 1e4
"""Moment estimates are kept between: starts, not answers."""
_NO_SHARE = 1e-18
"""Probability of a count beyond the mean from which the sum of all further ones is rounding error."""
_MOST_COUNTS = 100_000


@dataclass(frozen=True, init=False, repr=False)
class GeneralizedPoisson(MeanFamily):
    """log p = log θ + (y − 1) log(θ + λy) − θ − λy − log y!, θ = mu/√φ, λ = 1 − 1/√φ; variance mu·φ.

    Consul & Jain (1973). Below φ = 1 counts with θ + λy ≤ 0 do not occur, and probabilities sum to one nearly.
    """

    name = "generalized_poisson"
    has_phi = True
    discrete = True
    knows_information = False
    phi_definition = "ratio: variance mu·phi; 1 is Poisson's"
    phi_words = ("Ratio", "The variance is mu*phi.")
    links = ("log",)
    canonical_link = None
    concave_links = frozenset()
    mean_range = "positive"

    def log_minus_log_p0(self, mu: Mean, further: Further) -> Jet:
        """log of −log P(y = 0) = θ."""
        (zeta,) = further
        return mu.log - 0.5 * zeta

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        (zeta,) = further
        y, log_theta = rows.y, mu.log - 0.5 * zeta
        shift = np.where(y == 0.0, log_theta.f, np.maximum(log_theta.f, 0.0))  # so that powers of a jet stay finite
        rate = 1.0 - jet.exp(-0.5 * zeta)
        base = jet.exp(log_theta - shift) + rate * (y * np.exp(-shift))
        beyond = ~(base.f > 0.0)
        log_base = jet.log(_flat(base, beyond, 1.0)) + shift
        found = log_theta + (y - 1.0) * log_base - jet.exp(log_theta) - rate * y
        return _flat(found, beyond, -np.inf) if beyond.any() else found

    def constant(self, rows: Rows) -> Vec:
        return -np.asarray(special.gammaln(rows.y + 1.0), dtype=np.float64)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """mu/φ, that of the quasi-likelihood."""
        w = self.link.value(eta, 0)[0] * np.exp(-np.asarray(zeta))
        return Expected.of(w, w, -w)

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        """Sums of probabilities over the counts up to y, of at most 100,000."""
        assert phi is not None
        y, mu = np.broadcast_arrays(np.floor(rows.y), np.asarray(mu, dtype=np.float64))
        eta, below, over = np.log(np.maximum(mu, 1e-300)), np.zeros(mu.shape), np.zeros(mu.shape, dtype=bool)
        for k in range(int(np.clip(np.max(y, initial=-1.0), -1, _MOST_COUNTS)) + 1):
            open_ = (y >= k) & ~over
            if not open_.any():
                break
            one = Rows(np.float64(k) + np.zeros(mu.shape[-1:]))
            p = np.exp(self.density(one, (eta, log_of(phi)), 0).f + self.constant(one))
            below += np.where(open_, p, 0.0)
            over |= (k > mu) & (p < _NO_SHARE)  # beyond the mean probabilities fall: the rest is rounding error
        below = np.where(np.isnan(mu), np.nan, np.minimum(below, 1.0))
        return 1.0 - below if upper else below

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        assert phi is not None
        return mu * phi

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        """Above φ = 1 the total progeny of Poisson families (Consul 1989, § 9.1), below it by inversion."""
        assert phi is not None
        mu, phi = np.broadcast_arrays(mu, np.asarray(phi, dtype=np.float64))
        root = np.sqrt(phi)
        rate = 1.0 - 1.0 / root
        newest = rng.poisson(mu / root)
        total = newest.astype(np.float64)
        while newest.any():
            newest = rng.poisson(np.maximum(rate, 0.0) * newest)
            total += newest
        under = rate < 0.0
        return np.where(under, self._inverted(rng, mu, phi, under), total) if under.any() else total

    def _inverted(self, rng: np.random.Generator, mu: Vec, phi: Vec, wanted: BoolVec) -> Vec:
        left, y = np.where(wanted, rng.uniform(size=mu.shape), -1.0), np.zeros(mu.shape)
        eta, zeta = np.log(np.maximum(mu, 1e-300)), log_of(phi)
        for k in range(_MOST_COUNTS):
            one = Rows(np.full(mu.shape, float(k)))
            left -= np.exp(self.density(one, (eta, zeta), 0).f + self.constant(one))
            possible = np.exp(eta - 0.5 * zeta) + (1.0 - np.exp(-0.5 * zeta)) * (k + 1.0) > 0.0
            going = (left > 0.0) & possible
            if not going.any():
                break
            y += going
            left = np.where(going, left, -1.0)
        return y

    def outside_support(self, rows: Rows) -> BoolVec:
        return not_counts(rows.y)

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y + 0.1

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """Σ(y − mu)²/Σmu, within bounds."""
        ratio = float(np.sum((rows.y - mu) ** 2)) / max(float(np.sum(mu)), 1e-300)
        return float(np.clip(ratio, PHI_LEAST, PHI_MOST))


def _flat(a: Jet, where: BoolVec, value: float) -> Jet:
    """A jet that is a constant in some places."""
    return replace(a, parts={k: np.where(where, value if k == (0, 0) else 0.0, part) for k, part in a.parts.items()})
