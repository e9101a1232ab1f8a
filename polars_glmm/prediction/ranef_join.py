"""Random effects beside the rows they belong to: a left join with the wide tables of all grouping factors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.prediction.columns import FrameT, apply_plan, is_collection, refuse_clash, require_columns
from polars_glmm.prediction.effects import factors_of
from polars_glmm.prediction.keys import match_key

if TYPE_CHECKING:
    from polars_glmm.result import Fit, FitCollection


def with_ranef(frame: FrameT, fit: Fit | FitCollection, prefix: str = "") -> FrameT:
    """The frame with `fit.ranef(group)` of every grouping factor joined on: modes and their conditional SDs.

    Columns are those of the wide tables ("LOCATION_Intercept", "LOCATION_Intercept_se", …) with `prefix` in front.
    Rows, their order and their columns are kept; a level that the fit has not seen and a null key give nulls. A
    LazyFrame stays lazy. Raises ColumnError for an absent key, one of an unusable dtype, or a name taken already.
    """
    if is_collection(fit):  # every key is answered by its own model
        return fit.with_ranef(frame, prefix)
    return apply_plan(frame, "with_ranef", lambda lazy, schema: _plan(lazy, schema, fit, prefix))


def _plan(frame: pl.LazyFrame, schema: pl.Schema, fit: Fit, prefix: str) -> pl.LazyFrame:
    added: list[str] = []
    for factor in factors_of(fit, "all"):
        keys = factor.recipe.keys
        require_columns(schema, keys, "with_ranef")
        wide = fit.ranef(factor.recipe.name)
        pairs = {key: match_key(key, schema[key], wide.schema[key]) for key in keys}
        names = dict(zip(keys, factor.level_names, strict=True))
        learned = [pair.learned.alias(names[key]) for key, pair in pairs.items()]
        found = [pair.found.alias(names[key]) for key, pair in pairs.items()]
        values = [pl.col(column).alias(f"{prefix}{column}") for column in wide.columns if column not in keys]
        added += [f"{prefix}{column}" for column in wide.columns if column not in keys]
        refuse_clash(schema, added, "set them apart with prefix=.")
        table = wide.lazy().select(*learned, *values)
        frame = frame.with_columns(found).join(table, on=factor.level_names, how="left", maintain_order="left")
    return frame.select(*schema.names(), *added)
