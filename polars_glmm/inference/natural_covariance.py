"""The covariance of all natural parameters of a fit, for functions of fixed effects and variances together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polars_glmm.inference.covariance_record import CoefficientCovariance
from polars_glmm.inference.ddf import Denominator
from polars_glmm.typing import Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def natural_covariance(fit: Answer, fixed: CoefficientCovariance) -> CoefficientCovariance:
    """That of Estimate.report (beta, gamma, vech Σ …), with `fixed` for the coefficients.

    A variance without a standard error, as on a boundary, counts as known. Functions that move with variances are
    compared with the normal distribution.
    """
    k = len(fixed.matrix)
    matrix = np.nan_to_num(fit.estimate.report_vcov)
    matrix[:k, :k] = fixed.matrix

    def df_each(rows: Mat | None) -> Vec:
        every = np.eye(len(matrix)) if rows is None else rows
        return np.where((every[:, k:] != 0.0).any(axis=1), np.inf, fixed.df_each(every[:, :k]))

    def df_of(rows: Mat) -> Denominator:
        return Denominator(np.inf) if (rows[:, k:] != 0.0).any() else fixed.df_of(rows[:, :k])

    return CoefficientCovariance(matrix, df_of, df_each, fixed.df_method)


def suited_covariance(fit: Answer, fixed: CoefficientCovariance, jacobian: Mat) -> tuple[Mat, CoefficientCovariance]:
    """A Jacobian (m, R) and the covariance it goes with: of the coefficients alone (m, k) where nothing else moves."""
    k = len(fixed.matrix)
    if not (np.nan_to_num(jacobian[:, k:], nan=1.0) != 0.0).any():
        return jacobian[:, :k], fixed
    return jacobian, natural_covariance(fit, fixed)
