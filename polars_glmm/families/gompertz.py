"""Times whose hazard grows, or falls, exponentially: Gompertz's law of mortality."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import factorial

import numpy as np
from scipy import special

from polars_glmm.families import jet
from polars_glmm.families.base import Expected, Parameter, Rows
from polars_glmm.families.distributions import DISTRIBUTIONS, Distribution
from polars_glmm.families.event_times import PositiveTime
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import LINKS
from polars_glmm.families.mean_family import Further, Mean
from polars_glmm.typing import Vec

_SERIES = 1.0
"""|u| below which log[(eᵘ − 1)/u] is its series; its last term, the eleventh, is below 1e-17 of the first."""
_FAR = 50.0
"""x from which eˣE₁(x) is its asymptotic series."""
_ORDERS = np.arange(26.0, 0.0, -1.0)
_TERMS = np.array([float(factorial(k)) for k in range(25, -1, -1)])
"""k! of its terms, the highest first."""
_S = np.arange(-40.0, 4.0, 0.2)
_MASS = 0.2 * np.exp(_S - np.exp(_S))
"""∫ g(h) e⁻ʰ dh by the trapezoidal rule in log h, whose error falls with exp(−π²/step) (Trefethen & Weideman 2014)."""


@cache
def _coefficients() -> tuple[float, ...]:
    """Of u², u⁴ … in log[(eᵘ − 1)/u] − u/2: B_2k/(2k (2k)!)."""
    bernoulli = special.bernoulli(22)
    return tuple(float(bernoulli[k]) / (k * factorial(k)) for k in range(2, 23, 2))


def log_growth(u: Jet) -> Jet:
    """log[(eᵘ − 1)/u], which is 0 at 0."""
    x, order = u.f, u.order
    small = np.abs(x) < _SERIES
    near, far = np.where(small, x, 0.0), np.where(small, 1.0, x)
    e = np.exp(-np.abs(far))
    low = -np.expm1(-np.abs(far))  # 1 − exp(−|u|)
    share = np.where(far > 0.0, 1.0 / low, -e / low)  # eᵘ/(eᵘ − 1)
    bend = e / low**2
    outer = [
        np.maximum(far, 0.0) + np.log(low / np.abs(far)),
        share - 1.0 / far,
        1.0 / far**2 - bend,
        bend * (2.0 * share - 1.0) - 2.0 / far**3,
    ]
    series = np.polynomial.Polynomial([0.0, 0.5, *(c for one in _coefficients() for c in (one, 0.0))])
    inner = [series.deriv(k)(near) if k else series(near) for k in range(4)]
    return u.through(*(np.where(small, a, b) for a, b in list(zip(inner, outer, strict=True))[: order + 1]))


@dataclass(frozen=True, init=False, repr=False)
class Gompertz(PositiveTime):
    """h(t) = mu·exp(gamma·t): proportional hazards, mu = exp(eta) that at time 0; gamma any number, per unit of time.

    log S(t) = −mu (exp(gamma·t) − 1)/gamma, the exponential at gamma = 0; for gamma < 0 a share exp(mu/gamma) never has
    the event. Kalbfleisch & Prentice (2002), The Statistical Analysis of Failure Time Data, section 2.2.
    """

    name = "gompertz"
    direction = -1.0
    knows_information = False
    memoryless = True

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Of the log hazard at time 0, and of its growth."""
        mu = Parameter("mu", self.link, "hazard at time 0")
        return mu, Parameter(
            "gamma", LINKS["identity"], "growth of the log hazard per unit of time", ends=(-np.inf, np.inf)
        )

    @property
    def n_parameters(self) -> int:
        return 2

    def second(self, phi: Vec | float) -> Vec:
        """gamma itself."""
        return np.asarray(phi, dtype=np.float64)

    @property
    def distribution(self) -> Distribution:
        """Of log H(T), the logarithm of an exponential variable."""
        return DISTRIBUTIONS["cloglog"]

    def standardised(self, y: Vec, rows: Rows, mu: Mean, further: Further) -> Jet:  # noqa: ARG002
        """log H(y)."""
        return mu.log + np.log(y) + log_growth(further[0] * y)

    def width(self, low: Vec, high: Vec, rows: Rows, further: Further) -> Jet:  # noqa: ARG002
        """log H(high) − log H(low) = log(1 + [H(high) − H(low)]/H(low))."""
        gamma, apart = further[0], high - low
        return jet.softplus(gamma * low + np.log(apart / low) + log_growth(gamma * apart) - log_growth(gamma * low))

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        return mu.log + further[0] * rows.y - jet.exp(self.standardised(rows.y, rows, mu, further))

    def constant(self, rows: Rows) -> Vec:
        return np.zeros_like(rows.y)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """E H(T) = 1; of gamma the data tell (`knows_information`)."""
        w = np.ones_like(eta)
        return Expected.of(w, np.zeros_like(w), np.zeros_like(w))

    def _hazard(self, y: Vec, mu: Vec, phi: Vec | float | None) -> Vec:
        """H(y)."""
        gamma = np.asarray(0.0 if phi is None else phi)
        with np.errstate(all="ignore"):
            return np.asarray(mu * y * special.exprel(gamma * y))

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        h = self._hazard(np.maximum(rows.y, 0.0), mu, phi)
        return np.asarray(np.exp(-h) if upper else -np.expm1(-h))

    def quantile(self, p: Vec | float, mu: Vec, phi: Vec | float | None) -> Vec:
        """The time by which a share p has had the event; infinite where so many never have it."""
        with np.errstate(divide="ignore"):
            h = -np.log1p(-np.asarray(p, dtype=np.float64))
        return self._time(h, np.asarray(mu), phi)

    def _time(self, h: Vec, mu: Vec, phi: Vec | float | None) -> Vec:
        """When H is h: log(1 + gamma·h/mu)/gamma."""
        gamma = np.asarray(0.0 if phi is None else phi)
        with np.errstate(all="ignore"):
            late, grown = h / mu, gamma * h / mu
            small = np.abs(grown) < 1e-5  # to the third order, which is beyond a double's digits
            near = late * (1.0 - grown * (0.5 - grown * (1.0 / 3.0 - grown / 4.0)))
            far = np.log1p(np.maximum(grown, -1.0)) / np.where(gamma == 0.0, 1.0, gamma)
        return np.asarray(np.where(gamma == 0.0, late, np.where(small, near, far)))

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        return self.quantile(rng.uniform(size=np.shape(mu)), mu, phi)

    def expectation(self, mu: Vec, phi: Vec | float | None) -> tuple[Vec, Vec]:
        """E(x)/gamma, E(x) = eˣ∫ e⁻ᵗ/t dt from x = mu/gamma on (Abramowitz & Stegun 1964, 5.1); infinite for gamma < 0.

        Beyond x = 50, and for gamma = 0, by the series 5.1.51 in gamma/mu, whose 26th term is below a double's digits.
        """
        mu, gamma = np.broadcast_arrays(np.asarray(mu, dtype=np.float64), 0.0 if phi is None else phi)
        with np.errstate(all="ignore"):
            x, r = np.where(gamma > 0.0, mu / gamma, np.inf), np.clip(gamma / mu, 0.0, 0.02)
            near = special.exp1(x) * np.exp(x)
            far, bend = np.polyval(_TERMS, -r), np.polyval(_TERMS * _ORDERS, -r)
            mean = np.where(x < _FAR, near / gamma, far / mu)
            slope = np.where(x < _FAR, (near - 1.0 / x) / gamma**2, -bend / mu**2)
        return np.where(gamma < 0.0, np.inf, mean), np.where(gamma < 0.0, np.nan, slope)

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        """∫ T(h)² e⁻ʰ dh − E²; infinite for gamma < 0."""
        mu, gamma, h = self._nodes(mu, phi)
        time = self._time(h, mu, gamma)
        with np.errstate(invalid="ignore"):
            found = (time - (time @ _MASS)[..., None]) ** 2 @ _MASS
        return np.where(np.broadcast_to(gamma[..., 0] < 0.0, found.shape), np.inf, found)

    def _nodes(self, mu: Vec, phi: Vec | float | None) -> tuple[Vec, Vec, Vec]:
        """mu (…, 1), gamma (…, 1) and the values of H (m,) to average over."""
        gamma = np.asarray(0.0 if phi is None else phi, dtype=np.float64)
        return np.asarray(mu, dtype=np.float64)[..., None], gamma[..., None], np.exp(_S)

    def at_response(self, rows: Rows) -> Vec:
        return 1.0 / rows.y

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:
        """2[log f at the likeliest mu, where H(y) is 1, − log f]."""
        h = self._hazard(rows.y, mu, phi)
        with np.errstate(all="ignore"):
            return np.maximum(2.0 * (h - 1.0 - np.log(h)), 0.0)

    def first_mean(self, rows: Rows) -> Vec:
        """The hazard of a constant one that is expected to end then."""
        return 1.0 / rows.y

    def start_further(self, rows: Rows, mu: Vec) -> tuple[float, ...]:  # noqa: ARG002
        """A constant hazard."""
        return (0.0,)
