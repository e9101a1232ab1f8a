"""Unordered categories: the terms of one formula as a predictor for each category but the baseline."""

from __future__ import annotations

from dataclasses import replace

from polars_glmm.errors import ModelError
from polars_glmm.families.base import Family

from .terms import PredictorTerms


def for_each_category(part: PredictorTerms, family: Family) -> tuple[PredictorTerms, ...]:
    """The predictors of a family that has one for every category but the first, all of the terms of `part`.

    Random terms stand in each: with a label, `(1 |p| g)`, they have one covariance matrix across the categories,
    without one they are independent. Families of one predictor have `part` itself.
    """
    if not family.unordered:
        return (part,)
    return tuple(
        replace(
            part,
            parameter=one.name,
            random=tuple(replace(term, part=place, parameter=one.name) for term in part.random),
        )
        for place, one in enumerate(family.parameters)
    )


def refuse_further(formulas: tuple[str, ...], offset: object, family: Family) -> None:
    """Raise ModelError for what predictors of categories do not take."""
    if not family.unordered:
        return
    if formulas:
        msg = (
            f"family={family.name!r} has one formula, whose terms every category but the baseline has; "
            f"{formulas[0]!r} is one more. Leave it out."
        )
        raise ModelError(msg)
    if offset is not None:
        msg = (
            f"offset= is of one mean, and family={family.name!r} has a predictor for each category: write "
            f"offset(…) in the formula, which adds it to all of them."
        )
        raise ModelError(msg)
