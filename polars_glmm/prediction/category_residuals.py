"""`augment` for categories: the probability of the category observed, and residuals of probabilities."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.design.response import response_arrays
from polars_glmm.errors import ModelError
from polars_glmm.prediction.categories import VALUES, add_latent, family_of, probabilities, refuse_many
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.linear_predictor import MISSING, Purpose
from polars_glmm.prediction.places import over_places
from polars_glmm.prediction.quantile_residuals import QUANTILES, SEED, uniform_of
from polars_glmm.prediction.rows import response_inputs
from polars_glmm.prediction.unordered import AT_ZERO, PREDICTORS, add_predictors, shares

if TYPE_CHECKING:
    from polars_glmm.families.cumulative import Cumulative
    from polars_glmm.prediction.categories import LatentReader
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.prediction.residuals import More
    from polars_glmm.typing import Mat, Vec

_COLUMNS = ("fitted", "fixed", "resid", "resid_pearson", "resid_deviance")
_ROW = f"{INTERNAL}category_row"
_REMEDY = 'Residuals are of levels with an effect: drop these rows, or use predict() with new_levels="zero".'


def category_residuals(frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, more: More) -> pl.LazyFrame:
    """The frame with what `augment` adds.

    fitted, fixed   probability of the category observed, given the random effects and with all of them at zero
    resid           P(Y < y) − P(Y > y) (Li & Shepherd 2012), between −1 and 1;  resid_pearson   over its standard
                    deviation, √((1 − Σp³)/3);  resid_deviance   its sign times √(−2 log fitted)

    Quantile residuals are as those of counts. Categories without an order have none, and no residual with a sign: resid
    and resid_pearson are null, resid_deviance ≥ 0.
    """
    if more.quantile:
        _refuse_quantiles(fitted, more)
    refuse_many(fitted, "augment() of categories")
    recipe, response = fitted.recipe, response_inputs(fitted.recipe)
    of_rows: Callable[[pl.DataFrame], tuple[Mat, Mat]]
    purpose = Purpose("augment", over_places(fitted.factors), remedy=_REMEDY, also_used=response)
    if more.quantile:
        frame = frame.with_row_index(_ROW)
    if recipe.spec.family.unordered:
        frame = add_predictors(frame, schema, fitted, purpose)
        fields, of_rows = [pl.col(MISSING, PREDICTORS, AT_ZERO)], _unordered
    else:
        frame, reader = add_latent(frame, schema, fitted, purpose)
        fields, of_rows = reader.fields, partial(_ordered, family_of(recipe), reader)
    names = [*_COLUMNS, *(QUANTILES if more.quantile else ())]

    def values(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        out = np.full((len(names), rows.height), np.nan)
        complete = ~rows[MISSING].to_numpy()
        used = rows.filter(complete)
        if used.height:
            y = response_arrays(recipe, used).y
            p, fixed = of_rows(used)
            out[: len(_COLUMNS), complete] = _residuals(p, fixed, y)
            if more.quantile:
                uniform = uniform_of(more.seed, used[_ROW].to_numpy())
                out[len(_COLUMNS) :, complete] = _quantiles(fixed if more.given == "zero" else p, y, uniform)
            if recipe.spec.family.unordered:
                out[2:4], out[4] = np.nan, np.abs(out[4])
        made = [pl.Series(name, one, nan_to_null=True) for name, one in zip(names, out, strict=True)]
        return pl.DataFrame(made).to_struct(batch.name)

    struct = pl.Struct(dict.fromkeys(names, pl.Float64))
    rows_of = pl.struct([*fields, *columns([*sorted(response), *([_ROW] if more.quantile else [])])])
    made = rows_of.map_batches(values, return_dtype=struct, is_elementwise=True)
    outputs = [
        pl.when(~pl.col(MISSING)).then(pl.col(VALUES).struct.field(name)).alias(f"{more.prefix}{name}")
        for name in names
    ]
    if more.carries_seed:
        outputs.append(pl.lit(more.seed, dtype=pl.UInt64).alias(f"{more.prefix}{SEED}"))
    return frame.with_columns(made.alias(VALUES)).select(*columns(schema), *outputs)


def _refuse_quantiles(fitted: Parameters, more: More) -> None:
    """Raise ModelError for quantile residuals that categories do not have."""
    if fitted.recipe.spec.family.unordered:
        msg = (
            "quantile=True is of numbers, or of an order: P(Y < y) of categories without one depends on how they are "
            "numbered. resid_deviance is there, and check() has tests of their probabilities."
        )
        raise ModelError(msg)
    if more.given == "integrate":
        msg = "given='integrate' averages over random effects, and categories have no such average: use given='modes'."
        raise ModelError(msg)


def _quantiles(p: Mat, y: Vec, uniform: Vec) -> Mat:
    """P(Y < y), P(Y ≤ y), and the normal score of a point between them, in the nearer tail (Dunn & Smyth 1996)."""
    from scipy.special import ndtri  # noqa: PLC0415  scipy stays out of plain imports

    known = np.isfinite(y)
    at, rows = np.where(known, y, 0.0).astype(np.intp), np.arange(len(y))
    below = np.concatenate([np.zeros((1, len(y))), np.cumsum(p, axis=0)])[at, rows]
    own, above = p[at, rows], np.concatenate([np.cumsum(p[::-1], axis=0)[::-1], np.zeros((1, len(y)))])[at, rows]
    score = np.where(below > 0.5, -ndtri(above - uniform * own), ndtri(below + uniform * own))
    return np.where(known, np.array([below, np.minimum(below + own, 1.0), score]), np.nan)


def _ordered(family: Cumulative, reader: LatentReader, rows: pl.DataFrame) -> tuple[Mat, Mat]:
    """Probabilities (C, n) with the random effects, and with all of them at zero."""
    return probabilities(family, reader.latent(rows)).value, probabilities(family, reader.fixed(rows)).value


def _unordered(rows: pl.DataFrame) -> tuple[Mat, Mat]:
    """The same of categories without an order."""
    return shares(rows[PREDICTORS]).p, shares(rows[AT_ZERO]).p


def _residuals(p: Mat, fixed: Mat, y: Vec) -> Mat:
    """The columns for probabilities (C, n) and the number of the category observed; NaN where that is not known."""
    known = np.isfinite(y)
    at, rows = np.where(known, y, 0.0).astype(np.intp), np.arange(len(y))
    below = np.concatenate([np.zeros((1, len(y))), np.cumsum(p, axis=0)])
    above = np.concatenate([np.cumsum(p[::-1], axis=0)[::-1], np.zeros((1, len(y)))])
    own = p[at, rows]
    resid = below[at, rows] - above[at + 1, rows]
    with np.errstate(all="ignore"):
        spread = np.sqrt((1.0 - (p**3).sum(0)) / 3.0)
        deviance = np.sign(resid) * np.sqrt(np.maximum(-2.0 * np.log(own), 0.0))
        found = np.array([own, fixed[at, rows], resid, resid / spread, deviance])
    return np.where(known, found, np.nan)
