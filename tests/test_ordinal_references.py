"""Every reference fit of ordered categories: objective, optimum, thresholds, effects, modes, within its tolerance."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm.errors import FitWarning
from tests.references import translate

ORDINAL = translate.entries("ordinal")
pytestmark = pytest.mark.reference
every = pytest.mark.parametrize("name", ORDINAL)


@cache
def fitted(name: str) -> Any:
    entry = ORDINAL[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(translate.data(entry), *translate.formulas(entry), **translate.arguments(entry))


def reference(name: str, component: str) -> pl.DataFrame:
    """Coefficients of "cond", effects on the latent variable, or "threshold", in our names."""
    return translate.fixed(ORDINAL[name], component)


def test_all_that_the_corpus_has_are_here() -> None:
    assert len(ORDINAL) == 8
    assert {entry["link"] for entry in ORDINAL.values()} == {"logit", "probit", "cloglog"}


@every
def test_objective_at_the_reference_parameters(name: str) -> None:
    entry = ORDINAL[name]
    objective = polars_glmm.objective(translate.data(entry), *translate.formulas(entry), **translate.arguments(entry))
    at = dict(reference(name, "cond").select("term", "estimate").iter_rows())
    at |= {f"thresholds: {term}": value for term, value in reference(name, "threshold")["term", "estimate"].iter_rows()}
    for term in entry["results"]["random"]:
        names = translate.random_terms(term, translate.data(entry))
        at |= {f"sd({term['group']}: {name})": sd for name, sd in zip(names, term["sd"], strict=True)}
        if len(names) == 2:
            at[f"cor({term['group']}: {names[0]}, {names[1]})"] = term["correlation"][0][1]
    assert set(at) == set(objective.names)
    assert objective.loglik(at) == pytest.approx(entry["results"]["logLik"], abs=1e-6)


@every
def test_optimum_and_counts(name: str) -> None:
    results, fit = ORDINAL[name]["results"], fitted(name)
    assert fit.converged
    assert fit.loglik == pytest.approx(results["logLik"], abs=1e-6)
    glance = fit.glance().row(0, named=True)
    assert glance["n_obs"] == results["n_obs"]
    assert glance["df_model"] == results["n_params"]
    assert fit.aic == pytest.approx(results["AIC"], abs=1e-5)


@every
@pytest.mark.parametrize(("component", "parameter"), [("cond", "mu"), ("threshold", "thresholds")])
def test_coefficients_and_their_errors(name: str, component: str, parameter: str) -> None:
    tolerance = ORDINAL[name]["tolerance"]
    expected = reference(name, component)
    ours = fitted(name).fixef().filter(parameter=parameter)
    assert ours["term"].to_list() == expected["term"].to_list()
    distance = (ours["estimate"] - expected["estimate"]) / expected["std_error"]
    assert_allclose(distance, 0.0, atol=tolerance["fixed_in_se_units"])
    assert_allclose(ours["std_error"], expected["std_error"], rtol=tolerance["std_error_rel"])


@every
def test_standard_deviations_and_modes(name: str) -> None:
    entry, fit = ORDINAL[name], fitted(name)
    tolerance, table = entry["tolerance"], fit.varcorr()
    for term in entry["results"]["random"]:
        rows = table.filter(pl.col("other_term").is_null(), group=term["group"])
        assert_allclose(rows["std_dev"], term["sd"], rtol=tolerance["sd_rel"], atol=tolerance.get("sd_zero_abs", 0.0))
    for effects in entry["results"].get("ranef", ()):
        ours = fit.ranef().filter(group=effects["group"])
        names = translate.random_terms(effects, translate.data(entry))
        for term, own in zip(effects["terms"], names, strict=True):
            shown = pl.DataFrame({"level": effects["levels"]}).join(
                ours.filter(term=own), on="level", how="left", maintain_order="left"
            )
            assert_allclose(shown["estimate"], effects["modes"][term], atol=tolerance["ranef_abs"], rtol=1e-3)
            if (spread := effects.get("conditional_sd", {}).get(term)) is not None:
                assert_allclose(shown["std_error"], spread, rtol=5 * tolerance["sd_rel"], atol=1e-5)


def test_probabilities_are_those_of_the_thresholds() -> None:
    """P(y ≤ k) = F(α_k − η) of the reference's own numbers, row by row."""
    entry = ORDINAL["wine_logit"]
    frame, results = translate.data(entry), entry["results"]
    alpha = reference("wine_logit", "threshold")["estimate"].to_numpy()
    beta = dict(reference("wine_logit", "cond").select("term", "estimate").iter_rows())
    mode = dict(zip(results["ranef"][0]["levels"], results["ranef"][0]["modes"]["(Intercept)"], strict=True))
    eta = np.array(
        [
            beta["temp[T.warm]"] * (row["temp"] == "warm") + beta["contact[T.yes]"] * (row["contact"] == "yes")
            + mode[row["judge"]]
            for row in frame.iter_rows(named=True)
        ]
    )  # fmt: skip
    expected = 1.0 / (1.0 + np.exp(-(alpha[:, None] - eta)))
    found = frame.glmm.predict(fitted("wine_logit"), kind="cumulative")
    assert_allclose(found.select(pl.col("^prediction_.*$")).to_numpy().T, expected, atol=1e-5)
