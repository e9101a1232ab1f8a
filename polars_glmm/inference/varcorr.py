"""Variances, covariances and correlations of the random effects, and the gaussian residual."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.covariance.correlations import CORRELATIONS
from polars_glmm.covariance.structures import STRUCTURES, plain_name
from polars_glmm.inference.distributions import normal_quantile
from polars_glmm.inference.schemas import VARCORR, table
from polars_glmm.typing import IntVec, Mat

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.likelihood.estimate import Estimate

RESIDUAL = "Residual"
INTERIOR = 1.0 - 1e-9
"""A correlation beyond this is ±1 up to rounding: on the boundary, without an interval."""

VAGUE = 5.0
"""Standard error of log v, or of atanh ρ, beyond which an interval (e^±10 times v; from −1 to 1) says nothing."""


class Component(NamedTuple):
    """One covariance matrix of the model and where its entries stand in Estimate.report.

    places (r, r): index of each reported entry, symmetric, of equal variances that of the first; −1 where there is none
    variances, correlated: effects whose variance, and pairs (i, j), i < j, whose covariance is a parameter
    structure: its name as a formula writes it
    parameters, labels: of the family that each effect is on, and names that tell effects on several of them apart
    """

    group: str
    terms: tuple[str, ...]
    covariance: Mat
    places: IntVec
    parameters: tuple[str, ...]
    labels: tuple[str, ...]
    variances: list[int]
    correlated: list[tuple[int, int]]
    structure: str

    @property
    def shown(self) -> list[int]:
        """Effects that take part in a parameter."""
        return sorted({*self.variances, *(k for pair in self.correlated for k in pair)})


def components(estimate: Estimate) -> Iterator[Component]:
    """All covariance matrices in the order of Estimate.report."""
    place = len(estimate.beta) + len(estimate.gamma)
    for factor in estimate.factors:
        start = 0
        for covariance, structure in zip(factor.covariances, factor.structures, strict=True):
            r = len(covariance)
            rows, columns = STRUCTURES[structure].vech(r)
            places = np.full((r, r), -1, dtype=np.intp)
            places[rows, columns] = places[columns, rows] = place + np.arange(len(rows))
            place += len(rows)
            if STRUCTURES[structure].bends:
                equal = np.flatnonzero(np.diag(places) < 0)
                places[equal, equal] = places[0, 0]
            apart = rows != columns
            own = slice(start, start + r)
            parameters, labels = factor.parameter_of[own], factor.labels[own]
            yield Component(
                factor.name, factor.term_names[own], covariance, places, parameters, labels,
                rows[~apart].tolist(), sorted(zip(columns[apart].tolist(), rows[apart].tolist(), strict=True)),
                plain_name(structure),
            )  # fmt: skip
            start += r


class ResidualNumber(NamedTuple):
    """One parameter of the correlation of residuals with its interval; length: a range, else a correlation."""

    name: str
    estimate: float
    std_error: float
    low: float
    high: float
    length: bool


def residual_numbers(estimate: Estimate, z: float) -> Iterator[ResidualNumber]:
    """Correlations with tanh(atanh ρ ± z·se/(1 − ρ²)), ranges with exp(log r ± z·se/r), in the order of the report."""
    found = estimate.residual
    if found is None:
        return
    length = CORRELATIONS[found.structure].lengths
    place = len(estimate.report) - len(found.values) - (estimate.phi is not None)
    for k, (name, value) in enumerate(zip(found.names, found.values.tolist(), strict=True)):
        std_error = standard_error(estimate.report_vcov, place + k)
        ends = log_interval(value, std_error, z) if length else tanh_interval(value, std_error, z)
        yield ResidualNumber(name, value, std_error, *ends, length)


def varcorr(fit: Answer, *, conf_level: float = 0.95) -> pl.DataFrame:
    """Variance rows, then covariance rows, term by term; last the gaussian residual variance σ².

    They are the entries of Σ that determine it: of equal variances there is the first, of ar1() the covariance of the
    first two effects.

    Intervals of variances are exp(log v ± z·se/v), as Stata's; those of correlations tanh(atanh ρ ± z·se/(1 − ρ²)).
    On the boundary, where no standard error exists, both are null; so is an interval that spans whatever one likes.
    """
    z = normal_quantile(conf_level)
    rows: list[dict[str, Any]] = []
    for component in components(fit.estimate):
        rows += _variance_rows(component, fit.estimate.report_vcov, z)
        rows += _covariance_rows(component, fit.estimate.report_vcov, z)
    if fit.spec.family.residual and fit.estimate.phi is not None:
        rows.append(_residual_row(fit.estimate, z))
    return table(VARCORR, {name: [row.get(name) for row in rows] for name in VARCORR})


def _variance_rows(component: Component, vcov: Mat, z: float) -> Iterator[dict[str, Any]]:
    for i in component.variances:
        term, place = component.terms[i], component.places[i, i]
        variance = float(component.covariance[i, i])
        names = {"parameter": component.parameters[i], "group": component.group, "term": term}
        yield names | variance_numbers(variance, standard_error(vcov, place), z)


def variance_numbers(variance: float, std_error: float, z: float) -> dict[str, Any]:
    """A variance with its interval by log transformation, and its square root."""
    low, high = log_interval(variance, std_error, z)
    return {
        "estimate": variance,
        "std_error": std_error,
        "conf_low": low,
        "conf_high": high,
        "std_dev": float(np.sqrt(max(variance, 0.0))),
    }


def _covariance_rows(component: Component, vcov: Mat, z: float) -> Iterator[dict[str, Any]]:
    for i, j in component.correlated:
        rho = correlation(component, i, j)
        low, high = tanh_interval(rho, correlation_error(component, i, j, vcov), z)
        on, other = component.parameters[i], component.parameters[j]
        yield {
            "parameter": on,
            "other_parameter": None if other == on else other,
            "group": component.group,
            "term": component.terms[i],
            "other_term": component.terms[j],
            "estimate": float(component.covariance[i, j]),
            "correlation": rho,
            "correlation_low": low,
            "correlation_high": high,
        }


def _residual_row(estimate: Estimate, z: float) -> dict[str, Any]:
    """σ² with its standard error 2σ·se(σ)."""
    sigma = float(estimate.phi or 0.0)
    std_error = 2.0 * sigma * standard_error(estimate.report_vcov, -1)
    return {"parameter": "mu", "group": RESIDUAL} | variance_numbers(sigma**2, std_error, z)


def standard_error(vcov: Mat, place: int) -> float:
    """Root of a diagonal element; NaN where there is none or it is not positive."""
    variance = float(vcov[place, place])
    return float(np.sqrt(variance)) if variance > 0.0 else float("nan")


def correlation(component: Component, i: int, j: int) -> float:
    """Correlation of two terms; NaN where one has no variance."""
    scale = component.covariance[i, i] * component.covariance[j, j]
    return float(np.clip(component.covariance[i, j] / np.sqrt(scale), -1.0, 1.0)) if scale > 0.0 else float("nan")


def correlation_error(component: Component, i: int, j: int, vcov: Mat) -> float:
    """Standard error of ρ = c/√(v₁v₂) by the delta method: ∂ρ/∂c = 1/√(v₁v₂), ∂ρ/∂v = −ρ/(2v)."""
    places = [component.places[i, i], component.places[i, j], component.places[j, j]]
    variance_i, variance_j = component.covariance[i, i], component.covariance[j, j]
    if not (variance_i > 0.0 and variance_j > 0.0):
        return float("nan")
    rho = correlation(component, i, j)
    gradient = np.array([-0.5 * rho / variance_i, 1.0 / np.sqrt(variance_i * variance_j), -0.5 * rho / variance_j])
    squared = float(gradient @ vcov[np.ix_(places, places)] @ gradient)
    return float(np.sqrt(squared)) if squared > 0.0 else float("nan")


def log_interval(value: float, std_error: float, z: float) -> tuple[float, float]:
    """exp(log v ± z·se/v): an interval that stays positive; NaN where log v is not known at all."""
    if not (value > 0.0 and np.isfinite(value) and 0.0 < std_error <= VAGUE * value):
        return float("nan"), float("nan")
    ratio = float(np.exp(z * std_error / value))
    return value / ratio, value * ratio


def tanh_interval(rho: float, std_error: float, z: float) -> tuple[float, float]:
    """tanh(atanh ρ ± z·se/(1 − ρ²)): Fisher's transformation; NaN where atanh ρ is not known at all."""
    if not (abs(rho) < INTERIOR and 0.0 < std_error <= VAGUE * (1.0 - rho**2)):
        return float("nan"), float("nan")
    width = z * std_error / (1.0 - rho**2)
    return float(np.tanh(np.arctanh(rho) - width)), float(np.tanh(np.arctanh(rho) + width))
