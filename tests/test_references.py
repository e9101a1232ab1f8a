"""Every reference fit: our objective at its parameters, our optimum, and each number it reports, within its tolerance.

The entries and their origin are described in `tests/references/README.md`.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm.errors import FitWarning, GlmmError
from tests.references import translate
from tests.references.translate import Entry

MODELS = translate.entries("lmm", "glmm")
BY_GROUP = translate.entries("by_group")
TABLES = translate.entries("anova")
SPREADS = translate.entries("heteroscedastic")
HELD = translate.entries("held")
CORRELATED = translate.entries("correlated")
NO_RESIDUALS = translate.entries("no_residuals")
RELATED = translate.entries("lmm_known_covariance", "lmm_multiple_membership")
TWO_PARTS = translate.entries("two_part")
ZEROS = translate.entries("zeros")
EDGES = translate.entries("edge")

RIDGE = {"grouseticks_overparameterised": "grouseticks_year_slope"}
"""Only the sum of two covariance matrices is identified: their parts are whatever an engine stopped at, and the entry's
linear predictors count the intercept twice (its modes do not). The entry named is the same model without the ridge."""

JOINT = {"sim_ar1_gaussian": 5e-3}
"""Gaussian models whose standard errors are those of the joint Hessian there, and given the variances here: by how much
they may differ (a residual variance next to its boundary)."""

STOPPED_EARLY = {"pig_tmb_diag_ml": (1e-5, 5e-4)}
"""Log-likelihood, and coefficients in standard errors, of a search that ended there at a gradient of 0.003."""

pytestmark = pytest.mark.reference
every_model = pytest.mark.parametrize("name", MODELS)
models_with = lambda key: pytest.mark.parametrize(
    "name", [name for name, entry in MODELS.items() if entry["results"].get(key)]
)


def fit_of(entry: Entry, frame: pl.DataFrame) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(frame, *translate.formulas(entry), **translate.arguments(entry))


@cache
def fitted(name: str) -> Any:
    entry = (MODELS | ZEROS)[name]
    return fit_of(entry, translate.data(entry))


@cache
def complete(name: str) -> pl.DataFrame:
    """The rows of the fit: the frame without rows that have a missing value."""
    return translate.data(MODELS[name]).drop_nulls()


def tolerance(entry: Entry, key: str) -> float:
    return float(entry["tolerance"][key])


@every_model
def test_objective_at_the_reference_parameters(name: str) -> None:
    entry = MODELS[name]
    objective = polars_glmm.objective(translate.data(entry), *translate.formulas(entry), **translate.arguments(entry))
    parameters = translate.parameters(entry, objective.names)
    assert set(parameters) == set(objective.names)
    assert objective.loglik(parameters) == pytest.approx(entry["results"]["logLik"], rel=1e-6)


@every_model
def test_optimum_is_at_least_as_good(name: str) -> None:
    entry = MODELS[name]
    assert fitted(name).loglik >= entry["results"]["logLik"] - max(1e-4, tolerance(entry, "logLik_abs"))


@every_model
def test_counts_and_criteria(name: str) -> None:
    results, fit = MODELS[name]["results"], fitted(name)
    glance = fit.glance().row(0, named=True)
    assert glance["n_obs"] == results["n_obs"]
    assert glance["df_model"] == results["n_params"]
    assert glance["df_resid"] == results["df_residual"]
    assert {translate.parts_of(g["group"]): g["n_levels"] for g in glance["groups"]} == {
        translate.parts_of(group): n for group, n in results["n_groups"].items()
    }
    assert fit.aic == pytest.approx(results["AIC"], abs=1e-3)
    assert fit.bic == pytest.approx(results["BIC"], abs=1e-3)


@every_model
@pytest.mark.parametrize("component", ["cond", "disp"])
def test_fixed_effects(name: str, component: str) -> None:
    entry = MODELS[name]
    reference = translate.fixed(entry, component)
    ours = fitted(name).fixef().filter(pl.col("parameter") == {"cond": "mu", "disp": "phi"}[component])
    assert set(ours["term"]) == set(reference["term"])
    both = reference.join(ours, on="term", how="left", suffix="_ours")
    distance = (both["estimate_ours"] - both["estimate"]) / both["std_error"]
    assert_allclose(distance, 0, atol=tolerance(entry, "fixed_in_se_units"))
    joint = JOINT.get(name, tolerance(entry, "std_error_rel"))
    assert_allclose(both["std_error_ours"], both["std_error"], rtol=joint)


@models_with("random")
def test_variance_components(name: str) -> None:
    entry = MODELS[name]
    if name in RIDGE:
        assert_allclose(_total_covariance(fitted(name)), _reference_total(entry), rtol=1e-3)
        return
    table = fitted(name).varcorr()
    groups = table["group"].unique()
    for term in entry["results"]["random"]:
        group, columns = translate.our_group(term["group"], groups), translate.random_terms(term, translate.data(entry))
        rows = table.filter(pl.col("group") == group)
        if term["structure"] == "ar1":  # one standard deviation and one correlation say all
            pair = rows.filter(pl.col("other_term") == columns[1])
            assert pair["correlation"].item() == pytest.approx(
                term["correlation"][1][0], abs=tolerance(entry, "correlation_abs")
            )
            columns = columns[:1]
        for i, column in enumerate(columns):
            sd = rows.filter(pl.col("term") == column, pl.col("other_term").is_null())["std_dev"].item()
            zero = term["sd"][i] < tolerance(entry, "sd_zero_abs")
            assert sd == pytest.approx(
                term["sd"][i], rel=tolerance(entry, "sd_rel"), abs=tolerance(entry, "sd_zero_abs") if zero else 0
            )
            for j in range(i if term["structure"] == "us" else 0):
                pair = rows.filter(
                    pl.col("term").is_in([columns[j], column]), pl.col("other_term").is_in([columns[j], column])
                )
                assert pair["correlation"].item() == pytest.approx(
                    term["correlation"][i][j], abs=tolerance(entry, "correlation_abs")
                )


def _total_covariance(fit: Any) -> list[float]:
    """Variances of (1|L) + (0+YEAR|L) per year: the sums that are identified."""
    variances = fit.varcorr().filter(pl.col("other_term").is_null())
    shared = variances.filter(pl.col("term") == "Intercept")["estimate"].item()
    return (variances.filter(pl.col("term") != "Intercept")["estimate"] + shared).to_list()


def _reference_total(entry: Entry) -> list[float]:
    shared, years = entry["results"]["random"]
    return [variance + shared["variance"][0] for variance in years["variance"]]


@models_with("variance_component_se")
def test_standard_errors_of_variance_components(name: str) -> None:
    """There for sds, in an order of its own; here for variances: se(σ²) = 2σ·se(σ), null at a boundary."""
    entry = MODELS[name]
    table = fitted(name).varcorr().filter(pl.col("other_term").is_null())
    listed = entry["results"]["variance_component_se"]
    estimates = np.asarray(listed["estimate"])
    for term in entry["results"]["random"]:
        group = translate.our_group(term["group"], table["group"].unique())
        columns, sds = translate.random_terms(term, translate.data(entry)), term["sd"]
        if term["structure"] == "ar1":
            columns, sds = columns[:1], sds[:1]
        for column, sd in zip(columns, sds, strict=True):
            se = listed["std_error"][int(np.argmin(np.abs(estimates - sd)))]
            ours = table.filter(pl.col("group") == group, pl.col("term") == column)["std_error"].item()
            if ours is None:
                assert fitted(name).singular or name in RIDGE
            elif se is not None:
                assert ours == pytest.approx(2 * sd * se, rel=_SD_SE)


_SD_SE = 5e-3
"""Joint Hessians of different engines agree to about 1e-3 in these; README of the references, section on tolerances."""


@models_with("dispersion")
def test_dispersion(name: str) -> None:
    entry = MODELS[name]
    table = fitted(name).dispersion()
    assert table["parameter"].to_list() == ["phi"]
    powers = {"Gamma": 2}  # phi = sigma²: twice the relative error
    assert table["estimate"].item() == pytest.approx(
        translate.phi(entry), rel=powers.get(entry["family"], 1) * tolerance(entry, "sd_rel")
    )


@pytest.mark.parametrize(
    "name", [name for name, entry in MODELS.items() if "ranef" in entry["results"] and name not in RIDGE]
)
def test_conditional_modes(name: str) -> None:
    entry = MODELS[name]
    table = fitted(name).ranef()
    for effects in entry["results"]["ranef"]:
        group = translate.our_group(effects["group"], table["group"].unique())
        levels = [translate.our_level(level, effects["group"], group) for level in effects["levels"]]
        names = dict(zip(effects["terms"], translate.random_terms(effects, translate.data(entry)), strict=True))
        for term, modes in effects["modes"].items():
            ours = table.filter(pl.col("group") == group, pl.col("term") == names[term])
            assert len(ours) == effects["n_levels"]
            shown = pl.DataFrame({"level": levels}).join(ours, on="level", how="left", maintain_order="left")
            assert_allclose(
                shown["estimate"], modes, atol=tolerance(entry, "ranef_abs"), rtol=tolerance(entry, "sd_rel")
            )
            if (spread := effects.get("conditional_sd", {}).get(term)) is not None:
                assert_allclose(
                    shown["std_error"],
                    spread,
                    rtol=5 * tolerance(entry, "sd_rel"),
                    atol=tolerance(entry, "sd_zero_abs") * 1e-3,
                )
            sums = effects["checksum"][term]
            n, scale = effects["n_levels"], np.sqrt(sums["sum_sq"] / effects["n_levels"])
            slack = tolerance(entry, "sd_rel") * n
            assert ours["estimate"].sum() == pytest.approx(sums["sum"], abs=slack * max(scale, 1e-3))
            assert ours["estimate"].abs().sum() == pytest.approx(sums["sum_abs"], abs=slack * max(scale, 1e-3))
            assert (ours["estimate"] ** 2).sum() == pytest.approx(sums["sum_sq"], abs=2 * slack * max(scale, 1e-3) ** 2)


@models_with("linear_predictor_first10")
def test_fitted_values(name: str) -> None:
    fit, frame = fitted(name), complete(name)
    results = MODELS[RIDGE.get(name, name)]["results"]
    sums = results["checksums"]
    link = fit.predict(frame, kind="link")["prediction"]
    population = fit.predict(frame, kind="link", random="none")["prediction"]
    mean = fit.augment(frame)["fitted"]
    size = max(1.0, float(np.sqrt(sums["sum_eta_sq"] / len(link))))
    close = {"atol": 1e-4 * size}
    assert_allclose(link.head(10), results["linear_predictor_first10"], **close)
    assert_allclose(population.head(10), results["linear_predictor_population_first10"], **close)
    assert_allclose(mean.head(10), results["mu_first10"], rtol=1e-4 * size)
    slack = 1e-5 * size * len(link)
    assert link.sum() == pytest.approx(sums["sum_eta"], abs=slack)
    assert population.sum() == pytest.approx(sums["sum_eta_population"], abs=slack)
    assert mean.sum() == pytest.approx(sums["sum_mu"], rel=1e-5)


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if "tests" in entry.get("extras", {})])
def test_satterthwaite(name: str) -> None:
    """Degrees of freedom rest on numerical second derivatives there: 1e-3 relative."""
    entry = MODELS[name]
    rows = entry["extras"]["tests"]["satterthwaite"]
    names = translate.translated([row["term"] for row in rows], translate.data(entry), translate.coding(entry))
    ours = {row["term"]: row for row in fitted(name).fixef().iter_rows(named=True)}
    for row in rows:
        assert ours[names[row["term"]]]["df"] == pytest.approx(row["df"], rel=1e-3)
        assert ours[names[row["term"]]]["statistic"] == pytest.approx(row["t"], rel=1e-3)


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if "predict" in entry.get("extras", {})])
def test_prediction_on_new_rows(name: str) -> None:
    entry, fit = MODELS[name], fitted(name)
    expected = entry["extras"]["predict"]
    frame = pl.DataFrame(expected["newdata"])
    size = max(1.0, float(np.abs(expected["population_link"]).max()))
    for kind in ("link", "response"):
        for random, part in (("all", "conditional"), ("none", "population")):
            ours = fit.predict(frame, kind=kind, random=random, new_levels="zero")["prediction"]
            assert_allclose(ours, expected[f"{part}_{kind}"], atol=1e-4 * size)
    spread = fit.predict(frame, kind="link", random="none", std_error=True)["prediction_std_error"]
    assert_allclose(spread, expected["population_link_se"], rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "level"), [(name, level) for name, entry in BY_GROUP.items() for level in entry["fits"]]
)
def test_one_group_at_a_time(name: str, level: str) -> None:
    whole = BY_GROUP[name]
    expected = whole["fits"][level]
    assert expected["status"] in ("ok", "singular")
    entry = {**whole, "results": expected}
    frame = translate.data(whole).filter(pl.col(whole["by"]).cast(pl.String) == level)
    fit = fit_of(entry, frame)
    assert fit.loglik >= expected["logLik"] - 1e-4
    assert fit.singular == (expected["status"] == "singular")
    reference = translate.fixed(entry, "cond")
    both = reference.join(fit.fixef(), on="term", how="left", suffix="_ours")
    slack = expected["tolerance"]["fixed_in_se_units"]
    assert_allclose((both["estimate_ours"] - both["estimate"]) / both["std_error"], 0, atol=slack)
    sds = fit.varcorr().filter(pl.col("group") != "Residual")["std_dev"]
    assert_allclose(
        sds,
        [sd for term in expected["random"] for sd in term["sd"]],
        rtol=expected["tolerance"]["sd_rel"],
        atol=expected["tolerance"]["sd_zero_abs"] if fit.singular else 0,
    )


@pytest.mark.parametrize("name", SPREADS)
def test_residual_variances_that_differ(name: str) -> None:
    """nlme's varIdent and varExp, and dense REML: standard errors are those given the variances, by REML here too."""
    entry = SPREADS[name]
    results, fit = entry["results"], fit_of(entry, translate.data(entry))
    assert fit.loglik == pytest.approx(results["logLik"], abs=tolerance(entry, "logLik_abs"))
    assert fit.glance()["df_model"].item() == results["n_params"]
    both = translate.fixed(entry, "cond").join(fit.fixef().filter(parameter="mu"), on="term", suffix="_ours")
    assert both.height == 2
    distance = (both["estimate_ours"] - both["estimate"]) / both["std_error"]
    assert_allclose(distance, 0, atol=tolerance(entry, "fixed_in_se_units"))
    errors = [row.get("std_error_joint_hessian", row["std_error"]) for row in results["fixed"]]
    assert_allclose(both["std_error_ours"], errors, rtol=max(1e-4, tolerance(entry, "std_error_rel")))
    assert_allclose(fit.varcorr()["std_dev"], results["random"][0]["sd"], rtol=max(1e-4, tolerance(entry, "sd_rel")))
    log_phi = fit.fixef().filter(parameter="phi")["estimate"]
    if "residual_sd_by_week" in results:
        assert_allclose(
            np.exp(log_phi), results["residual_sd_by_week"], rtol=1e-4 if entry["method"] == "REML" else 2e-3
        )
    else:
        assert_allclose(log_phi, [results["dispersion"][key] for key in ("intercept", "Days")], rtol=1e-5)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ZEROS)
def test_zero_inflation_and_hurdles(name: str) -> None:
    """Objective and gradient at the reference parameters, optimum, both predictors, covariances and dispersion."""
    entry = ZEROS[name]
    results, frame = entry["results"], translate.data(entry)
    objective = polars_glmm.objective(frame, *translate.formulas(entry), **translate.arguments(entry))
    at = translate.parameters(entry, objective.names)
    assert set(at) == set(objective.names)
    assert objective.loglik(at) == pytest.approx(results["logLik"], abs=1e-5)
    fit = fit_of(entry, frame)
    assert fit.loglik >= results["logLik"] - max(1e-4, tolerance(entry, "logLik_abs"))
    assert fit.glance()["df_model"].item() == results["n_params"]
    for component, parameter in (("cond", "mu"), ("zi", "zi")):
        reference = translate.fixed(entry, component)
        both = reference.join(fit.fixef().filter(parameter=parameter), on="term", suffix="_ours")
        assert both.height == reference.height
        distance = (both["estimate_ours"] - both["estimate"]) / both["std_error"]
        assert_allclose(distance, 0, atol=tolerance(entry, "fixed_in_se_units"))
        assert_allclose(both["std_error_ours"], both["std_error"], rtol=tolerance(entry, "std_error_rel"))
    ours = _natural(fit)
    assert ours == pytest.approx({name: at[name] for name in ours}, rel=max(2e-4, tolerance(entry, "sd_rel")))


def _natural(fit: Any) -> dict[str, float]:
    """The natural parameters of a fit by name."""
    from polars_glmm.inference.names import variance_parameters  # noqa: PLC0415

    found = variance_parameters(fit)
    return dict(zip(found.names, found.values.tolist(), strict=True))
@pytest.mark.parametrize("name", CORRELATED)
def test_residuals_that_are_correlated(name: str) -> None:
    """nlme's gls and lme with a correlation, and dense likelihoods: objective there, optimum, and all it reports."""
    entry = CORRELATED[name]
    results, fit, frame = entry["results"], fit_of(entry, translate.data(entry)), translate.data(entry)
    fixed = translate.fixed(entry, "cond")
    objective = polars_glmm.objective(frame, *translate.formulas(entry), **translate.arguments(entry))
    at = translate.correlated(entry, objective.names)
    assert set(at) == set(objective.names)
    assert objective.loglik(at) == pytest.approx(results["logLik"], abs=1e-5)
    assert fit.loglik == pytest.approx(results["logLik"], abs=tolerance(entry, "logLik_abs"))
    assert fit.glance()["df_model"].item() == results["n_params"]
    both = fixed.join(fit.fixef().filter(parameter="mu"), on="term", suffix="_ours")
    assert both.height == 2
    distance = (both["estimate_ours"] - both["estimate"]) / both["std_error"]
    assert_allclose(distance, 0, atol=tolerance(entry, "fixed_in_se_units"))
    n, by_gls = results["n_obs"], name.startswith("pig_gls") and entry["method"] == "ML"
    factor = np.sqrt(n / (n - both.height)) if by_gls else 1.0  # gls has it by ML too
    assert_allclose(factor * both["std_error_ours"], both["std_error"], rtol=1e-4)
    ours = fit.confint().filter(pl.col("quantity") != "coefficient")
    for name_of, value in zip(objective.names, objective_values(fit, objective.names), strict=True):
        near = max(tolerance(entry, "sd_rel"), 1e-4)
        assert value == pytest.approx(at[name_of], rel=near, abs=1e-4), name_of
    assert ours["status"].is_in(["ok", "at_boundary", "not_identified"]).all()


@pytest.mark.parametrize("name", NO_RESIDUALS)
def test_effects_without_residuals_are_correlated_residuals(name: str) -> None:
    """glmmTMB's joint Hessian is that of our objective, and its inverse holds its standard errors."""
    entry = NO_RESIDUALS[name]
    results, fit, frame = entry["results"], fit_of(entry, translate.data(entry)), translate.data(entry)
    objective = polars_glmm.objective(frame, *translate.formulas(entry), **translate.arguments(entry))
    at = translate.no_residuals(entry, objective.names)
    assert objective.loglik(at) == pytest.approx(results["logLik"], abs=1e-5)
    usual = (tolerance(entry, "logLik_abs"), tolerance(entry, "fixed_in_se_units"))
    near_loglik, near_fixed = STOPPED_EARLY.get(name, usual)
    assert fit.loglik == pytest.approx(results["logLik"], abs=near_loglik)
    assert fit.glance()["df_model"].item() == results["n_params"]
    want = translate.fixed(entry, "cond")
    estimates = fit.fixef().filter(parameter="mu")["estimate"]
    assert_allclose((estimates - want["estimate"]) / want["std_error"], 0, atol=near_fixed)
    vector = np.array([at[name] for name in objective.names])
    steps = 1e-4 * np.eye(len(vector))
    hessian = [(objective.gradient(vector + h) - objective.gradient(vector - h)) / 2e-4 for h in steps]
    joint = np.sqrt(np.diag(np.linalg.inv(-np.array(hessian))))
    place = [objective.names.index(term) for term in want["term"]]
    assert_allclose(joint[place], want["std_error"], rtol=1e-4)


@pytest.mark.parametrize("name", RELATED)
def test_levels_that_know_each_other_and_rows_in_several_levels(name: str) -> None:
    """A pedigree with sires that have no records, rows in three levels: dense likelihoods, and lme4 with another Zt."""
    entry = RELATED[name]
    results, fit, frame = entry["results"], fit_of(entry, translate.data(entry)), translate.data(entry)
    objective = polars_glmm.objective(frame, *translate.formulas(entry), **translate.arguments(entry))
    (term,) = results["random"]
    at = {**dict(translate.fixed(entry, "cond").select("term", "estimate").iter_rows()), "phi": translate.phi(entry)}
    at |= {f"sd({term['group']}: Intercept)": term["sd"][0]}
    assert objective.loglik(at) == pytest.approx(results["logLik"], abs=tolerance(entry, "logLik_abs"))
    assert fit.loglik == pytest.approx(results["logLik"], abs=tolerance(entry, "logLik_abs"))
    assert fit.glance()["df_model"].item() == results["n_params"]
    both = translate.fixed(entry, "cond").join(fit.fixef(), on="term", suffix="_ours")
    assert both.height == 2
    distance = (both["estimate_ours"] - both["estimate"]) / both["std_error"]
    assert_allclose(distance, 0, atol=tolerance(entry, "fixed_in_se_units"))
    assert_allclose(both["std_error_ours"], both["std_error"], rtol=tolerance(entry, "std_error_rel"))
    for name_of, value in zip(objective.names, objective_values(fit, objective.names), strict=True):
        assert value == pytest.approx(at[name_of], rel=tolerance(entry, "sd_rel")), name_of


def objective_values(fit: Any, names: tuple[str, ...]) -> list[float]:
    """The estimates of a fit in the order of an objective's names."""
    table = fit.fixef().select(
        name=pl.when(pl.col("parameter") == "mu").then("term").otherwise(pl.format("phi: {}", "term")),
        value="estimate",
    )
    found = dict(table.iter_rows()) | dict(fit.dispersion().select("parameter", "estimate").iter_rows())
    for row in fit.varcorr().filter(pl.col("group") != "Residual").iter_rows(named=True):
        if row["other_term"] is None:
            found[f"sd({row['group']}: {row['term']})"] = row["std_dev"]
        else:
            found[f"cor({row['group']}: {row['term']}, {row['other_term']})"] = row["correlation"]
    return [found[name] for name in names]


@pytest.mark.parametrize("name", [name for name, entry in TWO_PARTS.items() if len(entry["results"]["random"]) == 1])
def test_random_effects_on_phi(name: str) -> None:
    """One covariance matrix over effects on the mean and on log phi: objective, optimum, modes, both predictors."""
    entry = TWO_PARTS[name]
    results, frame = entry["results"], translate.data(entry)
    (term,), fixed = results["random"], {part: translate.fixed(entry, part) for part in ("cond", "disp")}
    labels = ["Intercept" if part == "cond" else "phi Intercept" for part in term["term_components"]]
    at = {
        **dict(zip(*fixed["cond"].select("term", "estimate"), strict=True)),
        **{f"phi: {name}": value for name, value in zip(*fixed["disp"].select("term", "estimate"), strict=True)},
        **{f"sd(g: {label})": sd for label, sd in zip(labels, term["sd"], strict=True)},
        f"cor(g: {labels[0]}, {labels[1]})": term["correlation"][0][1],
    }
    objective = polars_glmm.objective(frame, *translate.formulas(entry), **translate.arguments(entry))
    assert objective.loglik(at) == pytest.approx(results["logLik"], abs=tolerance(entry, "logLik_abs"))
    assert np.abs(objective.gradient(at)).max() < 1e-4
    fit = fit_of(entry, frame)
    assert fit.loglik == pytest.approx(results["logLik"], abs=tolerance(entry, "logLik_abs"))
    for component, parameter in (("cond", "mu"), ("disp", "phi")):
        both = fixed[component].join(fit.fixef().filter(parameter=parameter), on="term", suffix="_ours")
        assert both.height == fixed[component].height
        distance = (both["estimate_ours"] - both["estimate"]) / both["std_error"]
        assert_allclose(distance, 0, atol=tolerance(entry, "fixed_in_se_units"))
        assert_allclose(both["std_error_ours"], both["std_error"], rtol=tolerance(entry, "std_error_rel"))
    table = fit.varcorr()
    assert_allclose(table["std_dev"].drop_nulls(), term["sd"], rtol=tolerance(entry, "sd_rel"))
    assert table["parameter"].to_list() == ["mu", "phi", "mu"]
    assert table["other_parameter"].to_list() == [None, None, "phi"]
    assert table["correlation"][2] == pytest.approx(term["correlation"][0][1], abs=tolerance(entry, "correlation_abs"))
    modes, wide = results["ranef"][0], fit.ranef("g")
    for component, column in (("cond", "g_Intercept"), ("disp", "g_phi_Intercept")):
        named = f"{component}:(Intercept)"
        assert_allclose(wide[column], modes["modes"][named], atol=tolerance(entry, "ranef_abs"))
        assert_allclose(wide[f"{column}_se"], modes["conditional_sd"][named], rtol=1e-6)
    for kind, key in (("link", "linear_predictor_first10"), ("phi", "linear_predictor_2_first10")):
        predicted = fit.predict(frame.head(10), kind=kind)["prediction"]
        assert_allclose(predicted if kind == "link" else np.log(predicted), results[key], atol=1e-5)


@pytest.mark.parametrize("name", TWO_PARTS)
def test_random_effects_in_both_predictors(name: str) -> None:
    """TMB with both predictors written out; labels of effects on log phi are ours."""
    entry = TWO_PARTS[name]
    results, fit = entry["results"], fit_of(entry, translate.data(entry))
    assert fit.loglik == pytest.approx(results["logLik"], abs=1e-6)
    assert fit.glance()["df_model"].item() == results["n_params"]
    for component, parameter in (("cond", "mu"), ("disp", "phi")):
        reference = [row for row in results["fixed"] if row["component"] == component]
        ours = fit.fixef().filter(parameter=parameter)
        assert_allclose(ours["estimate"], [row["estimate"] for row in reference], rtol=1e-4, atol=1e-5)
        assert_allclose(ours["std_error"], [row["std_error"] for row in reference], rtol=1e-3)
    sds = fit.varcorr().filter(pl.col("other_term").is_null())["std_dev"]
    assert_allclose(sorted(sds), sorted(sd for term in results["random"] for sd in term["sd"]), rtol=1e-4)


@pytest.mark.parametrize("name", HELD)
def test_a_parameter_that_is_estimated_there_is_held_here(name: str) -> None:
    """At its estimate there all others are the same; their standard errors, which know of it there, are close."""
    entry = HELD[name]
    results, fit = entry["results"], fit_of(entry, translate.data(entry))
    assert fit.loglik == pytest.approx(results["logLik"], abs=max(1e-5, tolerance(entry, "logLik_abs")))
    assert fit.glance()["df_model"].item() == results["n_params"] - 1
    both = translate.fixed(entry, "cond").join(fit.fixef(), on="term", suffix="_ours")
    assert_allclose((both["estimate_ours"] - both["estimate"]) / both["std_error"], 0, atol=1e-3)
    assert_allclose(both["std_error_ours"], both["std_error"], rtol=0.02)
    sds = fit.varcorr().filter(pl.col("other_term").is_null())["std_dev"]
    assert_allclose(sds, [sd for term in results["random"] for sd in term["sd"]], rtol=2e-3)
    assert fit.dispersion()["estimate"].item() == pytest.approx(results["dispersion"]["value"], rel=1e-3)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", HELD)
def test_a_parameter_that_is_estimated_there_is_estimated_here(name: str) -> None:
    """The same estimates and standard errors, and the same further parameter."""
    entry = HELD[name]
    results = entry["results"]
    fit = polars_glmm.fit(translate.data(entry), *translate.formulas(entry), **translate.estimated(entry))
    assert fit.loglik == pytest.approx(results["logLik"], abs=tolerance(entry, "logLik_abs"))
    assert fit.glance()["df_model"].item() == results["n_params"]
    both = translate.fixed(entry, "cond").join(fit.fixef(), on="term", suffix="_ours")
    limit = tolerance(entry, "fixed_in_se_units")
    assert_allclose((both["estimate_ours"] - both["estimate"]) / both["std_error"], 0, atol=limit)
    assert_allclose(both["std_error_ours"], both["std_error"], rtol=tolerance(entry, "std_error_rel"))
    phi, further = fit.dispersion()["estimate"]
    assert phi == pytest.approx(results["dispersion"]["value"], rel=1e-3)
    assert further == pytest.approx(*results["dispersion"]["family_parameter"].values(), rel=1e-3)


@pytest.mark.parametrize("name", TABLES)
def test_likelihood_ratio_table(name: str) -> None:
    rows = TABLES[name]["table"]
    ours = polars_glmm.anova(*(fitted(row["id"]) for row in rows)).to_dicts()
    for row, our in zip(rows, ours, strict=True):
        assert our["df_model"] == row["n_params"]
        assert our["loglik"] == pytest.approx(row["logLik"], abs=1e-3)
        assert our["aic"] == pytest.approx(row["AIC"], abs=2e-3)
        if row.get("chisq") is not None:
            assert (our["chisq"] or 0.0) == pytest.approx(row["chisq"], abs=2e-3)  # null where nothing is added
            assert (our["df"] or 0) == row["df"]


CLEAR_ERRORS = {
    "edge_binomial_out_of_range": "trials",
    "edge_constant_response": "const",
    "edge_negative_poisson": "Days - 1 is -1",
    "edge_obs_level_gaussian": "obs",
    "edge_single_level_group": "grp1",
    "edge_too_many_random_effects": "Subject",
    "edge_unknown_group_variable": "nope",
}
FITS_WITH_NOTE = {"edge_collinear_column": "Hours", "edge_missing_values": "7"}


def test_every_edge_has_an_expectation() -> None:
    assert set(EDGES) == set(CLEAR_ERRORS) | set(FITS_WITH_NOTE)


@pytest.mark.parametrize("name", CLEAR_ERRORS)
def test_clear_error(name: str) -> None:
    with pytest.raises(GlmmError, match=CLEAR_ERRORS[name]):
        fit_of(EDGES[name], translate.data(EDGES[name]))


@pytest.mark.parametrize("name", FITS_WITH_NOTE)
def test_fit_with_a_note(name: str) -> None:
    entry = {**EDGES[name], "method": "ML"}
    expected = entry["r_behaviour"]
    fit = fit_of(entry, translate.data(entry))
    assert fit.n_obs == expected["n_obs"]
    assert fit.loglik == pytest.approx(expected["logLik"], abs=1e-4)
    assert any(FITS_WITH_NOTE[name] in note.text for note in fit.notes)
    estimates = dict(fit.fixef()[["term", "estimate"]].drop_nulls().iter_rows())
    assert estimates == pytest.approx(
        {k.replace("(Intercept)", "Intercept"): v for k, v in expected["fixed"].items()}, rel=1e-5
    )
