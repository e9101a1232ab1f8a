"""Residuals: a frame with fitted values beside its rows, and how far the responses are from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.answer.many import Answers
from polars_glmm.columns.named import columns
from polars_glmm.design.response import response_arrays
from polars_glmm.errors import ModelError
from polars_glmm.families.base import all_parts
from polars_glmm.families.censored import Censored
from polars_glmm.families.censored_residuals import censored_residuals
from polars_glmm.foreign import answered
from polars_glmm.frames.elsewhere import on_engine
from polars_glmm.prediction.by_key import KeyedVerb, apply_by_key
from polars_glmm.prediction.category_residuals import category_residuals
from polars_glmm.prediction.columns import INTERNAL, FrameT, apply_plan, refuse_clash
from polars_glmm.prediction.correlated import add_normalized, residual_inputs
from polars_glmm.prediction.engine_verbs import augment_on_engine, refuse_extras
from polars_glmm.prediction.given import Given
from polars_glmm.prediction.leverage import add_leverage
from polars_glmm.prediction.linear_predictor import ETA, FIXED, MISSING, Purpose, add_linear_predictor
from polars_glmm.prediction.parameters import Parameters, of_fit
from polars_glmm.prediction.places import over_places
from polars_glmm.prediction.quantile_residuals import QUANTILES, SEED, add_quantiles, quantile_columns
from polars_glmm.prediction.rows import PHI, beyond, phi_inputs, response_inputs, with_phi
from polars_glmm.prediction.scale import scale_of
from polars_glmm.prediction.seeds import seed_of

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.families.base import Family, Rows
    from polars_glmm.typing import Vec

COLUMNS = ("fitted", "fixed", "resid", "resid_pearson", "resid_deviance")
_RESIDUALS = COLUMNS[2:]
NORMALIZED = "resid_normalized"
_RESIDUAL = f"{INTERNAL}residual"
PHI_FIXED = f"{INTERNAL}phi_fixed"
"""PHI with all random effects at zero."""
_REMEDY = 'Residuals are of levels with an effect: drop these rows, or use predict() with new_levels="zero".'


@dataclass(frozen=True, slots=True, eq=False)
class More:
    """What stands behind the residuals on request: quantile residuals by `given`, drawn from `seed`, and leverage."""

    prefix: str = ""
    quantile: bool = False
    given: Given = "modes"
    seed: int = 0
    carries_seed: bool = False

    @property
    def names(self) -> list[str]:
        names = [*COLUMNS, *(QUANTILES if self.quantile else ()), *((SEED,) if self.carries_seed else ())]
        return [f"{self.prefix}{name}" for name in names]


@answered
def augment(  # noqa: PLR0913  the arguments of the public verb
    frame: FrameT,
    fit: Answer | Answers,
    prefix: str = "",
    *,
    quantile: bool = False,
    given: Given = "modes",
    rng: np.random.Generator | int | None = None,
    leverage: bool = False,
) -> FrameT:
    """The frame with fitted values and residuals beside every row, in its order; a LazyFrame stays lazy.

    fitted          mean given the random effects (binomial: probability), offset included; of truncated counts that of
                    the counts above zero
    fixed           the same with all random effects at zero
    resid           y − fitted; for binomial y is the proportion of successes
    resid_pearson   resid / √Var(y): phi, trials and precision included
    resid_deviance  sign(resid) √d with d the unit deviance of the family

    A fit with residual= has one more, of all rows of the frame together:

    resid_normalized  L⁻¹ resid_pearson, LL' the correlation of the rows of one group: uncorrelated if the model holds

    With `quantile` also (Dunn & Smyth 1996)

    quantile_low, quantile_high   P(Y < y) and P(Y ≤ y) under the model, equal for continuous responses
    resid_quantile                normal score of a point between them, at random for counts and ordered categories
    quantile_seed                 of those draws, for these and one fit: rng= gives them again

    given="modes" takes the random effects at their modes, which the row's own response has pulled towards it, so that
    these residuals are less spread than a standard normal; given="integrate" averages over the random effects: there
    they are standard normal if the model holds, and those of one group go together. `rng` is a seed, a Generator or
    None for a fresh seed; the draw of a row hangs on the seed and its place alone.

    With `leverage` (one fit) also leverage at the estimated variances (Hodges & Sargent 2001), a row's share of the
    observed information, ∂ŷ/∂y where the link is canonical or the model gaussian: of the rows of `frame`, which count
    as the whole data, and pass through memory. Their sum is the effective number of parameters.

    A null or NaN in any column used for a row, the response included, gives nulls. `prefix` goes in front of the new
    names. Raises ColumnError for an absent column or a name taken already, UnknownLevelError (when the plan is
    collected) for a level that the fit has not seen, ModelError for an argument that is not known.
    """
    if isinstance(fit, Answers):
        if leverage:
            msg = "leverage=True is of one fit: choose it by its key, as in collection[key], and the rows of it."
            raise ModelError(msg)
        more = More(prefix, quantile, given, seed_of(rng) if quantile else 0)
        answer = lambda rows, own: augment_from(rows, own, more)
        added = partial(_added, more)
        return apply_by_key(frame, fit, KeyedVerb("augment", answer, added, "Drop these rows."))
    family = fit.recipe.spec.family
    drawn = quantile and (family.discrete or family.is_censored or family.response == "category")
    more = More(prefix, quantile, given, seed_of(rng) if quantile else 0, drawn)
    if leverage and (engine := on_engine(frame)) is not None:
        refuse_extras(engine.name, leverage=leverage)
    augmented = augment_from(frame, of_fit(fit), more)
    return add_leverage(augmented, fit, f"{prefix}leverage") if leverage else augmented


def augment_from(frame: FrameT, fitted: Parameters, more: More) -> FrameT:
    """`augment` from the parameters of one fit or of many."""
    if (engine := on_engine(frame)) is not None:
        refuse_extras(engine.name, quantile=more.quantile)
        made: FrameT = augment_on_engine(engine, fitted, more.names)
        return made
    return apply_plan(frame, "augment", lambda lazy, schema: _plan(lazy, schema, fitted, more))


def _added(more: More, fitted: Parameters) -> list[str]:
    """The columns of residuals that a fit adds."""
    return [*more.names, *_normalized(fitted, more)]


def _normalized(fitted: Parameters, more: More) -> list[str]:
    """The column of residuals of a model whose residuals are correlated."""
    return [] if fitted.correlations is None else [f"{more.prefix}{NORMALIZED}"]


def _plan(frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, more: More) -> pl.LazyFrame:
    names = [f"{more.prefix}{column}" for column in COLUMNS]
    normalized = _normalized(fitted, more)
    refuse_clash(schema, [*more.names, *normalized], "set them apart with prefix=.")
    family = fitted.recipe.spec.family
    if family.response == "category":
        return category_residuals(frame, schema, fitted, more)
    quantiles: list[pl.Expr] = []
    if more.quantile:
        frame = add_quantiles(frame, schema, fitted, more.given, more.seed, verb="augment")
        frame = frame.select(*columns(schema), *quantile_columns(INTERNAL))
        quantiles = [pl.col(f"{INTERNAL}{name}").alias(f"{more.prefix}{name}") for name in QUANTILES]
    if more.carries_seed:
        quantiles.append(pl.lit(more.seed, dtype=pl.UInt64).alias(f"{more.prefix}{SEED}"))
    response = response_inputs(fitted.recipe)
    used = response | phi_inputs(fitted) | residual_inputs(fitted.recipe)
    purpose = Purpose("augment", over_places(fitted.factors), remedy=_REMEDY, also_used=used, parts=all_parts(family))
    frame = add_linear_predictor(frame, schema, fitted, purpose)
    frame = with_phi(frame, schema, fitted, verb="augment", factors=purpose.factors)
    frame = with_phi(frame, schema, fitted, verb="augment", name=PHI_FIXED)

    def residuals(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        complete = ~rows[MISSING].to_numpy()
        used = rows.filter(complete)
        values = np.full((3, rows.height), np.nan)
        if used.height:
            mu, phi = family.mean(used[ETA].to_numpy()), beyond(used[PHI], family)
            values[:, complete] = _residuals(family, response_arrays(fitted.recipe, used), mu, phi)
        made = [pl.Series(name, values[i], nan_to_null=True) for i, name in enumerate(_RESIDUALS)]
        return pl.DataFrame(made).to_struct(batch.name)

    fields = [MISSING, ETA, PHI, *sorted(response)]
    struct = pl.Struct(dict.fromkeys(_RESIDUALS, pl.Float64))
    frame = frame.with_columns(
        pl.struct(columns(fields)).map_batches(residuals, return_dtype=struct, is_elementwise=True).alias(_RESIDUAL)
    )
    scale = scale_of(family)
    values = [
        scale.value(pl.col(ETA)),
        scale.value(pl.col(FIXED), pl.col(PHI_FIXED)),
        *(pl.col(_RESIDUAL).struct.field(name) for name in _RESIDUALS),
    ]
    outputs = [pl.when(~pl.col(MISSING)).then(value).alias(name) for value, name in zip(values, names, strict=True)]
    frame = frame.select(*columns(schema), *outputs, *quantiles)
    return add_normalized(frame, fitted, f"{more.prefix}resid_pearson", normalized[0]) if normalized else frame


def _residuals(family: Family, rows: Rows, mu: Vec, phi: Vec | None) -> tuple[Vec, Vec, Vec]:
    """Response, Pearson and deviance residuals of complete rows; each (n,)."""
    if isinstance(family, Censored):
        return censored_residuals(family, rows, mu, phi)
    trials = 1.0 if rows.trials is None else rows.trials
    with np.errstate(all="ignore"):  # no trial, or a mean at the edge of its range: without a warning
        resid = rows.y / trials - family.expectation(mu, phi)[0]
        variance = family.response_variance(rows, mu, phi)
        deviance = np.maximum(family.unit_deviance(rows, mu, phi), 0.0)
        return resid, resid / np.sqrt(variance), np.sign(resid) * np.sqrt(deviance)
