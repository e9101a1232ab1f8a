"""The columns of a model as arrays: what a likelihood needs, and nothing about frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.covariance.correlations import CORRELATIONS, Correlation
from polars_glmm.families.base import Censoring, Cuts, Rows
from polars_glmm.linalg.coupled import Prior
from polars_glmm.linalg.membership import Membership, level_sums
from polars_glmm.typing import CodeVec, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True)
class Term:
    """One random-effects term: columns start..stop of its factor's z, with one covariance matrix.

    structure   name of the covariance structure ("us", "diag")
    names       of its columns, as in ranef(): "Intercept", "Days", "YEAR[T.96]"
    parts       the linear predictor of each column by its place in the family, 0 the mean's; empty: all are the mean's
    parameters  the parameters of those predictors; empty: all are mu
    """

    start: int
    stop: int
    structure: str
    names: tuple[str, ...]
    parts: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()

    @property
    def part_of(self) -> tuple[int, ...]:
        """The linear predictor of each column."""
        return self.parts or (0,) * len(self.names)

    @property
    def parameter_of(self) -> tuple[str, ...]:
        """The parameter of the family that each column is of."""
        return self.parameters or ("mu",) * len(self.names)


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """One grouping factor and all terms on it, side by side.

    name    "LOCATION", "school:class"
    z       (r, n) C-contiguous float64; the columns of its terms one after the other
    codes   (n,) int32, 0 … n_levels − 1; every level occurs, unless there is a prior
    prior   how levels know each other; None: they are independent
    sets    of rows that have several levels, what a set of them has of each: codes are then those of sets
    """

    name: str
    terms: tuple[Term, ...]
    z: Mat
    codes: CodeVec
    n_levels: int
    prior: Prior | None = None
    sets: Membership | None = None

    @property
    def coupled(self) -> bool:
        """Whether levels know each other, or share rows, so that none can be looked at alone."""
        return self.prior is not None or self.sets is not None

    def on_rows(self, values: Mat) -> Mat:
        """Values of levels (…, G) on the rows, (…, n): of rows in several levels their weighted sum."""
        return np.asarray((values if self.sets is None else self.sets.spread(values))[..., self.codes])

    @property
    def incidence(self) -> tuple[IntVec, IntVec]:
        """Rows and the levels that they are in, pair by pair."""
        if self.sets is None:
            return np.arange(len(self.codes)), self.codes.astype(np.intp)
        shares = self.sets.at(self.codes).shares
        return np.repeat(np.arange(len(self.codes)), np.diff(shares.indptr)), shares.indices.astype(np.intp)

    def level_sums(self, values: Vec | None) -> Vec:
        """Sums of values of rows (n,), None for ones, over levels by what each row has of them: (G,)."""
        return level_sums(self.codes, self.sets, values, self.n_levels)

    def level_rows(self, frequency: Vec | None) -> Vec:
        """Observations of the rows that each level takes part in, (G,)."""
        if self.sets is None:
            return level_sums(self.codes, None, frequency, self.n_levels)
        return self.sets.counts(np.bincount(self.codes, frequency, self.sets.n_sets).astype(np.float64, copy=False))

    @property
    def part_of(self) -> tuple[int, ...]:
        """The linear predictor of each column of z."""
        return tuple(part for term in self.terms for part in term.part_of)


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """Fixed part of one linear predictor: x (p, n) C-contiguous float64 (kept columns only), offset (n,) or None.

    cuts   of thresholds: a row's category picks two of those that they make of each column of x
    """

    x: Mat
    names: tuple[str, ...]
    offset: Vec | None = None
    parameter: str = "mu"
    cuts: Cuts | None = None

    @property
    def coefficients(self) -> tuple[str, ...]:
        """Names of its coefficients: of its columns, or of the thresholds in each column."""
        return self.names if self.cuts is None else self.cuts.coefficients(self.names)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its coefficients among those of all predictors: "x", "phi: x", "thresholds: 1|2"."""
        own = self.coefficients
        return own if self.parameter == "mu" else tuple(f"{self.parameter}: {name}" for name in own)


@dataclass(frozen=True, slots=True, eq=False)
class ResidualRows:
    """Groups of rows whose residuals are correlated, and where in it each row is.

    structure   name of the correlation ("ar1", "cs", …)
    codes       (n,) int32, 0 … n_groups − 1
    places      (n, q): positions 0, 1, … of an order, times, coordinates, or nothing (q = 0)
    size        of the largest group for cs, number of positions for toep and us
    names       of its parameters: "rho(id)"
    """

    structure: str
    codes: CodeVec
    n_groups: int
    places: Mat
    size: int
    names: tuple[str, ...]

    @property
    def correlation(self) -> Correlation:
        """The correlation as an object."""
        return CORRELATIONS[self.structure]


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """All rows of a model that survive missing values, in the order of the frame.

    y           (n,) response; the number of successes for binomial
    trials      (n,) for binomial with trials, else None (one each)
    frequency   (n,) counts of identical rows ≥ 0, else None (one each)
    precision   (n,) > 0, else None (one each); rows of precision 0 are already gone
    mu          predictor of the mean
    further     predictors of other parameters that have a formula, in the order of the family's parameters
    inputs      of the curve of a nonlinear model, each (n,)
    factors     grouping factors in the order of the formula; terms on one factor are merged into one entry
    residual    groups of rows with correlated residuals, or None
    censoring   of responses that are not all seen themselves, else None
    """

    y: Vec
    trials: Vec | None
    frequency: Vec | None
    precision: Vec | None
    mu: Predictor
    further: tuple[Predictor, ...]
    factors: tuple[Factor, ...]
    inputs: tuple[Vec, ...] = ()
    residual: ResidualRows | None = None
    censoring: Censoring | None = None

    @property
    def rows(self) -> Rows:
        """What a density needs besides the linear predictors."""
        return Rows(self.y, self.trials, self.precision, self.inputs, self.censoring)

    @property
    def predictors(self) -> tuple[Predictor, ...]:
        """All that have a formula, that of the mean first."""
        return (self.mu, *self.further)

    @property
    def phi(self) -> Predictor | None:
        """Predictor of log phi, or None where phi is a single number or absent."""
        return next((one for one in self.further if one.parameter == "phi"), None)

    @property
    def n_rows(self) -> int:
        return len(self.y)

    @property
    def n_obs(self) -> int:
        """Observations the rows stand for: Σ frequency."""
        return len(self.y) if self.frequency is None else int(self.frequency.sum())
