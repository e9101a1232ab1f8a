"""What data taught a question: every column as a node, every level by its value. Plain data, fit for pickling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import polars as pl

from polars_glmm.columns.coding import Column
from polars_glmm.columns.nodes import Node
from polars_glmm.families.base import Cuts
from polars_glmm.linalg.coupled import Prior
from polars_glmm.spec.members import Members
from polars_glmm.spec.model import ModelSpec


@dataclass(frozen=True, slots=True)
class Categorical:
    """A categorical column of a fixed or random design.

    levels   the labels it knows, as a cast to String spells them, in level order
    dtype    of the column when it was learned
    """

    column: str
    levels: tuple[str, ...]
    dtype: pl.DataType


@dataclass(frozen=True, slots=True)
class TermRecipe:
    """The columns of one random-effects term and the structure of their covariance ("us", "diag").

    parts        the predictor of each column, by its place among those of the family; empty: all are mu's
    parameters   those of these predictors
    """

    structure: str
    columns: tuple[Column, ...]
    parts: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()

    @property
    def parameter_of(self) -> tuple[str, ...]:
        """The parameter of each column; older files knew of two and did not name them."""
        return self.parameters or tuple("phi" if part else "mu" for part in self.parts) or ("mu",) * len(self.columns)


@dataclass(frozen=True, slots=True, eq=False)
class FactorRecipe:
    """A grouping factor with all its terms.

    levels   key columns under their own names and dtypes, one row for each level in code order
    prior    how they know each other; None: they are independent
    members  the columns of rows that have several levels: levels then are of one column, under the factor's name
    """

    name: str
    keys: tuple[str, ...]
    levels: pl.DataFrame
    terms: tuple[TermRecipe, ...]
    prior: Prior | None = None
    members: Members | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a frame that tell the levels of a row."""
        return self.keys if self.members is None else self.members.columns

    @property
    def level_columns(self) -> tuple[str, ...]:
        """Those that tell the one level of a row; none where it has several."""
        return self.keys if self.members is None else ()


@dataclass(frozen=True, slots=True)
class Combination:
    """A column that the rows make from others: column_place = Σ_k weights_k column_k in every row of the fit.

    weights   one for each column of the formula, 0 for those left out
    centre    means of the columns of the formula;  size: root mean square of this one about its mean
    """

    place: int
    weights: tuple[float, ...]
    centre: tuple[float, ...]
    size: float


@dataclass(frozen=True, slots=True)
class PredictorRecipe:
    """The fixed part of one linear predictor.

    columns   all columns of the formula in order; kept marks those that are no combination of earlier ones
    offset    what is added to the linear predictor, or None
    lost      what makes each of the columns that are not kept: other rows are predicted only where it holds too
    """

    parameter: str
    columns: tuple[Column, ...]
    kept: tuple[bool, ...]
    offset: Node | None = None
    lost: tuple[Combination, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseRecipe:
    """How y is read from a row.

    success      y, or the number of successes, or (proportion) their share
    trials       the number of trials, or None: one each, or no binomial
    proportion   success is a share of trials
    dtype        of the column that holds the response, or None where it is computed from several or not known
    labels       where the response is a text or has categories: that of each number, from 0
    status, upper, entry   where it may be censored, the arrays of families.base.Censoring
    """

    name: str
    success: Node
    trials: Node | None = None
    proportion: bool = False
    dtype: pl.DataType | None = None
    labels: tuple[str, ...] | None = None
    status: Node | None = None
    upper: Node | None = None
    entry: Node | None = None

    def nodes(self) -> Iterator[Node]:
        """Everything that a response is read from."""
        yield self.success
        yield from (one for one in (self.trials, self.status, self.upper, self.entry) if one is not None)


def cuts_of(spec: ModelSpec, response: ResponseRecipe) -> dict[str, Cuts]:
    """The thresholds between the categories of a response, by the parameter that they are."""
    labels = response.labels
    if spec.family.response != "category" or labels is None:
        return {}
    found = spec.family.cuts(labels)
    return {} if found is None else {one.name: found for one in spec.family.parameters if one.picked}


@dataclass(frozen=True, slots=True)
class ResidualRecipe:
    """What data taught about correlated residuals: the number of positions, and the names that us has for them."""

    size: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """A ModelSpec and all that was learned for it; inputs: what the curve of a nonlinear model takes."""

    spec: ModelSpec
    response: ResponseRecipe
    predictors: tuple[PredictorRecipe, ...]
    factors: tuple[FactorRecipe, ...]
    categoricals: Mapping[str, Categorical] = field(default_factory=dict)
    inputs: tuple[Node, ...] = ()
    residual: ResidualRecipe | None = None

    def coefficients(self, parameter: str) -> tuple[tuple[str, bool], ...]:
        """Names of the coefficients of one family parameter, and whether the rank of the data kept them."""
        found = self.predictor(parameter)
        names = tuple(column.name for column in found.columns)
        cuts = cuts_of(self.spec, self.response).get(parameter)
        if cuts is None:
            return tuple(zip(names, found.kept, strict=True))
        kept = [keep for keep in found.kept for _ in cuts.names]
        return tuple(zip(cuts.coefficients(names), kept, strict=True))

    def starting_names(self) -> list[str]:
        """Names of the coefficients that another search may start from: the mean's, or those of every category."""
        if not self.spec.family.unordered:
            return [name for name, kept in self.coefficients(self.predictors[0].parameter) if kept]
        return [
            f"{part.parameter}: {name}"
            for part in self.predictors
            for name, kept in self.coefficients(part.parameter)
            if kept
        ]

    def predictor(self, parameter: str) -> PredictorRecipe:
        """The predictor of one family parameter; "mu" is the first, whatever its name. Raises KeyError without one."""
        if parameter == "mu":
            return self.predictors[0]
        for found in self.predictors:
            if found.parameter == parameter:
                return found
        raise KeyError(parameter)
