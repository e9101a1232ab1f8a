"""Draws of numbers as what the response was: whole numbers, Boolean, labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Recipe


def as_response(drawn: pl.Series, recipe: Recipe) -> pl.Series:
    """Simulated numbers (Float64, nulls where there are none) in the dtype that a fit would read as the same response.

    Numbers of successes beside trials are whole numbers whatever the column was: 0.0 and 1.0 could be shares.
    """
    response, spec = recipe.response, recipe.spec
    labels, dtype = response.labels, response.dtype
    if labels is not None and dtype is not None:
        if dtype == pl.Boolean:
            return drawn.cast(pl.Boolean) if labels[-1] == "true" else ~drawn.cast(pl.Boolean)
        numbers = [float(k) for k in range(len(labels))]
        return drawn.replace_strict(numbers, list(labels), default=None, return_dtype=pl.String).cast(dtype)
    if not spec.family.discrete or response.proportion:
        return drawn
    if dtype == pl.Boolean and response.trials is None and spec.family.takes_trials:
        return drawn.cast(pl.Boolean)
    if dtype is not None and (dtype.is_integer() or dtype == pl.Boolean):
        return _whole(drawn, pl.Int64() if dtype == pl.Boolean else dtype)
    return _whole(drawn, pl.Int64()) if spec.trials is not None else drawn


def _whole(drawn: pl.Series, dtype: pl.DataType) -> pl.Series:
    """As whole numbers of a dtype, or as Int64 where it cannot hold them all."""
    cast = drawn.cast(dtype, strict=False)
    return cast if cast.null_count() == drawn.null_count() else drawn.cast(pl.Int64)
