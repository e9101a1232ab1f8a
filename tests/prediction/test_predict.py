"""predict() on the rows of the fit equals the design arrays; frames come back as they were, with one column more."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal

from polars_glmm.errors import ColumnError, ModelError
from polars_glmm.prediction.predictions import predict

MODELS = {
    "gaussian": ("y ~ x + (x | g)", {}),
    "transforms": ("y ~ poly(x, 2) + bs(t, df=4) + scale(k) + log(t) + (1 | g)", {}),
    "new splines": ("y ~ ns(t, df=3) + center(x) + I(x**2) + (scale(t) | g)", {}),
    "categorical": ("y ~ f * x + e + flag + (1 | g)", {}),
    "number levels": ("y ~ C(k) + (1 | h)", {}),
    "contrasts": ("y ~ C(f, contr.sum) + e:x + (1 | g)", {}),
    "no intercept": ("y ~ 0 + f + (0 + f | g)", {}),
    "crossed": ("y ~ x + (x | g) + (1 | h) + (0 + t || h)", {}),
    "nested": ("y ~ x + (1 | a/b)", {}),
    "composite": ("y ~ x", {"groups": [("a", "h")]}),
    "collinear": ("y ~ x + I(2 * x) + f + (1 | g)", {}),
    "poisson offset": ("y ~ x + offset(log(t)) + (1 | g)", {"family": "poisson", "offset": "x"}),
    "binomial": ("s ~ x + (1 | g)", {"family": "binomial", "trials": "m"}),
    "cauchit": ("s ~ x + (1 | g)", {"family": "binomial", "trials": "m", "link": "cauchit"}),
    "probit": ("s ~ x + (1 | g)", {"family": "binomial", "trials": "m", "link": "probit"}),
    "gamma": ("z ~ x + (1 | g)", {"family": "gamma"}),
    "no random": ("y ~ x + f", {"family": "poisson"}),
    "only intercept": ("y ~ 1", {"family": "poisson"}),
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lazy", [False, True])
def test_prediction_of_the_training_rows_is_what_the_design_arrays_give(made, trial, model, lazy):
    formula, arguments = MODELS[model]
    fit = made(trial, formula, **arguments)
    frame = trial.lazy() if lazy else trial
    mean = fit.recipe.spec.family.mean
    for options, expected in [
        ({"kind": "link"}, fit.eta),
        ({"kind": "link", "random": "none"}, fit.eta_fixed),
        ({}, mean(fit.eta)),
        ({"random": "none"}, mean(fit.eta_fixed)),
    ]:
        found = predict(frame, fit, **options).lazy().collect()
        assert_allclose(found["prediction"].to_numpy(), expected, rtol=1e-10, atol=1e-12)
        assert_frame_equal(found.drop("prediction"), trial)


def test_some_factors_only(made, trial):
    fit = made(trial, "y ~ x + (x | g) + (1 | h)")
    g, modes = fit.design.factors[0], fit.estimate.factors[0].modes
    found = predict(trial, fit, random=["g"], kind="link")["prediction"]
    assert_allclose(found, fit.eta_fixed + (g.z * modes[:, g.codes]).sum(axis=0), rtol=1e-12)


def test_only_the_columns_of_the_question_are_needed(made, trial):
    fit = made(trial, "s ~ x + (1 | g) + (t | h)", family="binomial", trials="m", frequency="k")
    whole = predict(trial, fit)["prediction"]
    assert predict(trial.select("x", "t", "g", "h"), fit)["prediction"].equals(whole)
    assert predict(trial.select("x", "g"), fit, random=["g"]).columns == ["x", "g", "prediction"]
    assert predict(trial.select("x"), fit, random="none").columns == ["x", "prediction"]


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_rows_keep_their_order(made, trial, engine):
    fit = made(trial, "y ~ x * f + (x | g) + (1 | h) + (1 | a:b)")
    rng = np.random.default_rng(3)
    index = rng.integers(0, trial.height, size=100_000)
    large = trial[index].with_columns(row=pl.int_range(100_000))
    found = predict(large.lazy(), fit, kind="link").collect(engine=engine)
    assert_allclose(found["prediction"].to_numpy(), fit.eta[index], rtol=1e-10, atol=1e-12)
    assert_frame_equal(found.drop("prediction"), large)


@pytest.mark.parametrize("column", ["x", "f", "g", "h", "t"])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_missing_value_in_a_used_column_gives_null(made, trial, column, lazy):
    fit = made(trial, "y ~ x + f + I(t > 2) + (1 | g) + (1 | h)")
    holes = trial.with_columns(pl.when(pl.int_range(pl.len()) % 7 != 3).then(pl.col(column)).name.keep())
    whole = predict(trial, fit)["prediction"]
    found = predict(holes.lazy() if lazy else holes, fit).lazy().collect()
    expected = pl.select(pl.when(holes[column].is_not_null()).then(whole)).to_series()
    assert found["prediction"].to_list() == expected.to_list()
    assert_frame_equal(found.drop("prediction"), holes)


@pytest.mark.parametrize("column", ["x", "t"])
def test_nan_is_missing_as_null_is(made, trial, column):
    fit = made(trial, "y ~ x + I(t > 2) + bs(t, df=4) + (1 | g)")
    kept = pl.int_range(pl.len()) % 5 != 0
    nan = trial.with_columns(pl.when(kept).then(column).otherwise(float("nan")).alias(column))
    null = nan.with_columns(pl.col(column).fill_nan(None))
    assert predict(nan, fit)["prediction"].equals(predict(null, fit)["prediction"])
    assert predict(nan, fit)["prediction"].null_count() == 80


def test_a_value_outside_the_domain_of_a_function_is_nan_and_not_null(made, trial):
    fit = made(trial, "y ~ log(t) + (1 | g)")
    found = predict(trial.with_columns(t=-pl.col("t")), fit)["prediction"]
    assert found.is_nan().all()


def test_an_all_null_column_of_no_dtype_gives_nulls(made, trial):
    fit = made(trial, "y ~ x + f + (1 | g)")
    for column in ("x", "f", "g"):
        found = predict(trial.with_columns(pl.lit(None).alias(column)), fit)
        assert found["prediction"].null_count() == trial.height


def test_an_empty_frame_gives_an_empty_prediction(made, trial):
    fit = made(trial, "y ~ x + f + (x | g)", family="poisson")
    for frame in (trial.clear(), trial.lazy().filter(pl.col("x") > 1e9)):
        found = predict(frame, fit, std_error=True, interval="confidence").lazy().collect()
        assert found.height == 0
        assert found.columns[-4:] == ["prediction", "prediction_std_error", "prediction_low", "prediction_high"]


def test_a_single_row_is_predicted_by_the_constants_learned_from_all(made, trial):
    fit = made(trial, "y ~ poly(x, 2) + scale(t) + bs(k, df=4) + center(x) + f + (1 | g)")
    for row in (0, 7, 399):
        assert_allclose(predict(trial[row : row + 1], fit, kind="link")["prediction"][0], fit.eta[row], rtol=1e-10)


def test_constant_dispersion_is_the_same_in_every_row(made, trial):
    fit = made(trial, "z ~ x + (1 | g)", family="gamma")
    found = predict(trial, fit, kind="phi", name="dispersion", std_error=True, interval="confidence")
    assert_allclose(found["dispersion"], 0.7)
    # the standard error 0.2 is the root of the last entry of report_vcov; the interval is normal for log phi
    assert_allclose(found["dispersion_std_error"], 0.2)
    assert_allclose(found["dispersion_high"], 0.7 * np.exp(1.959963984540054 * 0.2 / 0.7))


def test_modelled_dispersion_follows_its_formula(made, trial):
    fit = made(trial, "z ~ x + (1 | g)", "phi ~ t + f", family="gamma")
    expected = np.exp(fit.estimate.gamma @ fit.design.phi.x)
    found = predict(trial, fit, kind="phi", std_error=True)
    assert_allclose(found["prediction"], expected, rtol=1e-12)
    x, p = fit.design.phi.x, len(fit.estimate.beta)
    variance = np.einsum("pn,pq,qn->n", x, fit.estimate.vcov_fixed[p:, p:], x)
    assert_allclose(found["prediction_std_error"], expected * np.sqrt(variance), rtol=1e-9)


def test_the_users_names_are_never_overwritten(made, trial):
    fit = made(trial, "y ~ x + (1 | g)")
    with pytest.raises(ColumnError, match=r"already has 'prediction'.*name="):
        predict(trial.with_columns(prediction=1), fit)
    with pytest.raises(ColumnError, match="already has 'p_low'"):
        predict(trial.with_columns(p_low=1), fit, name="p", interval="confidence")
    with pytest.raises(ColumnError, match=r"__glmm_x.*reserved"):
        predict(trial.lazy().with_columns(__glmm_x=1), fit)
    assert predict(trial.with_columns(eta=1, mode_0=2, level_0=3), fit, name="x2").columns[-4:] == [
        "eta", "mode_0", "level_0", "x2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "mean"}, "kind='mean'"),
        ({"kind": "mu"}, "kind='response'"),
        ({"kind": "phi"}, "kind='phi'.*Poisson"),
        ({"random": "g"}, r"random=\['g'\]"),
        ({"random": ["G"]}, "names 'G'.*'g'"),
        ({"random": "al"}, "'all', 'none'"),
        ({"new_levels": "zeros"}, "Did you mean 'zero'"),
        ({"interval": "wald"}, "interval='wald'"),
        ({"interval": "confidence", "conf_level": 95}, "conf_level=95"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(made, trial, options, message):
    fit = made(trial, "y ~ x + (1 | g)", family="poisson")
    with pytest.raises(ModelError, match=message):
        predict(trial.lazy(), fit, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop("g"), "needs 'g'"),
        (lambda frame: frame.rename({"t": "tt"}), "needs 't'"),
        (lambda frame: frame.with_columns(x=pl.col("f")), "column 'x' is String.*number"),
        (lambda frame: frame.with_columns(x=pl.lit("2020-01-01").str.to_date()), "column 'x' is Date"),
        (lambda frame: frame.with_columns(h=pl.col("h").cast(pl.String)), "column 'h' is String.*learned.*Int64"),
    ],
)
def test_unusable_columns_are_refused_at_the_call(made, trial, change, message):
    fit = made(trial, "y ~ x + t + (1 | g) + (1 | h)")
    for frame in (trial, trial.lazy()):
        with pytest.raises(ColumnError, match=message):
            predict(change(frame), fit)


def test_a_model_without_random_effects_says_so(made, trial):
    with pytest.raises(ModelError, match=r"names 'g'.*has none"):
        predict(trial, made(trial, "y ~ x"), random=["g"])


def test_other_frames_are_refused_with_the_way_to_convert_them(made, trial):
    fit = made(trial, "y ~ x + (1 | g)")
    with pytest.raises(ModelError, match=r"takes a frame of Polars, pandas or PyArrow, not builtins.dict"):
        predict(trial.to_dict(), fit)
