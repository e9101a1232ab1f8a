"""What several linear predictors decide on together, with delta-method errors in the coefficients of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.families.base import beyond_mean
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
_STEP = 1e-3
_AT, _SLOPE = "at", "slope_"


def value_of(family: Family, kind: str) -> pl.Expr:
    """The mean of the response, or its probability of zero, from ETA and PHI of a row."""
    quantity = _quantity(family, kind)

    def of(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        with np.errstate(all="ignore"):
            mu = family.mean(rows["eta"].cast(pl.Float64).to_numpy())
            return pl.Series(batch.name, quantity(mu, beyond(rows["phi"], family)), dtype=pl.Float64)

    both = pl.struct(pl.col(ETA).alias("eta"), pl.col(PHI).alias("phi"))
    value = both.map_batches(of, return_dtype=pl.Float64, is_elementwise=True)
    return pl.when(~pl.col(MISSING)).then(value)


def _quantity(family: Any, kind: str) -> Callable[[Vec, Any], Vec]:
    if kind == "zero":
        return lambda mu, phi: np.asarray(family.zero_probability(mu, phi))
    return lambda mu, phi: np.asarray(family.expectation(mu, phi)[0])


def errors_of(fitted: Parameters, kind: str, factors: Sequence[JoinedFactor]) -> pl.Expr:
    """Standard errors, from the slopes of the quantity in every predictor that has a formula."""
    family = fitted.recipe.spec.family
    quantity = _quantity(family, kind)
    moving = [k for k, one in enumerate(family.parameters) if fitted.models(one.name)]

    def slopes(batch: pl.Series) -> dict[int, Vec]:
        rows = batch.struct.unnest()
        eta, phi = rows["eta"].cast(pl.Float64).to_numpy(), beyond(rows["phi"], family)
        further = phi if isinstance(phi, tuple) else (phi,)
        return {k: _slope(family, quantity, eta, further, k) for k in moving}

    at = pl.struct(pl.col(ETA).alias("eta"), pl.col(PHI).alias("phi")).alias(_AT)
    parts = [(k, fitted.fixed(family.parameters[k].name)) for k in moving]
    return joint_variance(parts, factors, (at, slopes), pl.col(MISSING)).sqrt()


def _slope(family: Family, quantity: Callable[[Vec, Any], Vec], eta: Vec, further: Sequence[Vec], k: int) -> Vec:
    """The derivative in one predictor, the others as they are: a difference whose error is of the fourth order."""

    def at(step: float) -> Vec:
        if k == 0:
            return quantity(family.mean(eta + step), beyond_mean(further))
        link = family.parameters[k].link
        moved = [link.inverse(link.forward(v) + step) if j == k else v for j, v in enumerate(further, start=1)]
        return quantity(family.mean(eta), beyond_mean(moved))

    h = _STEP
    with np.errstate(all="ignore"):
        return (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
