"""What a table of a parameter's coefficients is called, and the sentence below it."""

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
