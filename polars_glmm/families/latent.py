"""Residual variances on the scale of the linear predictor, where there is a definition: for R² and correlations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import polygamma

from polars_glmm.errors import ModelError
from polars_glmm.families.base import Family, beyond_mean, beyond_parameters

LATENT = {"logit": np.pi**2 / 3.0, "probit": 1.0, "cloglog": np.pi**2 / 6.0, "loglog": np.pi**2 / 6.0}
"""Variance of the latent response of a model of two or more categories, by its link."""
ON_LOG_SCALE = (
    "poisson", "negative_binomial", "negative_binomial1", "generalized_poisson", "gamma", "inverse_gaussian", "tweedie"
)  # fmt: skip
"""Families whose residual variance on the log scale is one of their coefficient of variation, √variance(mu)/mu."""
OF_TRIALS = ("binomial", "beta_binomial")
"""Families of trials, each of which is a latent response above a threshold: those of one row may go together."""
SHARES = ("beta",)
"""Families of numbers between 0 and 1."""


class Null(NamedTuple):
    """The model with an intercept alone: its intercept, and the variance of its random effects."""

    intercept: float
    random: float


def needs_null(family: Family, constants: Mapping[str, float]) -> bool:
    """Whether the residual variance hangs on a mean, that of the null model. Raises ModelError where there is none."""
    _beyond(family, constants)
    if family.response == "category" and family.link.name in LATENT:
        return False
    if family.link.name == "identity" and family.name in ("gaussian", "student_t", "lognormal"):
        return False
    of_trials = family.name in OF_TRIALS and family.link.name in LATENT
    if of_trials or family.name in SHARES or (family.name in ON_LOG_SCALE and family.link.name == "log"):
        return True
    msg = f"The residual variance of {family.name} with the {family.link.name} link is not defined on the scale of "
    msg += "its predictor. varcorr() has the variances of the random effects there."
    raise ModelError(msg)


def residual_variances(
    family: Family, constants: Mapping[str, float], null: Null | None, mean_fitted: float
) -> Iterator[tuple[str, float]]:
    """Definitions of the residual variance, the recommended one first (Nakagawa, Johnson & Schielzeth 2017).

    constants     phi and further parameters;  mean_fitted: of probabilities
    With c = √variance(mu)/mu of the mean exp(β₀ + v/2) of the null model, on the log scale: log(1 + c²) "lognormal", c²
    "delta" and ψ'(1/c²) "trigamma", that of a gamma law; "lognormal_unit" takes exp(β₀), the median. Of trials that of
    the latent response, or variance(mu)·(dη/dmu)²; of shares that, or under the logit ψ'(mu·φ) + ψ'((1 − mu)φ), exact
    as ψ' is for gamma.
    """
    if family.response == "category":
        yield "theoretical", LATENT[family.link.name]
    elif null is None:
        yield "exact", _on_identity(family, constants)
    elif family.name in OF_TRIALS:
        yield "theoretical", LATENT[family.link.name]
        if family.link.name == "logit":
            yield from _by_delta(family, constants, null, mean_fitted)
    elif family.name in SHARES:
        if family.link.name == "logit":
            mu, phi = float(family.mean(np.array(null.intercept))), constants["phi"]
            yield "trigamma", float(polygamma(1, mu * phi) + polygamma(1, (1.0 - mu) * phi))
        yield from _by_delta(family, constants, null, mean_fitted)
    else:
        here, unit = (
            float(family.variance(mu, _beyond(family, constants)) / mu**2)
            for mu in np.exp([null.intercept + 0.5 * null.random, null.intercept])
        )
        yield "lognormal", float(np.log1p(here))
        if here != unit:
            yield "lognormal_unit", float(np.log1p(unit))
        yield "delta", here
        yield "trigamma", float(polygamma(1, 1.0 / here))


def _beyond(family: Family, constants: Mapping[str, float]) -> Any:
    """What a family takes beyond the mean. Raises ModelError where some of it has a formula."""
    for _, one in beyond_parameters(family):
        if one.name not in constants:
            what = "one dispersion" if one.name == "phi" else f"one {one.name}"
            raise ModelError(f"r2() and icc() take {what}; in this model it has a formula.")
    return beyond_mean([constants[one.name] for _, one in beyond_parameters(family)])


def _on_identity(family: Family, constants: Mapping[str, float]) -> float:
    """Of a response, or of its logarithm, that is the predictor and an error. Raises ModelError if it is infinite."""
    if family.name != "student_t":
        return constants["phi"] ** 2
    variance = float(family.variance(np.array(0.0), _beyond(family, constants)))
    if not np.isfinite(variance):
        msg = "Student's t has no variance with 2 degrees of freedom or fewer, and so r2() and icc() no shares of it."
        raise ModelError(f"{msg} varcorr() has the variances of the random effects.")
    return variance


def _by_delta(
    family: Family, constants: Mapping[str, float], null: Null, mean_fitted: float
) -> Iterator[tuple[str, float]]:
    """variance(mu)·(dη/dmu)² at the mean of the unit at zero, and at that of the fitted values."""
    for name, mean in (("delta_null", family.mean(np.array(null.intercept))), ("delta_mean_fitted", mean_fitted)):
        mu = np.array(float(mean))
        slope = family.link.value(family.link.forward(mu), 1)[1]
        yield name, float(family.variance(mu, _beyond(family, constants)) / slope**2)
