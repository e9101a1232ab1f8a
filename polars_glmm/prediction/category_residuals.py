"""`augment` for ordered categories: the probability of the category observed, and residuals of probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.design.response import response_arrays
from polars_glmm.errors import ModelError
from polars_glmm.prediction.categories import VALUES, add_latent, family_of, probabilities, refuse_many
from polars_glmm.prediction.linear_predictor import MISSING, Purpose
from polars_glmm.prediction.rows import response_inputs

if TYPE_CHECKING:
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.prediction.residuals import More
    from polars_glmm.typing import Mat, Vec

_COLUMNS = ("fitted", "fixed", "resid", "resid_pearson", "resid_deviance")
_REMEDY = 'Residuals are of levels with an effect: drop these rows, or use predict() with new_levels="zero".'


def category_residuals(frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, more: More) -> pl.LazyFrame:
    """The frame with what `augment` adds.

    fitted, fixed   probability of the category observed, given the random effects and with all of them at zero
    resid           P(Y < y) − P(Y > y) (Li & Shepherd 2012), between −1 and 1;  resid_pearson   over its standard
                    deviation, √((1 − Σp³)/3);  resid_deviance   its sign times √(−2 log fitted)
    """
    if more.quantile:
        msg = "quantile=True is of numbers: of categories resid is P(Y < y) − P(Y > y), from which they are drawn."
        raise ModelError(msg)
    refuse_many(fitted, "augment() of categories")
    recipe, family = fitted.recipe, family_of(fitted.recipe)
    response = response_inputs(recipe)
    frame, reader = add_latent(
        frame, schema, fitted, Purpose("augment", fitted.factors, remedy=_REMEDY, also_used=response)
    )

    def values(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        out = np.full((len(_COLUMNS), rows.height), np.nan)
        complete = ~rows[MISSING].to_numpy()
        used = rows.filter(complete)
        if used.height:
            y = response_arrays(recipe, used).y
            p = probabilities(family, reader.latent(used)).value
            fixed = probabilities(family, reader.fixed(used)).value
            out[:, complete] = _residuals(p, fixed, y)
        made = [pl.Series(name, one, nan_to_null=True) for name, one in zip(_COLUMNS, out, strict=True)]
        return pl.DataFrame(made).to_struct(batch.name)

    struct = pl.Struct(dict.fromkeys(_COLUMNS, pl.Float64))
    fields = [*reader.fields, *(pl.col(name) for name in sorted(response))]
    made = pl.struct(fields).map_batches(values, return_dtype=struct, is_elementwise=True)
    outputs = [
        pl.when(~pl.col(MISSING)).then(pl.col(VALUES).struct.field(name)).alias(f"{more.prefix}{name}")
        for name in _COLUMNS
    ]
    return frame.with_columns(made.alias(VALUES)).select(*columns(schema), *outputs)


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
