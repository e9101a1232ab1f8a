"""Tables of coefficients: which parameters stand in one, what it is called, and the sentence below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def heading_of(fit: Answer, parameter: str) -> str:
    """What the coefficients of a further parameter are called: on the scale of its link."""
    of = {one.name: one for one in fit.spec.family.parameters}[parameter]
    return "Thresholds" if of.picked else f"Fixed effects of {of.link.name} {parameter}"


def sentence_of(fit: Answer, parameter: str) -> str:
    """What a parameter is, as its family says it."""
    of = {one.name: one for one in fit.spec.family.parameters}[parameter]
    said = of.definition
    return f"{said[0].upper()}{said[1:]}." if of.picked else f"{parameter} is the {said}."


def together(fit: Answer) -> list[tuple[str, ...]]:
    """The parameters that have a formula, those of a curve or of unordered categories in one table."""
    curve, known = fit.spec.family.curve, [one.parameter for one in fit.recipe.predictors]
    if fit.spec.family.unordered:
        return [tuple(known)]
    of_mean = known[:1] if curve is None else list(curve.parameters)
    return [tuple(of_mean), *((name,) for name in known[len(of_mean) :])]
