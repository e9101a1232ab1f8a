"""What several linear predictors decide on together, with delta-method errors in the coefficients of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.families.base import beyond_parameters, moved_beyond
from polars_glmm.families.event_quantities import event_quantity
from polars_glmm.families.links import LINKS, Link
from polars_glmm.families.normal_nodes import Moved, slope_at
from polars_glmm.prediction.event_times import quantities_of
from polars_glmm.prediction.linear_predictor import ETA, MISSING
from polars_glmm.prediction.rows import PHI, beyond
from polars_glmm.prediction.variances import joint_variance

if TYPE_CHECKING:
    from polars_glmm.families.base import Family
    from polars_glmm.prediction.effects import JoinedFactor
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Vec

SEVERAL = ("response", "zero")
"""Kinds of predictions that all predictors take part in."""


def kinds_of(family: Family) -> list[str]:
    """What is predicted of a row, "link" apart."""
    kinds = ["response", *([] if family.mu_is_mean else ["mu"]), *(one.name for one in family.parameters[1:])]
    return [*kinds, *(["zero"] if hasattr(family, "zero_probability") else []), *quantities_of(family)]


def link_of_kind(family: Family, kind: str) -> Link:
    """The link on which intervals of a number are made, so that none leaves its range."""
    links = {one.name: one.link for one in family.parameters}
    if kind in links:
        return links[kind]
    if kind == "response" and family.mu_is_mean:
        return family.link
    of_unit = kind == "zero" or (kind == "response" and family.mean_range == "unit")
    return LINKS["logit" if of_unit else "log"]


def value_of(family: Family, kind: str) -> pl.Expr:
    """The mean of the response, or its probability of zero, from ETA and PHI of a row."""
    number = number_of(family, kind)

    def of(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        with np.errstate(all="ignore"):
            found = number(rows["eta"].cast(pl.Float64).to_numpy(), beyond(rows["phi"], family))
            return pl.Series(batch.name, found, dtype=pl.Float64)

    both = pl.struct(pl.col(ETA).alias("eta"), pl.col(PHI).alias("phi"))
    value = both.map_batches(of, return_dtype=pl.Float64, is_elementwise=True)
    return pl.when(~pl.col(MISSING)).then(value)


def number_of(family: Any, kind: str) -> Callable[[Vec, Any], Vec]:
    """A kind of prediction as a function of the linear predictor of mu, and of what is beyond the mean."""
    names = [one.name for _, one in beyond_parameters(family)]
    if kind in names:
        place = names.index(kind)
        return lambda eta, phi: np.asarray(phi[place] if len(names) > 1 else phi) + 0.0 * eta
    if kind == "zero":
        return lambda eta, phi: np.asarray(family.zero_probability(family.mean(eta), phi))
    if kind == "mu":
        return lambda eta, phi: np.asarray(family.mean(eta))  # noqa: ARG005
    if kind in quantities_of(family):
        return lambda eta, phi: np.asarray(event_quantity(family, kind, eta, phi, None)[0])  # type: ignore[arg-type]

    def mean(eta: Vec, phi: Any) -> Vec:
        found = family.expectation(family.mean(eta), phi)[0]
        return np.where(np.isinf(found), np.nan, found)  # times with heavy tails have none

    return mean


def moved_number(family: Family, kind: str, eta: Vec, phi: Any) -> Moved:
    """The number of rows, as a function of how far their predictors are moved."""
    number = number_of(family, kind)

    def at(moved: Mapping[int, Vec]) -> Vec:
        further = {k: move for k, move in moved.items() if k}
        with np.errstate(all="ignore"):
            return number(eta + moved.get(0, 0.0), moved_beyond(family, phi, further))

    return at


def errors_of(fitted: Parameters, kind: str, factors: Sequence[JoinedFactor]) -> pl.Expr:
    """Standard errors, from the slopes of the quantity in every predictor that has a formula."""
    family = fitted.recipe.spec.family
    moving = [k for k, one in enumerate(family.parameters) if fitted.models(one.name)]

    def slopes(batch: pl.Series) -> dict[int, Vec]:
        rows = batch.struct.unnest()
        of = moved_number(family, kind, rows["eta"].cast(pl.Float64).to_numpy(), beyond(rows["phi"], family))
        return {k: slope_at(of, k, rows.height) for k in moving}

    at = pl.struct(pl.col(ETA).alias("eta"), pl.col(PHI).alias("phi")).alias("at")
    parts = [(k, fitted.fixed(family.parameters[k].name)) for k in moving]
    return joint_variance(parts, factors, (at, slopes), pl.col(MISSING)).sqrt()
