"""Links: from a linear predictor to a mean, with every view of the mean that a log density needs.

A density that computes log(1 − mu) from mu has lost its digits before it starts, so a link hands out mu, log mu,
log(1 − mu) and 1/mu separately, each with its derivatives in eta and each accurate in both tails.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy import special

from polars_glmm.families.special import coth_rest, normal_tail
from polars_glmm.typing import BoolVec, Vec

MeanRange = Literal["real", "positive", "unit"]
"""Where a family's mean lives: anywhere, above 0, or between 0 and 1."""

Derivatives = tuple[Vec, ...]
"""A function of eta and its derivatives: order + 1 arrays."""

ETA_OVERFLOW = 700.0
"""exp of more overflows, and of less than its negative underflows: a mean of e^700 answers for all beyond."""


HAZARD_MOST = 1000.0
"""exp(−t) is zero from t = 746 on, and with it everything that t multiplies."""


@dataclass(frozen=True)
class Link(ABC):
    """A monotone map from eta to the mean; `order` counts the derivatives asked for, up to three."""

    name: str
    unit: float | None = None
    """Standard deviation of the latent variable that the link stands for, where there is one."""
    differences_are_log_ratios: ClassVar[bool] = False
    """exp of a difference on this scale has a name of its own: a ratio of means, or of odds."""

    @abstractmethod
    def inverse(self, eta: Vec) -> Vec:
        """The mean at eta."""

    @abstractmethod
    def forward(self, mu: Vec) -> Vec:
        """eta at a mean inside the range."""

    @abstractmethod
    def value(self, eta: Vec, order: int) -> Derivatives:
        """mu."""

    @abstractmethod
    def log(self, eta: Vec, order: int) -> Derivatives:
        """log mu, for a mean above 0."""

    @abstractmethod
    def log_complement(self, eta: Vec, order: int) -> Derivatives:
        """log(1 − mu), for a mean between 0 and 1."""

    def reciprocal(self, eta: Vec, order: int) -> Derivatives:
        """1/mu, for a mean above 0."""
        log, *d = self.log(eta, order)
        q = np.exp(-log)
        factors = (
            lambda: 1.0,
            lambda: -d[0],
            lambda: d[0] ** 2 - d[1],
            lambda: 3.0 * d[0] * d[1] - d[0] ** 3 - d[2],
        )
        return tuple(q * factor() for factor in factors[: order + 1])

    def domain(self, mean_range: MeanRange) -> tuple[float, float]:  # noqa: ARG002 most links take every eta
        """The open interval of eta that gives means in the range."""
        return -np.inf, np.inf

    def outside(self, eta: Vec, mean_range: MeanRange) -> BoolVec | None:
        """True where eta gives no mean in the range (NaN included); None if every eta gives one."""
        low, high = self.domain(mean_range)
        if low == -np.inf and high == np.inf:
            return None
        return ~((eta > low) & (eta < high))

    def interior(self, mean_range: MeanRange) -> float:
        """Some eta inside the domain."""
        low, high = self.domain(mean_range)
        if low == -np.inf:
            return min(high - 1.0, 1.0)
        return low + 1.0 if high == np.inf else 0.5 * (low + high)


def _lazily(order: int, *parts: Callable[[], Vec]) -> Derivatives:
    return tuple(part() for part in parts[: order + 1])


@dataclass(frozen=True, repr=False)
class Power(Link):
    """mu = eta^power: identity, sqrt, inverse and inverse_squared (R's "1/mu^2")."""

    name: str = "identity"
    power: float = 1.0

    def inverse(self, eta: Vec) -> Vec:
        return self._derivative(eta, self.power, 0)

    def forward(self, mu: Vec) -> Vec:
        return self._derivative(mu, 1.0 / self.power, 0)

    def value(self, eta: Vec, order: int) -> Derivatives:
        return tuple(self._derivative(eta, self.power, k) for k in range(order + 1))

    def log(self, eta: Vec, order: int) -> Derivatives:
        a = self.power
        return _lazily(order, lambda: a * np.log(eta), lambda: a / eta, lambda: -a / eta**2, lambda: 2.0 * a / eta**3)

    def log_complement(self, eta: Vec, order: int) -> Derivatives:
        c = 1.0 - eta  # only the identity is used for probabilities
        return _lazily(order, lambda: np.log1p(-eta), lambda: -1.0 / c, lambda: -1.0 / c**2, lambda: -2.0 / c**3)

    def reciprocal(self, eta: Vec, order: int) -> Derivatives:
        return tuple(self._derivative(eta, -self.power, k) for k in range(order + 1))

    def domain(self, mean_range: MeanRange) -> tuple[float, float]:
        if mean_range == "real":
            return -np.inf, np.inf
        return 0.0, 1.0 if mean_range == "unit" else np.inf

    def outside(self, eta: Vec, mean_range: MeanRange) -> BoolVec | None:
        if mean_range == "real" and self.power < 0.0:
            return ~(np.abs(eta) > 0.0)  # either sign, but no mean at 0
        return super().outside(eta, mean_range)

    @staticmethod
    def _derivative(x: Vec, power: float, times: int) -> Vec:
        """The derivative of x^power."""
        factor = 1.0
        for k in range(times):
            factor *= power - k
        if factor == 0.0:
            return np.zeros_like(x)
        rest = power - times
        if rest == 1.0:
            return factor * x
        return np.full_like(x, factor) if rest == 0.0 else factor * np.power(x, rest)


@dataclass(frozen=True, repr=False)
class Log(Link):
    """mu = exp eta."""

    name: str = "log"
    unit: float | None = 1.0
    differences_are_log_ratios: ClassVar[bool] = True

    def inverse(self, eta: Vec) -> Vec:
        return np.exp(np.minimum(eta, ETA_OVERFLOW))

    def forward(self, mu: Vec) -> Vec:
        return np.log(mu)

    def value(self, eta: Vec, order: int) -> Derivatives:
        return (self.inverse(eta),) * (order + 1)

    def log(self, eta: Vec, order: int) -> Derivatives:
        return _lazily(
            order, lambda: eta, lambda: np.ones_like(eta), lambda: np.zeros_like(eta), lambda: np.zeros_like(eta)
        )

    def log_complement(self, eta: Vec, order: int) -> Derivatives:
        mu, c = np.exp(eta), -np.expm1(eta)
        r = mu / c
        return _lazily(
            order, lambda: np.log(c), lambda: -r, lambda: -r * (1.0 + r), lambda: -r * (1.0 + r) * (1.0 + 2.0 * r)
        )

    def domain(self, mean_range: MeanRange) -> tuple[float, float]:
        return -np.inf, 0.0 if mean_range == "unit" else np.inf


def logistic(eta: Vec) -> tuple[Vec, Vec, Vec]:
    """log(1 + exp −|eta|), mu and 1 − mu."""
    e = np.exp(-np.abs(eta))
    large = 1.0 / (1.0 + e)
    small = e * large
    below = eta < 0.0
    return np.log1p(e), np.where(below, small, large), np.where(below, large, small)


@dataclass(frozen=True, repr=False)
class Logit(Link):
    """mu = 1/(1 + exp −eta)."""

    name: str = "logit"
    unit: float | None = float(np.pi / np.sqrt(3.0))
    differences_are_log_ratios: ClassVar[bool] = True

    def inverse(self, eta: Vec) -> Vec:
        return logistic(eta)[1]

    def forward(self, mu: Vec) -> Vec:
        return np.log(mu) - np.log1p(-mu)

    def value(self, eta: Vec, order: int) -> Derivatives:
        _, mu, c = logistic(eta)
        v = mu * c
        return _lazily(order, lambda: mu, lambda: v, lambda: v * (c - mu), lambda: v * (1.0 - 6.0 * v))

    def log(self, eta: Vec, order: int) -> Derivatives:
        softplus, mu, c = logistic(eta)
        v = mu * c
        return _lazily(order, lambda: np.minimum(eta, 0.0) - softplus, lambda: c, lambda: -v, lambda: -v * (c - mu))

    def log_complement(self, eta: Vec, order: int) -> Derivatives:
        softplus, mu, c = logistic(eta)
        v = mu * c
        return _lazily(order, lambda: -np.maximum(eta, 0.0) - softplus, lambda: -mu, lambda: -v, lambda: -v * (c - mu))


@dataclass(frozen=True, repr=False)
class Probit(Link):
    """mu = Φ(eta)."""

    name: str = "probit"
    unit: float | None = 1.0

    def inverse(self, eta: Vec) -> Vec:
        return np.asarray(special.ndtr(eta), dtype=np.float64)

    def forward(self, mu: Vec) -> Vec:
        return np.asarray(special.ndtri(mu), dtype=np.float64)

    def value(self, eta: Vec, order: int) -> Derivatives:
        d = np.exp(-0.5 * eta * eta) / np.sqrt(2.0 * np.pi)
        return _lazily(order, lambda: self.inverse(eta), lambda: d, lambda: -eta * d, lambda: (eta * eta - 1.0) * d)

    def log(self, eta: Vec, order: int) -> Derivatives:
        log, hazard, slope, bend = normal_tail(-eta, order)
        return tuple(part for part in (log, hazard, None if slope is None else -slope, bend) if part is not None)

    def log_complement(self, eta: Vec, order: int) -> Derivatives:
        log, *rest = normal_tail(eta, order)
        return (log, *(-part for part in rest if part is not None))


@dataclass(frozen=True, repr=False)
class CLogLog(Link):
    """mu = 1 − exp(−t), t = exp(eta): the grouped-time proportional hazards link."""

    name: str = "cloglog"
    unit: float | None = float(np.pi / np.sqrt(6.0))

    def inverse(self, eta: Vec) -> Vec:
        return -np.expm1(-np.exp(np.minimum(eta, ETA_OVERFLOW)))

    def forward(self, mu: Vec) -> Vec:
        return np.log(-np.log1p(-mu))

    def value(self, eta: Vec, order: int) -> Derivatives:
        t = self._hazard(eta)
        d = t * np.exp(-t)
        return _lazily(order, lambda: -np.expm1(-t), lambda: d, lambda: d * (1.0 - t), lambda: d * ((1.0 - t) ** 2 - t))

    def log(self, eta: Vec, order: int) -> Derivatives:
        t = self._hazard(eta)
        mu = -np.expm1(-t)
        if order == 0:
            return (np.log(mu),)
        h = t * np.exp(-t) / mu  # ∂log mu; ∂h = h·a with a = 1 − t − h
        if order == 1:
            return np.log(mu), h
        a = -0.5 * t - coth_rest(t, h)
        return _lazily(order, lambda: np.log(mu), lambda: h, lambda: h * a, lambda: h * (a * a - t - h * a))

    def log_complement(self, eta: Vec, order: int) -> Derivatives:
        return (-np.exp(np.minimum(eta, ETA_OVERFLOW)),) * (order + 1)

    @staticmethod
    def _hazard(eta: Vec) -> Vec:
        return np.minimum(np.exp(np.clip(eta, -ETA_OVERFLOW, ETA_OVERFLOW)), HAZARD_MOST)


@dataclass(frozen=True, repr=False)
class LogLog(Link):
    """mu = exp(−exp −eta): the complement of the complementary log-log link at −eta."""

    name: str = "loglog"
    unit: float | None = float(np.pi / np.sqrt(6.0))

    def inverse(self, eta: Vec) -> Vec:
        return np.exp(-np.exp(np.minimum(-eta, ETA_OVERFLOW)))

    def forward(self, mu: Vec) -> Vec:
        return -np.log(-np.log(mu))

    def value(self, eta: Vec, order: int) -> Derivatives:
        t = np.minimum(np.exp(np.clip(-eta, -ETA_OVERFLOW, ETA_OVERFLOW)), HAZARD_MOST)
        mu = np.exp(-t)
        return _lazily(
            order,
            lambda: mu,
            lambda: t * mu,
            lambda: t * mu * (t - 1.0),
            lambda: t * mu * ((1.0 - t) ** 2 - t),
        )

    def log(self, eta: Vec, order: int) -> Derivatives:
        return mirrored(CLogLog().log_complement(-eta, order))

    def log_complement(self, eta: Vec, order: int) -> Derivatives:
        return mirrored(CLogLog().log(-eta, order))


@dataclass(frozen=True, repr=False)
class Cauchit(Link):
    """mu = ½ + arctan(eta)/π."""

    name: str = "cauchit"
    unit: float | None = 3.0  # it has no standard deviation: its middle 80 %

    def inverse(self, eta: Vec) -> Vec:
        return np.arctan2(1.0, -eta) / np.pi  # accurate in the lower tail too

    def forward(self, mu: Vec) -> Vec:
        return -1.0 / np.tan(np.pi * mu)

    def value(self, eta: Vec, order: int) -> Derivatives:
        s = 1.0 / (1.0 + eta * eta)
        d = s / np.pi
        return _lazily(
            order,
            lambda: self.inverse(eta),
            lambda: d,
            lambda: -2.0 * eta * s * d,
            lambda: (6.0 * eta * eta - 2.0) * s * s * d,
        )

    def log(self, eta: Vec, order: int) -> Derivatives:
        s = 1.0 / (1.0 + eta * eta)
        mu, c = self.inverse(eta), self.inverse(-eta)
        h = s / (np.pi * mu)
        k = -2.0 * eta * s  # ∂log of the density s/π
        slope = h * (k - h)
        return _lazily(
            order,
            lambda: np.where(eta < 0.0, np.log(mu), np.log1p(-c)),
            lambda: h,
            lambda: slope,
            lambda: slope * (k - h) + h * (2.0 * (eta * eta - 1.0) * s * s - slope),
        )

    def log_complement(self, eta: Vec, order: int) -> Derivatives:
        return mirrored(self.log(-eta, order))


def mirrored(derivatives: Derivatives) -> Derivatives:
    """Of h(−eta), from h and its derivatives at −eta."""
    return tuple(part if k % 2 == 0 else -part for k, part in enumerate(derivatives))


LINKS: dict[str, Link] = {
    link.name: link
    for link in (
        Power(), Log(), Logit(), Probit(), CLogLog(), LogLog(), Cauchit(),
        Power("inverse", power=-1.0), Power("sqrt", power=2.0), Power("inverse_squared", power=-0.5),
    )
}  # fmt: skip
"""sqrt is mu = eta², inverse_squared 1/mu² = eta."""

ALIASES = {"1/mu^2": "inverse_squared", "1/mu²": "inverse_squared"}
