"""Times to an event: exponential, Weibull and log-logistic, with accelerated time or proportional hazards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from polars_glmm.errors import ModelError
from polars_glmm.families import jet
from polars_glmm.families.base import Expected, Rows
from polars_glmm.families.distributions import DISTRIBUTIONS, Distribution
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import Link
from polars_glmm.families.location_scale import LocationScale
from polars_glmm.families.mean_family import Further, Mean
from polars_glmm.typing import BoolVec, Vec

Metric = Literal["aft", "ph"]
"""What the linear predictor is of: the logarithm of time, which it stretches, or that of the hazard."""


class PositiveTime(LocationScale):
    """Times above 0 whose parameter mu is positive, on the log scale, and not their mean."""

    of_times = True
    mu_is_mean = False
    links = ("log",)
    canonical_link = None
    concave_links = frozenset({"log"})
    mean_range = "positive"

    def outside_support(self, rows: Rows) -> BoolVec:
        return ~(np.isfinite(rows.y) & (rows.y > 0.0))


class EventTime(PositiveTime):
    """log T = eta + Z/a: the linear predictor stretches time, the shape a = phi is that of the hazard (1: exponential).

    mu = exp(eta) is the time at Z = 0. Kalbfleisch & Prentice (2002), The Statistical Analysis of Failure Time Data,
    section 2.2 and chapter 3.
    """

    top: float = 0.0
    """z at which the density of Z is highest."""
    bend: float = 1.0
    """E[−(log f)''(Z)]."""

    def _shape(self, phi: Vec | float | None) -> Vec | float:
        return 1.0 if phi is None or not self.has_phi else phi

    def _scale(self, mu: Vec, phi: Vec | float | None) -> Vec:  # noqa: ARG002  of families with hazards
        """The time at Z = 0."""
        return np.asarray(mu)

    def standardised(self, y: Vec, rows: Rows, mu: Mean, further: Further) -> Jet:  # noqa: ARG002
        z: Jet = np.log(y) - mu.log
        return z * jet.exp(further[0]) if further else z

    def width(self, low: Vec, high: Vec, rows: Rows, further: Further) -> Jet | Vec:  # noqa: ARG002
        width = np.log(high / low)
        return jet.exp(further[0]) * width if further else width

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        z = self.standardised(rows.y, rows, mu, further)
        found = z.through(*self.distribution.log_density(z.f, z.order))
        return found + further[0] if further else found

    def constant(self, rows: Rows) -> Vec:
        return -np.log(rows.y)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:  # noqa: ARG002
        """a² E[−(log f)''(Z)]."""
        w = self.bend * np.exp(2.0 * np.asarray(zeta)) + np.zeros_like(eta)
        return Expected.of(w, np.zeros_like(w), 2.0 * w if self.has_phi else None)

    def _z(self, y: Vec, mu: Vec, phi: Vec | float | None) -> Vec:
        with np.errstate(divide="ignore"):
            return np.asarray((np.log(np.maximum(y, 0.0)) - np.log(self._scale(mu, phi))) * self._shape(phi))

    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        z = self._z(rows.y, mu, phi)
        with np.errstate(all="ignore"):
            found = np.exp((self.distribution.log_sf if upper else self.distribution.log_cdf)(z, 0)[0])
        return np.where(rows.y > 0.0, found, 1.0 if upper else 0.0) + 0.0 * np.asarray(mu)

    def quantile(self, p: Vec | float, mu: Vec, phi: Vec | float | None) -> Vec:
        """The time by which a share p has had the event."""
        z = self.distribution.link.forward(np.asarray(p, dtype=np.float64))
        return self._scale(mu, phi) * np.exp(z / self._shape(phi))

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:  # noqa: ARG002
        return self.quantile(rng.uniform(size=np.shape(mu)), mu, phi)

    def expectation(self, mu: Vec, phi: Vec | float | None) -> tuple[Vec, Vec]:
        times = self._moment(1.0 / np.asarray(self._shape(phi)))
        mean = self._scale(mu, phi) * times
        return mean, mean / np.asarray(mu) * self._power(phi)

    def _power(self, phi: Vec | float | None) -> Vec | float:  # noqa: ARG002  of families with hazards
        """d log(time)/d log mu."""
        return 1.0

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        """Of T; infinite where it has none."""
        a = np.asarray(self._shape(phi))
        with np.errstate(invalid="ignore"):
            spread = self._moment(2.0 / a) - self._moment(1.0 / a) ** 2
        return np.square(self._scale(mu, phi)) * np.where(np.isnan(spread), np.inf, spread)

    def _moment(self, power: Vec) -> Vec:
        """E exp(power · Z)."""
        raise NotImplementedError

    def at_response(self, rows: Rows) -> Vec:
        return rows.y

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:
        """2[log f(z) at its highest − log f(z)]."""
        z = self._z(rows.y, mu, phi)
        log_f = self.distribution.log_density
        return np.maximum(2.0 * (log_f(np.full_like(z, self.top), 0)[0] - log_f(z, 0)[0]), 0.0)

    def first_mean(self, rows: Rows) -> Vec:
        return rows.y

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        """From the spread of log time about the means."""
        if not self.has_phi:
            return float("nan")
        sd = self.distribution.sd
        assert sd is not None
        away = np.log(rows.y) - np.log(mu)
        spread = float(np.std(away))
        return float(np.clip(sd / spread if spread > 0.0 else 1e6, 1e-6, 1e6))


@dataclass(frozen=True, init=False, repr=False)
class Hazards(EventTime):
    """EventTime of least-extreme-value Z, whose linear predictor may be that of the hazard: z = a log t + eta."""

    metric: Metric

    memoryless = True

    @property
    def direction(self) -> float:  # type: ignore[override]
        return 1.0 if self.metric == "aft" else -1.0

    def __init__(self, link: str | Link | None = None, *, metric: Metric = "aft", hazards: float = 0.0) -> None:
        super().__init__(link)
        if metric not in ("aft", "ph"):
            msg = f"metric={metric!r}: use 'aft' (the predictor stretches time) or 'ph' (it is of the log hazard)."
            raise ModelError(msg)
        object.__setattr__(self, "metric", "ph" if hazards else metric)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(metric={self.metric!r})"

    @property
    def held(self) -> Mapping[str, float]:
        return {"hazards": float(self.metric == "ph")}

    @property
    def distribution(self) -> Distribution:
        return DISTRIBUTIONS["cloglog"]

    def standardised(self, y: Vec, rows: Rows, mu: Mean, further: Further) -> Jet:
        if self.metric == "aft":
            return super().standardised(y, rows, mu, further)
        log_y = np.log(y)
        return mu.log + (jet.exp(further[0]) * log_y if further else log_y)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:
        if self.metric == "aft":
            return super().information(rows, eta, zeta)
        w = np.ones_like(eta)
        return Expected.of(w, np.zeros_like(w), np.zeros_like(w) if self.has_phi else None)

    def _scale(self, mu: Vec, phi: Vec | float | None) -> Vec:
        if self.metric == "aft":
            return np.asarray(mu)
        return np.asarray(np.asarray(mu) ** (-1.0 / np.asarray(self._shape(phi))))

    def _power(self, phi: Vec | float | None) -> Vec | float:
        return 1.0 if self.metric == "aft" else -1.0 / np.asarray(self._shape(phi))

    def _moment(self, power: Vec) -> Vec:
        return np.asarray(special.gamma(1.0 + power))

    def at_response(self, rows: Rows) -> Vec:
        return rows.y if self.metric == "aft" else 1.0 / rows.y

    def first_mean(self, rows: Rows) -> Vec:
        """The response, or the hazard at which it is the time where z = 0 if the shape is that of all rows together."""
        if self.metric == "aft":
            return rows.y
        return np.asarray(rows.y ** -self._shape(self._overall(rows)))

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        return super().start_phi(rows, mu) if self.metric == "aft" else self._overall(rows)

    def _overall(self, rows: Rows) -> float:
        """The shape without covariates."""
        return super().start_phi(rows, np.ones_like(rows.y))


class Exponential(Hazards):
    """A hazard that is constant in time: log f = −log mu − y/mu, mu the mean (metric="ph": the hazard)."""

    name = "exponential"

    @property
    def mu_is_mean(self) -> bool:  # type: ignore[override]
        return self.metric == "aft"

    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec:
        return np.square(self._scale(mu, phi))


class Weibull(Hazards):
    """log S(t) = −(t/mu)^phi, the hazard rising for phi > 1; metric="ph": log S(t) = −mu·t^phi, as Stata's default.

    Both are one model: β_ph = −phi·β_aft. phi is the shape, 1/scale of R's survreg.
    """

    name = "weibull"
    has_phi = True
    phi_alias = "shape"
    phi_definition = "shape: the hazard goes with t^(phi − 1)"

    @property
    def phi_words(self) -> tuple[str, str]:
        return "Shape", "The hazard goes with time^(shape - 1); survreg's scale is 1/shape."


@dataclass(frozen=True, init=False, repr=False)
class LogLogistic(EventTime):
    """S(t) = 1/(1 + (t/mu)^phi): the odds of survival go with a power of time; mu is the median."""

    name = "loglogistic"
    has_phi = True
    phi_alias = "shape"
    phi_definition = "shape: the odds of an event go with t^phi"
    bend = 1.0 / 3.0

    @property
    def phi_words(self) -> tuple[str, str]:
        return "Shape", "The odds of an event go with time^shape; survreg's scale is 1/shape."

    @property
    def distribution(self) -> Distribution:
        return DISTRIBUTIONS["logit"]

    def _moment(self, power: Vec) -> Vec:
        """π·b/sin(π·b) for b < 1, else infinite."""
        b = np.asarray(power, dtype=np.float64)
        inside = np.where(b < 1.0, b, 0.5)
        return np.where(b < 1.0, np.pi * inside / np.sin(np.pi * inside), np.inf)
