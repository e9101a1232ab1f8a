"""Which linear functions of the fixed effects the data determine, where columns were dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polars_glmm.typing import BoolVec, Mat

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.design.recipe import PredictorRecipe

_TOLERANCE = 1e-8
_ROUNDING = 1e-10


def dependences(predictor: PredictorRecipe) -> Mat:
    """Vectors n (d, p) with Σ n_j column_j = 0 in every row of the fit, one for every dropped column."""
    out = np.zeros((len(predictor.lost), len(predictor.columns)))
    for row, lost in zip(out, predictor.lost, strict=True):
        weights, centre = np.array(lost.weights), np.abs(lost.centre)
        # a column that takes no part has a weight of rounding, which would be all there is of a row that uses it alone
        noise = np.abs(weights) <= _ROUNDING * np.abs(weights).max(initial=0.0)
        noise &= np.abs(weights) * centre <= _ROUNDING * (lost.size + centre[lost.place])
        row[:] = np.where(noise, 0.0, weights)
        row[lost.place] = -1.0
    return out


def estimable(fit: Answer, rows: Mat) -> BoolVec:
    """(m,) whether rows (m, all columns) · β is the same in all solutions: orthogonal to every dependence.

    Searle (1971, §5.4): rows lie in the row space of the design.
    """
    found = np.ones(len(rows), dtype=np.bool_)
    start = 0
    for predictor in fit.recipe.predictors:
        own = rows[:, start : start + len(predictor.columns)]
        start += len(predictor.columns)
        null = dependences(predictor)
        miss = np.abs(own @ null.T)
        size = np.abs(own) @ np.abs(null).T
        found &= (miss <= _TOLERANCE * size).all(axis=1)
    return found
