"""Fixed effects as a table: estimates, standard errors, tests and intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.inference.covariance import CovarianceChoice, DegreesOfFreedom, coefficient_covariance
from polars_glmm.inference.names import fixed_terms
from polars_glmm.inference.schemas import FIXEF, table
from polars_glmm.inference.wald import Core, wald
from polars_glmm.typing import BoolVec, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def fixef(
    fit: Answer,
    *,
    conf_level: float = 0.95,
    df: DegreesOfFreedom = None,
    exponentiate: bool = False,
    vcov: CovarianceChoice = None,
) -> pl.DataFrame:
    """Fixed effects of every parameter that has a formula, in the order of the formulas.

    A term dropped for rank deficiency stays with null numbers. With `exponentiate` estimates and interval ends are
    exp'd and std_error is exp(estimate)·std_error (delta method); statistic and p-value stay those of the coefficient.
    """
    found = wald(None, coefficients(fit), coefficient_covariance(fit, vcov, df), conf_level=conf_level)
    if exponentiate:
        found = exponentiated(found)
    parameters, terms, kept = fixed_terms(fit)
    return table(
        FIXEF,
        {
            "parameter": parameters,
            "term": terms,
            **{name: _spread(values, kept) for name, values in found.columns().items()},
        },
    )


def exponentiated(found: Core) -> Core:
    """exp of estimates and interval ends, standard errors by the delta method; tests stay those of the coefficients."""
    with np.errstate(over="ignore"):
        estimate = np.exp(found.estimate)
        return found._replace(
            estimate=estimate, std_error=estimate * found.std_error, conf_low=np.exp(found.conf_low),
            conf_high=np.exp(found.conf_high),
        )  # fmt: skip


def coefficients(fit: Answer) -> Vec:
    """The kept coefficients (beta, gamma)."""
    return np.concatenate([fit.estimate.beta, fit.estimate.gamma])


def wald_chi2(fit: Answer) -> tuple[float, int] | None:
    """Joint Wald statistic β'V⁻¹β that all slopes of mu are zero, and its degrees of freedom; None without slopes.

    Of unordered categories the slopes of all of them.
    """
    if fit.spec.family.curve is not None:
        return None  # zero is no hypothesis about the parameter of a curve
    predictors = fit.recipe.predictors if fit.spec.family.unordered else fit.recipe.predictors[:1]
    columns = [pair for one in predictors for pair in zip(one.columns, one.kept, strict=True)]
    names = [column.name for column, kept in columns if kept]
    slopes = [j for j, name in enumerate(names) if name != "Intercept"]
    vcov = fit.estimate.vcov_fixed[np.ix_(slopes, slopes)]
    if not slopes or not np.isfinite(vcov).all():
        return None
    beta = coefficients(fit)[slopes]
    scale = np.sqrt(np.diag(vcov))
    if not (scale > 0.0).all():
        return None
    # Scaling to a correlation matrix first: slopes of very different units would look singular to the solver.
    z = beta / scale
    try:
        return float(z @ np.linalg.solve(vcov / np.outer(scale, scale), z)), len(slopes)
    except np.linalg.LinAlgError:
        return None


def _spread(values: Vec, kept: BoolVec) -> Vec:
    """Values of the kept columns in the places of all columns, NaN elsewhere."""
    full = np.full(len(kept), np.nan)
    full[kept] = values
    return full
