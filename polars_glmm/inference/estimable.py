"""Which linear functions of the fixed effects the data determine, where columns were dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from polars_glmm.typing import BoolVec, Mat

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

_TOLERANCE = 1e-8
_ROUNDING = 1e-9
"""Share of the largest weight of a dependence, each in standard errors of its coefficient, that is rounding."""


class FixedColumns(NamedTuple):
    """All columns of a predictor: which were kept (p,), and the dependences among them.

    null (d, p)   Σ_j null_j column_j = 0 in every row of the fit, one for every dropped column, whose weight is −1
    """

    kept: BoolVec
    null: Mat

    def determines(self, rows: Mat) -> BoolVec:
        """(m,) whether rows (m, p) · β is the same in all solutions: orthogonal to every dependence.

        Searle (1971, §5.4): the rows lie in the row space of the design.
        """
        miss, size = np.abs(rows @ self.null.T), np.abs(rows) @ np.abs(self.null).T
        return np.asarray((miss <= _TOLERANCE * size).all(axis=1))


def fixed_columns(fit: Answer, parameter: str) -> FixedColumns:
    """Those of one predictor, weights that are rounding taken for zero."""
    recipe = fit.recipe.predictor(parameter)
    kept = np.array(recipe.kept, dtype=np.bool_)
    null = np.zeros((len(recipe.lost), len(kept)))
    if len(null):
        before = fit.recipe.predictors[: fit.recipe.predictors.index(recipe)]
        start = sum(sum(keep for _, keep in fit.recipe.coefficients(part.parameter)) for part in before)
        std_error = np.ones(len(kept))
        if len(fit.recipe.coefficients(recipe.parameter)) == len(kept):  # of thresholds there are more
            std_error[kept] = np.sqrt(np.diag(fit.estimate.vcov_fixed)[start : start + int(kept.sum())])
        for row, lost in zip(null, recipe.lost, strict=True):
            weights = np.array(lost.weights)
            with np.errstate(divide="ignore", invalid="ignore"):
                size = np.abs(weights) / std_error
            size[~np.isfinite(size)] = np.inf
            row[:] = np.where(size > _ROUNDING * np.max(size[np.isfinite(size)], initial=0.0), weights, 0.0)
            row[lost.place] = -1.0
    return FixedColumns(kept, null)


def estimable(fit: Answer, rows: Mat) -> BoolVec:
    """(m,) whether rows (m, all columns of all predictors) · β is determined by the data."""
    found = np.ones(len(rows), dtype=np.bool_)
    start = 0
    for predictor in fit.recipe.predictors:
        own = rows[:, start : start + len(predictor.columns)]
        start += len(predictor.columns)
        found &= fixed_columns(fit, predictor.parameter).determines(own)
    return found
