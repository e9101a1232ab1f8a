"""Random effects on phi: every verb and every route knows which predictor an effect belongs to."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import AGQ, Control, Memory, Rows
from polars_glmm.errors import ModelError, UnknownLevelError
from tests.streaming.same import assert_same, quietly

TOGETHER = ("y ~ x + (1 |p| g)", "phi ~ 1 + (1 |p| g)")
APART = ("y ~ x + (1 | g)", "phi ~ x + (1 | g)")
ALONE = ("y ~ x", "phi ~ 1 + (1 | g)")
FAMILIES: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "gamma": {"family": "gamma"},
    "inverse_gaussian": {"family": "inverse_gaussian", "link": "log"},
    "negative_binomial": {"family": "negative_binomial"},
}
DISK = Control(memory=Memory(limit=1), rows=Rows(compress=False))


@cache
def data(family: str, groups: int = 24, rows: int = 8) -> pl.DataFrame:
    """Groups that differ in their means and in the scatter about them."""
    rng = np.random.default_rng(11)
    n, g = groups * rows, np.repeat(np.arange(groups), rows)
    x, b = rng.integers(-2, 3, n) / 2.0, rng.normal(size=(2, groups))
    eta, log_phi = 0.7 + 0.4 * x + 0.6 * b[0, g], -0.5 - 0.3 * b[0, g] + 0.6 * b[1, g]
    match family:
        case "gaussian":
            y = eta + np.exp(log_phi) * rng.normal(size=n)
        case "gamma":
            y = rng.gamma(np.exp(1.0 - log_phi), np.exp(eta - 1.0 + log_phi))
        case "inverse_gaussian":
            y = rng.wald(np.exp(eta), np.exp(1.0 - log_phi))
        case _:
            size = np.exp(1.0 + log_phi)
            y = rng.poisson(np.exp(eta + 0.5) * rng.gamma(size, 1.0 / size)).astype(float)
    return pl.DataFrame({"y": y, "x": x, "g": g})


@cache
def fitted(family: str, formulas: tuple[str, ...] = TOGETHER) -> Any:
    return polars_glmm.fit(data(family), *formulas, **FAMILIES[family])


@pytest.mark.one_in(3)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("formulas", [TOGETHER, APART, ALONE], ids=["together", "apart", "alone"])
def test_the_answer_is_an_optimum_of_the_objective(family: str, formulas: tuple[str, ...]) -> None:
    fit = fitted(family, formulas)
    objective = polars_glmm.objective(data(family), *formulas, **FAMILIES[family])
    at = dict(zip(fit.fixef().filter(parameter="mu")["term"], fit.estimate.beta, strict=True))
    at |= {f"phi: {t}": v for t, v in zip(fit.fixef().filter(parameter="phi")["term"], fit.estimate.gamma, strict=True)}
    for row in fit.varcorr().iter_rows(named=True):
        name = "Intercept" if row["parameter"] == "mu" else "phi Intercept"
        if row["other_term"] is None:
            at[f"sd(g: {name})"] = row["std_dev"]
        else:
            assert (row["parameter"], row["other_parameter"]) == ("mu", "phi")
            at["cor(g: Intercept, phi Intercept)"] = row["correlation"]
    assert set(at) == set(objective.names)
    assert objective.loglik(at) == pytest.approx(fit.loglik, abs=1e-8)
    assert fit.converged
    if not fit.singular:
        assert np.abs(objective.gradient(at)).max() < 1e-4
    vector = np.array([at[name] for name in objective.names]) + 0.01
    numeric = [(objective.loglik(vector + h) - objective.loglik(vector - h)) / 2e-5 for h in 1e-5 * np.eye(len(vector))]
    assert_allclose(objective.gradient(vector), numeric, rtol=1e-5, atol=1e-5)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_route_gives_the_same_fit(family: str) -> None:
    frame, one = data(family), fitted(family)
    assert_same(one, quietly(frame.lazy(), *TOGETHER, **FAMILIES[family]))
    disk = quietly(frame.lazy(), *TOGETHER, control=DISK, **FAMILIES[family])
    assert_same(one, disk)
    shuffled = quietly(frame.sample(fraction=1.0, shuffle=True, seed=3), *TOGETHER, **FAMILIES[family])
    assert shuffled.loglik == pytest.approx(one.loglik, abs=1e-8)
    both = pl.concat([frame.with_columns(k=pl.lit(1)), frame.with_columns(pl.col("y") + 1.0, k=pl.lit(2))])
    by_key = quietly(both, *TOGETHER, by="k", **FAMILIES[family])
    assert by_key[1].loglik == pytest.approx(one.loglik, abs=1e-9)
    assert by_key.varcorr().filter(k=1).drop("k").equals(by_key[1].varcorr())
    predicted = by_key.predict(both, kind="phi").filter(k=1)["prediction"]
    assert_allclose(predicted, one.predict(frame, kind="phi")["prediction"], rtol=1e-6)


@pytest.mark.slow
def test_equal_rows_counted_are_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polars_glmm.frames.counted._FEWEST_ROWS", 10)
    frame = data("negative_binomial", rows=80).with_columns(pl.col("x").sign())
    counted = quietly(frame, *TOGETHER, family="negative_binomial")
    assert "rows_compressed" in {note.code for note in counted.notes}
    rows = quietly(frame, *TOGETHER, family="negative_binomial", control=Control(rows=Rows(compress=False)))
    assert counted.loglik == pytest.approx(rows.loglik, abs=1e-8)
    assert_allclose(counted.estimate.report, rows.estimate.report, rtol=1e-6, atol=1e-7)
    scale = np.sqrt(np.diag(rows.estimate.report_vcov))
    away = (counted.estimate.report_vcov - rows.estimate.report_vcov) / np.outer(scale, scale)
    assert np.abs(away).max() < 1e-4


def test_units_of_a_gaussian_response_change_no_digit_of_its_scatter() -> None:
    """y·1e6: effects on the mean and their errors times 1e6, log phi shifted, its effects and correlations the same."""
    frame, one = data("gaussian"), fitted("gaussian")
    far = quietly(frame.with_columns(pl.col("y") * 1e6), *TOGETHER)
    assert far.loglik == pytest.approx(one.loglik - frame.height * np.log(1e6), abs=1e-7)
    assert_allclose(far.estimate.gamma, one.estimate.gamma + np.log(1e6), rtol=1e-8)
    near, there = one.varcorr(), far.varcorr()
    assert_allclose(there["std_dev"][1], near["std_dev"][1], rtol=1e-7)
    assert_allclose(there["correlation"][2], near["correlation"][2], rtol=1e-7)
    assert_allclose(there["std_error"][1], near["std_error"][1], rtol=1e-4)


def test_terms_of_one_label_are_one_covariance_matrix_wherever_they_stand() -> None:
    frame = data("gaussian")
    assert fitted("gaussian", APART).estimate.factors[0].covariances[0].shape == (1, 1)
    assert fitted("gaussian").estimate.factors[0].covariances[0].shape == (2, 2)
    inside = quietly(frame, "y ~ x + (1 |p| g) + (0 + x |p| g)", method="ml")
    plain = quietly(frame, "y ~ x + (x | g)", method="ml")
    assert inside.loglik == pytest.approx(plain.loglik, abs=1e-8)
    assert_allclose(inside.varcorr()["estimate"], plain.varcorr()["estimate"], rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_quadrature_agrees_with_laplace_where_rows_are_many() -> None:
    frame = data("gamma", groups=10, rows=60)
    laplace = quietly(frame, *TOGETHER, family="gamma")
    quadrature = quietly(frame, *TOGETHER, family="gamma", method=AGQ(nodes=5))
    assert quadrature.loglik == pytest.approx(laplace.loglik, abs=0.2)
    assert_allclose(quadrature.varcorr()["std_dev"], laplace.varcorr()["std_dev"], rtol=0.02)


def test_predictions_of_phi_hold_its_random_effects_and_those_of_the_mean_do_not() -> None:
    frame, fit = data("gaussian").head(20), fitted("gaussian", APART)
    modes = frame.join(fit.ranef("g"), on="g", how="left", maintain_order="left")
    log_phi = fit.estimate.gamma[0] + fit.estimate.gamma[1] * frame["x"]
    given = fit.predict(frame, kind="phi")["prediction"]
    assert_allclose(given, np.exp(log_phi + modes["g_phi_Intercept"]), rtol=1e-12)
    assert_allclose(fit.predict(frame, kind="phi", random="none")["prediction"], np.exp(log_phi), rtol=1e-12)
    eta = fit.estimate.beta[0] + fit.estimate.beta[1] * frame["x"] + modes["g_Intercept"]
    assert_allclose(fit.predict(frame)["prediction"], eta, rtol=1e-12)
    assert fit.with_ranef(frame).columns[-2:] == ["g_phi_Intercept", "g_phi_Intercept_se"]
    residuals = fit.augment(frame)
    assert_allclose(residuals["resid_pearson"], residuals["resid"] / given, rtol=1e-12)
    assert_allclose(fit.coef("g", "phi")["Intercept"], fit.estimate.gamma[0] + fit.ranef("g")["g_phi_Intercept"])
    assert_allclose(fit.coef("g")["Intercept"], fit.estimate.beta[0] + fit.ranef("g")["g_Intercept"])
    with pytest.raises(ModelError, match="parameter='zi' has no formula"):
        fit.coef("g", "zi")


def test_an_unseen_level_has_the_whole_variance_of_its_effects() -> None:
    fit = fitted("gaussian", APART)
    new = pl.DataFrame({"x": [0.5], "g": [999]})
    with pytest.raises(UnknownLevelError):
        fit.predict(new, kind="phi")
    assert fit.predict(new, kind="phi", new_levels="null")["prediction"].item() is None
    row = fit.predict(new, kind="phi", new_levels="zero", std_error=True).row(0, named=True)
    x = np.array([1.0, 0.5])
    variance = x @ fit.estimate.vcov_fixed[2:, 2:] @ x + fit.varcorr()["estimate"][1]
    assert row["prediction_std_error"] == pytest.approx(row["prediction"] * np.sqrt(variance), rel=1e-9)
    alone = fitted("gaussian", ALONE)
    assert alone.predict(new)["prediction"].item() == pytest.approx(alone.estimate.beta @ x)  # g acts on phi only


def test_standard_errors_of_conditional_predictions_count_all_coefficients() -> None:
    """(x + s'z)'V(x + s'z) + z'Var(b | y)z, with V over both predictors and s = ∂b̂/∂ of all their coefficients."""
    frame, fit = data("gaussian").head(9), fitted("gaussian")
    factor, e = fit.estimate.factors[0], fit.estimate
    assert factor.mode_slope.shape[1] == len(e.beta) + len(e.gamma)
    for kind, effect in (("link", 0), ("phi", 1)):
        spread = fit.predict(frame, kind=kind, std_error=True)
        errors = spread["prediction_std_error"] / (spread["prediction"] if kind == "phi" else 1.0)
        for x, g, error in zip(frame["x"], frame["g"], errors, strict=True):
            a = np.array([1.0, x, 0.0] if kind == "link" else [0.0, 0.0, 1.0]) + factor.mode_slope[effect, :, g]
            variance = a @ e.vcov_fixed @ a + factor.mode_covariance[effect, effect, g]
            assert error == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_simulated_rows_scatter_as_their_levels_do() -> None:
    frame = pl.DataFrame({"x": np.zeros(24 * 400), "g": np.repeat(np.arange(24), 400)})
    fit = fitted("gaussian")
    phi = fit.predict(frame, kind="phi")["prediction"]
    drawn = fit.simulate(frame, rng=1, random="conditional")["sim_1"]
    z = (drawn - fit.predict(frame)["prediction"]) / phi
    by_level = pl.DataFrame({"g": frame["g"], "z": z}).group_by("g").agg(pl.col("z").std())
    assert_allclose(by_level["z"], 1.0, atol=0.15)
    wide = pl.DataFrame({"x": np.zeros(600 * 30), "g": 1000 + np.repeat(np.arange(600), 30)})
    new = fit.simulate(wide, rng=2).group_by("g").agg(m=pl.col("sim_1").mean(), s=pl.col("sim_1").std().log())
    table = fit.varcorr()
    noise = 1 / 58  # of the logarithm of a standard deviation of 30 rows
    assert new["s"].var() - noise == pytest.approx(table["estimate"][1], rel=0.2)
    assert new["m"].var() == pytest.approx(table["estimate"][0], rel=0.35)


def test_tables_and_text_say_what_an_effect_is_on() -> None:
    fit = fitted("gaussian")
    assert fit.varcorr()["parameter"].to_list() == ["mu", "phi", "mu"]
    assert fit.varcorr()["other_parameter"].to_list() == [None, None, "phi"]
    assert fitted("gaussian", APART).varcorr()["other_parameter"].is_null().all()
    assert set(fit.ranef()["parameter"]) == {"mu", "phi"}
    assert fit.glance()["dispersion"].item() is None
    assert "phi Intercept" in str(fit)
    assert "Laplace approximation" in str(fit)
    assert "phi Intercept" in fit._repr_html_()
    assert "phi Intercept" in str(polars_glmm.explain(data("gaussian"), *TOGETHER))
    assert list(fit.vcov(full=True)["term"].unique(maintain_order=True))[-1] == "g: Intercept, phi Intercept"


def test_polars_shows_the_estimate_of_every_component() -> None:
    assert fitted("gaussian").varcorr().columns[-4:] == ["estimate", "std_error", "std_dev", "correlation"]
    assert "estimate" in str(fitted("gaussian").varcorr())


def test_start_and_fixed_take_the_names_of_the_objective() -> None:
    frame, one = data("gaussian"), fitted("gaussian", APART)
    again = polars_glmm.fit(frame, *APART, start=one)
    assert again.loglik == pytest.approx(one.loglik, abs=1e-8)
    given = {"Intercept": 0.5, "x": 0.3, "phi: Intercept": -1.0, "phi: x": 0.1, "sd(g: phi Intercept)": 0.3}
    assert polars_glmm.fit(frame, *APART, start=given).loglik == pytest.approx(one.loglik, abs=1e-8)
    held = polars_glmm.fit(frame, *APART, fixed={"sd(g: phi Intercept)": 0.25})
    assert held.varcorr()["std_dev"][1] == pytest.approx(0.25)
    assert held.loglik < one.loglik
    with pytest.raises(ModelError, match="'phi: Intercept' but not 'phi: x'"):
        polars_glmm.fit(frame, *APART, start={"phi: Intercept": 0.0})


def test_effects_that_are_not_there_are_a_singular_fit_that_says_so() -> None:
    rng = np.random.default_rng(5)
    frame = data("gaussian").with_columns(y=pl.Series(rng.permutation(rng.normal(size=192))))
    with pytest.warns(polars_glmm.FitWarning, match="'phi Intercept'"):
        fit = polars_glmm.fit(frame.with_columns(g=pl.col("g") % 3), *ALONE)
    assert fit.singular
    assert fit.varcorr()["std_dev"].item() == 0.0


def test_counts_without_overdispersion_end_as_poisson_rows() -> None:
    rng = np.random.default_rng(8)
    frame = data("gaussian").with_columns(y=pl.Series(rng.binomial(6, 0.4, 192)))
    with pytest.warns(polars_glmm.FitWarning, match="no overdispersion in all rows"):
        fit = polars_glmm.fit(frame, *ALONE, family="negative_binomial")
    assert fit.loglik == pytest.approx(polars_glmm.fit(frame, "y ~ x", family="poisson").loglik, abs=1e-5)
    assert fit.converged


@pytest.mark.one_in(4)
@pytest.mark.parametrize("family", FAMILIES)
def test_effects_are_scored_and_drawn_with_those_of_phi(family: str) -> None:
    """Modes given the rows of the fit are those of the fit; draws lie about them and are no narrower."""
    fit, rows = fitted(family), data(family)
    scored = fit.score(rows)
    assert scored["term"].unique(maintain_order=True).to_list() == ["Intercept", "phi Intercept"]
    assert_allclose(scored["estimate"], fit.ranef()["estimate"], rtol=2e-3, atol=1e-5)
    assert_allclose(scored["std_error"], fit.ranef()["std_error"], rtol=2e-3)
    same = [rows.glmm.predict(fit, kind="phi")["prediction"],
            fit.predict(rows, kind="phi", ranef=scored)["prediction"]]  # fmt: skip
    assert_allclose(*same, rtol=2e-3)
    n = 400
    drawn = fit.posterior(n, 1, include="u").group_by("parameter", "level", maintain_order=True)
    found = drawn.agg(mean=pl.col("value").mean(), sd=pl.col("value").std())
    assert (np.abs(found["mean"] - fit.ranef()["estimate"]) < 5.0 * found["sd"] / np.sqrt(n) + 1e-3).all()
    assert (found["sd"] > fit.ranef()["std_error"] * (1.0 - 5.0 / np.sqrt(2.0 * n))).all()


@pytest.mark.slow
def test_a_group_left_out_is_a_fit_without_it() -> None:
    fit = fitted("gamma")
    left = fit.influence("g").filter(level="3")
    less = fit.update(frame=data("gamma").filter(pl.col("g") != 3))
    assert left["loglik"].item() == pytest.approx(less.loglik, abs=1e-4)
    change = (fit.fixef()["estimate"] - less.fixef()["estimate"]).to_numpy()[:2]
    v = fit.estimate.vcov_fixed[:2, :2]
    assert left["cooks_distance"].item() == pytest.approx(change @ np.linalg.solve(v, change) / 2.0, rel=1e-2)
    for ask in (lambda: fit.augment(data("gamma"), leverage=True), lambda: fit.glance(conditional=True)):
        with pytest.raises(ModelError, match=r"on nothing else.*fit\.update"):
            ask()
