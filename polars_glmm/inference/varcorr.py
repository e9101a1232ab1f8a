"""Variances, covariances and correlations of the random effects, and the gaussian residual.

Numbers of one model are scalars; of many models made together they are arrays over the models, (M,), through the same
functions: an estimate of many has the models on the first axis of everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.covariance.correlations import CORRELATIONS
from polars_glmm.covariance.fields import coordinates
from polars_glmm.covariance.scaled import Scaled
from polars_glmm.covariance.structures import STRUCTURES, plain_name
from polars_glmm.inference.distributions import normal_quantile
from polars_glmm.inference.schemas import VARCORR, per_model
from polars_glmm.typing import IntVec, Mat

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.likelihood.estimate import Estimate
    from polars_glmm.likelihood.many.estimate import BatchEstimate

    Estimates: TypeAlias = Estimate | BatchEstimate

RESIDUAL = "Residual"
INTERIOR = 1.0 - 1e-9
"""A correlation beyond this is ±1 up to rounding: on the boundary, without an interval."""

VAGUE = 5.0
"""Standard error of log v, or of atanh ρ, beyond which an interval (e^±10 times v; from −1 to 1) says nothing."""


class Length(NamedTuple):
    """The range of a field over `where`; pair: two effects i < j whose correlation stands for it in Estimate.report.

    slope   of the range in that correlation
    """

    where: str
    estimate: float
    pair: tuple[int, int]
    slope: float

    @property
    def term(self) -> str:
        """What the table calls it."""
        return f"range({self.where})"


class Component(NamedTuple):
    """One covariance matrix of the model and where its entries stand in Estimate.report.

    covariance (r, r), or (M, r, r) of many models
    places (r, r): index of each reported entry, symmetric, of equal variances that of the first; −1 where there is none
    variances, correlated: effects whose variance, and pairs (i, j), i < j, whose covariance is a parameter
    structure: its name as a formula writes it
    length: the range of a field, of which no correlation is a parameter
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
    length: Length | None = None

    @property
    def shown(self) -> list[int]:
        """Effects that take part in a parameter."""
        return sorted({*self.variances, *(k for pair in self.correlated for k in pair)})


def components(estimate: Estimates) -> Iterator[Component]:
    """All covariance matrices in the order of Estimate.report."""
    place = estimate.beta.shape[-1] + estimate.gamma.shape[-1]
    for factor in estimate.factors:
        start = 0
        for covariance, structure in zip(factor.covariances, factor.structures, strict=True):
            r = covariance.shape[-1]
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
            pairs = sorted(zip(columns[apart].tolist(), rows[apart].tolist(), strict=True))
            length = _length(structure, covariance, labels[0], pairs)
            yield Component(
                factor.name, factor.term_names[own], covariance, places, parameters, labels, rows[~apart].tolist(),
                pairs if length is None else [], plain_name(structure), length,
            )  # fmt: skip
            start += r


def _length(structure: str, covariance: Mat, label: str, pairs: list[tuple[int, int]]) -> Length | None:
    """The range of a covariance matrix over points."""
    found = STRUCTURES[structure]
    if not isinstance(found, Scaled) or found.field is None:
        return None
    length = found.length(covariance)
    return Length(coordinates(label), length, pairs[0], found.field.range_slope(length, len(covariance)))


def is_range(row: Mapping[str, Any]) -> bool:
    """Whether a row of the table is the range of a field, and not a variance."""
    return row["other_term"] is None and row["std_dev"] is None and str(row["term"]).startswith("range(")


def range_gradient(component: Component, length: Length) -> tuple[list[int], list[float]]:
    """Where the entries stand in Estimate.report that the range moves with, and its slopes in them."""
    i, j = length.pair
    v, c = float(component.covariance[0, 0]), float(component.covariance[i, j])
    with np.errstate(all="ignore"):
        slopes = length.slope * np.array([-0.5 * c, v, -0.5 * c]) / v**2
    return [int(component.places[a, b]) for a, b in ((i, i), (i, j), (j, j))], slopes.tolist()


def range_numbers(component: Component, length: Length, vcov: Mat, z: float) -> dict[str, float]:
    """A range with its standard error and its interval by log transformation."""
    places, slopes = range_gradient(component, length)
    squared = float(np.array(slopes) @ vcov[np.ix_(places, places)] @ np.array(slopes))
    std_error = float(_root(np.asarray(squared)))
    low, high = log_interval(length.estimate, std_error, z)
    return {"estimate": length.estimate, "std_error": std_error, "conf_low": float(low), "conf_high": float(high)}


class ResidualNumber(NamedTuple):
    """One parameter of the correlation of residuals with its interval; length: a range, else a correlation."""

    name: str
    estimate: float
    std_error: float
    low: float
    high: float
    length: bool


def residual_numbers(estimate: Estimates, z: float) -> Iterator[ResidualNumber]:
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
    first two effects; of a field the range stands in a row of its own, in the unit of the coordinates.

    Intervals of variances are exp(log v ± z·se/v), as Stata's; those of correlations tanh(atanh ρ ± z·se/(1 − ρ²)).
    On the boundary, where no standard error exists, both are null; so is an interval that spans whatever one likes.
    """
    return varcorr_of(fit.estimate, residual=fit.spec.family.residual, conf_level=conf_level)


def varcorr_of(estimate: Estimates, *, residual: bool, conf_level: float) -> pl.DataFrame:
    """The table of one model, or of many, model after model; residual: phi is the standard deviation of a residual."""
    z, vcov = normal_quantile(conf_level), estimate.report_vcov
    rows: list[dict[str, Any]] = []
    for component in components(estimate):
        rows += _variance_rows(component, vcov, z)
        rows += _covariance_rows(component, vcov, z)
        if component.length is not None:
            names = {"parameter": component.parameters[0], "group": component.group, "term": component.length.term}
            rows.append(names | range_numbers(component, component.length, vcov, z))
    if residual and estimate.phi is not None:  # σ² with its standard error 2σ·se(σ)
        std_error = 2.0 * estimate.phi * standard_error(vcov, -1)
        rows.append({"parameter": "mu", "group": RESIDUAL} | variance_numbers(estimate.phi**2, std_error, z))
    return per_model(VARCORR, rows, estimate.beta.shape[:-1])


def _variance_rows(component: Component, vcov: Mat, z: float) -> Iterator[dict[str, Any]]:
    for i in component.variances:
        names = {"parameter": component.parameters[i], "group": component.group, "term": component.terms[i]}
        std_error = standard_error(vcov, component.places[i, i])
        yield names | variance_numbers(component.covariance[..., i, i], std_error, z)


def variance_numbers(variance: Any, std_error: Any, z: float) -> dict[str, Any]:
    """A variance with its interval by log transformation, and its square root."""
    low, high = log_interval(variance, std_error, z)
    return {
        "estimate": variance,
        "std_error": std_error,
        "conf_low": low,
        "conf_high": high,
        "std_dev": np.sqrt(np.maximum(variance, 0.0)),
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
            "estimate": component.covariance[..., i, j],
            "correlation": rho,
            "correlation_low": low,
            "correlation_high": high,
        }


def standard_error(vcov: Mat, place: int) -> Any:
    """Root of a diagonal element; NaN where there is none or it is not positive."""
    return _root(vcov[..., place, place])


def correlation(component: Component, i: int, j: int) -> Any:
    """Correlation of two terms; NaN where one has no variance."""
    own = component.covariance
    scale = own[..., i, i] * own[..., j, j]
    with np.errstate(all="ignore"):
        rho = np.clip(own[..., i, j] / np.sqrt(scale), -1.0, 1.0)
    return np.where(scale > 0.0, rho, np.nan)[()]


def correlation_error(component: Component, i: int, j: int, vcov: Mat) -> Any:
    """Standard error of ρ = c/√(v₁v₂) by the delta method: ∂ρ/∂c = 1/√(v₁v₂), ∂ρ/∂v = −ρ/(2v)."""
    places = [component.places[i, i], component.places[i, j], component.places[j, j]]
    variance_i, variance_j = component.covariance[..., i, i], component.covariance[..., j, j]
    rho = correlation(component, i, j)
    with np.errstate(all="ignore"):
        slopes = [-0.5 * rho / variance_i, 1.0 / np.sqrt(variance_i * variance_j), -0.5 * rho / variance_j]
        gradient = np.stack(slopes, axis=-1)
        squared = np.einsum("...i,...ij,...j->...", gradient, vcov[..., places, :][..., places], gradient)
    return np.where((variance_i > 0.0) & (variance_j > 0.0), _root(squared), np.nan)[()]


def log_interval(value: Any, std_error: Any, z: float) -> tuple[Any, Any]:
    """exp(log v ± z·se/v): an interval that stays positive; NaN where log v is not known at all."""
    value = np.asarray(value, dtype=np.float64)
    with np.errstate(all="ignore"):
        known = (value > 0.0) & np.isfinite(value) & (std_error > 0.0) & (std_error <= VAGUE * value)
        ratio = np.exp(z * std_error / value)
        return np.where(known, value / ratio, np.nan)[()], np.where(known, value * ratio, np.nan)[()]


def tanh_interval(rho: Any, std_error: Any, z: float) -> tuple[Any, Any]:
    """tanh(atanh ρ ± z·se/(1 − ρ²)): Fisher's transformation; NaN where atanh ρ is not known at all."""
    rho = np.asarray(rho, dtype=np.float64)
    with np.errstate(all="ignore"):
        known = (np.abs(rho) < INTERIOR) & (std_error > 0.0) & (std_error <= VAGUE * (1.0 - rho**2))
        centre, width = np.arctanh(rho), z * std_error / (1.0 - rho**2)
        ends = np.tanh(centre - width), np.tanh(centre + width)
    low, high = (np.where(known, end, np.nan)[()] for end in ends)
    return low, high


def _root(variance: Any) -> Any:
    """√v; NaN where v is not positive."""
    with np.errstate(invalid="ignore"):
        return np.where(variance > 0.0, np.sqrt(variance), np.nan)[()]
