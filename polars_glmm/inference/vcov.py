"""Covariances of the estimates, long: one row per pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.inference.covariance import CovarianceChoice, coefficient_covariance
from polars_glmm.inference.delta import transform_covariance
from polars_glmm.inference.names import fixed_terms
from polars_glmm.inference.schemas import VCOV, table
from polars_glmm.inference.varcorr import components, correlation, range_gradient, residual_numbers
from polars_glmm.typing import Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.families.base import Parameter


class Labelled(NamedTuple):
    """A covariance matrix (k, k) with the parameter and term of each row; each a list of k."""

    parameters: list[str]
    terms: list[str]
    matrix: Mat


def vcov(fit: Answer, *, full: bool = False, vcov: CovarianceChoice = None) -> pl.DataFrame:
    """All pairs of fixed effects of all parameters; with `full` also of the variance parameters on the report scales.

    `full` adds, by the delta method, parameter "log_sd" (term "Subject: Days"), "atanh_correlation"
    (term "Subject: Intercept, Days"); of correlated residuals "atanh_correlation" (term "rho(id)") or "log_range"
    (term "range(id)"); and the constants of the family on the scales of their predictors: "log_dispersion" (term
    "phi", "df"), "logit_dispersion" of a Tweedie power within its range, "dispersion" of Gompertz's gamma, which is
    any number. Pairs without a covariance are null.
    `vcov` puts another covariance of the fixed effects in the place of the fit's own.
    """
    own = fit.estimate.vcov_fixed if vcov is None else coefficient_covariance(fit, vcov).matrix
    parameters, terms, matrix = report_scales(fit, own) if full else _fixed(fit, own)
    k = len(terms)
    return table(
        VCOV,
        {
            "parameter": [parameters[i] for i in range(k) for _ in range(k)],
            "term": [terms[i] for i in range(k) for _ in range(k)],
            "other_parameter": parameters * k,
            "other_term": terms * k,
            "covariance": matrix.ravel(),
        },
    )


def _fixed(fit: Answer, matrix: Mat) -> Labelled:
    parameters, terms, kept = fixed_terms(fit)
    chosen = np.flatnonzero(kept)
    return Labelled([parameters[j] for j in chosen], [terms[j] for j in chosen], matrix)


def report_scales(fit: Answer, matrix: Mat) -> Labelled:
    """Report scales are a smooth function of Estimate.report; its Jacobian carries Estimate.report_vcov over."""
    estimate = fit.estimate
    fixed = _fixed(fit, matrix)
    n_fixed, n_report = len(fixed.terms), len(estimate.report)
    parameters, terms = list(fixed.parameters), list(fixed.terms)
    gradients: list[Vec] = list(np.eye(n_fixed, n_report))

    def add(parameter: str, term: str, places: list[int], slopes: list[float]) -> None:
        gradient = np.zeros(n_report)
        np.add.at(gradient, places, slopes)  # equal variances share a place
        parameters.append(parameter)
        terms.append(term)
        gradients.append(gradient)

    for component in components(estimate):
        variance = np.diag(component.covariance)
        for i in component.variances:
            term = component.labels[i]
            add("log_sd", f"{component.group}: {term}", [component.places[i, i]], [_half_reciprocal(variance[i])])
        for i, j in component.correlated:
            name = f"{component.group}: {component.labels[i]}, {component.labels[j]}"
            places = [component.places[i, i], component.places[i, j], component.places[j, j]]
            add("atanh_correlation", name, places, _atanh_gradient(component.covariance[np.ix_([i, j], [i, j])],
                                                                   correlation(component, i, j)))  # fmt: skip
        if component.length is not None:
            places, slopes = range_gradient(component, component.length)
            steps = [_reciprocal(component.length.estimate) * slope for slope in slopes]
            add("log_range", f"{component.group}: {component.length.where}", places, steps)
    constants, correlations = estimate.constants, list(residual_numbers(estimate, 1.0))
    for place, one in enumerate(correlations, n_report - len(constants) - len(correlations)):
        with np.errstate(divide="ignore"):
            slope = float(np.divide(1.0, one.estimate if one.length else 1.0 - one.estimate**2))
        add("log_range" if one.length else "atanh_correlation", one.name, [place], [slope])
    known = {one.name: one for one in fit.spec.family.parameters}
    for place, (name, value) in enumerate(constants.items(), n_report - len(constants)):
        add(_scale(known[name]), name, [place], [float(known[name].predictor_slope(value))])
    jacobian = np.array(gradients).reshape(len(gradients), n_report)
    joint = transform_covariance(jacobian, estimate.report_vcov)
    # The reported covariance of the fixed effects wins where the two differ (gaussian: GLS, given the variances).
    joint[:n_fixed, :n_fixed] = fixed.matrix
    return Labelled(parameters, terms, joint)


def _reciprocal(length: float) -> float:
    """∂ log r / ∂r."""
    return 1.0 / length if 0.0 < length < np.inf else np.nan


def _half_reciprocal(variance: float) -> float:
    """∂ ½ log v / ∂v."""
    return 0.5 / variance if variance > 0.0 else np.nan


def _atanh_gradient(covariance: Mat, rho: float) -> list[float]:
    """∂ atanh ρ / ∂(v₁, c, v₂)."""
    variance, other = covariance[0, 0], covariance[1, 1]
    if not (variance > 0.0 and other > 0.0 and abs(rho) < 1.0):
        return [np.nan, np.nan, np.nan]
    inner = 1.0 / (1.0 - rho**2)
    return [-0.5 * rho / variance * inner, inner / np.sqrt(variance * other), -0.5 * rho / other * inner]


def _scale(one: Parameter) -> str:
    """What the table calls a constant on the scale of its predictor: a log, a logit between ends, or as it is."""
    if one.ends is None:
        return "log_dispersion"
    return "logit_dispersion" if np.isfinite(one.ends).all() else "dispersion"
