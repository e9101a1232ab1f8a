"""The natural parameters of a fit, one row each: coefficients, standard deviations, correlations, dispersion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.inference.coefficients import fixef
from polars_glmm.inference.dispersion import dispersion
from polars_glmm.inference.distributions import normal_quantile
from polars_glmm.inference.varcorr import (
    RESIDUAL,
    Component,
    components,
    correlation,
    correlation_error,
    range_numbers,
    residual_numbers,
    standard_error,
    tanh_interval,
    variance_numbers,
)
from polars_glmm.likelihood.parameters.parts import range_name

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

GROUPS = {
    "all": None,
    "fixed": ("coefficient",),
    "random": ("sd", "correlation", "range"),
    "dispersion": ("dispersion", "residual_correlation", "residual_range"),
}
"""Words of which=, and the quantities they mean."""


class Natural(NamedTuple):
    """One natural parameter with its Wald interval; None where there is none.

    name   as in polars_glmm.objective: "Days", "sd(Subject: Days)", "cor(Subject: Intercept, Days)", "phi"
    """

    name: str
    parameter: str
    group: str | None
    term: str | None
    other_term: str | None
    quantity: str
    estimate: float | None
    std_error: float | None
    low: float | None
    high: float | None


def naturals(fit: Answer, conf_level: float = 0.95) -> list[Natural]:
    """All natural parameters of a fit, in the order of the objective.

    Intervals: of coefficients as fixef(), of standard deviations the roots of varcorr()'s for variances, of
    correlations by Fisher's transformation, of ranges and phi on the log scale.
    """
    z = normal_quantile(conf_level)
    mu: list[Natural] = []
    phi: list[Natural] = []
    for row in fixef(fit, conf_level=conf_level).iter_rows(named=True):
        own = row["parameter"]
        name = row["term"] if own == "mu" else f"{own}: {row['term']}"
        numbers = (row["estimate"], row["std_error"], row["conf_low"], row["conf_high"])
        (mu if own == "mu" else phi).append(Natural(name, own, None, row["term"], None, "coefficient", *numbers))
    out = mu
    for component in components(fit.estimate):
        out += _deviations(component, fit, z)
        out += _correlations(component, fit, z)
        if component.length is not None:
            own = range_numbers(component, component.length, fit.estimate.report_vcov, z)
            name, where = range_name(component.group, component.length.where), component.length.where
            out.append(Natural(name, component.parameters[0], component.group, where, None, "range", *own.values()))
    for one in residual_numbers(fit.estimate, z):
        kind = "residual_range" if one.length else "residual_correlation"
        numbers = (one.estimate, one.std_error, one.low, one.high)
        out.append(Natural(one.name, "phi", RESIDUAL, one.name, None, kind, *numbers))
    out += phi
    for row in dispersion(fit, conf_level=conf_level).iter_rows(named=True):
        name = row["parameter"]
        if name not in fit.estimate.constants:
            continue  # correlations of residuals stand above
        group = RESIDUAL if fit.spec.family.residual and name == "phi" else None
        numbers = (row["estimate"], row["std_error"], row["conf_low"], row["conf_high"])
        out.append(Natural(name, name, group, None, None, "dispersion", *numbers))
    return out


def chosen(found: Sequence[Natural], which: str | Sequence[str]) -> list[Natural]:
    """The parameters that which= asks for: "all", "fixed", "random", "dispersion", or names.

    Raises ModelError for a name that is none.
    """
    asked = [which] if isinstance(which, str) else list(which)
    known = [one.name for one in found]
    keep: set[str] = set()
    for word in asked:
        if word in known:
            keep.add(word)
        elif word in GROUPS:
            quantities = GROUPS[word]
            keep |= {one.name for one in found if quantities is None or one.quantity in quantities}
            if word == "dispersion":  # a formula of phi has coefficients instead
                keep |= {one.name for one in found if one.parameter == "phi" and one.quantity == "coefficient"}
        else:
            near = suggest(str(word), [*known, *GROUPS])
            msg = (
                f"which={word!r} names no parameter.{near} Use 'all', 'fixed', 'random', 'dispersion', or names: "
                f"{enumerate_names(known)}."
            )
            raise ModelError(msg)
    return [one for one in found if one.name in keep]


def _deviations(component: Component, fit: Answer, z: float) -> list[Natural]:
    out = []
    for i in component.variances:
        term = component.terms[i]
        variance = float(component.covariance[i, i])
        numbers = variance_numbers(variance, standard_error(fit.estimate.report_vcov, component.places[i, i]), z)
        sd = numbers["std_dev"]
        error = numbers["std_error"] / (2.0 * sd) if sd > 0.0 else float("nan")
        ends = (numbers["conf_low"] ** 0.5, numbers["conf_high"] ** 0.5)
        name = f"sd({component.group}: {component.labels[i]})"
        out.append(Natural(name, component.parameters[i], component.group, term, None, "sd", sd, error, *ends))
    return out


def _correlations(component: Component, fit: Answer, z: float) -> list[Natural]:
    out = []
    for i, j in sorted(component.correlated, key=lambda pair: pair[::-1]):
        rho = correlation(component, i, j)
        error = correlation_error(component, i, j, fit.estimate.report_vcov)
        name = f"cor({component.group}: {component.labels[i]}, {component.labels[j]})"
        shown = component.terms if component.parameters[i] == component.parameters[j] else component.labels
        a, b = shown[i], shown[j]
        ends = tanh_interval(rho, error, z)
        out.append(Natural(name, component.parameters[i], component.group, a, b, "correlation", rho, error, *ends))
    return out
