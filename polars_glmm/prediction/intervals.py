"""Intervals for new responses, in a lazy plan: quantiles of the family over what is not known of its mean.

The linear predictor of a new response counts as normal about its prediction, with the variance that an interval for
the mean has; the response is drawn from the family given it. Gaussian responses stay normal: v + phi²/precision. For
counts the limits are the smallest values that leave at most (1 − level)/2 beyond each of them, so that the interval
holds at least its level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.families.quantiles import averaged_quantile
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.linear_predictor import ETA, MISSING
from polars_glmm.prediction.rows import PHI, beyond, size_inputs, sizes_of

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.families.base import Family, Rows
    from polars_glmm.typing import Vec

LOW, HIGH = f"{INTERNAL}low", f"{INTERNAL}high"
TOTAL, LIMITS = f"{INTERNAL}total", f"{INTERNAL}limits"


def new_response_limits(recipe: Recipe, conf_level: float, df: float | None) -> pl.Expr:
    """Struct of LOW and HIGH for rows with MISSING, ETA, its variance TOTAL, PHI and the sizes of the responses.

    df   degrees of freedom of a gaussian interval; None: normal. A share of trials where the mean is a probability.
    """
    family, tail = recipe.spec.family, 0.5 * (1.0 - conf_level)

    def limits(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        low, high = np.full((2, rows.height), np.nan)
        complete = ~rows[MISSING].to_numpy()
        used = rows.filter(complete)
        if used.height:
            sizes = sizes_of(recipe, used)
            phi = beyond(used[PHI], family)
            at = used[ETA].to_numpy(), used[TOTAL].to_numpy(), phi
            low[complete], high[complete] = _limits(family, sizes, at, tail, df)
        made = [pl.Series(LOW, low), pl.Series(HIGH, high)]
        return pl.DataFrame(made).to_struct(batch.name)

    fields = columns([MISSING, ETA, TOTAL, PHI, *sorted(size_inputs(recipe))])
    struct = pl.Struct(dict.fromkeys((LOW, HIGH), pl.Float64()))
    return pl.struct(fields).map_batches(limits, return_dtype=struct, is_elementwise=True)


def _limits(
    family: Family, sizes: Rows, at: tuple[Vec, Vec, Vec | None], tail: float, df: float | None
) -> tuple[Vec, Vec]:
    from scipy.special import ndtri, stdtrit  # noqa: PLC0415  scipy stays out of plain imports

    eta, variance, phi = at
    if family.linear:
        assert phi is not None
        precision = 1.0 if sizes.precision is None else sizes.precision
        half = -float(ndtri(tail) if df is None or not np.isfinite(df) else stdtrit(df, tail))
        margin = half * np.sqrt(variance + phi**2 / precision)
        return eta - margin, eta + margin
    low, high = (averaged_quantile(family, sizes, eta, variance, phi, p) for p in (tail, 1.0 - tail))
    return (low, high) if sizes.trials is None else (low / sizes.trials, high / sizes.trials)
