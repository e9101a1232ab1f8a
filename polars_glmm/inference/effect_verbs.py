"""`predictions`, `comparisons` and `slopes`: the arguments of the verbs, and whether rows or averages answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from polars_glmm.errors import ModelError
from polars_glmm.frames.aggregates import computed
from polars_glmm.inference.effects import (
    Asked,
    HowCompared,
    asked_of,
    average_comparisons,
    average_predictions,
    by_category,
    check_comparison,
)
from polars_glmm.inference.row_effects import row_comparisons, row_predictions
from polars_glmm.prediction.category_quantities import CATEGORY
from polars_glmm.prediction.counterfactuals import CompareLike, comparisons_of, slopes_of

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

AnyFrame = pl.DataFrame | pl.LazyFrame


def predictions(
    fit: Answer,
    frame: AnyFrame | None = None,
    variables: CompareLike = None,
    by: str | Sequence[str] | None = None,
    *,
    average: bool = True,
    **shared: Any,
) -> AnyFrame:
    """Average predictions by groups and values of `variables`, or one for each row."""
    asked = asked_of(fit, frame, by=by, verb="predictions", **shared)
    if average:
        return _stacked(fit, asked, lambda one: average_predictions(fit, one, variables))
    _refuse_groups(by, "predictions")
    if variables is not None:
        msg = "predictions(average=False) predicts the rows as they are: make a frame of the values with grid()."
        raise ModelError(msg)
    return _as_given(fit, frame, row_predictions(fit, asked))


def comparisons(  # noqa: PLR0913  the arguments of the public verb
    fit: Answer,
    frame: AnyFrame | None = None,
    variables: CompareLike = None,
    by: str | Sequence[str] | None = None,
    *,
    contrast: Any = None,
    comparison: HowCompared = "difference",
    average: bool = True,
    **shared: Any,
) -> AnyFrame:
    """Two predictions of the same rows compared, on average by groups, or for each row."""
    check_comparison(comparison)
    asked = asked_of(fit, frame, by=by, verb="comparisons", **shared)
    wanted = comparisons_of(fit, variables, contrast, ratio=comparison == "ratio")
    if not wanted:
        msg = "comparisons: there is nothing to compare. Name a variable with at least two values."
        raise ModelError(msg)
    if average:
        return _stacked(fit, asked, lambda one: average_comparisons(fit, one, wanted, comparison))
    _refuse_groups(by, "comparisons")
    return _as_given(fit, frame, row_comparisons(fit, asked, wanted, comparison))


def slopes(
    fit: Answer,
    frame: AnyFrame | None = None,
    variables: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    *,
    average: bool = True,
    **shared: Any,
) -> AnyFrame:
    """Derivatives of predictions in numeric variables, on average by groups, or for each row."""
    asked = asked_of(fit, frame, by=by, verb="slopes", **shared)
    wanted = slopes_of(fit, variables, asked.frame)
    if average:
        return _stacked(fit, asked, lambda one: average_comparisons(fit, one, wanted, "difference"))
    _refuse_groups(by, "slopes")
    return _as_given(fit, frame, row_comparisons(fit, asked, wanted, "difference"))


def _stacked(fit: Answer, asked: Asked, answer: Callable[[Asked], pl.DataFrame]) -> pl.DataFrame:
    """The answer, or those for each category one after the other."""
    parts = [
        found if name is None else found.select(pl.lit(name).alias(CATEGORY), pl.all())
        for name, one in by_category(fit, asked)
        for found in (answer(one),)
    ]
    return pl.concat(parts)


def _refuse_groups(by: str | Sequence[str] | None, verb: str) -> None:
    if by:
        msg = f"{verb}: by= makes averages, and average=False asks for those of single rows. Leave one of them out."
        raise ModelError(msg)


def _as_given(fit: Answer, frame: AnyFrame | None, made: pl.LazyFrame) -> AnyFrame:
    """A LazyFrame stays lazy; without a frame the rows of the fit say what it is."""
    lazy = isinstance(frame, pl.LazyFrame) or (frame is None and fit.rows is None)
    return made if lazy else computed(made)
