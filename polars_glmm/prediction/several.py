"""What several linear predictors decide on together, with delta-method errors in the coefficients of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.families.base import beyond_parameters, moved_beyond
from polars_glmm.families.event_quantities import event_quantity
from polars_glmm.families.links import LINKS, Link
from polars_glmm.families.normal_nodes import Moved, slope_at
from polars_glmm.prediction.constants import moving
from polars_glmm.prediction.event_times import EventScale, quantities_of
from polars_glmm.prediction.linear_predictor import ETA, MISSING, STD_ERROR
from polars_glmm.prediction.rows import PHI, beyond
from polars_glmm.prediction.variances import joint_variance

if TYPE_CHECKING:
    from polars_glmm.families.base import Family
    from polars_glmm.prediction.effects import JoinedFactor
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.prediction.scale import ResponseScale
    from polars_glmm.typing import Vec

SEVERAL = ("response", "zero")
PROBABILITIES = ("zero", "survival")

"""Kinds of predictions that all predictors take part in."""


def kinds_of(family: Family) -> list[str]:
    """What is predicted of a row, "link" apart."""
    named = family.parameters[0 if family.curve is not None else 1 :]
    kinds = ["response", *([] if family.mu_is_mean else ["mu"]), *(one.name for one in named)]
    return [*kinds, *(["zero"] if hasattr(family, "zero_probability") else []), *quantities_of(family)]


def link_of_kind(family: Family, kind: str) -> Link:
    """The link on which intervals of a number are made, so that none leaves its range."""
    links = {one.name: one.link for one in family.parameters}
    if kind in links:
        return links[kind]
    if kind == "response" and family.mu_is_mean:
        return family.link
    of_unit = kind in PROBABILITIES or (kind == "response" and family.mean_range == "unit")
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


def number_of(family: Any, kind: str, times: Vec | None = None) -> Callable[[Vec, Any], Vec]:
    """A kind of prediction as a function of the linear predictor of mu, and of what is beyond the mean.

    times (n,)   of survival and hazards
    """
    names = [one.name for _, one in beyond_parameters(family)]
    if kind in names:
        place = names.index(kind)
        return lambda eta, phi: np.asarray(phi[place] if len(names) > 1 else phi) + 0.0 * eta
    if kind == "zero":
        return lambda eta, phi: np.asarray(family.zero_probability(family.mean(eta), phi))
    if kind == "mu":
        return lambda eta, phi: np.asarray(family.mean(eta))  # noqa: ARG005
    if kind in quantities_of(family):
        return lambda eta, phi: np.asarray(event_quantity(family, kind, eta, phi, times)[0])  # type: ignore[arg-type]

    def mean(eta: Vec, phi: Any) -> Vec:
        found = family.expectation(family.mean(eta), phi)[0]
        return np.where(np.isinf(found), np.nan, found)  # times with heavy tails have none

    return mean


def moved_number(family: Family, kind: str, eta: Vec, phi: Any, times: Vec | None = None) -> Moved:
    """The number of rows, as a function of how far their predictors are moved."""
    number = number_of(family, kind, times)

    def at(moved: Mapping[int, Vec]) -> Vec:
        further = {k: move for k, move in moved.items() if k}
        with np.errstate(all="ignore"):
            return number(eta + moved.get(0, 0.0), moved_beyond(family, phi, further))

    return at


def errors_of(
    fitted: Parameters, kind: str, factors: Sequence[JoinedFactor], time: str | None = None
) -> pl.Expr:  # fmt: skip
    """Standard errors, from the slopes of the quantity in every predictor: of formulas, and of constants.

    time   the column of the times of survival and hazards
    """
    family = fitted.recipe.spec.family
    moved, factors = moving(fitted, factors)
    places = [*(k for k, _ in moved.parts), *moved.constants]

    def slopes(batch: pl.Series) -> dict[int, Vec]:
        rows = batch.struct.unnest()
        eta, times = rows["eta"].cast(pl.Float64).to_numpy(), None if time is None else rows["time"].to_numpy()
        phi = beyond(rows["phi"], family) if len(family.parameters) > 1 else None
        of = moved_number(family, kind, eta, phi, times)
        return {k: slope_at(of, k, rows.height) for k in places}

    at = [pl.col(ETA).alias("eta"), pl.col(PHI).alias("phi")]
    if time is not None:
        at.append(column(time).cast(pl.Float64).alias("time"))
    return joint_variance(moved, factors, (pl.struct(at).alias("at"), slopes), pl.col(MISSING)).sqrt()


def error_on_eta(
    fitted: Parameters, kind: str, factors: Sequence[JoinedFactor], scale: ResponseScale
) -> pl.Expr:  # fmt: skip
    """STD_ERROR of a linear predictor that moves the number as everything does together, for limits on its scale.

    That which it has in rows where the number does not move with it, as survival at time 0, and none where it has none.
    """
    slope = scale.slope(pl.col(ETA)).abs()
    time = scale.time if isinstance(scale, EventScale) else None
    error = errors_of(fitted, kind, factors, time) / slope
    told = (slope != 0.0) & pl.col(STD_ERROR).is_finite()
    return pl.when(told).then(error).otherwise(pl.col(STD_ERROR)).alias(STD_ERROR)
