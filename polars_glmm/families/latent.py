"""Residual variances on the scale of the linear predictor, where there is a definition: for R² and correlations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import expit, polygamma

from polars_glmm.errors import ModelError
from polars_glmm.families.base import Family

LATENT = {"logit": np.pi**2 / 3.0, "probit": 1.0, "cloglog": np.pi**2 / 6.0, "loglog": np.pi**2 / 6.0}
"""Variance of the latent response of a model of two or more categories, by its link."""
ON_LOG_SCALE = ("poisson", "negative_binomial", "gamma")
"""Families whose residual variance on the log scale is one of their mean, or of their dispersion."""


class Null(NamedTuple):
    """The model with an intercept alone: its intercept, and the variance of its random effects."""

    intercept: float
    random: float


def needs_null(family: Family, phi: float | None) -> bool:
    """Whether the residual variance hangs on a mean, that of the null model. Raises ModelError where there is none."""
    if phi is None and family.has_phi:
        msg = "r2() and icc() take one dispersion; in this model it has a formula."
        raise ModelError(msg)
    if family.linear:
        return False
    link = family.link.name
    if family.response == "category" and link in LATENT:
        return False
    if (family.name == "binomial" and link in LATENT) or (family.name in ON_LOG_SCALE and link == "log"):
        return True
    msg = f"The residual variance of {family.name} with the {link} link is not defined on the scale of its predictor. "
    msg += "varcorr() has the variances of the random effects there."
    raise ModelError(msg)


def residual_variances(
    family: Family, phi: float | None, null: Null | None, mean_fitted: float
) -> Iterator[tuple[str, float]]:
    """Definitions of the residual variance, the recommended one first (Nakagawa, Johnson & Schielzeth 2017).

    phi           the dispersion;  mean_fitted: of probabilities
    Means of counts are exp(β₀ + v/2) of the null model; "lognormal_unit" takes exp(β₀), the median.
    """
    if family.response == "category":
        yield "theoretical", LATENT[family.link.name]
        return
    if null is None:
        assert phi is not None
        yield "exact", phi**2
        return
    if family.name == "binomial":
        yield "theoretical", LATENT[family.link.name]
        if family.link.name == "logit":
            p = float(expit(null.intercept))
            yield "delta_null", 1.0 / (p * (1.0 - p))
            yield "delta_mean_fitted", 1.0 / (mean_fitted * (1.0 - mean_fitted))
        return
    mean, median = np.exp(null.intercept + 0.5 * null.random), np.exp(null.intercept)
    if family.name == "gamma":
        assert phi is not None
        here = unit = phi
    else:
        extra = 0.0 if phi is None else 1.0 / phi
        here, unit = 1.0 / mean + extra, 1.0 / median + extra
    yield "lognormal", float(np.log1p(here))
    if family.name != "gamma":
        yield "lognormal_unit", float(np.log1p(unit))
    yield "delta", float(here)
    yield "trigamma", float(polygamma(1, 1.0 / here))
