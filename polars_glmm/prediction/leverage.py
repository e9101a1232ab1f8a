"""Leverage: how far each fitted value follows its own response, at the estimated variances."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.design.known import read_known, refuse_effects_elsewhere, used_columns
from polars_glmm.likelihood.known.joint import HeldParameters, Leverage, known_model
from polars_glmm.prediction.columns import FrameT, apply_plan, refuse_clash

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.typing import IntVec


class RowLeverage(NamedTuple):
    """Leverage of complete rows, their places in the frame (m,), and the conditional log-likelihood of them."""

    found: Leverage
    places: IntVec
    loglik: float


def leverage_of(fit: Answer, rows: pl.DataFrame) -> RowLeverage:
    """The leverage of rows that count as the whole data, the parameters of a fit held."""
    refuse_effects_elsewhere(fit.recipe, "Leverage, and what is made of it,", curves=True)
    family = fit.recipe.spec.family
    known = read_known(fit.recipe, rows, own_levels=True)
    model = known_model(known.design, family, fit.control, HeldParameters.of(fit.estimate, family))
    return RowLeverage(model.leverage(), known.places, model.conditional_loglik())


def add_leverage(frame: FrameT, fit: Answer, name: str) -> FrameT:
    """The frame with the leverage of its rows, null where they are incomplete; all of them pass through memory."""

    def added(rows: pl.DataFrame) -> pl.DataFrame:
        out = np.full(rows.height, np.nan)
        if rows.height:
            found = leverage_of(fit, rows.select(columns(used_columns(fit.recipe))))
            out[found.places] = found.found.value
        return rows.with_columns(pl.Series(name, out, nan_to_null=True))

    def plan(lazy: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
        refuse_clash(schema, [name], "set them apart with prefix=.")
        return lazy.map_batches(
            added, schema=pl.Schema({**schema, name: pl.Float64()}), predicate_pushdown=False,
            projection_pushdown=False, slice_pushdown=False,
        )  # fmt: skip

    return apply_plan(frame, "augment", plan)
