"""Standard errors of predictions are x'Var(beta)x + z'Var(b|y)z, intervals come from the link scale."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm.prediction.predictions import predict

MODELS = {
    "gaussian": ("y ~ x * f + (x | g)", {}, 0.0),
    "two terms": ("y ~ x + (x || g) + (1 | h) + (0 + f | a:b)", {}, 0.0),
    "collinear": ("y ~ x + I(3 * x) + f + (1 | g)", {}, 0.0),
    "poisson": ("y ~ x + offset(log(t)) + (t | g)", {"family": "poisson"}, 0.0),
    "sqrt": ("y ~ x + (1 | g)", {"family": "poisson", "link": "sqrt"}, 5.0),
    "logit": ("s ~ x + (1 | g)", {"family": "binomial", "trials": "m"}, 0.0),
    "cloglog": ("s ~ x + (1 | g)", {"family": "binomial", "trials": "m", "link": "cloglog"}, 0.0),
    "inverse": ("z ~ x + (1 | g)", {"family": "gamma", "link": "inverse"}, 5.0),
    "inverse squared": ("z ~ x + (1 | g)", {"family": "inverse_gaussian", "link": "inverse_squared"}, 5.0),
    "no random": ("y ~ 1", {}, 0.0),
}


def variances(fit, *, random: bool) -> np.ndarray:
    """x'Vx + Σ z' Var(b|y) z over the rows of the design."""
    x, p = fit.design.mu.x, len(fit.estimate.beta)
    total = np.einsum("pn,pq,qn->n", x, fit.estimate.vcov_fixed[:p, :p], x)
    if random:
        for factor, estimate in zip(fit.design.factors, fit.estimate.factors, strict=True):
            total += np.einsum("rn,rsn,sn->n", factor.z, estimate.mode_covariance[:, :, factor.codes], factor.z)
    return total


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("random", ["all", "none"])
def test_standard_errors_and_intervals_are_the_algebra(made, trial, model, random):
    formula, arguments, shift = MODELS[model]
    fit = made(trial, formula, shift=shift, scale=0.1, **arguments)
    link = fit.recipe.spec.family.link
    se = np.sqrt(variances(fit, random=random == "all"))
    eta = fit.eta if random == "all" else fit.eta_fixed
    options = {"random": random, "std_error": True, "interval": "confidence", "conf_level": 0.9}
    on_link = predict(trial, fit, kind="link", **options)
    assert_allclose(on_link["prediction_std_error"], se, rtol=1e-9)
    half = 1.6448536269514722 * se  # Φ⁻¹(0.95)
    assert_allclose(on_link["prediction_low"], eta - half, rtol=1e-9, atol=1e-12)
    found = predict(trial, fit, **options)
    assert_allclose(found["prediction_std_error"], np.abs(link.value(eta, 1)[1]) * se, rtol=1e-9)
    ends = np.sort([link.inverse(eta - half), link.inverse(eta + half)], axis=0)
    assert_allclose(found.select("prediction_low", "prediction_high").to_numpy().T, ends, rtol=1e-9, atol=1e-12)


def test_an_unseen_level_brings_the_covariance_of_the_random_effects(made, trial):
    fit = made(trial, "y ~ x + (x | g)")
    (factor,) = fit.estimate.factors
    z = fit.design.factors[0].z
    variance = variances(fit, random=False) + np.einsum("rn,rs,sn->n", z, factor.covariances[0], z)
    found = predict(trial.with_columns(g=pl.lit("new")), fit, new_levels="zero", std_error=True)
    assert_allclose(found["prediction_std_error"], np.sqrt(variance), rtol=1e-10)


def test_an_interval_stops_where_the_link_turns(made, trial):
    """mu = eta²: an interval for eta that reaches below zero means that mu may be zero, not that it may be negative."""
    fit = made(trial, "y ~ x + (1 | g)", family="poisson", link="sqrt", shift=0.3, scale=0.5)
    link = predict(trial, fit, kind="link", interval="confidence")
    found = predict(trial, fit, interval="confidence")
    turned = (link["prediction"] > 0) & (link["prediction_low"] < 0)
    assert turned.any()
    assert (found.filter(turned)["prediction_low"] == 0.0).all()


def test_no_standard_error_is_null_not_nan(made, trial):
    fit = made(trial, "y ~ x + (1 | g)")
    fit.estimate.vcov_fixed[:] = np.nan
    found = predict(trial, fit, std_error=True, interval="confidence")
    assert found["prediction"].null_count() == 0
    for column in ("prediction_std_error", "prediction_low", "prediction_high"):
        assert found[column].null_count() == trial.height
