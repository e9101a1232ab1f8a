"""Nonlinear reference models: the likelihood at the reference's parameters, our optimum, each of its numbers."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import datasets
from tests.references import translate

MODELS = translate.entries("nonlinear")
pytestmark = pytest.mark.reference
every_model = pytest.mark.parametrize("name", MODELS)


def formulas(name: str) -> tuple[str, ...]:
    """The self-starting call without what is said of it in brackets, and a formula for every random parameter."""
    entry = MODELS[name]
    curve, _, _ = entry["formula"].partition("[")
    random, _, group = entry["random_formula"].partition("(")[0].partition(" | ")
    names = [part.strip() for part in random.removesuffix("~ 1").strip().removesuffix("~").split("+")]
    return (curve.strip(), *(f"{parameter} ~ 1 + (1 | {group.strip()})" for parameter in names))


@cache
def fitted(name: str) -> Any:
    return datasets.load(MODELS[name]["dataset"]).glmm.fit(*formulas(name))


@every_model
def test_the_objective_at_the_reference_parameters_is_its_log_likelihood(name: str) -> None:
    entry = MODELS[name]
    objective = datasets.load(entry["dataset"]).glmm.objective(*formulas(name))
    results = entry["results"]
    at = {f"{row['term']}: Intercept": row["estimate"] for row in results["fixed"]}
    for term in results["random"]:
        at |= {f"sd({term['group']}: {p} Intercept)": sd for p, sd in zip(term["terms"], term["sd"], strict=True)}
    at["phi"] = results["dispersion"]["value"]
    assert set(at) == set(objective.names)
    values = np.array([at[one] for one in objective.names])
    assert objective.loglik(values) == pytest.approx(results["logLik"], abs=entry["tolerance"]["logLik_abs"])
    assert np.abs(objective.gradient(values) * np.abs(values)).max() < 1e-3


@every_model
def test_the_optimum_and_all_its_numbers_are_the_references(name: str) -> None:
    """Found from the data alone, by the self-starting form."""
    entry, fit = MODELS[name], fitted(name)
    results, tolerance = entry["results"], entry["tolerance"]
    assert fit.converged
    assert fit.loglik == pytest.approx(results["logLik"], abs=tolerance["logLik_abs"])
    assert fit.estimate.df_model == results["n_params"]
    assert fit.aic == pytest.approx(results["AIC"], abs=1e-4)
    ours = {row["parameter"]: row for row in fit.fixef().iter_rows(named=True)}
    for row in results["fixed"]:
        distance = (ours[row["term"]]["estimate"] - row["estimate"]) / row["std_error"]
        assert abs(distance) < tolerance["fixed_in_se_units"]
        assert ours[row["term"]]["std_error"] == pytest.approx(row["std_error"], rel=tolerance["std_error_rel"])
    spread = {row["parameter"]: row["std_dev"] for row in fit.varcorr().iter_rows(named=True) if row["term"]}
    for term in results["random"]:
        for parameter, sd in zip(term["terms"], term["sd"], strict=True):
            assert spread[parameter] == pytest.approx(sd, rel=tolerance["sd_rel"])
    assert fit.estimate.phi == pytest.approx(results["dispersion"]["value"], rel=tolerance["sd_rel"])


@every_model
def test_modes_and_fitted_values_are_the_references(name: str) -> None:
    entry, fit = MODELS[name], fitted(name)
    frame = datasets.load(entry["dataset"])
    predicted = fit.predict(frame)["prediction"]
    assert predicted[:10].to_list() == pytest.approx(entry["results"]["mu_first10"], rel=1e-4, abs=1e-4)
    (reference,) = entry["results"]["ranef"]
    for k, parameter in enumerate(reference["terms"]):
        table = fit.ranef().filter(pl.col("parameter") == parameter)
        ours = dict(zip(table["level"], zip(table["estimate"], table["std_error"], strict=True), strict=True))
        modes, errors = reference["modes"][parameter], reference["conditional_sd"][parameter]
        scale = entry["results"]["random"][0]["sd"][k]
        for level, mode, error in zip(reference["levels"], modes, errors, strict=True):
            assert ours[level][0] == pytest.approx(mode, abs=1e-4 * scale)
            if len(reference["terms"]) == 1:  # of several the covariance of effects counts too
                assert ours[level][1] == pytest.approx(error, rel=1e-3)


def test_the_same_curve_written_out_is_the_same_model() -> None:
    trees = datasets.load("orange")
    written = polars_glmm.fit(
        trees,
        "circumference ~ Asym / (1 + exp(-(age - xmid) / scal))",
        "Asym ~ 1 + (1 | Tree)",
        "xmid ~ 1",
        "scal ~ 1",
        start={"Asym": 200, "xmid": 725, "scal": 350},
    )
    assert written.loglik == pytest.approx(fitted("orange_logistic").loglik, abs=1e-9)
