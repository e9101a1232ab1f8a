"""Tails and quantiles of the normal, t, chi-square and chi-bar-square distributions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import chdtrc, ndtr, ndtri, stdtr, stdtrit

from polars_glmm.errors import ModelError
from polars_glmm.typing import Vec


def two_sided_p(statistic: Vec, df: Vec) -> Vec:
    """P(|T| ≥ |statistic|) for t with df (n,) degrees of freedom; NaN or inf in df means the normal distribution."""
    lower = -np.abs(statistic)
    normal = ~np.isfinite(df)
    return np.asarray(2.0 * np.where(normal, ndtr(lower), stdtr(np.where(normal, 1.0, df), lower)))


def quantile(conf_level: float, df: Vec) -> Vec:
    """Half-width in standard errors of a two-sided interval, per row of df (n,); NaN or inf means normal."""
    upper = 0.5 * (1.0 + check_level(conf_level))
    normal = ~np.isfinite(df)
    return np.asarray(np.where(normal, ndtri(upper), stdtrit(np.where(normal, 1.0, df), upper)))


def one_sided_p(statistic: Vec, df: Vec) -> Vec:
    """P(T ≥ statistic), degrees of freedom as above."""
    normal = ~np.isfinite(df)
    return np.asarray(np.where(normal, ndtr(-statistic), stdtr(np.where(normal, 1.0, df), -statistic)))


def one_sided_quantile(conf_level: float, df: Vec) -> Vec:
    """Width in standard errors of a one-sided interval, degrees of freedom as above."""
    level = check_level(conf_level)
    normal = ~np.isfinite(df)
    return np.asarray(np.where(normal, ndtri(level), stdtrit(np.where(normal, 1.0, df), level)))


def normal_quantile(conf_level: float) -> float:
    """Half-width in standard errors of a two-sided normal interval: 1.96 for 0.95."""
    return float(ndtri(0.5 * (1.0 + check_level(conf_level))))


def check_level(conf_level: float) -> float:
    """The level itself, if it is one.

    Raises ModelError unless 0 < conf_level < 1.
    """
    if not 0.0 < conf_level < 1.0:
        hint = f" Did you mean conf_level={conf_level / 100:g}?" if 1.0 < conf_level < 100.0 else ""
        msg = f"conf_level={conf_level!r}: a confidence level lies between 0 and 1.{hint}"
        raise ModelError(msg)
    return float(conf_level)


def chi2_p(chisq: float, df: int) -> float:
    """P(χ²_df ≥ chisq); χ²_0 is the point mass at zero."""
    if chisq <= 0.0:
        return 1.0
    return float(chdtrc(df, chisq)) if df > 0 else 0.0


def chi_bar_p(chisq: float, dfs: Sequence[int]) -> float:
    """Upper tail of the equal mixture of χ² distributions (Self & Liang 1987; Stram & Lee 1994).

    dfs (0, 1) is chibar2(01) of one variance on the boundary; (q, q+1) of one variance with q covariances.
    """
    return sum(chi2_p(chisq, df) for df in dfs) / len(dfs)
