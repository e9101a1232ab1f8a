"""What a test of a term says of the coefficients: hypotheses of types I, II and III as rows L."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from polars_glmm.inference.estimable import FixedColumns
from polars_glmm.inference.sum_coding import type_three
from polars_glmm.typing import BoolVec, IntVec, Mat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from polars_glmm.design.recipe import Categorical
    from polars_glmm.inference.term_columns import TermColumns

TermType: TypeAlias = Literal[1, 2, 3]


class TermHypothesis(NamedTuple):
    """A term and its rows (q, k) over the kept columns of its predictor; determined: the data tell it from the others.

    size   columns of the term, dropped ones among them
    """

    term: TermColumns
    rows: Mat
    determined: bool
    size: int


def sequential(terms: Sequence[TermColumns], columns: FixedColumns, metric: Mat) -> list[TermHypothesis]:
    """Type I: each term adjusted for those before it, the ones after it left out, in a metric (k, k).

    The rows of the Cholesky factor U of U'U = metric: with X'X the sums of squares of least squares, with the inverse
    covariance of the coefficients those of generalised least squares.
    """
    kept = columns.kept
    number = np.cumsum(kept) - 1
    scale = np.sqrt(np.diag(metric))
    upper = np.linalg.cholesky(metric / np.outer(scale, scale)).T * scale
    return [
        TermHypothesis(term, upper[number[_own(term, kept)]], determined=True, size=len(term.places)) for term in terms
    ]


def marginal(terms: Sequence[TermColumns], columns: FixedColumns, metric: Mat) -> list[TermHypothesis]:
    """Type II: each term adjusted for all that do not contain it by name, those that do left out, in a metric (k, k).

    Leaving out the columns C turns the coefficients of the others, O, into β_O + (M_OO)⁻¹M_OC β_C: rows of the term.
    """
    kept = columns.kept
    number = np.cumsum(kept) - 1
    found = []
    for term in terms:
        containing = [other for other in terms if other.key > term.key]
        above = number[np.concatenate([_own(other, kept) for other in containing])] if containing else _none()
        own = number[_own(term, kept)]
        others = np.setdiff1d(np.arange(len(metric)), above)
        rows = np.zeros((len(own), len(metric)))
        rows[np.arange(len(own)), own] = 1.0
        if len(above) and len(own):
            scale = np.sqrt(np.diag(metric))[others]
            inner = metric[np.ix_(others, others)] / np.outer(scale, scale)
            carried = np.linalg.solve(inner, metric[np.ix_(others, above)] / scale[:, None]) / scale[:, None]
            rows[:, above] = carried[np.searchsorted(others, own)]
        found.append(TermHypothesis(term, rows, held_apart(term, terms, columns), len(term.places)))
    return found


def held_apart(term: TermColumns, terms: Sequence[TermColumns], columns: FixedColumns) -> bool:
    """Whether no dropped column of another term, made by columns of this one, takes a part of what this one holds.

    Terms that contain it are left out, and what was dropped for their sake is no matter.
    """
    outside = {place for other in terms if other.key > term.key for place in other.places}
    for row in columns.null:
        used = set(np.flatnonzero(row).tolist())
        dropped = next(iter(used - set(np.flatnonzero(columns.kept).tolist())))
        if dropped not in term.places and not used & outside and used & set(term.places):
            return False
    return True


def adjusted_for_all(
    terms: Sequence[TermColumns], columns: FixedColumns, categoricals: Mapping[str, Categorical]
) -> list[TermHypothesis]:
    """Type III: each term adjusted for all others, in sum-to-zero coding whatever the coding of the formula."""
    rows = type_three(terms, categoricals)
    return [
        TermHypothesis(
            term, rows[term.name][:, columns.kept], bool(columns.determines(rows[term.name]).all()), len(term.places)
        )
        for term in terms
    ]


def _own(term: TermColumns, kept: BoolVec) -> IntVec:
    places = np.array(term.places, dtype=np.intp)
    return places[kept[places]]


def _none() -> IntVec:
    return np.empty(0, dtype=np.intp)
