"""What covariance structures say, in words, beside the table of random effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polars_glmm.covariance.structures import STRUCTURES, plain_name, written_around

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Recipe


def structure_remarks(recipe: Recipe) -> list[str]:
    """A sentence for every term whose structure a formula writes by name."""
    terms = [(factor.name, term.structure) for factor in recipe.factors for term in factor.terms]
    return [
        f"{group}, {plain_name(text)}(): {STRUCTURES[text].words}." for group, text in terms if written_around(text)
    ]
