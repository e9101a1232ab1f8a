"""Amounts that may be zero: Poisson many gamma amounts, with a variance phi·mu^power of a given power."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special

from polars_glmm.errors import ModelError
from polars_glmm.families import jet
from polars_glmm.families.base import Expected, Rows
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import Link
from polars_glmm.families.mean_family import Further, Mean, MeanFamily
from polars_glmm.typing import BoolVec, Vec

LEAST, MOST = 1.01, 1.99
"""Powers: at 1 the amounts become counts of φ, at 2 gamma amounts without a zero."""
_NODES = 192
_WIDE = 9.0
"""Standard deviations of the number of amounts on either side of its likeliest value: 1e-18 of it lies beyond."""
_AT_ONCE = 1 << 15


@dataclass(frozen=True, init=False, repr=False)
class Tweedie(MeanFamily):
    """log p = −[y mu^(1−p)/(p − 1) + mu^(2−p)/(2 − p)]/φ − log y + log W(y, φ, p), the last two for y > 0.

    W = Σ_j over the number of amounts (Dunn & Smyth 2005, Stat. Comput. 15, eq. 3 and 4); p = power is held, 1.5
    unless said otherwise.
    """

    power: float

    name = "tweedie"
    has_phi = True
    phi_definition = "dispersion: variance phi·mu^power"
    links = ("log",)
    canonical_link = None
    concave_links = frozenset({"log"})
    mean_range = "positive"

    def __init__(self, link: str | Link | None = None, *, power: float = 1.5) -> None:
        super().__init__(link)
        if not LEAST <= power <= MOST:
            msg = f"Tweedie(power={power!r}): the power is between {LEAST} and {MOST}; 1 is Poisson's, 2 the gamma's."
            raise ModelError(msg)
        object.__setattr__(self, "power", float(power))

    def __repr__(self) -> str:
        return f"Tweedie(power={self.power:g})"

    @property
    def held(self) -> Mapping[str, float]:
        return {"power": self.power}

    @property
    def phi_words(self) -> tuple[str, str]:
        return "Dispersion", f"The variance is phi*mu^{self.power:g}, the power held."

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        (zeta,) = further
        p, y = self.power, rows.y
        ahead, whole = (1.0 - p) * mu.log - zeta, (2.0 - p) * mu.log - zeta
        amounts = zeta.through(*self._log_series(y, zeta))
        return amounts - jet.exp(ahead) * (y / (p - 1.0)) - jet.exp(whole) * (1.0 / (2.0 - p))

    def log_minus_log_p0(self, mu: Mean, further: Further) -> Jet:
        """log of −log P(Y = 0) = log of the mean number of amounts."""
        (zeta,) = further
        return (2.0 - self.power) * mu.log - zeta - float(np.log(2.0 - self.power))

    def _log_series(self, y: Vec, zeta: Jet) -> tuple[Vec, ...]:
        """log W and its derivatives in log φ: cumulants of the number of amounts, times powers of −1/(p − 1)."""
        order = zeta.order if len(zeta.parts) > 1 else 0
        c = 1.0 / (self.power - 1.0)
        y, log_phi = np.broadcast_arrays(y, zeta.f)
        some = y > 0.0
        out = np.zeros((4, *y.shape))
        log_y, log_phi = np.log(y[some]), log_phi[some]
        found = np.empty((4, log_y.size))
        for start in range(0, log_y.size, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found[:, part] = self._cumulants(log_y[part], log_phi[part])
        out[:, some] = found
        factors = (1.0, -c, c * c, -(c**3))
        return tuple(out[k] * factors[k] for k in range(order + 1))

    def _cumulants(self, log_y: Vec, log_phi: Vec) -> tuple[Vec, ...]:
        """log Σ_j and the first three cumulants of j: all j that matter, or as many nodes of the smooth sum."""
        p = self.power
        a = (2.0 - p) / (p - 1.0)
        log_z = a * log_y - a * np.log(p - 1.0) - np.log(2.0 - p) - log_phi / (p - 1.0)
        top = np.exp(np.minimum((2.0 - p) * log_y - log_phi - np.log(2.0 - p), 100.0))
        spread = np.sqrt(np.maximum(top, 1.0) * (p - 1.0))
        step = np.maximum(1.0, 2.0 * _WIDE / (_NODES - 1) * spread)
        first = np.maximum(1.0, np.floor(top - 0.5 * (_NODES - 1) * step))
        j = first + step * np.arange(_NODES)[:, None]
        terms = j * log_z - special.gammaln(j + 1.0) - special.gammaln(a * j)
        most = terms.max(axis=0)
        weights = np.exp(terms - most)
        total = weights.sum(axis=0)
        weights /= total
        mean = (weights * j).sum(axis=0)
        away = j - mean
        second = (weights * away**2).sum(axis=0)
        return most + np.log(total * step), mean, second, (weights * away**3).sum(axis=0)

    def constant(self, rows: Rows) -> Vec:
        return -np.log(np.where(rows.y > 0.0, rows.y, 1.0))

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """mu^(2−p)/φ."""
        w = np.exp(np.minimum((2.0 - self.power) * eta - np.asarray(zeta), 700.0))
        return Expected.of(w, (2.0 - self.power) * w, -w)

    def _rate(self, mu: Vec, phi: Vec | float) -> Vec:
        """Mean number of amounts."""
        return np.asarray(mu ** (2.0 - self.power) / (np.asarray(phi) * (2.0 - self.power)))

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        """Sums over the number of amounts, Poisson weights of gamma distributions."""
        assert phi is not None
        p = self.power
        rate, a = self._rate(mu, phi), (2.0 - p) / (p - 1.0)
        scale = np.asarray(phi) * (p - 1.0) * mu ** (p - 1.0)
        y = np.maximum(rows.y, 0.0)
        first = np.maximum(1.0, np.floor(rate - _WIDE * np.sqrt(rate)))
        count = int(np.nanmax(2.0 * _WIDE * np.sqrt(rate), initial=0.0)) + 40
        total = np.zeros(np.broadcast_shapes(y.shape, rate.shape))
        for k in range(count):
            j = first + k
            weight = np.exp(special.xlogy(j, rate) - rate - special.gammaln(j + 1.0))
            part = special.gammaincc(a * j, y / scale) if upper else special.gammainc(a * j, y / scale)
            total += weight * part
        negative = rows.y < 0.0
        if upper:
            return np.where(negative, 1.0, np.minimum(total, 1.0)) + 0.0 * mu
        return np.where(negative, 0.0, np.minimum(total + np.exp(-rate), 1.0)) + 0.0 * mu

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        assert phi is not None
        return phi * mu**self.power

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:  # noqa: ARG002
        """2[y^(2−p)/((1−p)(2−p)) − y mu^(1−p)/(1−p) + mu^(2−p)/(2−p)]."""
        p, y = self.power, rows.y
        q, r = 1.0 - p, 2.0 - p
        return np.maximum(2.0 * (y**r / (q * r) - y * mu**q / q + mu**r / r), 0.0)

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        assert phi is not None
        p = self.power
        count = rng.poisson(self._rate(mu, phi))
        scale = np.asarray(phi) * (p - 1.0) * mu ** (p - 1.0)
        return np.asarray(rng.gamma(count * (2.0 - p) / (p - 1.0)) * scale)

    def outside_support(self, rows: Rows) -> BoolVec:
        return ~(np.isfinite(rows.y) & (rows.y >= 0.0))

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y + 0.1 * (float(np.mean(rows.y)) or 1.0)

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """Mean squared Pearson residual."""
        return max(float(np.mean((rows.y - mu) ** 2 / mu**self.power)), 1e-12)
