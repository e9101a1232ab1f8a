"""What all families share: a log density over jets is the definition, a fused kernel may stand in for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

import numpy as np

from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.families import jet
from polars_glmm.families.base import Cuts, Degrees, Density, Expected, Parameter, Predictors, ResponseKind, Rows
from polars_glmm.families.curve import Curve
from polars_glmm.families.densities import density_of
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import ALIASES, LINKS, Link, MeanRange
from polars_glmm.typing import BoolVec, Vec

MEAN_BOUNDS: dict[MeanRange, tuple[float, float]] = {
    "real": (-np.finfo(float).max, np.finfo(float).max),
    "positive": (np.finfo(float).tiny, 1e18),  # above, counts do not fit the generator's integers
    "unit": (0.0, 1.0),
}
"""Means that responses can be drawn from."""


class Kernel(Protocol):
    """A fused twin of the definition for one family and link."""

    def __call__(self, rows: Rows, at: Predictors, order: int, degrees: Degrees) -> Density: ...


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean at eta as jets, each view made when it is asked for."""

    link: Link
    eta: Vec
    order: int

    @property
    def value(self) -> Jet:
        return jet.function_of(self.link.value(self.eta, self.order))

    @property
    def log(self) -> Jet:
        return jet.function_of(self.link.log(self.eta, self.order))

    @property
    def log_complement(self) -> Jet:
        return jet.function_of(self.link.log_complement(self.eta, self.order))

    @property
    def reciprocal(self) -> Jet:
        return jet.function_of(self.link.reciprocal(self.eta, self.order))


@dataclass(frozen=True, init=False, repr=False)
class MeanFamily(ABC):
    """A family with a linear predictor for its mean and, if `has_phi`, one for log phi.

    A subclass states its facts, `log_density` and the moments; `kernels` may hold fused twins by link name.
    """

    link: Link

    @property
    @abstractmethod
    def name(self) -> str: ...

    has_phi = False
    takes_trials = False
    takes_precision = False
    phi_definition = phi_alias = ""
    residual = False
    discrete = False
    sufficient = False
    first_size = 0.5
    mu_is_mean = True
    zeros = ""
    zeros_beside = False
    response: ClassVar[ResponseKind] = "number"
    unordered = False
    labels: ClassVar[tuple[str, ...]] = ()
    knows_information = True
    limit_phi = float("inf")
    precise = False
    censorable = False
    of_times = False
    is_censored = False
    memoryless = False  # given that it is late, what is left of a response has tails of the same shape

    @property
    @abstractmethod
    def links(self) -> tuple[str, ...]:
        """Names of the links, the default first."""

    @property
    @abstractmethod
    def canonical_link(self) -> str | None: ...

    @property
    @abstractmethod
    def concave_links(self) -> frozenset[str]:
        """Names of the links in whose eta the log density is concave, whatever the response."""

    @property
    @abstractmethod
    def mean_range(self) -> MeanRange: ...

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The mean's predictor, and that of log phi."""
        mu = Parameter("mu", self.link, "mean" if self.mu_is_mean else "mean of the whole distribution")
        return (mu, Parameter("phi", LINKS["log"], self.phi_definition)) if self.has_phi else (mu,)

    @property
    def curve(self) -> Curve | None:
        """What the first parameters are of, in place of a mean."""
        return None

    @property
    def plain(self) -> MeanFamily:
        """The family as it is asked for by name."""
        return self

    @property
    def n_parameters(self) -> int:
        """How many predictors a density needs."""
        return 1 + self.has_phi

    def cuts(self, labels: Sequence[str]) -> Cuts | None:  # noqa: ARG002
        """The thresholds between categories of given labels, where there are some."""
        return None

    def of_categories(self, labels: Sequence[str]) -> MeanFamily:  # noqa: ARG002
        """The family of a response with these categories."""
        return self

    def simulate_categories(self, rng: np.random.Generator, at: Predictors) -> Vec:  # noqa: ARG002
        """The number of a category for each row, for families of categories."""
        raise ModelError(f"{self.name} draws numbers, not categories.")

    @property
    def kernels(self) -> Mapping[str, Kernel]:
        return {}

    def __init__(self, link: str | Link | None = None) -> None:
        name = self.links[0] if link is None else link.name if isinstance(link, Link) else link
        name = ALIASES.get(name, name) if isinstance(name, str) else repr(name)
        if name not in self.links:
            raise ModelError(
                f"{self.name} has no link {name!r}; it has {enumerate_names(self.links, limit=len(self.links))}."
                + suggest(name, self.links, listed=True)
            )
        object.__setattr__(self, "link", LINKS[name])

    def __repr__(self) -> str:
        return f"{type(self).__name__}(link={self.link.name!r})"

    @property
    def phi_words(self) -> tuple[str, str]:
        """What a summary calls phi, and a sentence on what it does, or nothing."""
        return "", ""

    @property
    def held(self) -> Mapping[str, float]:
        """Numbers that the family holds, by the names of its arguments."""
        return {}

    @property
    def options(self) -> Mapping[str, str]:
        """Words that the family is made with, by the names of its arguments."""
        return {}

    @property
    def canonical(self) -> bool:
        """Observed and expected curvature agree."""
        return self.link.name == self.canonical_link

    @property
    def log_concave(self) -> bool:
        """The log density is concave in eta: one mode, wherever a search starts."""
        return self.link.name in self.concave_links

    @property
    def linear(self) -> bool:
        """y is its mean and an error of standard deviation phi."""
        return False

    @property
    def separable(self) -> bool:
        """Counts can be at an end of their range, which a mean never reaches."""
        return self.discrete

    def pull(self, rows: Rows) -> Vec:
        """1 where all trials are successes, −1 where a count is zero."""
        upper = rows.y == (1.0 if rows.trials is None else rows.trials) if self.takes_trials else rows.y < 0.0
        return np.asarray(upper.astype(np.float64) - ((rows.y == 0.0) & ~upper))

    @property
    def unit(self) -> float | None:
        """Standard deviation of the latent variable that the link stands for; None where only the data tell."""
        return self.link.unit

    @property
    def limit(self) -> MeanFamily | None:
        """The family at an infinite phi, or at none; see `limit_phi`."""
        return None

    @property
    def edges(self) -> tuple[bool, bool]:
        """Whether the link's domain ends at a mean, the lowest or the highest, that counts may be likeliest at."""
        low, high = self.link.domain(self.mean_range)
        return self.discrete and bool(np.isfinite(low)), self.discrete and bool(np.isfinite(high))

    def least_log_phi(self, log_share: float, log_square: float) -> float | None:  # noqa: ARG002
        """log phi at which a share of the mean square of y is left, both given as logarithms; None: no limit."""
        return None

    @abstractmethod
    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        """log p(y | mu, phi …) without `constant`: the definition that everything else is tested against."""

    def log_minus_log_p0(self, mu: Mean, further: Further) -> Jet | None:  # noqa: ARG002
        """log of −log P(Y = 0), or None for a family without zeros, or whose zeros are responses like any other."""
        return None

    def definition(
        self, rows: Rows, at: Predictors, order: int, degrees: Degrees | None = None, of: LogDensity | None = None
    ) -> Density:
        """The density and its derivatives by jets; −∞ with zero derivatives where eta is outside the link's domain.

        of   another function of the same predictors, whose derivatives are wanted instead
        """
        self._require(at)
        eta = np.asarray(at[0], dtype=np.float64)
        n = self.n_parameters
        most = (order,) + (1,) * (n - 1) if degrees is None else degrees[:n]
        outside = self.link.outside(eta, self.mean_range)
        inside = eta if outside is None else np.where(outside, self.link.interior(self.mean_range), eta)
        with np.errstate(all="ignore"):
            further = tuple(jet.variable(at[k], k, order, most[k]) for k in range(1, n))
            found = (of or self.log_density)(rows, Mean(self.link, inside, order), further)
        return density_of(found, order, most, None if outside is None or not outside.any() else outside)

    def density(self, rows: Rows, at: Predictors, order: int, degrees: Degrees | None = None) -> Density:
        """Log density per row without its constant, and derivatives up to `order`; see `Density`.

        Predictors (…, n) against rows (n,).  Arrays of the result may share memory or be read-only: do not write to
        them.

        degrees    the most derivatives in each predictor; where not given eta has all of them, zeta one
        """
        kernel = self.kernels.get(self.link.name)
        if kernel is None:
            return self.definition(rows, at, order, degrees)
        self._require(at)
        if len(at) > 1 and np.ndim(at[1]) > np.ndim(at[0]):  # nodes of phi alone: kernels work in arrays of eta's shape
            at = (np.broadcast_to(at[0], np.shape(at[1])), at[1])
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a search may try any eta
            return kernel(rows, at, order, (order, 1) if degrees is None else degrees)

    def _require(self, at: Predictors) -> None:
        if len(at) < self.n_parameters:
            raise ModelError(f"{self.name} has a dispersion: its density needs zeta = log phi.")

    def expected(self, rows: Rows, at: Predictors) -> Expected:
        """Expected curvature E[−∂²log p/∂eta²], the working weight of Fisher scoring; 0 outside the link's domain."""
        self._require(at)
        eta = np.asarray(at[0], dtype=np.float64)
        outside = self.link.outside(eta, self.mean_range)
        inside = eta if outside is None else np.where(outside, self.link.interior(self.mean_range), eta)
        with np.errstate(all="ignore"):
            found = self.information(rows, inside, at[1] if self.has_phi else 0.0)
        if outside is None or not outside.any():
            return found
        return Expected(*({key: np.where(outside, 0.0, v) for key, v in one.items()} for one in found))

    @abstractmethod
    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:
        """`expected` for eta inside the domain."""

    @abstractmethod
    def constant(self, rows: Rows) -> Vec: ...

    def saturated(self, rows: Rows) -> Vec | None:  # noqa: ARG002
        """Log-likelihood per row with the mean at the response, constants included; None where phi leaves it open."""
        return None

    def mean(self, eta: Vec) -> Vec:
        return self.link.inverse(np.asarray(eta, dtype=np.float64))

    def simulate(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:
        """One response per mean, of the means' shape; NaN where there is no such mean (or it is NaN)."""
        mu = np.asarray(mu, dtype=np.float64)
        low, high = MEAN_BOUNDS[self.mean_range]
        possible = (mu >= low) & (mu <= high)
        if possible.all():
            return self.draw(rng, mu, phi, rows)
        return np.where(possible, self.draw(rng, np.where(possible, mu, 0.5), phi, rows), np.nan)

    @abstractmethod
    def draw(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec:
        """`simulate` for possible means."""

    @abstractmethod
    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec:
        """P(Y ≤ y), or P(Y > y) where `upper`: for any y, in the support or not; NaN where there is no such mean."""

    @abstractmethod
    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec: ...

    def response_variance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:
        """Of y, or of y/n where there are trials, precision included."""
        trials = 1.0 if rows.trials is None else rows.trials
        return self.variance(mu, phi) / (trials * precision_of(rows))

    def touching(self, rows: Rows, at: Predictors) -> Vec | None:  # noqa: ARG002
        """None: where the log density is concave Newton's step needs no such parabola."""
        return None

    def remoteness(self, rows: Rows) -> Vec:
        """y²: ℓ_Poisson − ℓ ≈ Σ((y − μ)² − y)/2φ."""
        return np.square(rows.y)

    def at_response(self, rows: Rows) -> Vec:
        """The mu at which y is its own expectation."""
        return rows.y if rows.trials is None else rows.y / np.maximum(rows.trials, 1.0)

    def expectation(self, mu: Vec, phi: Vec | float | None) -> tuple[Vec, Vec]:  # noqa: ARG002
        """E[y] (binomial: of one trial) and its slope in mu, both of mu's shape."""
        return np.asarray(mu, dtype=np.float64), np.ones_like(mu)

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec:
        """2[log p at the mu of the response − log p], from the densities themselves."""
        low, high = _INSIDE[self.mean_range]

        def log_density(mean: Vec) -> Vec:
            eta = self.link.forward(np.clip(mean, low, high))
            return self.density(rows, (eta,) if phi is None else (eta, log_of(phi)), 0).f

        with np.errstate(all="ignore"):
            return np.maximum(2.0 * (log_density(self.at_response(rows)) - log_density(mu)), 0.0)

    def pulls(self, rows: Rows, place: int) -> Vec:
        """Those of the mean, where responses can be at an end; everything else holds."""
        return np.zeros(len(rows.y)) if place or not self.separable else self.pull(rows)

    def advice(self, y: float) -> str:  # noqa: ARG002
        """What to do with a response that is not of the family, or nothing."""
        return ""

    @abstractmethod
    def outside_support(self, rows: Rows) -> BoolVec: ...

    def start(self, rows: Rows) -> Vec:
        """eta where iterations may start: the link of the response, moved inside the range of the mean."""
        return self.link.forward(self.first_mean(rows))

    @abstractmethod
    def first_mean(self, rows: Rows) -> Vec:
        """The response moved inside the range of the mean."""

    def start_further(self, rows: Rows, mu: Vec) -> tuple[float, ...]:
        """Predictors of the parameters beyond the mean where iterations may start."""
        return (float(np.log(self.start_phi(rows, mu))),) if self.has_phi else ()

    def start_phi(self, rows: Rows, mu: Vec) -> float:  # noqa: ARG002
        """A moment estimate of phi given the means; NaN for families without phi."""
        return float("nan")


Further: TypeAlias = tuple[Jet, ...]
"""The predictors beyond the mean's, as jets."""
LogDensity: TypeAlias = Callable[[Rows, Mean, Further], Jet]

_ZERO = np.zeros(())


_INSIDE: dict[MeanRange, tuple[float, float]] = {
    "real": MEAN_BOUNDS["real"],
    "positive": (1e-300, 1e18),
    "unit": (1e-300, 1.0 - 1e-16),
}
"""Means that a link takes."""
_LOG_MOST = 300.0


def log_of(phi: Vec | float) -> Vec:
    """log phi, with a phi at its limit, 0 or infinity, as a number near it."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log(np.asarray(phi, dtype=np.float64)), -_LOG_MOST, _LOG_MOST)


def precision_of(rows: Rows) -> Vec:
    """The precision of the rows; 1, which broadcasts, where none was given."""
    return np.float64(1.0) if rows.precision is None else rows.precision  # type: ignore[return-value]
