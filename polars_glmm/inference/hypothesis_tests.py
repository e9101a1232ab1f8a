"""Tests of hypotheses about parameters, one by one or all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError, brief
from polars_glmm.inference.adjust import Adjustment, Tests, adjust
from polars_glmm.inference.all_pairs import means_of_pairs
from polars_glmm.inference.covariance import CovarianceChoice, DegreesOfFreedom, coefficient_covariance
from polars_glmm.inference.covariance_record import CoefficientCovariance
from polars_glmm.inference.ddf import Denominator
from polars_glmm.inference.distributions import one_sided_p
from polars_glmm.inference.hypotheses import Hypotheses, HypothesesLike, read_hypotheses
from polars_glmm.inference.names import joint_covariance, variance_parameters
from polars_glmm.inference.schemas import EQUIVALENCE, JOINT_TEST, TEST, table
from polars_glmm.inference.wald import Alternative, Core, check_alternative, wald, wald_joint
from polars_glmm.typing import Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

LONGEST_LABEL = 200
_NOT_ESTIMABLE = "not_estimable: it depends on a column that was dropped, whose coefficient is not determined."
_DELTA = "delta_method: not linear in the parameters, so the standard error is that of its tangent."
NO_DF = "no_df: the approximation of the denominator degrees of freedom has no answer here."
NO_ERRORS = "no_std_error: a coefficient that is tested has no standard error."


class HypothesisOptions(NamedTuple):
    """How hypotheses are tested: the level of intervals, the family, one or two sides, bounds of equivalence."""

    conf_level: float = 0.95
    adjust: Adjustment | None = None
    alternative: Alternative = "two-sided"
    equivalence: tuple[float, float] | None = None


def tested(  # noqa: PLR0913  the arguments of the public verb
    fit: Answer,
    hypotheses: HypothesesLike,
    rhs: float | Sequence[float],
    options: HypothesisOptions,
    *,
    joint: bool,
    df: DegreesOfFreedom,
    vcov: CovarianceChoice,
) -> pl.DataFrame:
    """What `Fit.test` answers."""
    asked = read_hypotheses(fit, hypotheses, rhs)
    fixed = coefficient_covariance(fit, vcov, df)
    return joint_test(fit, asked, fixed, options) if joint else hypothesis_tests(fit, asked, fixed, options)


def hypothesis_tests(
    fit: Answer, asked: Hypotheses, fixed: CoefficientCovariance, options: HypothesisOptions
) -> pl.DataFrame:
    """One row per hypothesis: the estimate less its null value, its test and its interval."""
    conf_level, adjustment, alternative, equivalence = options
    check_alternative(alternative)
    covariance, distance = covariance_for(fit, asked, fixed), distances(asked)
    rows = asked.rows
    found = wald(rows, distance, covariance, estimate=distance, conf_level=conf_level, alternative=alternative)
    found = Core(*(np.where(asked.determined, column, np.nan) for column in found))
    of_rows = covariance.of(rows)
    spread = np.sqrt(np.diag(of_rows))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = of_rows / np.outer(spread, spread)
    tests = Tests(
        -found.statistic if alternative == "less" else found.statistic, found.df, found.p_value, correlation,
        one_sided=alternative != "two-sided",
    )  # fmt: skip
    means = means_of_pairs(rows) if adjustment == "tukey" else None
    adjusted = adjust(adjustment, tests, conf_level=conf_level, means=means)
    found = _with_width(found, adjusted.width, adjusted.p_value, alternative)
    columns: dict[str, Any] = {
        "hypothesis": asked.labels,
        **found.columns(),
        "adjust": [adjustment or "none"] * len(rows),
        "null_value": asked.null,
        "note": [_notes(asked, k, adjusted.note) for k in range(len(rows))],
    }
    if equivalence is None:
        return table(TEST, columns)
    return table(EQUIVALENCE, {**columns, "p_equivalence": equivalent(found, equivalence)})


def distances(asked: Hypotheses) -> Vec:
    """How far each is from its null value; NaN where the data do not determine it."""
    return np.where(asked.determined, asked.values - asked.null, np.nan)


def covariance_for(fit: Answer, asked: Hypotheses, fixed: CoefficientCovariance) -> CoefficientCovariance:
    """The covariance of what the hypotheses are about: of the coefficients, and of variance parameters if need be.

    Functions of these are compared with the normal distribution.
    """
    k = asked.n_coefficients
    if asked.of_coefficients:
        width = asked.rows.shape[1]
        return _narrowed(fixed, k, width, None)
    return _narrowed(fixed, k, asked.rows.shape[1], joint_covariance(fit, fixed.matrix, variance_parameters(fit)))


def _narrowed(fixed: CoefficientCovariance, k: int, width: int, matrix: Mat | None) -> CoefficientCovariance:
    """A covariance of k coefficients as one of all parameters (width,)."""

    def df_each(rows: Mat | None) -> Vec:
        every = np.eye(width) if rows is None else rows
        of_variances = (every[:, k:] != 0.0).any(axis=1)
        return np.where(of_variances, np.inf, fixed.df_each(every[:, :k]))

    def df_of(rows: Mat) -> Denominator:
        return Denominator(np.inf) if (rows[:, k:] != 0.0).any() else fixed.df_of(rows[:, :k])

    if matrix is not None:
        return CoefficientCovariance(matrix, df_of, df_each, fixed.df_method)
    wide = np.zeros((width, width))
    wide[:k, :k] = fixed.matrix
    outward = inner = None
    if fixed.outward is not None and fixed.inner is not None:
        outward = np.zeros((width, k))
        outward[:k] = fixed.outward
        inner = fixed.inner
    return replace(fixed, matrix=wide, df_of=df_of, df_each=df_each, outward=outward, inner=inner)


def joint_test(
    fit: Answer, asked: Hypotheses, fixed: CoefficientCovariance, options: HypothesisOptions
) -> pl.DataFrame:
    """One row: the test of all hypotheses together."""
    if options != HypothesisOptions(options.conf_level, "none" if options.adjust == "none" else None):
        msg = "joint=True is one test of all hypotheses: adjust=, alternative= and equivalence= are for single ones."
        raise ModelError(msg)
    covariance = covariance_for(fit, asked, fixed)
    found = wald_joint(asked.rows, distances(asked), covariance)
    note = _NOT_ESTIMABLE if not asked.determined.all() else None
    if note is None and not asked.linear.all():
        note = _DELTA
    if note is None and found.lacking:
        note = NO_DF if found.lacking == "df" else NO_ERRORS
    method = covariance.df_method if found.distribution == "F" else "normal"
    return table(
        JOINT_TEST,
        {
            "hypothesis": [brief(", ".join(asked.labels), LONGEST_LABEL)],
            "num_df": [found.num_df],
            "den_df": [found.den_df if np.isfinite(found.den_df) else None],
            "statistic": [found.statistic],
            "distribution": [found.distribution or None],
            "p_value": [found.p_value],
            "df_method": [method],
            "note": [note],
        },
    )


def equivalent(found: Core, bounds: tuple[float, float]) -> Vec:
    """p-values of two one-sided tests that the estimate lies outside the bounds (Schuirmann 1987)."""
    low, high = _bounds(bounds)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = one_sided_p((found.estimate - low) / found.std_error, found.df)
        below = one_sided_p((high - found.estimate) / found.std_error, found.df)
    return np.maximum(above, below)


def _bounds(bounds: object) -> tuple[float, float]:
    try:
        low, high = (float(one) for one in bounds)  # type: ignore[attr-defined]  # what is none raises
    except (TypeError, ValueError):
        low = high = float("nan")
    if not low < high:
        msg = f"equivalence={bounds!r}: two numbers, as in equivalence=(-1, 1), the smaller first."
        raise ModelError(msg)
    return low, high


def _with_width(found: Core, width: Vec, p_value: Vec, alternative: Alternative) -> Core:
    """The core with adjusted p-values, and intervals so many standard errors wide."""
    half = width * found.std_error
    low = np.where(alternative == "less", np.nan, found.estimate - half)
    high = np.where(alternative == "greater", np.nan, found.estimate + half)
    return found._replace(p_value=p_value, conf_low=low, conf_high=high)


def _notes(asked: Hypotheses, k: int, adjustment: str) -> str | None:
    notes = [
        _NOT_ESTIMABLE if not asked.determined[k] else "",
        _DELTA if not asked.linear[k] else "",
        adjustment,
    ]
    return " ".join(note for note in notes if note) or None
