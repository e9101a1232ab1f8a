"""The thresholds of ordered categories as a formula of their own, and what they do to the others."""

from __future__ import annotations

from dataclasses import replace

from polars_glmm.errors import ModelError
from polars_glmm.families.base import Family

from .terms import INTERCEPT, PredictorTerms


def with_thresholds(predictors: tuple[PredictorTerms, ...], family: Family) -> tuple[PredictorTerms, ...]:
    """The predictors with one of the thresholds, if the family has some: "thresholds ~ 1" where none is asked for.

    Thresholds take up the constant, so the others have no intercept; their coding is that beside one.
    Raises ModelError for what thresholds cannot have, and for terms that stand in mu and in them.
    """
    own = next((one for one in family.parameters if one.picked), None)
    if own is None:
        return predictors
    order = [one.name for one in family.parameters]
    asked = {part.parameter: part for part in predictors}
    there = asked.setdefault(own.name, PredictorTerms(own.name, (INTERCEPT,)))
    if there.offsets:
        raise ModelError("Thresholds take no offset: an offset in the first formula moves all of them.")
    takes = {one.name: one.random for one in family.parameters}
    for part in predictors:
        if part.random and not takes[part.parameter]:
            raise ModelError(f"{part.parameter} takes no random effects: write them in the first formula.")
    twice = {term.key for term in predictors[0].fixed} & {term.key for term in there.fixed} - {INTERCEPT.key}
    if twice:
        text = next(term.text for term in there.fixed if term.key in twice)
        msg = f"{text} stands in the first formula and in that of the thresholds, which it moves too: take one out."
        raise ModelError(msg)
    scales = {name for name in order if name not in (order[0], own.name)}
    return tuple(
        _beside_intercept(asked[name], absorbed=name != own.name, scaling=name in scales)
        for name in order
        if name in asked
    )


def _beside_intercept(part: PredictorTerms, *, absorbed: bool, scaling: bool) -> PredictorTerms:
    """A predictor with an intercept among its terms, which may be coded for only."""
    rest = tuple(term for term in part.fixed if term != INTERCEPT)
    return replace(part, fixed=(INTERCEPT, *rest), absorbed=absorbed, scaling=scaling)
