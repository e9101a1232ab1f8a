"""Residuals: a frame with fitted values beside its rows, and how far the responses are from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.answer.many import Answers
from polars_glmm.columns.named import columns
from polars_glmm.design.response import response_arrays
from polars_glmm.foreign import answered
from polars_glmm.prediction.by_key import KeyedVerb, apply_by_key
from polars_glmm.prediction.columns import INTERNAL, FrameT, apply_plan, refuse_clash
from polars_glmm.prediction.inverse_links import mean_of
from polars_glmm.prediction.linear_predictor import ETA, FIXED, MISSING, Purpose, add_linear_predictor
from polars_glmm.prediction.parameters import Parameters, of_fit
from polars_glmm.prediction.rows import PHI, phi_inputs, response_inputs, with_phi

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.families.base import Family, Rows
    from polars_glmm.typing import Vec

COLUMNS = ("fitted", "fixed", "resid", "resid_pearson", "resid_deviance")
_RESIDUALS = COLUMNS[2:]
_RESIDUAL = f"{INTERNAL}residual"
_REMEDY = 'Residuals are of levels with an effect: drop these rows, or use predict() with new_levels="zero".'


@answered
def augment(frame: FrameT, fit: Answer | Answers, prefix: str = "") -> FrameT:
    """The frame with fitted values and residuals beside every row, in its order; a LazyFrame stays lazy.

    fitted          mean given the random effects (binomial: probability), offset included
    fixed           the same with all random effects at zero
    resid           y − fitted; for binomial y is the proportion of successes
    resid_pearson   resid / √Var(y): phi, trials and precision included
    resid_deviance  sign(resid) √d with d the unit deviance of the family

    A null or NaN in any column used for a row, the response included, gives nulls. `prefix` goes in front of the new
    names. Raises ColumnError for an absent column or a name taken already, and UnknownLevelError (when the plan is
    collected) for a level that the fit has not seen.
    """
    if isinstance(fit, Answers):
        names = [f"{prefix}{column}" for column in COLUMNS]
        answer = lambda rows, own: augment_from(rows, own, prefix)
        return apply_by_key(frame, fit, KeyedVerb("augment", answer, lambda _: names, "Drop these rows."))
    return augment_from(frame, of_fit(fit), prefix)


def augment_from(frame: FrameT, fitted: Parameters, prefix: str) -> FrameT:
    """`augment` from the parameters of one fit or of many."""
    return apply_plan(frame, "augment", lambda lazy, schema: _plan(lazy, schema, fitted, prefix))


def _plan(frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, prefix: str) -> pl.LazyFrame:
    names = [f"{prefix}{column}" for column in COLUMNS]
    refuse_clash(schema, names, "set them apart with prefix=.")
    family = fitted.recipe.spec.family
    response = response_inputs(fitted.recipe)
    used = response | phi_inputs(fitted)
    purpose = Purpose("augment", fitted.factors, remedy=_REMEDY, also_used=used, parts=(0, 1))
    frame = add_linear_predictor(frame, schema, fitted, purpose)
    frame = with_phi(frame, schema, fitted, verb="augment", factors=fitted.factors)

    def residuals(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        complete = ~rows[MISSING].to_numpy()
        used = rows.filter(complete)
        values = np.full((3, rows.height), np.nan)
        if used.height:
            mu, phi = family.mean(used[ETA].to_numpy()), used[PHI].to_numpy() if family.has_phi else None
            values[:, complete] = _residuals(family, response_arrays(fitted.recipe, used), mu, phi)
        made = [pl.Series(name, values[i], nan_to_null=True) for i, name in enumerate(_RESIDUALS)]
        return pl.DataFrame(made).to_struct(batch.name)

    fields = [MISSING, ETA, PHI, *sorted(response)]
    struct = pl.Struct(dict.fromkeys(_RESIDUALS, pl.Float64))
    frame = frame.with_columns(
        pl.struct(columns(fields)).map_batches(residuals, return_dtype=struct, is_elementwise=True).alias(_RESIDUAL)
    )
    values = [
        mean_of(family.link.name, pl.col(ETA)),
        mean_of(family.link.name, pl.col(FIXED)),
        *(pl.col(_RESIDUAL).struct.field(name) for name in _RESIDUALS),
    ]
    outputs = [pl.when(~pl.col(MISSING)).then(value).alias(name) for value, name in zip(values, names, strict=True)]
    return frame.select(*columns(schema), *outputs)


def _residuals(family: Family, rows: Rows, mu: Vec, phi: Vec | None) -> tuple[Vec, Vec, Vec]:
    """Response, Pearson and deviance residuals of complete rows; each (n,)."""
    trials = 1.0 if rows.trials is None else rows.trials
    precision = 1.0 if rows.precision is None else rows.precision
    with np.errstate(all="ignore"):  # no trial, or a mean at the edge of its range: without a warning
        resid = rows.y / trials - mu
        variance = family.variance(mu, phi) / (trials * precision)
        deviance = np.maximum(family.unit_deviance(rows, mu, phi), 0.0)
        return resid, resid / np.sqrt(variance), np.sign(resid) * np.sqrt(deviance)
