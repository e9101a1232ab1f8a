"""Var(x'beta + z'b) = z'Var(b|y)z + (x + s'z)'Var(beta)(x + s'z), s the slope of the modes; intervals by the link."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy.special import stdtrit

import polars_glmm
from polars_glmm import ModelError, datasets
from polars_glmm.design.learn import learn
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
    """The variance of the linear predictor over the rows of the design, by the formula above."""
    a, p = fit.design.mu.x.copy(), len(fit.estimate.beta)
    total = np.zeros(a.shape[1])
    if random:
        for factor, estimate in zip(fit.design.factors, fit.estimate.factors, strict=True):
            total += np.einsum("rn,rsn,sn->n", factor.z, estimate.mode_covariance[:, :, factor.codes], factor.z)
            a += np.einsum("rn,rpn->pn", factor.z, estimate.mode_slope[:, :, factor.codes])
    return total + np.einsum("pn,pq,qn->n", a, fit.estimate.vcov_fixed[:p, :p], a)


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
    half = (stdtrit(fit.estimate.n_obs - 1, 0.95) if model == "no random" else 1.6448536269514722) * se  # Φ⁻¹(0.95)
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


def test_slopes_that_are_not_kept_are_missed_only_where_they_matter(made, trial):
    fit = made(trial, "y ~ x + (1 | g)")
    expected = np.sqrt(variances(fit, random=False))
    bare = tuple(replace(factor, mode_slope=None) for factor in fit.estimate.factors)
    fit = replace(fit, estimate=replace(fit.estimate, factors=bare))
    with pytest.raises(ModelError, match=r"as many levels as 'g' has \(20\)\. random=\"none\""):
        predict(trial.lazy(), fit, std_error=True)
    assert_allclose(predict(trial, fit, random="none", std_error=True)["prediction_std_error"], expected, rtol=1e-9)
    assert predict(trial, fit)["prediction"].null_count() == 0


LINEAR = {
    "sleepstudy": "Reaction ~ Days + (Days | Subject)",
    "pastes": "strength ~ 1 + (1 | batch/cask)",
    "penicillin": "diameter ~ 1 + (1 | plate) + (1 | sample)",
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_standard_errors_are_those_of_the_mixed_model_equations(name):
    """C = σ²[X'X X'Z; Z'X Z'Z + σ²G⁻¹]⁻¹ is the covariance of (β̂, b̂ − b) (Henderson 1975)."""
    frame = datasets.load(name)
    fit = polars_glmm.fit(frame, LINEAR[name])
    design = learn(fit.spec, frame).design
    blocks, penalties = [design.mu.x.T], []
    for factor, estimate in zip(design.factors, fit.estimate.factors, strict=True):
        indicator = np.eye(factor.n_levels)[factor.codes]
        blocks += [column[:, None] * indicator for column in factor.z]
        penalties.append(np.kron(np.linalg.inv(estimate.covariances[0]), np.eye(factor.n_levels)))
    w, p = np.hstack(blocks), len(fit.estimate.beta)
    equations = w.T @ w / fit.estimate.phi**2
    at = p
    for penalty in penalties:
        equations[at : at + len(penalty), at : at + len(penalty)] += penalty
        at += len(penalty)
    covariance = np.linalg.inv(equations)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", w, covariance, w))
    assert_allclose(fit.predict(frame, std_error=True)["prediction_std_error"], expected, rtol=1e-8)
    lazy = frame.lazy().glmm.predict(fit, std_error=True).collect()
    assert_allclose(lazy["prediction_std_error"], expected, rtol=1e-8)


TICKS = "TICKS ~ YEAR + (1 | LOCATION)"
NEW = pl.DataFrame({"YEAR": ["96"], "LOCATION": ["1"]})


def test_a_level_that_was_observed_often_is_known_better_than_its_parts():
    """glmmTMB 1.1.5: the mean at the first location in 1996 has the standard error 1.797."""
    fit = polars_glmm.fit(datasets.load("grouseticks"), TICKS, family="poisson")
    assert_allclose(fit.predict(NEW, std_error=True)["prediction_std_error"], 1.797, atol=5e-4)
    assert_allclose(fit.predict(NEW, kind="link", std_error=True)["prediction_std_error"], 0.105, atol=5e-4)


def test_held_fixed_effects_count_as_known_as_an_offset_does():
    """With them as an offset predictions and errors are the same; with all held the errors are those of the modes."""
    ticks = datasets.load("grouseticks").with_columns(known=pl.when(pl.col("YEAR") == "96").then(0.5).otherwise(0.0))
    held = polars_glmm.fit(ticks, TICKS, family="poisson", fixed={"YEAR[T.96]": 0.5}).predict(NEW, std_error=True)
    moved = polars_glmm.fit(
        ticks.with_columns(late=(pl.col("YEAR") == "97").cast(pl.Float64)),
        "TICKS ~ late + offset(known) + (1 | LOCATION)",
        family="poisson",
    ).predict(NEW.with_columns(late=0.0, known=0.5), std_error=True)
    for name in ("prediction", "prediction_std_error"):
        assert held[name].item() == pytest.approx(moved[name].item(), rel=1e-5)
    fixed = {"Intercept": 1.0, "YEAR[T.96]": 0.5, "YEAR[T.97]": 0.5}
    fit = polars_glmm.fit(ticks, TICKS, family="poisson", fixed=fixed)
    own = fit.predict(NEW, kind="link", std_error=True)["prediction_std_error"].item()
    of_mode = fit.ranef().filter(pl.col("level") == "1")["std_error"].item()
    assert own == pytest.approx(of_mode, rel=1e-9)


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
