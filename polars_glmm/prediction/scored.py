"""Effects of groups that a fit has not seen, as `score` gives them, in the place of the modes it has."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.design.recipe import FactorRecipe
from polars_glmm.errors import ColumnError, ModelError, enumerate_names
from polars_glmm.frames.elsewhere import read
from polars_glmm.likelihood.parameters.parts import label
from polars_glmm.prediction.effects import JoinedFactor
from polars_glmm.prediction.parameters import Parameters

_NEEDED = ("group", "term", "estimate")


def with_scored(fitted: Parameters, scored: pl.DataFrame | pl.LazyFrame) -> Parameters:
    """Parameters whose levels of the factors in `scored` are those of that frame; a LazyFrame stays lazy.

    Raises ColumnError for a frame without the columns of score(), ModelError for one of no factor of the model.
    """
    lazy = read(scored, "predict(ranef=)").lazy()
    schema = lazy.collect_schema()
    absent = [name for name in _NEEDED if name not in schema]
    if absent:
        msg = f"ranef= lacks {enumerate_names(absent)}: it takes the frame of fit.score(frame)."
        raise ColumnError(msg)
    if not any(set(factor.recipe.keys) <= set(schema) for factor in fitted.factors):
        keys = enumerate_names([key for factor in fitted.factors for key in factor.recipe.keys])
        msg = f"ranef= has the keys of no grouping factor ({keys}): it takes the frame of fit.score(frame)."
        raise ModelError(msg)
    factors = tuple(
        replace(factor, scored=_wide(factor, lazy)) if set(factor.recipe.keys) <= set(schema) else factor
        for factor in fitted.factors
    )
    return replace(fitted, factors=factors)


def effect_labels(factor: FactorRecipe) -> list[str]:
    """Names that tell the random effects of a factor apart: "x", "phi Intercept"."""
    return [
        label(column.name, on)
        for term in factor.terms
        for column, on in zip(term.columns, term.parameter_of, strict=True)
    ]


def _wide(factor: JoinedFactor, lazy: pl.LazyFrame) -> pl.LazyFrame:
    """A row per level: keys, code, modes."""
    keys = columns(factor.recipe.keys)
    modes = [
        pl.col("estimate").filter(pl.col("term") == name).first().alias(factor.mode(j))
        for j, name in enumerate(effect_labels(factor.recipe))
    ]
    levels = lazy.filter(pl.col("group") == factor.recipe.name).group_by(keys).agg(modes)
    return levels.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias(factor.code))
