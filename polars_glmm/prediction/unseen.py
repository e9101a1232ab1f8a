"""Levels of a frame that a fit has not seen: what to look at before rows are scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.columns import named
from polars_glmm.errors import ModelError
from polars_glmm.frames.aggregates import aggregated
from polars_glmm.frames.elsewhere import on_engine, read
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.prediction.columns import readable_schema, require_columns
from polars_glmm.prediction.guards import is_known
from polars_glmm.prediction.keys import match_key
from polars_glmm.prediction.linear_predictor import looked_up_in, used_categoricals
from polars_glmm.prediction.members import slot_weights
from polars_glmm.prediction.places import levels_beyond, places_of

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.design.recipe import FactorRecipe
    from polars_glmm.spec.members import Members

_COUNT, _ROW, _LEVEL, _TEXT = "__glmm_count", "__glmm_row", "__glmm_level", "__glmm_text"
_SCHEMA = {"variable": pl.String, "part": pl.String, "level": pl.String, "n_rows": pl.Int64}


def unseen(frame: object, fit: Answer) -> pl.DataFrame:
    """One row for every level of a frame that the fit does not know; see `Fit.unseen`."""
    engine = on_engine(frame)
    source = engine if engine is not None else read(frame, "unseen").lazy()
    schema = engine.schema if engine is not None else readable_schema(read(frame, "unseen").lazy())
    recipe = fit.recipe
    terms = [term for factor in recipe.factors for term in factor.terms]
    parts = range(len(recipe.spec.family.parameters))
    fixed = used_categoricals(recipe, looked_up_in(recipe, ()) | levels_beyond(terms, *parts))
    keys = {key for factor in recipe.factors for key in factor.columns}
    fields = list(dict.fromkeys(at for term in terms if (at := places_of(term)) is not None))
    beside = {name for field in fields for name in field.names}
    require_columns(schema, {*keys, *beside, *(factor.column for factor in fixed)}, "unseen")
    found = []
    for categorical in fixed:
        counts = _counted(source, [categorical.column])
        unknown = counts.filter(~is_known(categorical).fill_null(value=True))
        found.append(_named(unknown, categorical.column, "fixed", [categorical.column]))
    for factor in recipe.factors:
        if factor.members is not None:
            found.append(_named(_unseen_slots(source, factor, factor.members, schema), factor.name, "random", [_LEVEL]))
            continue
        counts = _counted(source, factor.keys)
        pairs = {key: match_key(key, schema[key], dtype) for key, dtype in factor.levels.schema.items()}
        levels = factor.levels.select(pair.learned.alias(key) for key, pair in pairs.items())
        own = counts.with_columns(pair.found.alias(f"__glmm_{key}") for key, pair in pairs.items())
        on = [f"__glmm_{key}" for key in pairs]
        unknown = own.join(levels.rename({key: f"__glmm_{key}" for key in pairs}), on=on, how="anti")
        found.append(_named(unknown, factor.name, "random", factor.keys))
    for field in fields:
        counts = _counted(source, field.names)
        points, known = counts.select(named.columns(field.names)).iter_rows(), frozenset(field.points)
        new = pl.Series([tuple(map(float, point)) not in known for point in points], dtype=pl.Boolean)
        found.append(_named(counts.filter(new), ":".join(field.names), "random", field.names))
    return pl.concat(found).sort("part", "variable", "level", maintain_order=True)


def _unseen_slots(
    source: pl.LazyFrame | EngineFrame, factor: FactorRecipe, members: Members, schema: pl.Schema
) -> pl.DataFrame:
    """The unseen levels of the slots that rows use, and the rows that have them."""
    if isinstance(source, EngineFrame):
        msg = f"unseen() looks at one level of each factor where an engine holds rows, and {factor.name!r} has several."
        raise ModelError(msg)
    (name, dtype), *_ = factor.levels.schema.items()
    found = []
    rows = source.with_row_index(_ROW)
    for key, weight in zip(members.keys, slot_weights(members, schema), strict=True):
        pair = match_key(key, schema[key], dtype)
        used = rows.filter(weight != 0.0)
        learned = factor.levels.rename({name: key}).lazy().select(pair.learned.alias(_LEVEL))
        own = used.filter(named.column(key).is_not_null()).select(
            _ROW, pair.found.alias(_LEVEL), named.column(key).cast(pl.String).alias(_TEXT)
        )
        found.append(own.join(learned, on=_LEVEL, how="anti").select(_ROW, pl.col(_TEXT).alias(_LEVEL)))
    each = pl.concat(found).unique().group_by(_LEVEL).agg(pl.len().cast(pl.Int64).alias(_COUNT))
    return aggregated(each)


def _counted(source: pl.LazyFrame | EngineFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Distinct values of columns without a null, and the rows of each."""
    if isinstance(source, EngineFrame):
        return source.counted(keys, _COUNT).drop_nulls(list(keys))
    counts = source.group_by(named.columns(keys)).agg(pl.len().cast(pl.Int64).alias(_COUNT))
    return aggregated(counts).drop_nulls(list(keys))


def _named(counts: pl.DataFrame, variable: str, part: str, keys: Sequence[str]) -> pl.DataFrame:
    label = pl.concat_str([named.column(key).cast(pl.String) for key in keys], separator=":")
    made = counts.select(
        pl.lit(variable).alias("variable"), pl.lit(part).alias("part"), label.alias("level"),
        pl.col(_COUNT).alias("n_rows"),
    )  # fmt: skip
    return made.cast(_SCHEMA)  # type: ignore[arg-type]
