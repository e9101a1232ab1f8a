"""What a family is to the rest of the house: a log density over linear predictors, with derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from polars_glmm.families.curve import Curve
from polars_glmm.families.links import Link, MeanRange
from polars_glmm.typing import BoolVec, Mat, Vec

ResponseKind: TypeAlias = Literal["number", "category", "time"]
"""What a response is: numbers or counts as they stand, the number of one of several ordered or unordered categories."""

RIGHT, SEEN, LEFT, BETWEEN = 0.0, 1.0, 2.0, 3.0
"""What is known of a response: it is above its value, that value, at most that value, or above it up to another."""


class Censoring(NamedTuple):
    """How much of each response is seen; arrays (n,).

    status   1: y itself; 0: it is above y; 2: at most y; 3: above y and at most `upper`
    upper    of intervals, else y; None where there are no intervals
    entry    rows are seen because their y is above this (0: always); None: all always
    """

    status: Vec
    upper: Vec | None = None
    entry: Vec | None = None

    def each(self, part: Callable[[Vec], Vec]) -> Censoring:
        """The same of some of the rows."""
        return Censoring(*(None if v is None else part(v) for v in self))  # type: ignore[arg-type]


def joined_censoring(parts: Sequence[Censoring]) -> Censoring:
    """The censoring of several sets of rows, one after the other."""
    return Censoring(*(None if v[0] is None else np.concatenate(v) for v in zip(*parts, strict=True)))  # type: ignore[arg-type]


CENSORING = Censoring._fields
"""Names of the arrays, as records of rows hold them."""


def heads_of(censoring: Censoring | None) -> dict[str, Vec | None]:
    """The arrays by name."""
    return dict.fromkeys(CENSORING) if censoring is None else censoring._asdict()


def censoring_of(arrays: Mapping[str, Vec]) -> Censoring | None:
    """The censoring whose arrays stand among others by name, or None."""
    return Censoring(arrays["status"], arrays.get("upper"), arrays.get("entry")) if "status" in arrays else None


class Rows(NamedTuple):
    """What a density needs besides the linear predictors; arrays (n,) that broadcast against eta (…, n).

    inputs   of the curve of a nonlinear model, each (n,)
    """

    y: Vec
    trials: Vec | None = None
    precision: Vec | None = None
    inputs: tuple[Vec, ...] = ()
    censoring: Censoring | None = None

    def each(self, part: Callable[[Vec], Vec]) -> Rows:
        """The same of some of the rows."""
        trials = None if self.trials is None else part(self.trials)
        precision = None if self.precision is None else part(self.precision)
        censoring = None if self.censoring is None else self.censoring.each(part)
        return Rows(part(self.y), trials, precision, tuple(map(part, self.inputs)), censoring)


def heads_of_inputs(inputs: Sequence[Vec]) -> dict[str, Vec]:
    """The inputs of a curve by the names that they have among other arrays of rows."""
    return {f"input_{k}": one for k, one in enumerate(inputs)}


def inputs_of(arrays: Mapping[str, Vec]) -> tuple[Vec, ...]:
    """The inputs of a curve that stand among others by name."""
    return tuple(arrays[name] for k in range(len(arrays)) if (name := f"input_{k}") in arrays)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a family: what has a linear predictor.

    name         "mu", "phi", "zi": what its formula has on the left
    link         from the predictor to the parameter on the scale it is reported on
    definition   what it is, in words
    far          a constant beyond this on the scale of its link is infinite, for the family then is another:
    limit        which that is, in words
    ends         of the parameter, where its predictor runs down and up: what is reported beyond `far`
    picked       its coefficients are thresholds, of which a row's category picks two: `Family.cuts`
    optional     it takes part only where it has a formula; it is the last one then
    random       its formula may have random effects
    """

    name: str
    link: Link
    definition: str
    far: float = np.inf
    limit: str = ""
    picked: bool = False
    optional: bool = False
    random: bool = True
    ends: tuple[float, float] | None = None

    def predictor_slope(self, value: Any) -> Vec:
        """∂(predictor)/∂(constant) where the constant has this value; NaN at a limit."""
        with np.errstate(all="ignore"):
            at = self.link.forward(np.asarray(value, dtype=np.float64))
            slope = 1.0 / self.link.value(at, 1)[1]
        return np.where(np.isfinite(at) & np.isfinite(slope), slope, np.nan)


class Cuts(NamedTuple):
    """Thresholds α = Jτ between C categories: names of the coefficients τ (p,), and J (C − 1, p)."""

    names: tuple[str, ...]
    jacobian: Mat

    def coefficients(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Names in each column of their formula: "1|2", and "1|2:x" for what x adds to it."""
        return tuple(cut if column == "Intercept" else f"{cut}:{column}" for column in columns for cut in self.names)


Predictors: TypeAlias = tuple["Vec | float", ...]
"""Linear predictors η_0 … η_{K−1}, one for each parameter of a family: eta of the mean, then zeta = log phi."""

Degrees: TypeAlias = tuple[int, ...]
"""The most derivatives that are wanted in each predictor: all of them, 1 (the slope and how it bends the others), 0."""

Tensor: TypeAlias = "dict[tuple[int, ...], Vec]"
"""Arrays by the predictors that are differentiated in, in rising order: (0, 0), (0, 1) …"""

_NOTHING: Mapping[tuple[int, ...], Vec] = MappingProxyType({})


class Density(NamedTuple):
    """Log density per row without its constant, and derivatives up to the order asked for; each (…, n).

    f           order 0
    g           order 1: ∂f/∂η_k; None in predictors where none is wanted
    w           order 2: −∂²f/∂η_a∂η_b by the pair (a, b), a ≤ b
    third       order 3: ∂w_ab/∂η_c = −∂³f by the triple (a, b, c), a ≤ b ≤ c
    """

    f: Vec
    g: tuple[Vec | None, ...] = ()
    w: Mapping[tuple[int, ...], Vec] = _NOTHING
    third: Mapping[tuple[int, ...], Vec] = _NOTHING


class Expected(NamedTuple):
    """Expected curvature E[−∂²log p/∂eta²] per row, as `Density.w` and `Density.third` have the observed one."""

    w: Mapping[tuple[int, ...], Vec]
    third: Mapping[tuple[int, ...], Vec]

    @classmethod
    def of(cls, w: Vec, dw: Vec, w_zeta: Vec | None = None) -> Expected:
        """From w and its derivatives in eta and in zeta."""
        third: Tensor = {(0, 0, 0): dw}
        if w_zeta is not None:
            third[0, 0, 1] = w_zeta
        return cls({(0, 0): w}, third)


@runtime_checkable
class Family(Protocol):
    """y | eta, zeta = log phi … Instances are frozen, hashable, picklable; short repr: Binomial(link='logit').

    parameters        what has a linear predictor, in the order of those of a density: mu, then phi where there is one
    mean_range        where the mean lives
    has_phi           phi is a parameter (gaussian: sigma; gamma, inverse_gaussian: dispersion; negative_binomial: size)
    held              numbers that the family holds, by name: df, power
    options           words that it is made with, by name: thresholds
    canonical         observed and expected curvature agree
    log_concave       the log density is concave in eta for every response: w ≥ 0, so modes are unique
    phi_definition    what phi is, in words; empty without phi
    phi_alias         another name for phi on the left of its formula, or nothing: "shape"
    phi_words         what a summary calls phi, and a sentence on what it does, or nothing
    residual          phi is the standard deviation of an error beside the effects, and stands among their variances
    linear            y is its mean and such an error: with gaussian effects every integral is exact
    discrete          responses are counts
    separable         fixed effects can separate responses and run off to infinity: where `pull` is not zero
    censorable        responses may be censored: it knows the logarithms of its tails (`censored` makes it do so)
    of_times          responses are above 0 and may be times to an event
    is_censored       it does: rows may have a `Censoring`
    sufficient        rows of equal predictors are one row: their mean, or all their successes and trials
    unit              an sd of eta that is large whatever the data, or None where only the data tell
    first_size        standard deviation in such units from which the search for random effects starts
    limit             the family that phi ends at where it grows or vanishes (`limit_phi`: infinity or zero), or None
    response          what the response is: numbers, or categories that y numbers from 0
    plain             the family as it is asked for by name: without the curve of a nonlinear model
    curve             that the first parameters are of, each with a predictor of its own; None: the first is the mean
    mu_is_mean        y has the mean mu (binomial: of one trial); else `expectation` says which, and `mu` what mu is
    knows_information `expected` is E[w]; else a positive weight of its size, good for scoring steps only
    edges             whether responses pull a mode to the lower, the upper end of the link's domain: a corner, no peak
    precise           phi grows as the spread vanishes: least_log_phi is the largest log phi with something left
    least_log_phi     log phi at which `log_share` of the mean square of y (also a logarithm) is left; None: no limit
    unordered         categories have no order: each but the first has a predictor, named after it, of the same terms
    of_categories     the family once its rows have told the labels of its categories;  labels: these, baseline first
    cuts              of categories by their labels: the thresholds between them, or None
    density           at the predictors eta (and zeta); degrees (order, 1) where not given; do not write to its arrays
    touching          curvature of a parabola in eta that touches the log density and lies below it, or None: none known
    remoteness        per row: 1/phi (phi, where it vanishes) times the sum of these bounds what the limit lacks in ℓ
    at_response       the mu at which y is its own expectation
    expectation       of y at mu, and its slope in mu
    variance          of y given the mean, precision 1 (binomial: of one trial; its mean is a probability)
    response_variance of y, or of y/n where there are trials, with the precision of its row
    unit_deviance     2·[log p at mu = y − log p at mu] times phi where phi is a dispersion; precision included
    simulate          mu (…, n): one response per mean
    cdf               P(Y ≤ y) for means (…, n), or with upper P(Y > y), each to its own relative precision
    zeros             the parameter of zeros that are apart from the rest of the law, or nothing
    zeros_beside      the rest of the law has zeros too
    pull              1 where the log density rises for ever with eta, −1 where it rises as eta falls, else 0
    pulls             the same of the predictor at a place, and NaN where a row says nothing of it
    advice            what to do with a response that is not of the family, or nothing
    start             eta (n,) where iterations may begin;  start_phi  moment estimate of phi
    start_further     predictors of all parameters beyond the mean where iterations may begin: log of start_phi …
    """

    @property
    def name(self) -> str: ...
    @property
    def link(self) -> Link: ...
    @property
    def parameters(self) -> tuple[Parameter, ...]: ...
    @property
    def mean_range(self) -> MeanRange: ...
    @property
    def has_phi(self) -> bool: ...
    @property
    def takes_trials(self) -> bool: ...
    @property
    def takes_precision(self) -> bool: ...
    @property
    def held(self) -> Mapping[str, float]: ...
    @property
    def options(self) -> Mapping[str, str]: ...
    @property
    def canonical(self) -> bool: ...
    @property
    def log_concave(self) -> bool: ...
    @property
    def phi_definition(self) -> str: ...
    @property
    def phi_words(self) -> tuple[str, str]: ...
    @property
    def phi_alias(self) -> str: ...
    @property
    def residual(self) -> bool: ...
    @property
    def linear(self) -> bool: ...
    @property
    def discrete(self) -> bool: ...
    @property
    def separable(self) -> bool: ...
    def pull(self, rows: Rows) -> Vec: ...
    @property
    def censorable(self) -> bool: ...
    @property
    def of_times(self) -> bool: ...
    @property
    def is_censored(self) -> bool: ...
    @property
    def sufficient(self) -> bool: ...
    @property
    def unit(self) -> float | None: ...
    @property
    def first_size(self) -> float: ...
    @property
    def limit(self) -> Family | None: ...
    @property
    def limit_phi(self) -> float: ...
    @property
    def response(self) -> ResponseKind: ...
    @property
    def unordered(self) -> bool: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def plain(self) -> Family: ...
    @property
    def curve(self) -> Curve | None: ...
    @property
    def mu_is_mean(self) -> bool: ...
    @property
    def knows_information(self) -> bool: ...
    @property
    def edges(self) -> tuple[bool, bool]: ...
    @property
    def precise(self) -> bool: ...
    def least_log_phi(self, log_share: float, log_square: float) -> float | None: ...

    def cuts(self, labels: Sequence[str]) -> Cuts | None: ...
    def of_categories(self, labels: Sequence[str]) -> Family: ...
    def simulate_categories(self, rng: np.random.Generator, at: Predictors) -> Vec: ...
    def density(self, rows: Rows, at: Predictors, order: int, degrees: Degrees | None = None) -> Density: ...
    def expected(self, rows: Rows, at: Predictors) -> Expected: ...
    def touching(self, rows: Rows, at: Predictors) -> Vec | None: ...
    def constant(self, rows: Rows) -> Vec: ...
    def saturated(self, rows: Rows) -> Vec | None: ...
    def mean(self, eta: Vec) -> Vec: ...
    def remoteness(self, rows: Rows) -> Vec: ...
    def at_response(self, rows: Rows) -> Vec: ...
    def expectation(self, mu: Vec, phi: Vec | float | None) -> tuple[Vec, Vec]: ...
    def advice(self, y: float) -> str: ...
    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec: ...
    def response_variance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec: ...
    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec: ...
    def simulate(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec: ...
    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec: ...
    @property
    def zeros(self) -> str: ...
    @property
    def zeros_beside(self) -> bool: ...
    def pulls(self, rows: Rows, place: int) -> Vec: ...
    def outside_support(self, rows: Rows) -> BoolVec: ...
    def start(self, rows: Rows) -> Vec: ...
    def start_further(self, rows: Rows, mu: Vec) -> tuple[float, ...]: ...
    def start_phi(self, rows: Rows, mu: Vec) -> float: ...


def beyond_mean(values: Sequence[Vec | float]) -> Any:
    """Parameters beyond the mean as families take them: None without any, phi itself alone, several as a tuple."""
    return None if not values else values[0] if len(values) == 1 else tuple(values)


def moved_beyond(family: Family, values: Any, moved: Mapping[int, Vec]) -> Any:
    """Parameters beyond the mean with effects added to their predictors, by place."""
    if not moved:
        return values
    several = values if isinstance(values, tuple) else (values,)
    with np.errstate(over="ignore"):
        return beyond_mean(
            [
                one.link.inverse(one.link.forward(np.asarray(value)) + moved[k]) if k in moved else value
                for (k, one), value in zip(beyond_parameters(family), several, strict=True)
            ]
        )


def n_mean(family: Family) -> int:
    """How many of the first parameters are the mean, or its curve's."""
    return 1 if family.curve is None else len(family.curve.parameters)


def beyond_parameters(family: Family) -> list[tuple[int, Parameter]]:
    """Parameters that are not of the mean, or of its curve, with their places; categories have no mean at all."""
    if family.response == "category":
        return []
    return list(enumerate(family.parameters))[n_mean(family) :]


def all_parts(family: Family) -> tuple[int, ...]:
    """The places of all predictors."""
    return tuple(range(len(family.parameters)))


def only_phi(family: Family) -> bool:
    """Whether a family has no parameters but a mean and, it may be, phi."""
    return all(one.name in ("mu", "phi") for one in family.parameters)


def spread_name(family: Family) -> str:
    """What a reader calls phi."""
    return "residual variance" if family.residual else "dispersion"


def spoken(family: Family) -> str:
    """A family's name in a sentence."""
    return family.name.replace("_", " ").replace("poisson", "Poisson")


def asked_for(family: Family) -> str:
    """What a call writes for a family: that of zeros of their own has a formula of zi beside it."""
    return str(getattr(family, "base", family).name)


def towards_limit(family: Family) -> float:
    """1 where log phi grows towards the limit of a family, −1 where it falls."""
    return 1.0 if family.limit_phi > 1.0 else -1.0


def has_edge(family: Family) -> bool:
    """Whether some responses are likeliest where the domain of the link ends: a corner of the likelihood, no peak."""
    return any(family.edges)
