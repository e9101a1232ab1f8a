"""The names of the fixed effects, and those of all natural parameters with their joint covariance matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from polars_glmm.inference.delta import transform_covariance
from polars_glmm.inference.varcorr import components, correlation, range_gradient
from polars_glmm.likelihood.parameters.parts import range_name
from polars_glmm.typing import BoolVec, Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def fixed_terms(fit: Answer) -> tuple[list[str], list[str], BoolVec]:
    """Parameter and name of every fixed-effect column, and whether the rank of the data kept it; each (p + s,)."""
    found = [
        (one.parameter, term, kept)
        for one in fit.recipe.predictors
        for term, kept in fit.recipe.coefficients(one.parameter)
    ]
    parameters, terms = [one for one, _, _ in found], [term for _, term, _ in found]
    return parameters, terms, np.array([kept for _, _, kept in found], dtype=np.bool_)


def coefficient_names(fit: Answer) -> list[str]:
    """One name for every fixed-effect column: its term, with "phi: " in front where phi has a formula."""
    parameters, terms, _ = fixed_terms(fit)
    return [
        term if parameter == "mu" else f"{parameter}: {term}" for parameter, term in zip(parameters, terms, strict=True)
    ]


class NaturalParameters(NamedTuple):
    """Standard deviations, correlations and the dispersion of a fit: names and values (m,).

    jacobian (m, R)   their derivatives in Estimate.report; NaN rows on the boundary
    """

    names: list[str]
    values: Vec
    jacobian: Mat


def variance_parameters(fit: Answer) -> NaturalParameters:
    """The parameters beside the fixed effects, named as in `objective`: sd(g: x), cor(g: x, y), phi."""
    estimate = fit.estimate
    size = len(estimate.report)
    names: list[str] = []
    values: list[float] = []
    rows: list[Vec] = []

    def add(name: str, value: float, places: list[int], slopes: list[float]) -> None:
        row = np.zeros(size)
        np.add.at(row, places, slopes)  # equal variances share a place
        names.append(name)
        values.append(value)
        rows.append(row)

    with np.errstate(divide="ignore", invalid="ignore"):
        for part in components(estimate):
            sd = np.sqrt(np.maximum(np.diag(part.covariance), 0.0))
            for i in part.variances:
                term = part.labels[i]
                add(f"sd({part.group}: {term})", float(sd[i]), [int(part.places[i, i])], [float(np.divide(0.5, sd[i]))])
            for i, j in part.correlated:
                rho = correlation(part, i, j)
                name = f"cor({part.group}: {part.labels[i]}, {part.labels[j]})"
                places = [int(part.places[i, i]), int(part.places[i, j]), int(part.places[j, j])]
                slopes = [-0.5 * rho / sd[i] ** 2, 1.0 / (sd[i] * sd[j]), -0.5 * rho / sd[j] ** 2]
                add(name, rho, places, [float(slope) for slope in slopes])
            if part.length is not None:
                name = range_name(part.group, part.length.where)
                add(name, part.length.estimate, *range_gradient(part, part.length))
    if estimate.residual is not None:
        k = len(estimate.residual.values)
        place = size - k - len(estimate.constants)
        for j, (name, value) in enumerate(zip(estimate.residual.names, estimate.residual.values.tolist(), strict=True)):
            add(name, value, [place + j], [1.0])
    for place, (name, value) in enumerate(estimate.constants.items(), start=size - len(estimate.constants)):
        add(name, value, [place], [1.0])
    jacobian = np.array(rows).reshape(len(rows), size)
    return NaturalParameters(names, np.array(values), np.where(np.isfinite(jacobian), jacobian, np.nan))


def joint_covariance(fit: Answer, fixed: Mat, parameters: NaturalParameters) -> Mat:
    """Covariance matrix (k + m, k + m) of the kept coefficients, with `fixed` (k, k) as theirs, and of the others."""
    k, size = len(fixed), len(fit.estimate.report)
    jacobian = np.vstack([np.eye(k, size), parameters.jacobian])
    matrix = transform_covariance(jacobian, fit.estimate.report_vcov)
    matrix[:k, :k] = fixed
    return matrix
