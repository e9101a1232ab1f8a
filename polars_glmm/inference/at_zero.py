"""Type III tests of factors that interact with a numeric variable: they are tests where that variable is zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.columns.nodes import Coded, Reference
from polars_glmm.inference.term_columns import terms_of

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.design.recipe import PredictorRecipe
    from polars_glmm.inference.term_columns import TermColumns

_OUTSIDE = 0.05
"""Share of the rows on each side of the middle of the data, in which zero is a usual value."""


def at_zero_notes(fit: Answer, predictor: PredictorRecipe) -> dict[str, str]:
    """Per term what it is a test at, where zero is no value amid those of a numeric variable of a larger term.

    Only columns as they stand in the rows that a fit keeps in memory are looked at.
    """
    rows = fit.rows
    terms = terms_of(fit, predictor.parameter)
    wanted = {
        (term.name, variable)
        for term in terms
        if _categorical(term)
        for other in terms
        if other.key > term.key
        for variable in _numeric(other, other.key - term.key)
    }
    if rows is None or not wanted:
        return {}
    names = sorted({variable for _, variable in wanted} & set(rows.columns))
    ends = rows.select(
        end
        for name in names
        for end in (
            column(name).cast(pl.Float64).fill_nan(None).quantile(_OUTSIDE).alias(f"low:{name}"),
            column(name).cast(pl.Float64).fill_nan(None).quantile(1.0 - _OUTSIDE).alias(f"high:{name}"),
        )
    ).row(0, named=True)
    found: dict[str, str] = {}
    for term in terms:
        away = [
            variable
            for variable in names
            if (term.name, variable) in wanted and not _holds_zero(ends[f"low:{variable}"], ends[f"high:{variable}"])
        ]
        if away:
            at = " and ".join(f"{variable} = 0" for variable in away)
            found[term.name] = (
                f"type3_at_zero: this tests {term.name} at {at}, at the edge of the data or beyond; centre "
                f"{' and '.join(away)}, or use type=2."
            )
    return found


def _holds_zero(low: float | None, high: float | None) -> bool:
    return low is None or high is None or low < 0.0 < high


def _categorical(term: TermColumns) -> bool:
    return any(isinstance(piece.node, Coded) for pieces in term.pieces for piece in pieces)


def _numeric(term: TermColumns, factors: frozenset[str]) -> set[str]:
    """The numeric columns among these factors of a term that stand in it as they are."""
    return {
        piece.node.column
        for pieces in term.pieces
        for piece in pieces
        if piece.factor in factors and isinstance(piece.node, Reference)
    }
