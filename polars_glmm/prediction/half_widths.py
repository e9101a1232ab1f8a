"""Half the width of an interval in standard errors: normal, or t with degrees of freedom of the fit or of each row."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError
from polars_glmm.prediction.parameters import Parameters
from polars_glmm.prediction.variances import FREEDOM


def half_width_of(conf_level: float, df: float | None) -> pl.Expr:
    """For degrees of freedom that hold for all rows; None: normal."""
    from scipy.special import ndtri, stdtrit  # noqa: PLC0415  scipy stays out of plain imports

    upper = 0.5 + conf_level / 2.0
    return pl.lit(float(ndtri(upper) if df is None or not np.isfinite(df) else stdtrit(df, upper)))


def half_width_by_row(conf_level: float) -> pl.Expr:
    """Half-widths for the degrees of freedom of each row, inf being normal."""

    def quantiles(freedom: pl.Series) -> pl.Series:
        from scipy.special import ndtri, stdtrit  # noqa: PLC0415  scipy stays out of plain imports

        upper, df = 0.5 + conf_level / 2.0, freedom.to_numpy()
        finite = np.isfinite(df)
        values = np.where(finite, stdtrit(np.where(finite, df, 1.0), upper), ndtri(upper))
        return pl.Series(freedom.name, values)

    return pl.col(FREEDOM).map_batches(quantiles, return_dtype=pl.Float64, is_elementwise=True)


def normal_half_width(conf_level: float) -> float:
    """Standard errors that a normal interval reaches to either side."""
    from scipy.special import ndtri  # noqa: PLC0415  scipy stays out of plain imports

    return float(ndtri(0.5 + conf_level / 2.0))


def known_freedom(fitted: Parameters, df: RowFreedom) -> float | None:
    """Degrees of freedom that hold for all rows, or None: normal, or by row.

    Raises ModelError for an argument that is not known, and for Satterthwaite's where the fit has none.
    """
    if df is None:
        return None if fitted.freedom is None else fitted.freedom.known
    if df == "normal":
        return None
    if df == "satterthwaite":
        if fitted.freedom is None:
            msg = "df='satterthwaite' is of gaussian models fitted by REML: use df='normal' or a number."
            raise ModelError(msg)
        return fitted.freedom.known
    if isinstance(df, str) or not df > 0.0:
        msg = f"df={df!r} is not known: use 'normal', 'satterthwaite' or a positive number."
        raise ModelError(msg)
    return float(df)


RowFreedom: TypeAlias = Literal["normal", "satterthwaite"] | float | None
