"""Times and censored responses with random effects, as TMB and an engine in numpy fit them (see tests/references)."""

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
from tests.references.translate import Entry

MODELS = translate.entries("survival", "censored")
FAMILY = {"lognormal_time": "lognormal", "gaussian_censored": "gaussian"}
every_model = pytest.mark.parametrize("name", MODELS)


def formula(entry: Entry) -> str:
    return entry["formula"].replace("type = interval", "type = 'interval'")


def call(entry: Entry) -> dict[str, Any]:
    return {"family": FAMILY.get(entry["family"], entry["family"]), "method": "laplace"}


@cache
def fitted(name: str) -> Any:
    entry = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(translate.data(entry), formula(entry), **call(entry))


def phi_of(entry: Entry) -> float | None:
    """The shape, or what is a standard deviation here and one over it there."""
    if (dispersion := entry["results"].get("dispersion")) is None:
        return None
    value = float(dispersion["value"])
    return 1.0 / value if entry["family"] == "lognormal_time" else value


@every_model
def test_the_objective_at_the_reference_parameters(name: str) -> None:
    entry = MODELS[name]
    results = entry["results"]
    objective = polars_glmm.objective(translate.data(entry), formula(entry), **call(entry))
    at = dict(zip(*translate.fixed(entry, "cond").select("term", "estimate"), strict=True))
    (term,) = results["random"]
    columns = translate.random_terms(term, translate.data(entry))
    at |= {f"sd({term['group']}: {column})": sd for column, sd in zip(columns, term["sd"], strict=True)}
    if len(columns) > 1:
        at[f"cor({term['group']}: {', '.join(columns)})"] = term["correlation"][0][1]
    if (phi := phi_of(entry)) is not None:
        at["phi"] = phi
    assert set(at) == set(objective.names)
    assert objective.loglik(at) == pytest.approx(results["logLik"], abs=1e-7)


@every_model
def test_optimum_estimates_and_errors(name: str) -> None:
    entry, fit = MODELS[name], fitted(name)
    results, allowed = entry["results"], entry["tolerance"]
    assert fit.loglik == pytest.approx(results["logLik"], abs=max(1e-6, allowed["logLik_abs"]))
    glance = fit.glance().row(0, named=True)
    assert (glance["n_obs"], glance["df_model"]) == (results["n_obs"], results["n_params"])
    both = translate.fixed(entry, "cond").join(fit.fixef(), on="term", suffix="_ours")
    assert both.height == fit.fixef().height
    distance = (both["estimate_ours"] - both["estimate"]) / both["std_error"]
    assert_allclose(distance, 0.0, atol=allowed["fixed_in_se_units"])
    assert_allclose(both["std_error_ours"], both["std_error"], rtol=allowed["std_error_rel"])
    (term,) = results["random"]
    table = fit.varcorr()
    sds = table.filter(pl.col("other_term").is_null())["std_dev"].head(len(term["sd"]))
    assert_allclose(sds, term["sd"], rtol=allowed["sd_rel"], atol=allowed["sd_zero_abs"])
    if len(term["sd"]) > 1:
        found = table["correlation"].drop_nulls().item()
        assert found == pytest.approx(term["correlation"][0][1], abs=allowed["correlation_abs"])
    if (phi := phi_of(entry)) is not None:
        row = fit.dispersion().row(0, named=True)
        assert row["estimate"] == pytest.approx(phi, rel=allowed["sd_rel"])
        log_error = results["dispersion"]["log_std_error"]
        assert row["std_error"] / row["estimate"] == pytest.approx(log_error, rel=max(1e-3, allowed["std_error_rel"]))


@every_model
def test_modes_and_linear_predictors(name: str) -> None:
    entry, fit = MODELS[name], fitted(name)
    allowed, frame = entry["tolerance"], translate.data(entry)
    for effects in entry["results"]["ranef"]:
        names = dict(zip(effects["terms"], translate.random_terms(effects, frame), strict=True))
        for term, modes in effects["modes"].items():
            ours = fit.ranef().filter(term=names[term])
            shown = pl.DataFrame({"level": effects["levels"]}).join(ours, on="level", how="left", maintain_order="left")
            assert_allclose(shown["estimate"], modes, atol=max(1e-5, allowed["ranef_abs"]))
    link = fit.predict(frame.head(10), kind="link")["prediction"]
    assert_allclose(link, entry["results"]["linear_predictor_first10"], atol=1e-5)


def test_without_a_frailty_the_fit_is_that_of_survreg() -> None:
    """R 4.2.2, survival: survreg(Surv(time, status) ~ rx, dist = "exponential") on the same rows."""
    frame = translate.data(MODELS["rats_exponential_frailty"])
    fit = polars_glmm.fit(frame, "Surv(time, status) ~ rx", family="exponential")
    assert fit.loglik == pytest.approx(-269.2083002377, abs=1e-9)


def test_proportional_hazards_have_the_same_likelihood_and_coefficients_times_the_shape() -> None:
    """β_ph = −a·β_aft, with the delta method's standard error; and so the standard deviation of the frailty."""
    frame = translate.data(MODELS["rats_weibull_frailty"])
    aft = fitted("rats_weibull_frailty")
    ph = polars_glmm.fit(frame, "surv(time, status) ~ rx + (1 | litter)", family=polars_glmm.Weibull(metric="ph"))
    shape = aft.dispersion()["estimate"].item()
    assert ph.loglik == pytest.approx(aft.loglik, abs=1e-9)
    assert ph.dispersion()["estimate"].item() == pytest.approx(shape, rel=1e-6)
    assert_allclose(ph.fixef()["estimate"], -shape * aft.fixef()["estimate"], rtol=1e-6)
    assert ph.varcorr()["std_dev"][0] == pytest.approx(shape * aft.varcorr()["std_dev"][0], rel=1e-5)
    errors = _delta(aft)
    assert_allclose(ph.fixef()["std_error"], errors, rtol=1e-3)


def _delta(aft: Any) -> list[float]:
    """Standard errors of −a·β from the joint covariance matrix of β and log a."""
    shape, beta = aft.dispersion()["estimate"].item(), aft.fixef()["estimate"].to_numpy()
    full = aft.estimate.report_vcov
    errors = []
    for j, b in enumerate(beta):
        g = np.zeros(len(full))
        g[j], g[-1] = -shape, -b
        errors.append(float(np.sqrt(g @ full @ g)))
    return errors
