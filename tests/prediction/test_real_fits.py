"""The verbs on fits of published data."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import datasets
from polars_glmm.design.learn import learn

MODELS = {
    "sleepstudy": ("Reaction ~ Days + (Days | Subject)", {}),
    "cbpp": ("cbind(incidence, size - incidence) ~ period + (1 | herd)", {"family": "binomial"}),
    "grouseticks": ("TICKS ~ YEAR + scale(HEIGHT) + (1 | LOCATION) + (1 | BROOD)", {"family": "poisson"}),
    "pastes": ("strength ~ 1 + (1 | batch/cask)", {"method": "ml"}),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    formula, arguments = MODELS[request.param]
    frame = datasets.load(request.param)
    return frame, polars_glmm.fit(frame, formula, **arguments)


def test_predictions_are_the_linear_predictors_of_the_likelihood(case):
    frame, fit = case
    design = learn(fit.recipe.spec, frame).design
    fixed = fit.estimate.beta @ design.mu.x
    parts = zip(design.factors, fit.estimate.factors, strict=True)
    eta = fixed + sum((factor.z * estimate.modes[:, factor.codes]).sum(axis=0) for factor, estimate in parts)
    assert_allclose(fit.predict(frame, kind="link")["prediction"], eta, rtol=1e-9, atol=1e-11)
    assert_allclose(fit.predict(frame, kind="link", random="none")["prediction"], fixed, rtol=1e-9, atol=1e-11)


@pytest.mark.one_in(3)
def test_every_verb_is_a_method_and_a_namespace(case):
    frame, fit = case
    assert frame.glmm.predict(fit).equals(fit.predict(frame))
    assert frame.lazy().glmm.augment(fit).collect().equals(fit.augment(frame))
    assert polars_glmm.with_ranef(frame, fit).equals(fit.with_ranef(frame))
    assert frame.glmm.simulate(fit, n=2, rng=1).equals(fit.simulate(frame, 2, 1))


def test_joined_random_effects_add_up_to_the_prediction(case):
    frame, fit = case
    joined = fit.with_ranef(frame)
    total = fit.predict(frame, kind="link", random="none")["prediction"]
    for factor in fit.recipe.factors:
        for term in factor.terms:
            for column in term.columns:
                weight = frame.select(pl.lit(1.0) if column.name == "Intercept" else pl.col(column.name)).to_series()
                total = total + joined[f"{factor.name}_{column.name}"] * weight
    assert_allclose(fit.predict(frame, kind="link")["prediction"], total, rtol=1e-9, atol=1e-12)


@pytest.mark.one_in(3)
def test_the_mean_of_simulated_responses_is_near_the_fitted_one(case):
    frame, fit = case
    draws = fit.simulate(frame, 200, np.random.default_rng(4)).select(pl.selectors.starts_with("sim_"))
    assert draws.null_count().sum_horizontal().item() == 0
    if fit.link == "identity":
        means = draws.mean_horizontal()
        spread = draws.to_numpy().std()
        assert_allclose(means, fit.predict(frame, random="none")["prediction"], atol=5 * spread / np.sqrt(200))
