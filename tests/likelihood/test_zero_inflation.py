"""Zero inflation and hurdles, end to end: exact corner cases, limits, and every route to the same fit."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm as pg
from polars_glmm import AGQ


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(31)
    n, groups = 480, 24
    g, x = rng.integers(0, groups, n), rng.normal(size=n)
    b = rng.normal(size=(2, groups)) * np.array([[0.5], [0.8]])
    zero = rng.uniform(size=n) < 1.0 / (1.0 + np.exp(0.8 - 0.7 * x - b[1, g]))
    count = rng.poisson(np.exp(0.9 + 0.4 * x + b[0, g]))
    amount = rng.gamma(3.0, np.exp(0.2 + 0.3 * x + b[0, g]) / 3.0)
    return pl.DataFrame(
        {
            "g": [f"g{i:02}" for i in g], "x": x, "y": np.where(zero, 0, count),
            "cut": np.where(zero, 0, np.maximum(count, 1)), "amount": np.where(zero, 0.0, amount),
            "kind": rng.choice(["a", "b"], n),
        }
    )  # fmt: skip


HURDLES = {
    "truncated_poisson": "cut", "truncated_negative_binomial": "cut", "gamma": "amount", "lognormal": "amount",
}  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("family", "response"), HURDLES.items(), ids=HURDLES)
def test_a_hurdle_without_correlation_is_two_fits(frame, response, family):
    link = {"link": "log"} if family == "gamma" else {}
    whole = frame.glmm.fit(f"{response} ~ x + (1 | g)", "zi ~ x + (1 | g)", family=family, method="laplace", **link)
    above = frame.filter(pl.col(response) > 0)
    parts = [
        above.glmm.fit(f"{response} ~ x + (1 | g)", family=family, method="laplace", **link),
        frame.with_columns(zero=pl.col(response) == 0).glmm.fit("zero ~ x + (1 | g)", family="binomial"),
    ]
    assert_allclose(whole.loglik, sum(part.loglik for part in parts), rtol=1e-9)
    for column in ("estimate", "std_error"):
        apart = np.concatenate([part.fixef()[column].to_numpy() for part in parts])
        assert_allclose(whole.fixef()[column], apart, rtol=2e-5)
    sds = [part.varcorr().filter(group="g")["std_dev"].item() for part in parts]
    assert_allclose(whole.varcorr().filter(group="g")["std_dev"], sds, rtol=1e-5)
    assert whole.varcorr().filter(group="g")["parameter"].to_list() == ["mu", "zi"]


def test_effects_of_one_label_are_correlated_across_parts(frame):
    apart = frame.glmm.fit("y ~ x + (1 | g)", "zi ~ x + (1 | g)", family="poisson")
    together = frame.glmm.fit("y ~ x + (1 |p| g)", "zi ~ x + (1 |p| g)", family="poisson")
    row = together.varcorr().filter(pl.col("other_term").is_not_null())
    assert row["parameter"].item() == "mu"
    assert row["other_parameter"].item() == "zi"
    assert together.loglik >= apart.loglik - 1e-9
    assert together.estimate.df_model == apart.estimate.df_model + 1


@pytest.mark.slow
def test_quadrature_of_one_node_is_laplace_and_more_nodes_settle(frame):
    def fit(method):
        return frame.glmm.fit("y ~ x + (1 |p| g)", "zi ~ x + (1 |p| g)", family="poisson", method=method).loglik

    assert_allclose(fit(AGQ(nodes=1)), fit("laplace"), rtol=1e-10)
    assert_allclose(fit(AGQ(nodes=7)), fit(AGQ(nodes=9)), atol=0.01)


def test_the_objective_has_the_gradient_of_its_value(frame):
    o = pg.objective(frame, "y ~ x + (1 |p| g)", "zi ~ x + (1 |p| g)", family="negative_binomial")
    assert o.names == (
        "Intercept", "x", "sd(g: Intercept)", "sd(g: zi Intercept)", "cor(g: Intercept, zi Intercept)",
        "zi: Intercept", "zi: x", "phi",
    )  # fmt: skip
    at = np.array([0.8, 0.3, 0.5, 0.7, -0.3, -0.6, 0.4, 6.0])
    steps = 1e-5 * np.maximum(1.0, np.abs(at))
    slope = [(o.loglik(at + h) - o.loglik(at - h)) / (2.0 * h.sum()) for h in np.diag(steps)]
    assert_allclose(o.gradient(at), slope, rtol=2e-6, atol=1e-6)


def test_without_zeros_beyond_its_own_a_family_is_fitted_and_said_to_be():
    rng = np.random.default_rng(5)
    x = rng.normal(size=400)
    y = rng.binomial(6, 1.0 / (1.0 + np.exp(-0.9 - x)))  # fewer zeros than Poisson's
    frame = pl.DataFrame({"x": x, "y": y})
    with pytest.warns(pg.FitWarning, match="no zero inflation in all rows"):
        fit = frame.glmm.fit("y ~ x", "zi ~ 1", family="poisson")
    plain = frame.glmm.fit("y ~ x", family="poisson")
    assert_allclose(fit.loglik, plain.loglik, atol=1e-3)
    assert [note.code for note in fit.notes] == ["no_zero_inflation"]
    assert_allclose(fit.fixef().filter(parameter="mu")["std_error"], plain.fixef()["std_error"], rtol=1e-3)
    assert fit.fixef().filter(parameter="zi")["std_error"].item() is None


def test_separation_of_zeros_is_found(frame):
    split = frame.with_columns(cut=pl.when(pl.col("kind") == "b").then(0).otherwise("cut"))
    with pytest.warns(pg.FitWarning, match="separation"):
        fit = split.glmm.fit("cut ~ x", "zi ~ kind", family="truncated_poisson")
    (note,) = fit.notes
    assert "zi: kind[T.b]" in note.text
    only = split.filter(kind="a").glmm.fit("cut ~ x", "zi ~ 1", family="truncated_poisson")
    assert_allclose(fit.fixef()["std_error"].to_list()[:3], only.fixef()["std_error"].to_list()[:3], rtol=1e-4)
    assert_allclose(fit.loglik, only.loglik, atol=1e-6)


@pytest.mark.slow
def test_counted_rows_blocks_and_rows_on_disk_give_the_same_fit(frame):
    coarse = frame.with_columns(x=pl.col("x").round(0))
    formulas = ("y ~ x + (1 |p| g)", "zi ~ x + (1 |p| g)")
    whole = coarse.glmm.fit(*formulas, family="negative_binomial1")
    counted = coarse.group_by("g", "x", "y").len("n").sort("g", "x", "y")
    small = pg.Control(rows=pg.Rows(block=64, threads=2))
    disk = pg.Control(memory=pg.Memory(limit=1), rows=pg.Rows(compress=False))
    assert coarse.lazy().glmm.explain(*formulas, family="negative_binomial1", control=disk).plan.route == "disk"
    others = [
        counted.glmm.fit(*formulas, family="negative_binomial1", frequency="n"),
        coarse.glmm.fit(*formulas, family="negative_binomial1", control=small),
        coarse.lazy().glmm.fit(*formulas, family="negative_binomial1", control=disk),
    ]
    for other in others:
        assert_allclose(other.loglik, whole.loglik, rtol=1e-9)
        assert_allclose(other.fixef()["estimate"], whole.fixef()["estimate"], rtol=1e-4, atol=1e-6)


def test_many_fits_by_key_are_the_fits_of_each_key(frame):
    formulas = ("y ~ x + (1 | g)", "zi ~ x")
    many = frame.glmm.fit(*formulas, family="poisson", by="kind")
    for kind in ("a", "b"):
        one = frame.filter(kind=kind).glmm.fit(*formulas, family="poisson")
        own = many.fixef().filter(kind=kind)
        assert_allclose(own["estimate"], one.fixef()["estimate"], rtol=1e-6, atol=1e-8)
        assert own["parameter"].to_list() == ["mu", "mu", "zi", "zi"]


def test_start_and_fixed_take_coefficients_of_zi_by_name(frame):
    free = frame.glmm.fit("y ~ x + (1 | g)", "zi ~ x", family="poisson")
    again = frame.glmm.fit("y ~ x + (1 | g)", "zi ~ x", family="poisson", start=free)
    assert_allclose(again.loglik, free.loglik, rtol=1e-10)
    value = free.fixef().filter(parameter="zi", term="x")["estimate"].item()
    held = frame.glmm.fit("y ~ x + (1 | g)", "zi ~ x", family="poisson", fixed={"zi: x": value})
    assert_allclose(held.loglik, free.loglik, rtol=1e-9)
    assert held.fixef().filter(parameter="zi", term="x")["std_error"].item() is None
    assert held.estimate.df_model == free.estimate.df_model - 1


def test_a_fit_is_stored_and_read(frame, tmp_path):
    fit = frame.glmm.fit("y ~ x + (1 |p| g)", "zi ~ x + (1 |p| g)", family="negative_binomial")
    fit.write(tmp_path / "fit.glmm")
    again = pg.read_fit(tmp_path / "fit.glmm")
    assert again.fixef().equals(fit.fixef())
    assert again.ranef("g").columns == ["g", "g_Intercept", "g_Intercept_se", "g_zi_Intercept", "g_zi_Intercept_se"]
    both = [frame.glmm.predict(one, kind="zero", std_error=True) for one in (fit, again)]
    assert both[0].equals(both[1])


@pytest.mark.parametrize("kind", ["response", "zero"])
def test_standard_errors_follow_the_coefficients_of_all_parts(frame, kind):
    """Without random effects √(g'Vg) with the gradient of the prediction in all coefficients, by differences."""
    fit = frame.glmm.fit("y ~ x", "zi ~ x", family="poisson")
    beta = fit.fixef()["estimate"].to_numpy()
    x = np.stack([np.ones(5), frame["x"].to_numpy()[:5]])

    def at(b):
        mu, pi = np.exp(b[:2] @ x), 1.0 / (1.0 + np.exp(-b[2:] @ x))
        return (1.0 - pi) * mu if kind == "response" else pi + (1.0 - pi) * np.exp(-mu)

    slopes = np.array([(at(beta + h) - at(beta - h)) / 2e-5 for h in 1e-5 * np.eye(4)])
    vcov = fit.estimate.vcov_fixed
    found = frame.head(5).glmm.predict(fit, kind=kind, std_error=True)
    assert_allclose(found["prediction"], at(beta), rtol=1e-10)
    assert_allclose(found["prediction_std_error"], np.sqrt(np.einsum("pn,pq,qn->n", slopes, vcov, slopes)), rtol=1e-6)


def test_fitted_values_residuals_and_draws_know_both_parts(frame):
    fit = frame.glmm.fit("y ~ x + (1 |p| g)", "zi ~ x + (1 |p| g)", family="poisson")
    rows = frame.glmm.augment(fit, quantile=True, rng=2)
    assert_allclose(rows["fitted"], frame.glmm.predict(fit)["prediction"], rtol=1e-12)
    fixed = frame.glmm.predict(fit, random="none")["prediction"]
    assert_allclose(rows["fixed"], fixed, rtol=1e-12)
    assert_allclose(rows["resid"], frame["y"] - rows["fitted"], rtol=1e-9, atol=1e-12)
    assert rows["resid_deviance"].null_count() == frame.height
    assert 0.8 < rows["resid_quantile"].std() < 1.2
    drawn = frame.glmm.simulate(fit, n=40, rng=3)
    assert drawn["sim_1"].dtype == frame["y"].dtype
    shares = [(drawn[f"sim_{k}"] == 0).mean() for k in range(1, 41)]
    assert abs(np.mean(shares) - (frame["y"] == 0).mean()) < 0.03


def test_a_sheet_names_both_parts(frame):
    text = str(frame.glmm.fit("y ~ x + (1 | g)", "zi ~ x", family="poisson"))
    assert "Fixed effects of logit zi" in text
    assert "zi is the probability of a zero beside those of the family." in text


def test_parameters_that_a_family_lacks_are_refused(frame):
    with pytest.raises(pg.ModelError, match="hurdle"):
        frame.glmm.fit("x ~ 1 + (1 | g)", "zi ~ 1", family="gaussian")
    with pytest.raises(pg.FormulaError, match="zi has two formulas"):
        frame.glmm.fit("y ~ x", "zi ~ 1", "zi ~ x", family="poisson")
    with pytest.raises(pg.ModelError, match="zi ~ 1"):
        frame.glmm.fit("y ~ x", family="zip")


def test_a_search_goes_on_from_where_no_number_holds_the_curvature():
    """Amounts of many sizes: the first steps lead far off."""
    y = [8e-6, 0.0, 1.04, 0.0, 0.0, 0.0914, 5e-5, 8.4e-4, 0.0, 0.0, 0.989, 1e-6]
    x = [1.225, 0.907, -0.245, 0.223, 1.141, -0.048, -0.44, -1.123, -1.14, -0.538, 1.218, 0.724]
    frame = pl.DataFrame({"y": y, "x": x, "f": list("cabaacabbaca")})
    both = frame.glmm.fit("y ~ x + f", "zi ~ x", family="gamma").fixef()
    above = frame.filter(pl.col("y") > 0.0).glmm.fit("y ~ x + f", family="gamma").fixef()
    assert_allclose(both["estimate"][:4], above["estimate"], rtol=1e-6)
