"""Correlated residuals at parameters that are known: drawing them, and taking the correlation out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polars_glmm.design.records import ResidualRows
from polars_glmm.errors import ModelError
from polars_glmm.likelihood.residual.arrangement import Whitening, arrange
from polars_glmm.likelihood.residual.whitening import whitenings
from polars_glmm.typing import IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class Correlated:
    """The correlation of rows in their own order."""

    law: Whitening
    order: IntVec

    @property
    def log_variances(self) -> Vec:
        """log of the variance of each row given those before it in its group, (n,); their sum is log|C|."""
        out = np.empty(len(self.order))
        out[self.order] = self.law.log_variances
        return out

    def colour(self, white: Mat) -> Mat:
        """Errors with this correlation from independent ones of variance 1, (c, n)."""
        out = np.empty_like(white)
        out[:, self.order] = self.law.colour(white[:, self.order])
        return out

    def response(self, drawn: Vec, mu: Vec, phi: Vec | float, precision: Vec | None) -> Vec:
        """A response with this correlation from one drawn independently around mu, (n,)."""
        scale = phi if precision is None else phi / np.sqrt(precision)
        return np.asarray(mu + scale * self.colour(((drawn - mu) / scale)[None])[0])

    def whiten(self, errors: Mat) -> Mat:
        """Independent errors from those of this correlation and variance 1, (c, n): the root is lower triangular."""
        out = np.empty_like(errors)
        out[:, self.order] = self.law.whiten(errors[:, self.order])
        return out


def correlated(residual: ResidualRows, values: Vec) -> Correlated:
    """The correlation of rows at natural parameters (k,). Raises ModelError where these make no correlation matrix."""
    arranged = arrange(residual)
    x = residual.correlation.working(values, residual.size)
    law = whitenings(residual, arranged).at(x) if np.isfinite(x).all() else None
    if law is None:
        at = ", ".join(f"{name} = {value:g}" for name, value in zip(residual.names, values.tolist(), strict=True))
        msg = (
            f"Residuals with {at} have no covariance matrix: correlations lie between their limits, ranges above 0. "
            f"Use a value inside, as by fixed={{{residual.names[0]!r}: …}}, or a simpler residual=."
        )
        raise ModelError(msg)
    return Correlated(law, arranged.order)
