"""Wald tests and intervals of functions of coefficients: the one place where a table of estimates is computed."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from scipy.special import chdtrc, fdtrc

from polars_glmm.errors import ModelError, suggest
from polars_glmm.inference.covariance_record import CoefficientCovariance
from polars_glmm.inference.distributions import one_sided_p, one_sided_quantile, quantile, two_sided_p
from polars_glmm.typing import Mat, Vec

Alternative: TypeAlias = Literal["two-sided", "greater", "less"]
ALTERNATIVES = ("two-sided", "greater", "less")
_DEPENDENT = 1e-10
"""Smallest eigenvalue of the correlation matrix of rows that are tested together below which one repeats others."""


class Core(NamedTuple):
    """The estimate core of every table, (m,) each; NaN where there is none, df inf where it is normal."""

    estimate: Vec
    std_error: Vec
    statistic: Vec
    df: Vec
    p_value: Vec
    conf_low: Vec
    conf_high: Vec

    def columns(self) -> dict[str, Vec]:
        """By name, with null degrees of freedom for the normal distribution."""
        named = self._asdict()
        return {**named, "df": np.where(np.isfinite(self.df), self.df, np.nan)}


class JointTest(NamedTuple):
    """A test of several linear functions at once: F(num_df, den_df), or χ² where den_df is inf.

    statistic   F, or the χ² itself, which is not divided by num_df
    lacking     why there is none: "std_error" or "df"
    """

    num_df: int
    den_df: float
    statistic: float
    distribution: str
    p_value: float
    lacking: str = ""


def wald(
    rows: Mat | None,
    beta: Vec,
    covariance: CoefficientCovariance,
    *,
    estimate: Vec | None = None,
    conf_level: float = 0.95,
    alternative: Alternative = "two-sided",
) -> Core:
    """Estimates of rows · beta with standard errors, tests that they are zero, and intervals.

    rows (m, k)     None: the coefficients themselves
    estimate (m,)   where it is not rows · beta: less a null value, or of a nonlinear function whose Jacobian `rows` is
    """
    if estimate is None:
        estimate = beta if rows is None else combine(rows, beta)
    variance, df = covariance.variances(rows), covariance.df_each(rows)
    return core(estimate, variance, df, conf_level=conf_level, alternative=alternative)


def core(
    estimate: Vec, variance: Vec, df: Vec, *, conf_level: float = 0.95, alternative: Alternative = "two-sided"
) -> Core:
    """The core of estimates (m,) with known variances and degrees of freedom."""
    std_error = np.sqrt(np.where(variance > 0.0, variance, np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = estimate / std_error
    if check_alternative(alternative) == "two-sided":
        width = quantile(conf_level, df) * std_error
        return Core(estimate, std_error, statistic, df, two_sided_p(statistic, df), estimate - width, estimate + width)
    width = one_sided_quantile(conf_level, df) * std_error
    none = np.full_like(width, np.nan)
    low, high = (estimate - width, none) if alternative == "greater" else (none, estimate + width)
    upward = statistic if alternative == "greater" else -statistic
    return Core(estimate, std_error, statistic, df, one_sided_p(upward, df), low, high)


def wald_joint(rows: Mat, distance: Vec, covariance: CoefficientCovariance) -> JointTest:
    """The test that all of rows (q, k) · coefficients are what they are said to be, and not `distance` (q,) away.

    Rows that repeat others do not count in num_df. Everything but num_df is NaN where a row uses a coefficient without
    a covariance, or the approximation fails. Raises ModelError where the rows contradict one another.
    """
    matrix = covariance.of(rows)
    scale = np.sqrt(np.where(np.diag(matrix) > 0.0, np.diag(matrix), np.nan))
    if not len(rows) or np.isnan(scale).any() or np.isnan(distance).any():
        return JointTest(len(rows), np.nan, np.nan, "", np.nan, "std_error")
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    told = values > _DEPENDENT * values[-1]
    independent = vectors[:, told].T / scale  # rows that are uncorrelated
    q = int(told.sum())
    z = (independent @ distance) / np.sqrt(values[told])
    if q < len(rows) and not _consistent(vectors[:, ~told].T / scale, distance):
        msg = "The hypotheses contradict one another: the same combination of coefficients cannot have two values."
        raise ModelError(msg)
    chi2 = float(z @ z)
    denominator = covariance.df_of(rows if q == len(rows) else independent @ rows)
    if np.isinf(denominator.df):
        return JointTest(q, np.inf, chi2, "chi2", float(chdtrc(q, chi2)))
    if not denominator.df > 0.0:
        return JointTest(q, np.nan, np.nan, "", np.nan, "df")
    f = denominator.scale * chi2 / q
    return JointTest(q, denominator.df, f, "F", float(fdtrc(q, denominator.df, f)))


def _consistent(rows: Mat, distance: Vec) -> bool:
    """Whether combinations (k, q) of rows that are zero for all coefficients are zero for the values too."""
    with np.errstate(invalid="ignore"):
        return bool((np.abs(rows @ distance) <= 1e-6 * (np.abs(rows) @ np.abs(distance)) + 1e-12).all())


def combine(rows: Mat, beta: Vec) -> Vec:
    """rows (m, k) · beta (k,), in which a coefficient without a value spoils only the rows that use it."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(rows != 0.0, rows * beta, 0.0).sum(axis=1))


def check_alternative(alternative: str) -> str:
    """The alternative itself, if it is one. Raises ModelError otherwise."""
    if alternative not in ALTERNATIVES:
        near = suggest(str(alternative), ALTERNATIVES)
        msg = f"alternative={alternative!r} is not known.{near} Use 'two-sided', 'greater' or 'less'."
        raise ModelError(msg)
    return alternative
