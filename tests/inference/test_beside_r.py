"""Predictions with their errors, means, tests and profiles beside R where nothing else is: times, glmmTMB, clm.

`tests/references/simulated/beside_r.json` has the numbers, each with its call and `software` with the versions.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import CR, Cumulative
from polars_glmm.errors import FitWarning

HERE = Path(__file__).resolve().parents[1] / "references" / "simulated"
TABLES = json.loads((HERE / "beside_r.json").read_text(encoding="utf-8"))

pytestmark = [
    pytest.mark.reference, pytest.mark.filterwarnings(f"ignore::{FitWarning.__module__}.FitWarning"),
]  # fmt: skip

MODELS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "nb1": ("counts", ("nb ~ x + f + (1 | g)",), {"family": "nbinom1"}),
    "disp": ("counts", ("nb ~ x + f + (1 | g)", "phi ~ x"), {"family": "nbinom2"}),
    "hurdle1": ("counts", ("hnb ~ x + f + (1 | g)", "zi ~ x"), {"family": "truncated_negative_binomial1"}),
    "zi_effects": ("counts", ("zip ~ x + f + (1 | g)", "zi ~ x + (1 | g)"), {"family": "poisson"}),
    "hurdle2": ("counts", ("hnb ~ x + f + (1 | g)", "zi ~ x + (1 | g)"), {"family": "truncated_nbinom2"}),
    "genpois": ("counts", ("gp ~ x + f + (1 | g)",), {"family": "genpois"}),
    "tweedie": ("counts", ("tw ~ x + f + (1 | g)",), {"family": "tweedie"}),
    "betabinomial": ("counts", ("bb ~ x + f + (1 | g)",), {"family": "betabinomial", "trials": "N"}),
    "rank1": ("species", ("y ~ x + spf + rr(0 + spf | s, d=1)",), {"family": "poisson"}),
    "rank2": ("species", ("y ~ x + spf + rr(0 + spf | s, d=2)",), {"family": "poisson"}),
    "zip": ("counts", ("zip ~ x + f * k + (1 | g)", "zi ~ k"), {"family": "poisson"}),
    "be": ("counts", ("be ~ x + f * k + (1 | g)", "phi ~ k"), {"family": "beta"}),
    "logit": ("ordered", ("y ~ x + f",), {"family": "cumulative"}),
    "cloglog": ("ordered", ("y ~ x + f",), {"family": "cumulative", "link": "cloglog"}),
    "equidistant": ("ordered", ("y ~ x + f",), {"family": Cumulative(thresholds="equidistant")}),
    "symmetric": ("ordered", ("y ~ x + f",), {"family": Cumulative(thresholds="symmetric")}),
    "scale": ("ordered", ("y ~ x + f", "disc ~ x"), {"family": "cumulative"}),
    "nominal": ("ordered", ("y ~ x", "thresholds ~ f"), {"family": "cumulative"}),
}
KNOWN = {
    "right": "surv(time, event)",
    "left": "surv(ltime, levent, kind='left')",
    "interval": "surv(lo, hi, kind='interval')",
}
CATEGORIES = ["k1", "k2", "k3", "k4"]


def of(table: str) -> Any:
    """Every row of a table as a case, named by what tells it apart."""
    keys = ("name", "model", "dist", "known", "type", "parameter", "kind", "y")
    told = ["-".join(str(row[key]) for key in keys if key in row) for row in TABLES[table]["rows"]]
    return pytest.mark.parametrize("row", TABLES[table]["rows"], ids=told)


@cache
def rows(name: str) -> pl.DataFrame:
    frame = pl.read_csv(HERE / f"{name}.csv", schema_overrides={"spf": pl.String})
    order = {"f": ["a", "b", "c"] if name in ("times", "ordered") else ["a", "b"], "k": ["u", "v", "w"],
             "spf": list("12345"), "y": CATEGORIES}  # fmt: skip
    labels = [one for one in frame.columns if one in order and frame.schema[one] == pl.String]
    return frame.with_columns(pl.col(one).cast(pl.Enum(order[one])) for one in labels)


@cache
def fitted(name: str) -> Any:
    frame, formulas, options = MODELS[name]
    return polars_glmm.fit(rows(frame), *formulas, **options)


@pytest.mark.one_in(3)
@of("survreg")
def test_times_and_their_medians(row: dict[str, Any]) -> None:
    """The error of a median counts that of the shape, 3 % of it here."""
    fit = polars_glmm.fit(rows("times"), f"{KNOWN[row['known']]} ~ x + f", family=row["dist"], frequency="w")
    assert fit.loglik == pytest.approx(row["loglik"], abs=1e-6)
    told = fit.fixef()
    assert_allclose(told["estimate"], row["estimate"], rtol=1e-6)
    assert_allclose(told["std_error"], row["std_error"], rtol=1e-5)
    if row["dist"] != "exponential":
        phi = fit.dispersion().row(0, named=True)
        scale = phi["estimate"] if row["dist"] == "lognormal" else 1.0 / phi["estimate"]
        assert scale == pytest.approx(row["scale"], rel=1e-6)
        assert phi["std_error"] / phi["estimate"] == pytest.approx(row["log_scale_error"], rel=2e-5)
    head = rows("times").head(3)
    found = fit.predict(head, kind="median", std_error=True)
    assert_allclose(found["prediction"], row["median"], rtol=1e-6)
    assert_allclose(found["prediction_std_error"], row["median_error"], rtol=1e-5)
    assert_allclose(fit.predict(found, kind="survival", times="prediction", name="half")["half"], 0.5, rtol=1e-9)


@pytest.mark.one_in(4)
@of("glmmTMB")
def test_errors_of_predictions_hold_all_parameters(row: dict[str, Any]) -> None:
    """Random effects, coefficients, variances, loadings, phi: of responses, links, phi, new levels, and of none."""
    fit, name = fitted(row["name"]), MODELS[row["name"]][0]
    assert fit.loglik == pytest.approx(row["loglik"], abs=1e-6)
    some = rows(name)[[0, 39, 94]]
    asked = {
        "response": {"uncertainty": "joint"},
        "link": {"kind": "link", "uncertainty": "joint"},
        "disp": {"kind": "phi", "uncertainty": "joint"},
        "new": {"new_levels": "zero"},
        "none": {"random": "none"},
    }
    for what, options in asked.items():
        if what not in row:
            continue
        frame = some.with_columns(g=pl.lit(999)) if what == "new" else some
        found = fit.predict(frame, std_error=True, **options)
        assert_allclose(found["prediction"], row[what]["fit"], rtol=1e-4, atol=1e-5, err_msg=what)
        assert_allclose(found["prediction_std_error"], row[what]["se"], rtol=1e-4, err_msg=what)


@of("emmeans")
def test_means_of_each_component(row: dict[str, Any]) -> None:
    theirs = pl.DataFrame({name: values for name, values in row["table"].items() if values is not None})
    names = [name for name in ("k", "f") if name in theirs.columns]
    ours = fitted(row["model"]).marginal_means(names, kind=row["kind"]).with_columns(pl.col(names).cast(pl.String))
    both = theirs.join(ours, on=names, how="inner", suffix="_ours")
    assert both.height == theirs.height == ours.height
    for column in ("estimate", "std_error"):
        assert_allclose(both[f"{column}_ours"], both[column], rtol=2e-4)


@of("Anova")
def test_tests_of_terms_of_each_component(row: dict[str, Any]) -> None:
    theirs = pl.DataFrame(row["table"])
    ours = fitted(row["model"]).test_terms(type=row["type"]).filter(parameter=row["parameter"])
    both = theirs.join(ours, on="term", how="inner", suffix="_ours")
    assert both.height == theirs.height == ours.height
    assert both["num_df"].to_list() == both["df"].to_list()
    assert_allclose(both["statistic_ours"], both["statistic"], rtol=2e-4, atol=1e-7)


@pytest.mark.slow
@of("profile")
def test_profiles_of_coefficients_dispersion_and_standard_deviation(row: dict[str, Any]) -> None:
    family = {"gp": "genpois", "be": "beta"}[row["y"]]
    fit = polars_glmm.fit(rows("counts"), f"{row['y']} ~ x + f + (1 | g)", family=family)
    ours = fit.confint("profile")
    for quantity in ("dispersion", "sd"):
        ours = ours.with_columns(
            pl.when(pl.col("quantity") == quantity).then(pl.col(end).log()).otherwise(pl.col(end)).alias(end)
            for end in ("conf_low", "conf_high")
        )
    parts = (ours.filter(quantity=one) for one in ("coefficient", "dispersion", "sd"))
    assert_allclose(pl.concat(parts).select("conf_low", "conf_high").to_numpy(), row["ends"], atol=2e-4)


@pytest.mark.one_in(2)
@of("clm")
def test_probabilities_of_categories_and_profiles(row: dict[str, Any]) -> None:
    """Intervals of probabilities on the logit scale; `disc` is the inverse of clm's scale: the profile turned."""
    fit, some = fitted(row["name"]), rows("ordered")[[0, 99, 298]]
    assert fit.loglik == pytest.approx(row["loglik"], abs=1e-7)
    assert_allclose(fit.fixef()["std_error"].sort(), row["std_error"], rtol=1e-5)
    found = fit.predict(some, std_error=True, interval="confidence")
    for ending, what in (("", "fit"), ("_std_error", "se"), ("_low", "low"), ("_high", "high")):
        ours = found.select(f"prediction_{one}{ending}" for one in CATEGORIES).to_numpy()
        assert_allclose(ours, row[what], rtol=2e-5)
    cumulative = fit.predict(some, kind="cumulative", std_error=True)
    errors = cumulative.select(pl.selectors.ends_with("_std_error")).to_numpy()
    assert_allclose(errors[:, :3], row["cumulative_error"], rtol=2e-5)
    told = fit.confint("profile", which="fixed").filter(pl.col("parameter").is_in(["mu", "disc"]))
    ends = told.select("conf_low", "conf_high").to_numpy()
    turned = (told["parameter"] == "disc").to_numpy()[:, None]
    assert_allclose(np.where(turned, -ends[:, ::-1], ends), row["profile"], atol=2e-5)


def test_errors_of_survival_and_hazards_count_the_shape() -> None:
    """log H(t) = a(log t − η): its variance by hand from that of (η, log a) together."""
    fit, some = polars_glmm.fit(rows("times"), "surv(time, event) ~ x", family="weibull"), rows("times").head(3)
    whole = fit.vcov(full=True)["covariance"].to_numpy().reshape(3, 3)
    a, t = fit.dispersion()["estimate"].item(), 2.0
    x = np.column_stack([np.ones(3), some["x"], -(np.log(t) - fit.predict(some, kind="link")["prediction"])])
    error = a * np.sqrt(np.einsum("ni,ij,nj->n", x, whole, x))
    hazard = fit.predict(some, kind="cumulative_hazard", times=[t], std_error=True, interval="confidence")
    h = hazard["prediction"].to_numpy()
    assert_allclose(hazard["prediction_std_error"], h * error, rtol=1e-5)
    assert_allclose(hazard["prediction_high"], h * np.exp(1.959963984540054 * error), rtol=1e-5)
    survival = fit.predict(some, kind="survival", times=[t], std_error=True)
    assert_allclose(survival["prediction_std_error"], np.exp(-h) * h * error, rtol=1e-5)


def test_survival_that_runs_to_one_has_no_error() -> None:
    """Without an event in one group its rows have a prediction and no error, the others both."""
    blind = rows("times").with_columns(event=pl.when(pl.col("f") == "a").then(0).otherwise(pl.col("event")))
    fit = polars_glmm.fit(blind, "surv(time, event) ~ f + x", family="weibull")
    found = fit.predict(blind, kind="survival", times=[1.0], std_error=True, interval="confidence")
    assert found["prediction"].null_count() == 0
    of_a = (blind["f"] == "a").to_list()
    for column in ("prediction_std_error", "prediction_low", "prediction_high"):
        assert found[column].is_null().to_list() == of_a
        assert found[column].drop_nulls().is_finite().all()


def test_a_size_that_is_hardly_known_does_not_spoil_the_mean() -> None:
    """Given phi the error of the first mean was 0.418; it is 0.149 with its covariance with the coefficients."""
    frame = rows("counts").filter(pl.col("f") == "b").with_columns(y=pl.col("zip") + 1)
    fit = polars_glmm.fit(frame, "y ~ x + (1 | g)", family="truncated_nbinom2")
    found = fit.predict(frame, random="none", std_error=True)["prediction_std_error"]
    assert found[0] == pytest.approx(0.149, abs=1e-3)
    assert_allclose(found, fit.predictions(frame, average=False)["std_error"], rtol=1e-6)


@pytest.mark.parametrize("formulas", [("y ~ x + (1 | g)",), ("y ~ x + (1 | g)", "phi ~ x"), ("y ~ x",)], ids=str)
def test_errors_of_predict_are_those_of_predictions_where_phi_is_in_the_mean(formulas: tuple[str, ...]) -> None:
    """Two routes to one delta method; of fits by key and of lazy frames too."""
    frame = rows("counts").with_columns(y=pl.col("x").exp() * pl.col("tw") + 0.3, key=pl.col("g") % 2)
    fit = polars_glmm.fit(frame, *formulas, family="lognormal")
    found = fit.predict(frame, random="none", std_error=True)
    assert_allclose(found["prediction_std_error"], fit.predictions(frame, average=False)["std_error"], rtol=1e-7)
    assert_allclose(
        frame.lazy().glmm.predict(fit, random="none", std_error=True).collect()["prediction_std_error"],
        found["prediction_std_error"], rtol=1e-12,
    )  # fmt: skip
    many = polars_glmm.fit(frame, *formulas, family="lognormal", by="key")
    for key in (0, 1):
        own = frame.filter(key=key)
        both = (one.predict(own, std_error=True)["prediction_std_error"] for one in (many, many[key]))
        assert_allclose(*both, rtol=1e-9)


def test_held_coefficients_count_as_known_jointly() -> None:
    """As those of a model with an offset in their place; they had no error at all."""
    frame = rows("counts").with_columns(o=0.4 * pl.col("x"))
    held = polars_glmm.fit(frame, "gp ~ x + f + (1 | g)", family="poisson", fixed={"x": 0.4})
    moved = polars_glmm.fit(frame, "gp ~ f + offset(o) + (1 | g)", family="poisson")
    errors = [one.predict(frame, std_error=True, uncertainty="joint")["prediction_std_error"] for one in (held, moved)]
    assert_allclose(*errors, rtol=1e-5)


def test_robust_errors_where_a_covariance_matrix_has_a_rank() -> None:
    """V Σ s_g s_g' V of (β, λ) together, by differences of Laplace's approximation written out: b = λu, u ~ N(0, 1)."""
    frame = rows("species").filter(pl.col("spf").cast(pl.String).is_in(["1", "2"])).cast({"spf": pl.String}).sort("s")
    fit = polars_glmm.fit(frame, "y ~ x + rr(0 + spf | s, d=1)", family="poisson")
    y, x = (frame[one].to_numpy().reshape(-1, 2) for one in ("y", "x"))
    which = (frame["spf"] == "2").to_numpy().astype(int).reshape(-1, 2)

    def by_site(psi: Any) -> Any:
        eta, loadings, u = psi[0] + psi[1] * x, psi[2:][which], np.zeros(len(y))
        for _ in range(30):
            mu = np.exp(eta + loadings * u[:, None])
            u = u + ((loadings * (y - mu)).sum(1) - u) / (1.0 + (loadings**2 * mu).sum(1))
        mu = np.exp(eta + loadings * u[:, None])
        curvature = 1.0 + (loadings**2 * mu).sum(1)
        return (y * np.log(mu) - mu).sum(1) - 0.5 * u**2 - 0.5 * np.log(curvature)

    covariance, step = fit.varcorr()["estimate"].to_numpy(), 1e-3 * np.eye(4)
    at = np.array([*fit.fixef()["estimate"], np.sqrt(covariance[0]), covariance[-1] / np.sqrt(covariance[0])])
    scores = np.array([(by_site(at + h) - by_site(at - h)) / 2e-3 for h in step])
    slope = lambda psi: np.array([(by_site(psi + k) - by_site(psi - k)).sum() / 2e-3 for k in step])
    v = np.linalg.inv(-np.array([(slope(at + h) - slope(at - h)) / 2e-3 for h in step]))
    expected = np.sqrt(np.diag(v @ scores @ scores.T @ v))[:2]
    assert_allclose(fit.fixef(vcov=CR("s", "CR0"))["std_error"], expected, rtol=1e-4)
