"""Random effects beside the rows they belong to: a left join with the wide tables of all grouping factors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.answer.many import Answers
from polars_glmm.columns.named import columns
from polars_glmm.foreign import answered
from polars_glmm.frames.elsewhere import on_engine
from polars_glmm.likelihood.estimate import conditional_std_error
from polars_glmm.prediction.by_key import KeyedVerb, apply_by_key
from polars_glmm.prediction.columns import FrameT, apply_plan, refuse_clash, require_columns
from polars_glmm.prediction.effects import JoinedFactor
from polars_glmm.prediction.engine_verbs import ranef_on_engine
from polars_glmm.prediction.members import refuse_slots
from polars_glmm.prediction.parameters import Parameters, of_fit

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

ERROR = "_se"
"""Behind the name of a column of modes: their conditional SDs."""


@answered
def with_ranef(frame: FrameT, fit: Answer | Answers, prefix: str = "") -> FrameT:
    """The frame with `fit.ranef(group)` of every grouping factor joined on: modes and their conditional SDs.

    Columns are those of the wide tables ("LOCATION_Intercept", "LOCATION_Intercept_se", …) with `prefix` in front.
    Rows, their order and their columns are kept; a level that the fit has not seen and a null key give nulls. A
    LazyFrame stays lazy. Raises ColumnError for an absent key, one of an unusable dtype, or a name taken already.
    """
    if isinstance(fit, Answers):
        answer = lambda rows, own: with_ranef_from(rows, own, prefix)
        return apply_by_key(frame, fit, KeyedVerb("with_ranef", answer, lambda own: ranef_columns(own, prefix), None))
    return with_ranef_from(frame, of_fit(fit), prefix)


def with_ranef_from(frame: FrameT, fitted: Parameters, prefix: str) -> FrameT:
    """`with_ranef` from the parameters of one fit or of many."""
    refuse_slots(fitted.factors, "with_ranef() joins the effects of one level", "Join ranef(group=…) by each column.")
    if (engine := on_engine(frame)) is not None:
        made: FrameT = ranef_on_engine(engine, fitted, [_names(factor, prefix) for factor in fitted.factors])
        return made
    return apply_plan(frame, "with_ranef", lambda lazy, schema: _plan(lazy, schema, fitted, prefix))


def ranef_columns(fitted: Parameters, prefix: str) -> list[str]:
    """Names of the columns that `with_ranef` adds."""
    return [name for factor in fitted.factors for name in _names(factor, prefix)]


def _plan(frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, prefix: str) -> pl.LazyFrame:
    added = ranef_columns(fitted, prefix)
    require_columns(schema, [key for factor in fitted.factors for key in factor.recipe.keys], "with_ranef")
    refuse_clash(schema, added, "set them apart with prefix=.")
    frame = fitted.attach(frame)
    for factor in fitted.factors:
        std_error = conditional_std_error(factor.mode_covariance)
        both = [value for k, mode in enumerate(factor.modes) for value in (mode.copy(), std_error[k])]
        values = [
            pl.Series(name, value, nan_to_null=name.endswith(ERROR))
            for name, value in zip(_names(factor, prefix), both, strict=True)
        ]
        frame = factor.join(frame, schema, values)
    return frame.select(columns([*schema, *added]))


def _names(factor: JoinedFactor, prefix: str) -> list[str]:
    return [f"{prefix}{factor.recipe.name}_{term}{end}" for term in factor.column_names for end in ("", ERROR)]
