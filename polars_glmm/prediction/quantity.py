"""A number of each row that means and effects are made of, with its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from polars_glmm.typing import Mat


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """A number of each row and its gradient in the natural parameters at `places` of Estimate.report.

    Both count only where MISSING is false. At conditional modes the gradient is that of the fixed effects alone: the
    modes count as known.
    """

    value: pl.Expr
    gradient: tuple[pl.Expr, ...]
    places: tuple[int, ...]

    def jacobian(self, slopes: Mat, n_parameters: int) -> Mat:
        """∂/∂(report) (n, R) from slopes (n, places): a parameter with several places has their sum."""
        found = np.zeros((len(slopes), n_parameters))
        for place, slope in zip(self.places, slopes.T, strict=True):
            found[:, place] += slope
        return found
