"""What a test of a term says of the coefficients: hypotheses of types I, II and III as rows L."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

from polars_glmm.inference.estimable import dependences
from polars_glmm.inference.sum_coding import type_three
from polars_glmm.typing import BoolVec, IntVec, Mat

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from polars_glmm.design.recipe import Categorical, Combination, PredictorRecipe
    from polars_glmm.inference.term_columns import TermColumns

TermType: TypeAlias = Literal[1, 2, 3]
_TOLERANCE = 1e-8


class TermHypothesis(NamedTuple):
    """A term and its rows (q, k) over the kept columns of its predictor; determined: the data tell it from the others.

    size   columns of the term, dropped ones among them
    """

    term: TermColumns
    rows: Mat
    determined: bool
    size: int


def sequential(terms: Sequence[TermColumns], recipe: PredictorRecipe, metric: Mat) -> list[TermHypothesis]:
    """Type I: each term adjusted for those before it, the ones after it left out, in a metric (k, k).

    The rows of the Cholesky factor U of U'U = metric: with X'X the sums of squares of least squares, with the inverse
    covariance of the coefficients those of generalised least squares.
    """
    kept = np.array(recipe.kept, dtype=np.bool_)
    number = np.cumsum(kept) - 1
    scale = np.sqrt(np.diag(metric))
    upper = np.linalg.cholesky(metric / np.outer(scale, scale)).T * scale
    return [
        TermHypothesis(term, upper[number[_own(term, kept)]], determined=True, size=len(term.places)) for term in terms
    ]


def marginal(terms: Sequence[TermColumns], recipe: PredictorRecipe, metric: Mat) -> list[TermHypothesis]:
    """Type II: each term adjusted for all that do not contain it by name, those that do left out, in a metric (k, k).

    Leaving out the columns C turns the coefficients of the others, O, into β_O + (M_OO)⁻¹M_OC β_C: rows of the term.
    """
    kept = np.array(recipe.kept, dtype=np.bool_)
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
        found.append(TermHypothesis(term, rows, held_apart(term, terms, recipe), len(term.places)))
    return found


def held_apart(term: TermColumns, terms: Sequence[TermColumns], recipe: PredictorRecipe) -> bool:
    """Whether the data tell a term from all that do not contain it."""
    outside = {place for other in terms if other.key > term.key for place in other.places}
    return not any(_shares(one, term, outside) for one in recipe.lost)


def adjusted_for_all(
    terms: Sequence[TermColumns], recipe: PredictorRecipe, categoricals: Mapping[str, Categorical]
) -> list[TermHypothesis]:
    """Type III: each term adjusted for all others, in sum-to-zero coding whatever the coding of the formula."""
    kept = np.array(recipe.kept, dtype=np.bool_)
    null = dependences(recipe)
    rows = type_three(terms, categoricals)
    found = []
    for term in terms:
        own = rows[term.name]
        miss, size = np.abs(own @ null.T), np.abs(own) @ np.abs(null).T
        determined = bool((miss <= _TOLERANCE * size).all())
        found.append(TermHypothesis(term, own[:, kept], determined, len(term.places)))
    return found


def _shares(lost: Combination, term: TermColumns, outside: Container[int]) -> bool:
    """Whether a dropped column of another term, made by columns of this one, takes a part of what this one holds.

    outside   columns of terms that are left out: what was dropped for their sake is no matter
    """
    if lost.place in term.places or lost.place in outside:
        return False
    used = [place for place, weight in enumerate(lost.weights) if weight != 0.0]
    return not any(place in outside for place in used) and any(place in term.places for place in used)


def _own(term: TermColumns, kept: BoolVec) -> IntVec:
    places = np.array(term.places, dtype=np.intp)
    return places[kept[places]]


def _none() -> IntVec:
    return np.empty(0, dtype=np.intp)
