"""A family with zeros of its own: rows are zero with probability pi, else they come from the family.

Where the family has zeros itself the two kinds cannot be told apart (zero inflation, Lambert 1992, Technometrics 34);
where it has none, as counts above zero or amounts, every zero is of the first kind (a hurdle, Mullahy 1986).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from polars_glmm.errors import ModelError
from polars_glmm.families import jet
from polars_glmm.families.base import Degrees, Density, Expected, Parameter, Predictors, Rows, beyond_mean
from polars_glmm.families.densities import density_of
from polars_glmm.families.jet import Jet
from polars_glmm.families.links import ETA_OVERFLOW, HAZARD_MOST, LINKS
from polars_glmm.families.mean_family import Further, Mean, MeanFamily
from polars_glmm.typing import BoolVec, IntVec, Vec

PARAMETER = "zi"
"""The parameter of the further zeros, and the left side of its formula."""
_LEAST_SHARE = 0.01


@dataclass(frozen=True, init=False, repr=False)
class ZeroInflated(MeanFamily):
    """p(0) = pi + (1 − pi)·p₀ and p(y) = (1 − pi)·p_base(y), logit pi the last predictor.

    Rows are split by y = 0, so that the kernel of the base family sees nothing else: with t = −log p₀ and z = logit pi,
    log p(0) = log(exp z + exp −t) − log(1 + exp z), or of a hurdle −log(1 + exp −z).
    """

    base: MeanFamily

    zeros = PARAMETER
    knows_information = False
    mu_is_mean = False
    canonical_link = None

    def __init__(self, base: MeanFamily) -> None:
        if not takes_zeros(base):
            msg = (
                f"Zeros of a {base.name.replace('_', ' ')} response are responses like any other: a formula for "
                f"{PARAMETER} is of counts (poisson, negative_binomial …), of counts above zero (truncated_poisson …: "
                "a hurdle), and of gamma, lognormal, inverse_gaussian, beta and tweedie."
            )
            raise ModelError(msg)
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "link", base.link)

    def __repr__(self) -> str:
        return f"ZeroInflated({self.base!r})"

    @property
    def hurdle(self) -> bool:
        """The base family has no zeros: all are of one kind."""
        return not _has_zeros(self.base)

    @property
    def zeros_beside(self) -> bool:  # type: ignore[override]
        return not self.hurdle

    @property
    def name(self) -> str:
        if self.hurdle:
            return f"hurdle_{self.base.name.removeprefix('truncated_')}"
        return f"zero_inflated_{self.base.name}"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        said = "probability of a zero" if self.hurdle else "probability of a zero beside those of the family"
        return (*self.base.parameters, Parameter(PARAMETER, LINKS["logit"], said))

    @property
    def n_parameters(self) -> int:
        return self.base.n_parameters + 1

    @property
    def has_phi(self) -> bool:  # type: ignore[override]
        return self.base.has_phi

    @property
    def takes_precision(self) -> bool:  # type: ignore[override]
        return self.base.takes_precision

    @property
    def phi_definition(self) -> str:  # type: ignore[override]
        return self.base.phi_definition

    @property
    def phi_words(self) -> tuple[str, str]:
        return self.base.phi_words

    @property
    def discrete(self) -> bool:  # type: ignore[override]
        return self.base.discrete

    @property
    def first_size(self) -> float:  # type: ignore[override]
        return self.base.first_size

    @property
    def links(self) -> tuple[str, ...]:
        return self.base.links

    @property
    def concave_links(self) -> frozenset[str]:
        return self.base.concave_links if self.hurdle else frozenset()

    @property
    def mean_range(self) -> Any:
        return self.base.mean_range

    @property
    def held(self) -> Mapping[str, float]:
        return self.base.held

    @property
    def limit(self) -> MeanFamily | None:
        return None if self.base.limit is None else ZeroInflated(self.base.limit)

    @property
    def limit_phi(self) -> float:  # type: ignore[override]
        return self.base.limit_phi

    @property
    def precise(self) -> bool:  # type: ignore[override]
        return self.base.precise

    def least_log_phi(self, log_share: float, log_square: float) -> float | None:
        return self.base.least_log_phi(log_share, log_square)

    @property
    def _inside(self) -> float:
        """A response of the base family that stands in where its own part does not count."""
        return 0.5 if self.mean_range == "unit" else 1.0

    def log_density(self, rows: Rows, mu: Mean, further: Further) -> Jet:
        """The density over all rows; `density` has the same numbers from rows split by y = 0."""
        *own, z = further
        zero = self._zeros(mu, tuple(own), z, np.broadcast_to(rows.y, np.shape(mu.eta)))
        y = np.where(rows.y == 0.0, self._inside, rows.y)
        positive = self.base.log_density(rows._replace(y=y), mu, tuple(own))
        return jet.where(rows.y == 0.0, zero, positive - jet.softplus(z))

    def _zeros(self, mu: Mean, own: Further, z: Jet, like: Vec) -> Jet:
        """log p(0)."""
        if self.hurdle:
            return -jet.softplus(-z) + np.zeros_like(like)
        log_t = self.base.log_minus_log_p0(mu, own)
        assert log_t is not None  # the base has zeros
        far = np.exp(np.minimum(log_t.f, ETA_OVERFLOW)) + z.f > HAZARD_MOST
        alone = -jet.softplus(-z) + np.zeros_like(log_t.f)  # where the base family has none
        log_t = jet.where(far, jet.constant(0.0, log_t), log_t) if far.any() else log_t
        both = jet.log_sum(z, -jet.exp(log_t)) - jet.softplus(z)
        return jet.where(far, alone, both) if far.any() else both

    def density(self, rows: Rows, at: Predictors, order: int, degrees: Degrees | None = None) -> Density:
        """See `MeanFamily.density`: zeros by jets, all other rows by the kernel of the base family."""
        self._require(at)
        n = self.n_parameters
        most = (order,) + (1,) * (n - 1) if degrees is None else degrees[:n]
        zero = np.flatnonzero(rows.y == 0.0)
        if not len(zero):
            return self._above(rows, at, order, most)
        if len(zero) == len(rows.y):
            return self._at_zero(rows, at, order, most)
        above = np.flatnonzero(rows.y != 0.0)
        shape = np.broadcast_shapes(np.shape(rows.y), *(np.shape(one) for one in at))
        parts = [
            (places, of(_some(rows, places), tuple(_taken(one, places) for one in at), order, most))
            for places, of in ((zero, self._at_zero), (above, self._above))
        ]

        def merged(pick: Any) -> Vec:
            out = np.empty(shape)
            for places, found in parts:
                out[..., places] = pick(found)
            return out

        of_zeros = parts[0][1]
        g = tuple(None if one is None else merged(lambda found, k=k: found.g[k]) for k, one in enumerate(of_zeros.g))
        w = {key: merged(lambda found, key=key: found.w[key]) for key in of_zeros.w}
        third = {key: merged(lambda found, key=key: found.third[key]) for key in of_zeros.third}
        return Density(merged(lambda found: found.f), g, w, third)

    def _at_zero(self, rows: Rows, at: Predictors, order: int, most: Degrees) -> Density:
        eta = np.asarray(at[0], dtype=np.float64)
        outside = self.link.outside(eta, self.mean_range)
        inside = eta if outside is None else np.where(outside, self.link.interior(self.mean_range), eta)
        with np.errstate(all="ignore"):
            *own, z = (jet.variable(at[k], k, order, most[k]) for k in range(1, self.n_parameters))
            like = np.empty(np.broadcast_shapes(np.shape(rows.y), *(np.shape(one) for one in at)))
            found = self._zeros(Mean(self.link, inside, order), tuple(own), z, like)
        return density_of(found, order, most, None if outside is None or not outside.any() else outside)

    def _above(self, rows: Rows, at: Predictors, order: int, most: Degrees) -> Density:
        """Of the base family, and log(1 − pi), which bends in nothing else."""
        found, k = self.base.density(rows, at[:-1], order, most[:-1]), self.n_parameters - 1
        z = np.asarray(at[-1], dtype=np.float64)
        f = found.f - np.logaddexp(0.0, z)
        if not order:
            return Density(f)
        s, c, shape = special.expit(z), special.expit(-z), f.shape
        zero = np.broadcast_to(0.0, shape)
        g = (*found.g, np.broadcast_to(-s, shape) if most[k] else None)
        w, third = dict(found.w), dict(found.third)
        for keys, rank in ((w, 2), (third, 3)):
            if order >= rank:
                for key in _with_last(k, rank, most, order):
                    keys[key] = zero
        if most[k] >= 2 and order >= 2:
            w[k, k] = np.broadcast_to(s * c, shape)
        if most[k] >= 3 and order >= 3:
            third[k, k, k] = np.broadcast_to(s * c * (c - s), shape)
        return Density(f, g, w, third)

    def information(self, rows: Rows, eta: Vec, zeta: Vec | float) -> Expected:
        return self.base.information(rows, eta, zeta)

    def expected(self, rows: Rows, at: Predictors) -> Expected:
        """Of the base family times 1 − pi: for scoring steps only."""
        found, k = self.base.expected(rows, at[:-1]), self.n_parameters - 1
        share = special.expit(-np.asarray(at[-1], dtype=np.float64))
        w, third = ({key: v * share for key, v in one.items()} for one in found)
        third[0, 0, k] = np.zeros_like(w[0, 0])
        return Expected(w, third)

    def constant(self, rows: Rows) -> Vec:
        above = rows.y != 0.0
        return np.where(above, self.base.constant(rows._replace(y=np.where(above, rows.y, self._inside))), 0.0)

    def split(self, phi: Any) -> tuple[Any, Vec]:
        """What the base family takes beyond the mean, and pi."""
        values = phi if isinstance(phi, tuple) else (phi,)
        return beyond_mean(values[:-1]), np.asarray(values[-1], dtype=np.float64)

    def expectation(self, mu: Vec, phi: Any) -> tuple[Vec, Vec]:
        own, zi = self.split(phi)
        mean, slope = self.base.expectation(mu, own)
        return (1.0 - zi) * mean, (1.0 - zi) * slope

    def zero_probability(self, mu: Vec, phi: Any) -> Vec:
        """P(Y = 0)."""
        own, zi = self.split(phi)
        if self.hurdle:
            return zi + np.zeros_like(mu)
        at_zero = Rows(np.zeros(np.shape(mu)))
        return zi + (1.0 - zi) * self.base.cdf(at_zero, mu, own)

    def variance(self, mu: Vec, phi: Any) -> Vec:
        own, zi = self.split(phi)
        mean = self.base.expectation(mu, own)[0]
        return (1.0 - zi) * (self.base.variance(mu, own) + zi * mean * mean)

    def response_variance(self, rows: Rows, mu: Vec, phi: Any) -> Vec:
        own, zi = self.split(phi)
        mean = self.base.expectation(mu, own)[0]
        return (1.0 - zi) * (self.base.response_variance(rows, mu, own) + zi * mean * mean)

    def unit_deviance(self, rows: Rows, mu: Vec, phi: Any) -> Vec:  # noqa: ARG002
        """There is none: a zero may be of either kind."""
        return np.full(np.broadcast_shapes(np.shape(rows.y), np.shape(mu)), np.nan)

    def cdf(self, rows: Rows, mu: Vec, phi: Any, *, upper: bool = False) -> Vec:
        own, zi = self.split(phi)
        found = (1.0 - zi) * self.base.cdf(rows, mu, own, upper=upper)
        return found + zi * ((rows.y < 0.0) if upper else (rows.y >= 0.0))

    def draw(self, rng: np.random.Generator, mu: Vec, phi: Any, rows: Rows) -> Vec:
        own, zi = self.split(phi)
        zero = rng.uniform(size=np.shape(mu)) < zi
        return np.where(zero, 0.0, self.base.draw(rng, mu, own, rows))

    def outside_support(self, rows: Rows) -> BoolVec:
        wrong: BoolVec = self.base.outside_support(rows) & (rows.y != 0.0)
        return wrong

    def pulls(self, rows: Rows, place: int) -> Vec:
        """Zeros pull pi up, all else down; of a hurdle they say nothing of the other predictors."""
        zero = rows.y == 0.0
        if place == self.n_parameters - 1:
            return np.where(zero, 1.0, -1.0)
        found = self.base.pulls(rows, place)
        return np.where(zero, np.nan, found) if self.hurdle else found

    def advice(self, y: float) -> str:
        return self.base.advice(y)

    def start(self, rows: Rows) -> Vec:
        above = rows.y != 0.0
        if not above.any():
            return self.base.start(rows) if not self.hurdle else np.zeros_like(rows.y)
        middle = float(np.mean(rows.y[above]))
        return self.base.start(rows._replace(y=np.where(above, rows.y, middle)))

    def first_mean(self, rows: Rows) -> Vec:
        return self.base.first_mean(rows)

    def start_further(self, rows: Rows, mu: Vec) -> tuple[float, ...]:
        above = np.flatnonzero(rows.y != 0.0)
        some = above if len(above) else np.arange(len(rows.y))
        share = 1.0 - len(above) / len(rows.y)
        own = self.base.start_further(_some(rows, some), mu[some])
        if not self.hurdle and own:
            own = self.base.start_further(rows, mu)
        least = min(max(share if self.hurdle else 0.5 * share, _LEAST_SHARE), 1.0 - _LEAST_SHARE)
        return (*own, float(special.logit(least)))

    def start_phi(self, rows: Rows, mu: Vec) -> float:
        return self.base.start_phi(rows, mu)


def takes_zeros(family: Any) -> bool:
    """Whether zeros beside those of a family make sense."""
    return isinstance(family, MeanFamily) and not isinstance(family, ZeroInflated) and (
        _has_zeros(family) or bool(family.outside_support(Rows(np.zeros(1)))[0])
    )


def _has_zeros(family: MeanFamily) -> bool:
    order = 0
    own = tuple(jet.variable(0.0, k, order, 0) for k in range(1, family.n_parameters))
    return family.log_minus_log_p0(Mean(family.link, np.ones(1), order), own) is not None


def _with_last(k: int, rank: int, most: Degrees, order: int) -> list[tuple[int, ...]]:
    """Keys of a rank in which the last predictor takes part, as `density_of` has them."""
    still = tuple(i for i in range(k + 1) if most[i] < order)
    return [key for key in jet.degrees(k + 1, rank, tuple(most), still) if k in key]


def _some(rows: Rows, places: IntVec) -> Rows:
    return rows.each(lambda v: v[places])


def _taken(values: Vec | float, places: IntVec) -> Vec | float:
    return values if np.ndim(values) == 0 or np.shape(values)[-1] == 1 else np.take(values, places, axis=-1)
