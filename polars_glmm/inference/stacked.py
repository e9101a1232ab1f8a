"""Tables of many models that were made together: those of one model, of which everything has the models in front.

Every function gives the rows of all models, model after model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.inference.coefficients import exponentiated
from polars_glmm.inference.covariance import DegreesOfFreedom, coefficient_covariance
from polars_glmm.inference.dispersion import dispersion_of
from polars_glmm.inference.glance import glance_of
from polars_glmm.inference.ranef import effects_of
from polars_glmm.inference.schemas import FIXEF, GROUP_SIZES, RANEF, per_model, table
from polars_glmm.inference.varcorr import varcorr_of
from polars_glmm.inference.wald import core
from polars_glmm.typing import IntVec, Mat

if TYPE_CHECKING:
    from polars_glmm.answer.many import Batch


def fixef_all(batch: Batch, conf_level: float, df: DegreesOfFreedom, *, exponentiate: bool) -> pl.DataFrame:
    """As inference.coefficients.fixef."""
    e = batch.estimate
    found = core(e.beta, np.einsum("mpp->mp", e.vcov_fixed), _freedom(batch, df), conf_level=conf_level)
    if exponentiate:
        found = exponentiated(found)
    numbers = {name: values.T for name, values in found.columns().items()}  # by column, over the models
    names = [column.name for column in batch.recipe.predictors[0].columns]
    rows = [
        {"parameter": "mu", "term": name, **{of: values[j] for of, values in numbers.items()}}
        for j, name in enumerate(names)
    ]
    return per_model(FIXEF, rows, (len(batch),))


def _freedom(batch: Batch, df: DegreesOfFreedom) -> Mat:
    """Degrees of freedom (M, p); the first model says what there is and what is wrong."""
    e = batch.estimate
    if df in (None, "satterthwaite") and e.df_satterthwaite is not None:
        return e.df_satterthwaite
    first = coefficient_covariance(batch.one(0), df=df).df_each(None)
    return np.tile(first, (len(batch), 1))


def varcorr_all(batch: Batch, conf_level: float) -> pl.DataFrame:
    """As inference.varcorr.varcorr."""
    return varcorr_of(batch.estimate, residual=batch.recipe.spec.family.residual, conf_level=conf_level)


def dispersion_all(batch: Batch, conf_level: float) -> pl.DataFrame:
    """As inference.dispersion.dispersion."""
    return dispersion_of(batch.estimate, batch.recipe.spec.family, conf_level=conf_level)


def ranef_all(batch: Batch) -> pl.DataFrame:
    """As inference.ranef.ranef without a group: per model factor by factor, term by term, level by level."""
    e = batch.estimate
    parts, models = [table(RANEF, {name: [] for name in RANEF})], [np.empty(0, dtype=np.intp)]
    for recipe, factor, at in zip(batch.recipe.factors, e.factors, e.levels, strict=True):
        parts.append(effects_of(recipe, factor, at.model))
        models.append(np.repeat(np.arange(len(batch)), at.counts * len(factor.term_names)))
    rows = pl.concat(parts)
    return rows if len(e.factors) < 2 else rows[np.argsort(np.concatenate(models), kind="stable")]


def ranef_rows(batch: Batch) -> IntVec:
    """Rows of the table of effects that each model has, (M,)."""
    e = batch.estimate
    both = zip(e.factors, e.model_levels, strict=True)
    return np.asarray(np.sum([counts * len(factor.term_names) for factor, counts in both], axis=0))


def glance_all(batch: Batch) -> pl.DataFrame:
    """As inference.glance.glance."""
    return glance_of(batch.estimate, batch.recipe.spec, _groups(batch), batch.dropped.missing, batch.seconds)


def _groups(batch: Batch) -> pl.Series:
    """The sizes of the grouping factors of every model, as a list of structs."""
    e, n = batch.estimate, len(batch)
    sizes = [
        pl.DataFrame(
            {
                "group": pl.repeat(factor.name, n, dtype=pl.String, eager=True),
                "n_levels": at.counts,
                "smallest": np.minimum.reduceat(own, at.first),
                "largest": np.maximum.reduceat(own, at.first),
            },
            schema=dict(GROUP_SIZES),
        )
        for factor, at, own in zip(e.factors, e.levels, batch.level_sizes, strict=True)
    ]
    of_model = np.arange(n * len(sizes)).reshape(len(sizes), n).T.reshape(-1)
    return pl.concat(sizes)[of_model].to_struct("groups").reshape((n, len(sizes))).cast(pl.List(GROUP_SIZES))
