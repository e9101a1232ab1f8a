"""Questions at the corners of a verb: a mean of nothing, one key, a coefficient that is held, rows without keys."""

from __future__ import annotations

import inspect

import numpy as np
import polars as pl
import pytest

from polars_glmm import Fit, FitCollection, ModelError, datasets, fit, grid
from polars_glmm.errors import ColumnError
from polars_glmm.plot.effects import trajectory_frame
from polars_glmm.prediction.leverage import leverage_of

HELD = -1.0


@pytest.fixture(scope="module")
def herds() -> Fit:
    """A binomial model with one coefficient held."""
    return fit(
        datasets.load("cbpp"), "incidence ~ period + (1 | herd)", family="binomial", trials="size",
        fixed={"period[T.2]": HELD},
    )  # fmt: skip


@pytest.fixture(scope="module")
def by_treatment() -> FitCollection:
    """Two Poisson models, one for each treatment."""
    made = fit(datasets.load("epil2"), "y ~ Base + (1 | subject)", family="poisson", by="trt")
    assert isinstance(made, FitCollection)
    return made


def test_the_mean_of_a_model_without_covariates_is_its_intercept() -> None:
    plates = fit(datasets.load("penicillin"), "diameter ~ 1 + (1 | plate) + (1 | sample)")
    if "height" not in inspect.signature(pl.DataFrame).parameters:  # frames without columns have no rows there
        with pytest.raises(ModelError, match="later version of Polars"):
            plates.marginal_means([])
        return
    shared = ["estimate", "std_error", "df", "conf_low", "conf_high"]
    for random in ("none", "integrate"):
        assert plates.marginal_means([], random=random).select(shared).equals(plates.fixef().select(shared))
    assert grid(plates).shape == (1, 0)
    assert plates.predict(grid(plates), random="none")["prediction"].to_list() == plates.fixef()["estimate"].to_list()


def test_the_distribution_over_all_rows_is_the_mean_of_those_of_the_rows(herds: Fit) -> None:
    rows = datasets.load("cbpp").head(9)
    each = herds.distribution(rows).group_by("value", maintain_order=True).agg(pl.col("probability").mean())
    whole = herds.distribution(rows, average=True)
    np.testing.assert_allclose(whole["probability"], each["probability"], rtol=1e-12)
    np.testing.assert_allclose(whole["probability"].sum(), 1.0, rtol=1e-12)
    with pytest.raises(ColumnError, match="no row is complete"):
        herds.distribution(rows.head(0), [0.0], average=True)


def test_the_null_model_of_r2_does_not_hold_what_it_does_not_have(herds: Fit) -> None:
    null = herds.update("incidence ~ 1 + (1 | herd)", fixed=None)
    p = 1.0 / (1.0 + np.exp(-null.fixef()["estimate"][0]))
    table = herds.r2().filter(method="delta_null")
    assert table["var_residual"][0] == pytest.approx(1.0 / (p * (1.0 - p)), rel=0.1)
    assert herds.icc().height == 1


def test_tukey_leaves_the_range_of_all_means_to_the_pairs_that_have_a_test(herds: Fit) -> None:
    plain = herds.marginal_means("period", contrast="pairwise")
    found = herds.marginal_means("period", contrast="pairwise", adjust="tukey")
    assert found["p_value"].is_null().to_list() == plain["p_value"].is_null().to_list()
    shown = pl.col("p_value").is_not_null()
    one, family = plain.filter(shown)["p_value"].to_numpy(), found.filter(shown)["p_value"].to_numpy()
    assert (family > one).all()
    assert (family <= np.minimum(6.0 * one, 1.0)).all()


def test_a_key_in_by_is_the_key_that_stands_in_front(by_treatment: FitCollection) -> None:
    assert by_treatment.slopes(by="trt").equals(by_treatment.slopes())
    assert by_treatment.predictions(by=["trt", "period"]).columns[:2] == ["trt", "period"]


def test_questions_that_are_of_one_fit_say_so(by_treatment: FitCollection) -> None:
    with pytest.raises(ModelError, match=r"slopes\(average=False\) is of one fit.*collection\[key\]"):
        by_treatment.slopes(average=False)
    with pytest.raises(ModelError, match=r"grid\(collection\[key\]\)"):
        grid(by_treatment)  # type: ignore[arg-type]


def test_courses_along_a_factor_are_refused_by_name(herds: Fit) -> None:
    with pytest.raises(ColumnError, match="'period' is Enum"):
        herds.plot.trajectories("period")


def test_many_models_without_fixed_effects_are_those_fitted_singly() -> None:
    batches = datasets.load("dyestuff").with_columns(pl.col("Yield") - pl.col("Yield").mean())
    both = pl.concat([batches.with_columns(k=pl.lit(k), Yield=k * pl.col("Yield")) for k in (1, 2)])
    made = fit(both, "Yield ~ 0 + (1 | Batch)", by="k")
    assert isinstance(made, FitCollection)
    for k in (1, 2):
        single = fit(both.filter(k=k), "Yield ~ 0 + (1 | Batch)")
        own = made.varcorr().filter(k=k)
        np.testing.assert_allclose(own["estimate"], single.varcorr()["estimate"], rtol=1e-6)


def test_leverage_asks_for_the_groups_of_the_rows_and_not_for_their_names() -> None:
    sleep = datasets.load("sleepstudy")
    mixed = fit(sleep, "Reaction ~ Days + (Days | Subject)")
    expected = mixed.augment(sleep, leverage=True)["leverage"]
    text = sleep.with_columns(pl.col("Subject").cast(pl.String))
    renamed = text.with_columns("new " + pl.col("Subject"))
    assert mixed.augment(text, leverage=True)["leverage"].equals(expected)
    np.testing.assert_allclose(leverage_of(mixed, renamed).found.value, expected, rtol=1e-12)
    dispersion = mixed.check("dispersion", rng=1)
    assert mixed.check("dispersion", text, rng=1).equals(dispersion)


def test_courses_are_drawn_for_keys_of_another_type() -> None:
    sleep = datasets.load("sleepstudy")
    mixed = fit(sleep, "Reaction ~ Days + (Days | Subject)")
    text = sleep.with_columns(pl.col("Subject").cast(pl.String))
    assert trajectory_frame(mixed, "Days", text).equals(trajectory_frame(mixed, "Days", sleep))


def test_coefficients_of_phi_are_profiled_by_the_likelihood_that_estimated_them() -> None:
    npk = datasets.load("npk")
    constant = fit(npk, "yield ~ N * P * K + (1 | block)").confint("profile", "phi").row(0, named=True)
    written = fit(npk, "yield ~ N * P * K + (1 | block)", "phi ~ 1").confint("profile", "phi: Intercept")
    found = written.row(0, named=True)
    assert found["criterion"] == constant["criterion"] == "reml"
    for end in ("conf_low", "conf_high"):
        assert np.exp(found[end]) == pytest.approx(constant[end], rel=1e-5)


def test_the_dispersion_of_a_formula_is_its_coefficients() -> None:
    fit = datasets.load("sleepstudy").glmm.fit("Reaction ~ Days + (1 | Subject)", "phi ~ Days")
    found = fit.confint(which="dispersion")
    assert found["parameter"].to_list() == ["phi", "phi"]
    assert found["term"].to_list() == ["Intercept", "Days"]
    own = fit.fixef().filter(pl.col("parameter") == "phi")
    assert found["conf_low"].to_list() == pytest.approx(own["conf_low"].to_list())


def test_tables_of_tests_show_their_numbers_at_polars_default_width() -> None:
    """Polars prints the first and the last four of many columns."""
    found = fit(datasets.load("cake"), "angle ~ recipe + temperature + (1 | recipe:replicate)")
    with pl.Config(restore_defaults=True):
        terms, checks = str(found.test_terms()), str(found.check(n=9, rng=1))
    assert all(name in terms for name in ("statistic", "p_value", "den_df"))
    assert all(name in checks for name in ("statistic", "expected", "p_value"))


def test_an_equation_about_a_term_of_several_columns_says_what_to_write() -> None:
    found = fit(datasets.load("cake"), "angle ~ recipe + (1 | recipe:replicate)")
    with pytest.raises(ModelError, match=r"test\('recipe', joint=True\)"):
        found.test("recipe = 0")


def test_a_held_coefficient_is_known_to_what_depends_on_it() -> None:
    """Means and predictions with fixed= are those of the response less the held part."""
    sleep = datasets.load("sleepstudy")
    held = fit(sleep, "Reaction ~ Days + (Days | Subject)", fixed={"Days": 10.0})
    less = sleep.with_columns(Reaction=pl.col("Reaction") - 10.0 * pl.col("Days"))
    other = fit(less, "Reaction ~ 1 + (Days | Subject)")
    ours = held.test("Intercept + 5*Days = 300").row(0, named=True)
    assert ours["estimate"] == pytest.approx(other.fixef()["estimate"].item() - 250.0, rel=1e-6)
    assert ours["std_error"] == pytest.approx(other.fixef()["std_error"].item(), rel=1e-6)
    assert ours["df"] == pytest.approx(other.fixef()["df"].item(), rel=1e-5)
    for options in ({"random": "none"}, {"random": "all"}):
        mine = held.predict(sleep, std_error=True, **options)["prediction_std_error"]  # type: ignore[arg-type]
        theirs = other.predict(less, std_error=True, **options)["prediction_std_error"]  # type: ignore[arg-type]
        assert (mine - theirs).abs().max() == pytest.approx(0.0, abs=1e-4)
    assert held.fixef()["std_error"].to_list()[1] is None
    assert held.slopes(variables="Days")["std_error"].to_list() == [None]


def test_a_level_of_a_fixed_factor_that_is_left_out_takes_its_coefficient_with_it() -> None:
    found = fit(datasets.load("cake"), "angle ~ recipe + (1 | recipe:replicate)")
    found = found.influence("recipe").filter(pl.col("cooks_distance").is_null())
    assert set(found["status"]) == {"coefficient_lost"}
    assert found.height > 0
