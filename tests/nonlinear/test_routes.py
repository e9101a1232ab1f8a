"""Nonlinear models through every verb: routes agree, linear curves are linear models, draws have the model's law."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import AGQ, Control, GlmmError, Memory, ModelError, Rows, datasets
from polars_glmm.families.arithmetic import ArrayAlgebra
from polars_glmm.optimize.self_start import READINGS, self_start
from polars_glmm.spec.forms import FORMS
from polars_glmm.spec.model import ModelSpec

TREES = datasets.load("orange")
CURVE = ("circumference ~ SSlogis(age, Asym, xmid, scal)", "Asym ~ 1 + (1 | Tree)")


@pytest.fixture(scope="module")
def trees() -> Any:
    return TREES.glmm.fit(*CURVE)


def test_a_curve_that_is_linear_in_its_parameters_is_the_linear_model() -> None:
    """By maximum likelihood: fixed effects, their errors, variances, modes, predictions."""
    frame = datasets.load("sleepstudy")
    linear = frame.glmm.fit("Reaction ~ Days + (Days | Subject)", method="ml")
    curve = ("Reaction ~ a + b * Days", "a ~ 1 + (1 |s| Subject)", "b ~ 1 + (1 |s| Subject)")
    fit = frame.glmm.fit(*curve, start={"a": 250, "b": 10})
    assert fit.loglik == pytest.approx(linear.loglik, abs=1e-7)
    assert fit.fixef()["estimate"].to_list() == pytest.approx(linear.fixef()["estimate"].to_list(), rel=1e-5)
    assert fit.fixef()["std_error"].to_list() == pytest.approx(linear.fixef()["std_error"].to_list(), rel=1e-3)
    assert fit.varcorr()["estimate"].to_list() == pytest.approx(linear.varcorr()["estimate"].to_list(), rel=1e-3)
    ours, theirs = (one.predict(frame, std_error=True) for one in (fit, linear))
    assert ours["prediction"].to_list() == pytest.approx(theirs["prediction"].to_list(), rel=1e-5)
    assert ours["prediction_std_error"].to_list() == pytest.approx(theirs["prediction_std_error"].to_list(), rel=2e-3)


def test_a_curve_of_one_parameter_is_a_model_of_its_family() -> None:
    frame = datasets.load("grouseticks")
    plain = frame.glmm.fit("TICKS ~ YEAR + (1 | BROOD)", family="poisson")
    fit = frame.glmm.fit("TICKS ~ eta1", "eta1 ~ YEAR + (1 | BROOD)", family="poisson", start={"eta1": 1.0})
    assert fit.loglik == pytest.approx(plain.loglik, abs=1e-6)
    assert fit.predict(frame)["prediction"].to_list() == pytest.approx(
        plain.predict(frame)["prediction"].to_list(), rel=1e-4
    )


def test_routes_agree(trees: Any) -> None:
    small = Control(memory=Memory(limit=100_000_000))
    counted = TREES.with_columns(w=2)
    assert TREES.lazy().glmm.fit(*CURVE).loglik == pytest.approx(trees.loglik, abs=1e-9)
    assert TREES.lazy().glmm.fit(*CURVE, control=small).loglik == pytest.approx(trees.loglik, abs=1e-9)
    assert TREES.reverse().glmm.fit(*CURVE).loglik == pytest.approx(trees.loglik, abs=1e-9)
    twice = pl.concat([TREES, TREES]).glmm.fit(*CURVE)
    assert counted.glmm.fit(*CURVE, frequency="w").loglik == pytest.approx(twice.loglik, abs=1e-8)
    keyed = pl.concat([TREES.with_columns(key=pl.lit(k)) for k in range(4)]).glmm.fit(*CURVE, by="key")
    assert [one.loglik for one in (keyed[k] for k in range(4))] == pytest.approx([trees.loglik] * 4, abs=1e-9)
    assert keyed.predict(TREES.with_columns(key=pl.lit(2)))["prediction"].to_list() == pytest.approx(
        trees.predict(TREES)["prediction"].to_list()
    )


def test_rows_on_disk_give_the_same_answer(trees: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n, g = 20_000, np.repeat(np.arange(400), 50)
    x = rng.uniform(0, 10, n)
    y = (5 + rng.normal(0, 0.6, 400)[g]) * (1 - np.exp(-0.4 * x)) + rng.normal(0, 0.3, n)
    frame = pl.DataFrame({"g": g, "x": x, "y": y})
    curve = ("y ~ SSasympOrig(x, Asym, lrc)", "Asym ~ 1 + (1 | g)")
    frame.write_parquet(tmp_path / "rows.parquet")
    control = Control(memory=Memory(limit=1, spill=str(tmp_path)), rows=Rows(compress=False))
    scan = pl.scan_parquet(tmp_path / "rows.parquet")
    assert scan.glmm.explain(*curve, control=control).plan.route == "disk"
    stored = scan.glmm.fit(*curve, control=control)
    memory = frame.glmm.fit(*curve)
    assert stored.loglik == pytest.approx(memory.loglik, abs=1e-6)
    assert memory.fixef()["estimate"].to_list() == pytest.approx([5.0, np.log(0.4)], abs=0.15)


def test_quadrature_of_effects_that_enter_the_curve_linearly_is_laplace(trees: Any) -> None:
    """The integrand is gaussian then: any number of nodes is exact."""
    assert TREES.glmm.fit(*CURVE, method=AGQ(7)).loglik == pytest.approx(trees.loglik, abs=1e-8)


def test_the_gradient_of_the_objective_is_that_of_differences() -> None:
    frame = datasets.load("theoph")
    curve = ("conc ~ SSfol(Dose, Time, lKe, lKa, lCl)", "lKa ~ 1 + (1 |s| Subject)", "lCl ~ 1 + (1 |s| Subject)")
    for method in ("laplace", AGQ(3)):
        objective = frame.glmm.objective(*curve, method=method)
        at = np.array([-2.4, 0.6, 0.2, 0.3, 0.45, -3.2, 0.7])
        assert len(objective.names) == len(at)
        step = 1e-5
        differences = [
            (objective.loglik(at + step * e) - objective.loglik(at - step * e)) / (2 * step) for e in np.eye(len(at))
        ]
        assert objective.gradient(at) == pytest.approx(differences, rel=1e-5, abs=1e-4)


def test_parameters_are_started_and_held_by_name(trees: Any) -> None:
    held = TREES.glmm.fit(*CURVE, fixed={"scal": 350.0})
    assert held.fixef()["estimate"][2] == 350.0
    assert held.loglik < trees.loglik
    assert TREES.glmm.fit(*CURVE, fixed={"scal: Intercept": 350.0}).loglik == pytest.approx(held.loglik, abs=1e-9)
    far = TREES.glmm.fit(*CURVE, start={"Asym": 120, "xmid": 500, "scal": 250})
    assert far.loglik == pytest.approx(trees.loglik, abs=1e-8)
    assert TREES.glmm.fit(*CURVE, start=trees).loglik == pytest.approx(trees.loglik, abs=1e-8)
    covariate = TREES.glmm.fit(*CURVE, "xmid ~ I(age > 500)")
    assert covariate.loglik > trees.loglik
    with pytest.raises(ModelError, match="'xmid' has no single value"):
        TREES.glmm.fit(*CURVE, "xmid ~ I(age > 500)", fixed={"xmid": 700})
    with pytest.raises(ModelError, match=r"give 'a', 'b' and 'c' a value|SSlogis"):
        TREES.glmm.fit("circumference ~ a / (1 + exp((b - age) / c))", "a ~ 1", "b ~ 1", "c ~ 1")


@pytest.mark.slow
def test_draws_have_the_mean_and_the_variance_of_the_model(trees: Any) -> None:
    """Asym is the only random parameter: E y = f(β), Var y = (∂f/∂Asym)² σ_b² + φ²."""
    draws = trees.simulate(TREES, n=4000, rng=1).select(pl.col("^sim_.*$")).to_numpy()
    asym, mid, scale = trees.fixef()["estimate"].to_list()
    slope = 1.0 / (1.0 + np.exp((mid - TREES["age"].to_numpy()) / scale))
    variance = (trees.varcorr()["std_dev"][0] * slope) ** 2 + trees.estimate.phi**2
    assert draws.mean(1) == pytest.approx(asym * slope, abs=5 * np.sqrt(variance.max() / 4000))
    assert draws.var(1) == pytest.approx(variance, rel=0.15)


def test_standard_errors_of_the_population_curve_are_those_of_the_delta_method(trees: Any) -> None:
    ours = trees.predict(TREES, random="none", std_error=True)
    beta, step = trees.fixef()["estimate"].to_numpy(), 1e-4
    age = TREES["age"].to_numpy()
    curve = lambda b: b[0] / (1.0 + np.exp((b[1] - age) / b[2]))
    slopes = np.array([(curve(beta + step * e) - curve(beta - step * e)) / (2 * step) for e in np.eye(3)])
    table = trees.vcov()
    vcov = table["covariance"].to_numpy().reshape(3, 3)
    assert ours["prediction"].to_list() == pytest.approx(curve(beta).tolist(), rel=1e-9)
    error = np.sqrt(np.einsum("kn,kl,ln->n", slopes, vcov, slopes))
    assert ours["prediction_std_error"].to_list() == pytest.approx(error.tolist(), rel=1e-6)
    averages = trees.predictions(random="none", by="age")
    assert averages["std_error"].to_list() == pytest.approx(
        [error[age == one][0] for one in averages["age"]], rel=1e-6
    )


def test_a_written_fit_predicts_the_same(trees: Any, tmp_path: Path) -> None:
    trees.write(tmp_path / "trees.glmm")
    again = polars_glmm.read_fit(tmp_path / "trees.glmm")
    assert again.loglik == trees.loglik
    assert again.predict(TREES)["prediction"].to_list() == trees.predict(TREES)["prediction"].to_list()


def test_leaving_a_level_out_is_the_fit_without_its_rows(trees: Any) -> None:
    table = trees.influence()
    without = TREES.filter(pl.col("Tree") != TREES["Tree"][0]).glmm.fit(*CURVE)
    row = table.filter(pl.col("level") == str(TREES["Tree"][0]))
    assert row["loglik"].item() == pytest.approx(without.loglik, abs=1e-5)


def test_coefficients_by_level_are_the_parameters_of_each_curve(trees: Any) -> None:
    table = trees.coef("Tree")
    assert table.columns == ["Tree", "Asym", "xmid", "scal"]
    one = table.row(0, named=True)
    curve = one["Asym"] / (1.0 + np.exp((one["xmid"] - TREES["age"]) / one["scal"]))
    mine = trees.predict(TREES.with_columns(curve=pl.Series(curve))).filter(pl.col("Tree") == one["Tree"])
    assert mine["prediction"].to_list() == pytest.approx(mine["curve"].to_list())


def test_a_parameter_without_a_formula_is_no_column() -> None:
    with pytest.raises(GlmmError, match="A parameter of a curve has a formula of its own"):
        TREES.glmm.fit("circumference ~ Asym / (1 + exp(-(age - xmid) / scal))", "Asym ~ 1", "scal ~ 1")


def test_what_follows_one_linear_predictor_is_refused_with_another_way(trees: Any) -> None:
    population = lambda: trees.predict(TREES, random="integrate")
    for verb in (trees.profile, lambda: trees.posterior(3), trees.cross_validate, population):
        with pytest.raises(GlmmError, match="nonlinear"):
            verb()


def test_print_names_the_parameters_of_the_curve(trees: Any) -> None:
    text = str(trees)
    assert text.startswith("Nonlinear mixed model")
    assert all(f"\n {name} " in text for name in ("Asym", "xmid", "scal"))
    assert "Tree      Asym Intercept" in text


STARTS: dict[str, tuple[float, ...]] = {
    "SSasymp": (100.0, -8.0, -2.5),
    "SSasympOff": (30.0, -1.0, 1.5),
    "SSasympOrig": (20.0, -1.2),
    "SSbiexp": (3.0, 1.0, 0.8, -1.3),
    "SSfol": (-2.5, 0.5, -3.2),
    "SSfpl": (2.0, 9.0, 6.0, 1.3),
    "SSgompertz": (5.0, 2.5, 0.7),
    "SSlogis": (200.0, 6.0, 1.5),
    "SSmicmen": (212.0, 2.0),
    "SSweibull": (160.0, 115.0, -3.0, 1.9),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_starts_itself_at_the_truth_of_data_without_noise(form: str) -> None:
    """Least squares from the reading of the data ends at the parameters that made them."""
    assert set(STARTS) == set(READINGS) == set(FORMS)
    signature, x = FORMS[form], np.tile(np.linspace(0.25, 12.0, 30), 3)
    spec = ModelSpec.parse((f"y ~ {form}({', '.join((*signature.inputs, *signature.parameters))})",))
    curve = spec.family.curve
    assert curve is not None
    inputs = (np.repeat([3.0, 4.0, 5.0], 30), x) if len(signature.inputs) == 2 else (x,)
    value = lambda at: np.asarray(curve.value(ArrayAlgebra(), list(at), inputs))
    y = value(STARTS[form])
    found = self_start(form, y, inputs, value)
    assert found is not None
    assert value(found) == pytest.approx(y, abs=1e-4 * np.ptp(y))


@pytest.mark.slow
def test_simulated_curves_give_their_parameters_back() -> None:
    """200 data sets through by=: means within Monte Carlo error, intervals near their level."""
    truth, sd, sigma = {"Asym": 5.0, "lrc": -0.9}, 0.5, 0.3
    rng = np.random.default_rng(5)
    parts = []
    for k in range(200):
        g = np.repeat(np.arange(25), 8)
        x = rng.uniform(0, 8, 200)
        y = (truth["Asym"] + rng.normal(0, sd, 25)[g]) * (1 - np.exp(-np.exp(truth["lrc"]) * x))
        parts.append(pl.DataFrame({"k": k, "g": g, "x": x, "y": y + rng.normal(0, sigma, 200)}))
    fits = pl.concat(parts).glmm.fit("y ~ SSasympOrig(x, Asym, lrc)", "Asym ~ 1 + (1 | g)", by="k")
    table = fits.fixef()
    for name, value in truth.items():
        own = table.filter(pl.col("parameter") == name)
        estimates = own["estimate"].to_numpy()
        assert abs(estimates.mean() - value) < 4 * estimates.std() / np.sqrt(200)
        covered = ((own["conf_low"] <= value) & (own["conf_high"] >= value)).mean()
        assert 0.88 < covered < 0.99
