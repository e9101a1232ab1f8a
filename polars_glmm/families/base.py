"""What a family is to the rest of the house: a log density over linear predictors, with derivatives."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from polars_glmm.families.links import Link, MeanRange
from polars_glmm.typing import BoolVec, Vec


class Rows(NamedTuple):
    """What a density needs besides the linear predictors; arrays (n,) that broadcast against eta (…, n)."""

    y: Vec
    trials: Vec | None = None
    precision: Vec | None = None


class Density(NamedTuple):
    """Log density per row without its constant, and derivatives up to the order asked for; each (…, n).

    eta is the linear predictor of the mean, zeta that of phi (log phi).
    order 0: f.  order 1: + g = ∂f/∂eta, f_zeta.  order 2: + w = −∂²f/∂eta², g_zeta = ∂g/∂zeta.
    order 3: + dw = ∂w/∂eta, w_zeta = ∂w/∂zeta.  The zeta parts are None for families without phi.
    """

    f: Vec
    g: Any = None
    w: Any = None
    dw: Any = None
    f_zeta: Any = None
    g_zeta: Any = None
    w_zeta: Any = None


class Expected(NamedTuple):
    """Expected curvature E[−∂²f/∂eta²] per row, with its derivatives in eta and zeta; each (…, n)."""

    w: Vec
    dw: Vec
    w_zeta: Any = None


@runtime_checkable
class Family(Protocol):
    """y | eta (and zeta = log phi). Instances are frozen, hashable, picklable; short repr: Binomial(link='logit').

    mean_range        where the mean lives
    has_phi           phi is a parameter (gaussian: sigma; gamma, inverse_gaussian: dispersion; negative_binomial: size)
    canonical         observed and expected curvature agree
    log_concave       the log density is concave in eta for every response: w ≥ 0, so modes are unique
    phi_definition    what phi is, in words; empty without phi
    residual          phi is the standard deviation of an error beside the effects, and stands among their variances
    linear            y is its mean and such an error: with gaussian effects every integral is exact
    discrete          responses are counts: fixed effects can separate them and run off to infinity
    sufficient        rows of equal predictors are one row: their mean, or all their successes and trials
    unit              an sd of eta that is large whatever the data, or None where only the data tell
    first_size        standard deviation in such units from which the search for random effects starts
    limit             the family that a growing phi ends at, or None
    edges             whether responses pull a mode to the lower, the upper end of the link's domain: a corner, no peak
    least_log_phi     log phi at which `log_share` of the mean square of y (also a logarithm) is left; None: no limit
    density           zeta_parts=False spares (and leaves None) the derivatives in zeta; do not write to its arrays
    variance          of y given the mean, precision 1 (binomial: of one trial; its mean is a probability)
    unit_deviance     2·[log p at mu = y − log p at mu] times phi where phi is a dispersion; precision included
    simulate          mu (…, n): one response per mean
    cdf               P(Y ≤ y) for means (…, n), or with upper P(Y > y), each to its own relative precision
    start             eta (n,) where iterations may begin;  start_phi  moment estimate of phi
    """

    @property
    def name(self) -> str: ...
    @property
    def link(self) -> Link: ...
    @property
    def mean_range(self) -> MeanRange: ...
    @property
    def has_phi(self) -> bool: ...
    @property
    def takes_trials(self) -> bool: ...
    @property
    def takes_precision(self) -> bool: ...
    @property
    def canonical(self) -> bool: ...
    @property
    def log_concave(self) -> bool: ...
    @property
    def phi_definition(self) -> str: ...
    @property
    def residual(self) -> bool: ...
    @property
    def linear(self) -> bool: ...
    @property
    def discrete(self) -> bool: ...
    @property
    def sufficient(self) -> bool: ...
    @property
    def unit(self) -> float | None: ...
    @property
    def first_size(self) -> float: ...
    @property
    def limit(self) -> Family | None: ...
    @property
    def edges(self) -> tuple[bool, bool]: ...
    def least_log_phi(self, log_share: float, log_square: float) -> float | None: ...

    def density(
        self, rows: Rows, eta: Vec, zeta: Vec | float | None, order: int, *, zeta_parts: bool = True
    ) -> Density: ...
    def expected(self, rows: Rows, eta: Vec, zeta: Vec | float | None) -> Expected: ...
    def constant(self, rows: Rows) -> Vec: ...
    def saturated(self, rows: Rows) -> Vec | None: ...
    def mean(self, eta: Vec) -> Vec: ...
    def variance(self, mu: Vec, phi: Vec | float | None) -> Vec: ...
    def unit_deviance(self, rows: Rows, mu: Vec, phi: Vec | float | None) -> Vec: ...
    def simulate(self, rng: np.random.Generator, mu: Vec, phi: Vec | float | None, rows: Rows) -> Vec: ...
    def cdf(self, rows: Rows, mu: Vec, phi: Vec | float | None, *, upper: bool = False) -> Vec: ...
    def outside_support(self, rows: Rows) -> BoolVec: ...
    def start(self, rows: Rows) -> Vec: ...
    def start_phi(self, rows: Rows, mu: Vec) -> float: ...


def spread_name(family: Family) -> str:
    """What a reader calls phi."""
    return "residual variance" if family.residual else "dispersion"


def has_edge(family: Family) -> bool:
    """Whether some responses are likeliest where the domain of the link ends: a corner of the likelihood, no peak."""
    return any(family.edges)
