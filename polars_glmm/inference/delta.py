"""The delta method: the covariance of smooth functions of estimates from their Jacobian."""

from __future__ import annotations

import numpy as np

from polars_glmm.typing import Mat, Vec


def transform_covariance(jacobian: Mat, covariance: Mat) -> Mat:
    """J V J' in which a NaN spoils only the rows that use it, not, by 0·NaN, the whole product."""
    missing = np.isnan(np.diag(covariance))
    clean = np.where(np.isnan(covariance), 0.0, covariance)
    product = np.nan_to_num(jacobian) @ clean @ np.nan_to_num(jacobian).T
    spoiled = np.isnan(jacobian).any(axis=1) | (jacobian[:, missing] != 0.0).any(axis=1)
    product[spoiled] = np.nan
    product[:, spoiled] = np.nan
    return np.asarray(product)


def transformed_variances(jacobian: Mat, covariance: Mat) -> Vec:
    """The diagonal (m,) of J V J' for many rows, of which the matrix is never made."""
    missing = np.isnan(np.diag(covariance))
    clean = np.where(np.isnan(covariance), 0.0, covariance)
    variances = np.einsum("mi,mi->m", jacobian @ clean, jacobian)
    return np.where((jacobian[:, missing] != 0.0).any(axis=1), np.nan, variances)
