"""What is asked of fits of unordered categories: predictions, residuals, draws, names, files, and what is refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import AGQ, Categorical, Control, FitWarning, Memory
from polars_glmm.errors import ColumnError, ModelError, ResourceError, ResponseError, UnknownLevelError
from tests.test_categorical import FORMULA, JOINED, LABELS, arrays, fitted, frame, log_density


@pytest.mark.parametrize("kind", ["response", "link"])
def test_standard_errors_are_those_of_the_delta_method(kind):
    """At random effects of zero the errors are J V J', J by differences in the coefficients."""
    fit, data = fitted(JOINED), frame().head(5)
    told = data.glmm.predict(fit, kind=kind, random="none", std_error=True, interval="confidence")
    x, beta = arrays(data)[1], fit.fixef()["estimate"].to_numpy()

    def value(b):
        eta = np.concatenate([np.zeros((1, 5)), b.reshape(2, 2) @ x.T])
        return np.exp(eta) / np.exp(eta).sum(0) if kind == "response" else eta[1:]

    h = 1e-6
    slopes = np.array([(value(beta + h * e) - value(beta - h * e)) / (2 * h) for e in np.eye(4)])
    errors = np.sqrt(np.einsum("akn,ab,bkn->kn", slopes, fit.estimate.vcov_fixed, slopes))
    for k, label in enumerate(LABELS if kind == "response" else LABELS[1:]):
        assert_allclose(told[f"prediction_{label}"], value(beta)[k], rtol=1e-10)
        assert_allclose(told[f"prediction_{label}_std_error"], errors[k], rtol=1e-6)
        low, high = (told[f"prediction_{label}_{end}"] for end in ("low", "high"))
        assert ((low < told[f"prediction_{label}"]) & (told[f"prediction_{label}"] < high)).all()


def test_predictions_belong_together():
    fit, data = fitted(JOINED), frame()
    p = np.column_stack([data.glmm.predict(fit)[f"prediction_{label}"] for label in LABELS])
    assert_allclose(p.sum(1), 1.0, rtol=1e-12)
    assert data.glmm.predict(fit, kind="class")["prediction"].to_list() == LABELS[p.argmax(1)].tolist()
    new = pl.DataFrame({"x": [0.3, None, 0.1], "g": ["g01", "g01", "new"]})
    with pytest.raises(UnknownLevelError):
        new.glmm.predict(fit)
    told = new.glmm.predict(fit, new_levels="zero", std_error=True)
    assert told["prediction_cat"].is_null().to_list() == [False, True, False]
    alone = new.glmm.predict(fit, random="none")
    assert told["prediction_dog"][2] == pytest.approx(alone["prediction_dog"][2], rel=1e-12)
    assert new.lazy().glmm.predict(fit, new_levels="null").collect()["prediction_emu"].null_count() == 2


@pytest.mark.parametrize("random", ["conditional", "new"])
def test_draws_have_the_probabilities_of_the_model(random):
    """Of many draws given the modes the share of a category is its probability; of new effects it is their average."""
    fit, data, n = fitted(JOINED), frame().head(40), 400
    drawn = data.glmm.simulate(fit, n, rng=4, random=random).select(pl.selectors.starts_with("sim_")).to_numpy()
    if random == "conditional":
        p = np.column_stack([data.glmm.predict(fit)[f"prediction_{label}"] for label in LABELS])
    else:
        beta, sigma = fit.fixef()["estimate"].to_numpy().reshape(2, 2), fit.estimate.factors[0].covariances[0]
        u = np.linalg.cholesky(sigma) @ np.random.default_rng(1).standard_normal((2, 20_000))
        eta = (beta @ arrays(data)[1].T)[:, :, None] + u[:, None]
        p = np.exp(np.concatenate([np.zeros_like(eta[:1]), eta]))
        p = (p / p.sum(0)).mean(-1).T
    shares = np.column_stack([(drawn == label).mean(1) for label in LABELS])
    assert np.all(np.abs(shares - p) < 5.0 * np.sqrt(p * (1.0 - p) / n) + 5.0 * 0.5 / np.sqrt(20_000))


def test_residuals_have_no_sign():
    fit = fitted(JOINED)
    told = frame().glmm.augment(fit)
    assert_allclose(told["resid_deviance"] ** 2, -2.0 * told["fitted"].log(), rtol=1e-12)
    assert told["resid"].null_count() == told["resid_pearson"].null_count() == told.height
    y, x, g = arrays(frame())
    eta = fit.fixef()["estimate"].to_numpy().reshape(2, 2) @ x.T
    assert_allclose(told["fixed"].log(), log_density(eta, y), rtol=1e-9)
    modes = fit.ranef()["estimate"].to_numpy().reshape(2, -1)
    assert_allclose(told["fitted"].log(), log_density(eta + modes[:, g], y), rtol=1e-9)


def test_parameters_are_started_from_and_held_by_name():
    held = fitted("y ~ x + (1 | g)", fixed=None)
    given = {"dog: x": 0.5, "sd(g: emu Intercept)": 0.4}
    fit = polars_glmm.fit(frame(), FORMULA, family="categorical", fixed=given)
    assert fit.fixef().filter(parameter="dog", term="x")["estimate"].item() == 0.5
    assert fit.varcorr().filter(parameter="emu")["std_dev"].item() == pytest.approx(0.4)
    assert fit.loglik < held.loglik
    again = polars_glmm.fit(frame(), FORMULA, family="categorical", start=held)
    assert again.loglik == pytest.approx(held.loglik, abs=1e-9)
    both = ["dog: x", "emu: x"]
    profiled, wald = (held.confint(method, both) for method in ("profile", "wald"))
    for end in ("conf_low", "conf_high"):
        assert_allclose(profiled[end], wald[end], atol=0.1)


def test_a_fit_comes_back_from_its_file(tmp_path):
    fit = fitted(JOINED, Categorical(baseline="dog"))
    fit.write(tmp_path / "fit.glmm")
    again = polars_glmm.read_fit(tmp_path / "fit.glmm")
    assert again.fixef().equals(fit.fixef())
    assert frame().glmm.predict(again, std_error=True).equals(frame().glmm.predict(fit, std_error=True))
    assert frame().glmm.simulate(again, rng=3).equals(frame().glmm.simulate(fit, rng=3))
    assert str(again.recipe.spec.family) == "Categorical(link='logit', baseline='dog')"


def test_pages_and_tables_name_the_categories():
    fit = fitted(JOINED)
    text = str(fit)
    for said in ("dog: x", "emu Intercept", "compared with the baseline 'cat'", "chi2(2)"):
        assert said in text
    assert "fixed effects of emu" in str(frame().glmm.explain(JOINED, family="categorical"))
    assert fit.coef("g").columns == ["g", "dog", "dog: x", "emu", "emu: x"]
    assert fit.coef("g", parameter="emu").columns == ["g", "Intercept", "x"]
    assert fit.ranef("g").columns[1:4:2] == ["g_dog_Intercept", "g_emu_Intercept"]
    assert fit.test_terms()["term"].to_list() == ["x"]
    assert polars_glmm.anova(fitted("y ~ 1 + (1 |p| g)"), fit)["df"].to_list() == [None, 2]
    both = fit.test("dog: x = emu: x")
    assert both["estimate"].item() == pytest.approx(np.diff(fit.fixef().filter(term="x")["estimate"])[0] * -1.0)
    names = polars_glmm.objective(frame(), "y ~ x + (1 + x | g)", family="categorical").names
    assert [name for name in names if name.startswith("cor")] == [
        f"cor(g: {label} Intercept, {label} x)" for label in ("dog", "emu")
    ]


def test_an_update_looks_for_the_categories_again():
    fit = fitted(FORMULA)
    fewer = fit.update(frame=frame().filter(pl.col("y") != "cat"))
    assert fewer.fixef()["parameter"].to_list() == ["emu", "emu"]
    assert fit.update(". ~ 1 + (1 | g)").fixef()["parameter"].to_list() == ["dog", "emu"]
    assert fitted("y ~ x").bootstrap(4, rng=1)["status"].unique().to_list() == ["ok"]


def test_categories_that_a_column_rules_out_are_said():
    data = frame().with_columns(z=((pl.col("y") == "dog") & (pl.col("x") > 0)).cast(pl.Int8))
    with pytest.warns(FitWarning, match="separation: along 'dog: z' and 'emu: z'"):
        fit = polars_glmm.fit(data, "y ~ z", family="categorical")
    assert fit.fixef().filter(term="z")["std_error"].null_count() == 2
    assert fit.fixef().filter(term="Intercept")["std_error"].null_count() == 0


def test_a_baseline_that_a_column_rules_out_is_said_as_any_other_category():
    data = frame().with_columns(z=((pl.col("y") != "cat") & (pl.col("x") > 0)).cast(pl.Int8))
    with pytest.warns(FitWarning, match="separation: along 'dog: z' and 'emu: z'"):
        first = polars_glmm.fit(data, "y ~ z", family="categorical")
    with pytest.warns(FitWarning, match="separation: along 'cat: z'"):
        other = polars_glmm.fit(data, "y ~ z", family=Categorical(baseline="dog"))
    assert first.loglik == pytest.approx(other.loglik, abs=1e-6)
    assert first.fixef().filter(term="z")["std_error"].null_count() == 2
    of = lambda fit, label: fit.fixef().filter(parameter=label, term="Intercept")["std_error"].item()
    assert of(first, "dog") == pytest.approx(of(other, "cat"), rel=1e-5)
    p, q = (data.glmm.predict(fit, std_error=True).filter(pl.col("z") == 0) for fit in (first, other))
    assert_allclose(p["prediction_emu_std_error"], q["prediction_emu_std_error"], rtol=1e-4)


def test_a_category_without_rows_is_said():
    labels = pl.Enum(["gnu", *LABELS.tolist()])
    with pytest.warns(FitWarning, match="No row of the response 'y' is 'gnu'"):
        fit = polars_glmm.fit(frame().with_columns(pl.col("y").cast(labels)), "y ~ x", family="categorical")
    assert fit.loglik == pytest.approx(fitted("y ~ x").loglik, abs=1e-9)
    gone = frame().with_columns(x=pl.when(pl.col("y") == "cat").then(None).otherwise("x"))
    assert polars_glmm.fit(gone, "y ~ x", family="categorical").fixef()["parameter"].to_list() == ["emu", "emu"]


@pytest.mark.parametrize(
    ("formulas", "named", "error", "said"),
    [
        (("x ~ f",), {}, ColumnError, "response 'x' is Float64"),
        (("x > 0 ~ f",), {}, ColumnError, "is computed"),
        (("y ~ x", "dog ~ 1"), {}, ModelError, "has one formula, whose terms every category"),
        (("y ~ x", "zi ~ 1"), {}, ModelError, "has one formula"),
        (("y ~ x",), {"offset": "x"}, ModelError, r"write offset\(…\) in the formula"),
        (("y ~ x",), {"trials": "number"}, ModelError, "trials= belongs to the binomial family"),
        (("y ~ x + (1 | g)",), {"method": "reml"}, ModelError, "has no exact likelihood|REML is defined for gaussian"),
        (("y ~ x",), {"residual": "ar1(x | g)"}, ModelError, "residual="),
        (("y ~ x",), {"family": Categorical(baseline="gnu")}, ModelError, "baseline='gnu' is no category"),
    ],
)
def test_what_it_cannot_be_asked_is_refused(formulas, named, error, said):
    with pytest.raises(error, match=said):
        polars_glmm.fit(frame(), *formulas, **{"family": "categorical", **named})


def test_points_of_too_many_categories_are_refused_before_they_are_made():
    data = frame().with_columns(y=pl.col("y") + pl.col("f") + (pl.col("x") > 0).cast(pl.String))
    small = Control(memory=Memory(limit=1 << 28))
    with pytest.raises(ResourceError, match=r"5 nodes for each of 11 random effects are 48,828,125 points"):
        polars_glmm.fit(data, FORMULA, family="categorical", method=AGQ(nodes=5), control=small)


def test_one_category_is_nothing_to_model():
    with pytest.raises(ResponseError, match="one category only, 'cat'"):
        polars_glmm.fit(frame().filter(pl.col("y") == "cat"), "y ~ x", family="categorical")


def test_what_is_of_one_predictor_or_of_an_order_says_so():
    fit, data = fitted(JOINED), frame()
    for ask, said in (
        (lambda: data.glmm.predict(fit, kind="mean"), "no cumulative probabilities and no mean number"),
        (lambda: data.glmm.predict(fit, kind="link", random="integrate"), "random='integrate' averages probabilities"),
        (lambda: data.glmm.predict(fit, interval="prediction"), "interval='prediction' is of numbers"),
        (lambda: data.glmm.augment(fit, quantile=True), "depends on how they are numbered"),
        (lambda: fit.influence(method="one_step"), "unordered categories have several"),
        (lambda: fit.slopes(data, "x", random="integrate", scale="link"), "random='integrate' averages probabilities"),
        (lambda: fit.predictive(data, of="mean"), "of='mean' is of responses that are numbers"),
        (lambda: fit.to_sql("t", kind="link"), "unordered categories have several"),
        (lambda: fit.check("outliers"), "these are categories"),
    ):
        with pytest.raises(ModelError, match=said):
            ask()


def test_log_odds_of_each_category_have_a_correlation():
    """σ²/(σ² + π²/3) of each category against the baseline (Hedeker 2003)."""
    fit = fitted(JOINED)
    sigma = np.diag(fit.estimate.factors[0].covariances[0])
    found = fit.icc()
    assert found["category"].to_list() == LABELS[1:].tolist()
    assert_allclose(found["icc"], sigma / (sigma + np.pi**2 / 3.0), rtol=1e-9)
    assert_allclose(found["variance"], sigma, rtol=1e-9)


@pytest.mark.slow
def test_a_bootstrap_has_the_law_of_the_estimates():
    """Means and standard deviations of 300 refits to draws of the model, against the estimates and standard errors."""
    fit, n = fitted("y ~ x"), 300
    draws = fit.bootstrap(n, rng=3).filter(quantity="coefficient")
    table = fit.fixef()
    for parameter, term, estimate, error in table.select("parameter", "term", "estimate", "std_error").iter_rows():
        own = draws.filter(parameter=parameter, term=term)["value"].to_numpy()
        assert len(own) == n
        assert abs(own.mean() - estimate) < 5.0 * error / np.sqrt(n) + 0.1 * error  # a bias of order 1/n
        assert own.std() == pytest.approx(error, rel=5.0 / np.sqrt(2.0 * n))
