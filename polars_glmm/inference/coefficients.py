"""Fixed effects as a table: estimates, standard errors, tests and intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError, suggest
from polars_glmm.inference.distributions import quantile, two_sided_p
from polars_glmm.inference.schemas import FIXEF, table
from polars_glmm.likelihood.estimate import exact_freedom
from polars_glmm.typing import BoolVec, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

DegreesOfFreedom: TypeAlias = Literal["normal", "satterthwaite"] | float | None


def fixef(
    fit: Answer, *, conf_level: float = 0.95, df: DegreesOfFreedom = None, exponentiate: bool = False
) -> pl.DataFrame:
    """Fixed effects of every parameter that has a formula, in the order of the formulas.

    A term dropped for rank deficiency stays with null numbers. With `exponentiate` estimates and interval ends are
    exp'd and std_error is exp(estimate)·std_error (delta method); statistic and p-value stay those of the coefficient.
    """
    estimate, std_error = coefficients(fit)
    freedom = degrees_of_freedom(fit, df)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = estimate / std_error
    p_value = two_sided_p(statistic, freedom)
    width = quantile(conf_level, freedom) * std_error
    low, high = estimate - width, estimate + width
    if exponentiate:
        with np.errstate(over="ignore"):
            estimate, low, high = np.exp(estimate), np.exp(low), np.exp(high)
        std_error = estimate * std_error
    parameters, terms, kept = fixed_terms(fit)
    return table(
        FIXEF,
        {
            "parameter": parameters,
            "term": terms,
            "estimate": _spread(estimate, kept),
            "std_error": _spread(std_error, kept),
            "statistic": _spread(statistic, kept),
            "df": _spread(np.where(np.isfinite(freedom), freedom, np.nan), kept),
            "p_value": _spread(p_value, kept),
            "conf_low": _spread(low, kept),
            "conf_high": _spread(high, kept),
        },
    )


def fixed_terms(fit: Answer) -> tuple[list[str], list[str], BoolVec]:
    """Parameter and name of every fixed-effect column, and whether the rank of the data kept it; each (p + s,)."""
    predictors = fit.recipe.predictors
    parameters = [predictor.parameter for predictor in predictors for _ in predictor.columns]
    terms = [column.name for predictor in predictors for column in predictor.columns]
    return parameters, terms, np.array([kept for predictor in predictors for kept in predictor.kept], dtype=np.bool_)


def coefficients(fit: Answer) -> tuple[Vec, Vec]:
    """Kept coefficients (beta, gamma) and their standard errors; NaN where there is none."""
    estimate = fit.estimate
    variance = np.diag(estimate.vcov_fixed)
    std_error = np.sqrt(np.where(variance > 0.0, variance, np.nan))
    return np.concatenate([estimate.beta, estimate.gamma]), std_error


def degrees_of_freedom(fit: Answer, df: DegreesOfFreedom) -> Vec:
    """Degrees of freedom per kept coefficient; inf where the reference distribution is normal.

    None chooses: Satterthwaite for gaussian REML, n − p for a gaussian model without random effects, else normal.
    Raises ModelError for a method the model does not have.
    """
    estimate = fit.estimate
    n_mu, n_phi = len(estimate.beta), len(estimate.gamma)
    normal = np.full(n_mu + n_phi, np.inf)
    if df is None:
        if (exact := exact_freedom(estimate, fit.spec.family)) is not None:
            return np.concatenate([np.full(n_mu, exact), np.full(n_phi, np.inf)])
        if estimate.df_satterthwaite is not None:
            return _satterthwaite(fit)
        return normal
    if isinstance(df, int | float) and not isinstance(df, bool):
        if not df > 0:
            msg = f"df={df!r}: degrees of freedom are a positive number."
            raise ModelError(msg)
        return np.full(n_mu + n_phi, float(df))
    if df == "normal":
        return normal
    if df == "satterthwaite":
        return _satterthwaite(fit)
    known = ("normal", "satterthwaite")
    msg = f"df={df!r} is not known.{suggest(str(df), known)} Use 'normal', 'satterthwaite', a number, or None."
    raise ModelError(msg)


def is_linear_model(fit: Answer) -> bool:
    """Gaussian with identity link and one σ, no random effects: t with n − p degrees of freedom is exact."""
    return exact_freedom(fit.estimate, fit.spec.family) is not None


def _satterthwaite(fit: Answer) -> Vec:
    """Satterthwaite (1946) degrees of freedom 2v²/(g'Ag): v = Var(β̂_j), g its gradient, A = Var(θ̂)."""
    estimate = fit.estimate
    tail = np.full(len(estimate.gamma), np.inf)
    if estimate.df_satterthwaite is not None:
        return np.concatenate([estimate.df_satterthwaite, tail])
    if is_linear_model(fit):
        return degrees_of_freedom(fit, None)
    if estimate.vcov_derivative is None or estimate.covariance_vcov is None:
        msg = (
            f"df='satterthwaite' is defined for gaussian models with identity link and one residual variance, fitted "
            f"with standard errors; this is {fit.family} ({fit.link} link) by {fit.method}. "
            f"Use df='normal' or a number."
        )
        raise ModelError(msg)
    v = np.diag(estimate.vcov_fixed)[: len(estimate.beta)]
    g = np.einsum("kjj->kj", estimate.vcov_derivative)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = 2.0 * v**2 / np.einsum("kj,kl,lj->j", g, estimate.covariance_vcov, g)
    return np.concatenate([freedom, tail])


def wald_chi2(fit: Answer) -> tuple[float, int] | None:
    """Joint Wald statistic β'V⁻¹β that all slopes of mu are zero, and its degrees of freedom; None without slopes."""
    predictor = fit.recipe.predictor("mu")
    names = [column.name for column, kept in zip(predictor.columns, predictor.kept, strict=True) if kept]
    slopes = [j for j, name in enumerate(names) if name != "Intercept"]
    vcov = fit.estimate.vcov_fixed[np.ix_(slopes, slopes)]
    if not slopes or not np.isfinite(vcov).all():
        return None
    beta = fit.estimate.beta[slopes]
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
