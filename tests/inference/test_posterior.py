"""Draws of parameters and effects: their moments, what they depend on, edges, and what other packages get of them."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm import Control, Memory, StudentT, Tweedie, datasets, fit
from polars_glmm.errors import ModelError, ResourceError
from polars_glmm.fitting.again import design_of
from polars_glmm.likelihood.known.draws import effect_deviations
from polars_glmm.likelihood.known.joint import HeldParameters, known_model

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
N = 4000


def sleep() -> Any:
    return fit(datasets.load("sleepstudy"), "Reaction ~ Days + (Days | Subject)")


def test_moments_of_parameters_are_those_of_vcov() -> None:
    """On the scales of vcov(full=True), of which 4 standard errors of a covariance are allowed."""
    found = sleep()
    draws = found.posterior(N, 1, include=("beta", "theta"))
    wide = draws["value"].to_numpy().reshape(N, -1)
    scales = np.column_stack([wide[:, :2], np.log(wide[:, 2:4]), np.arctanh(wide[:, 4]), np.log(wide[:, 5])])
    covariance = found.vcov(full=True)["covariance"].to_numpy().reshape(6, 6)
    sd = np.sqrt(np.diag(covariance))
    assert_allclose(np.cov(scales.T) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=4 * np.sqrt(2 / N))
    names = draws.head(6).select("quantity", "group", "term", "other_term").rows()
    assert names[4:] == [("correlation", "Subject", "Intercept", "Days"), ("dispersion", "Residual", None, None)]


@pytest.mark.parametrize(
    ("data", "formula", "options"),
    [
        ("sleepstudy", "Reaction ~ Days + (Days | Subject)", {}),
        ("cbpp", "incidence ~ period + (1 | herd)", {"family": "binomial", "trials": "size"}),
    ],
)
def test_spread_of_means_is_the_joint_standard_error_of_predictions(data: str, formula: str, options: Any) -> None:
    """A mean moves with modes, coefficients, variances: predict(uncertainty="joint") says how, to first order."""
    frame = datasets.load(data)
    found = fit(frame, formula, **options)
    drawn = found.predictive(frame, 1000, 2, of="mean").select("^sim_.*$").to_numpy()
    eta = np.log(drawn / (1 - drawn)) if options else drawn
    known = found.predict(frame, kind="link", std_error=True, uncertainty="joint")["prediction_std_error"]
    assert_allclose(eta.std(1), known, rtol=0.12)


def _two_parts() -> tuple[pl.DataFrame, Any]:
    frame = datasets.load("salamanders")
    return frame, fit(frame, "count ~ mined + (1 | site)", "zi ~ mined", family="negative_binomial")


def _constants() -> tuple[pl.DataFrame, Any]:
    rng = np.random.default_rng(4)
    x, g = rng.normal(size=240), np.repeat(np.arange(24), 10)
    frame = pl.DataFrame({"x": x, "g": g, "y": 0.5 * x + rng.normal(size=24)[g] + rng.standard_t(4, 240)})
    return frame, fit(frame, "y ~ x + (1 | g)", family=StudentT())


@pytest.mark.one_in(2)
@pytest.mark.parametrize("made", [_two_parts, _constants])
def test_draws_move_every_predictor(made: Any) -> None:
    """Zeros, and constants beside phi: the spread of means is their joint standard error, to first order.

    Half the distance of quartiles over 0.6745 stands for it: means of counts are skewed, and 300 draws have 5 %.
    """
    frame, found = made()
    drawn = found.predictive(frame, 300, 2, of="mean").select("^sim_.*$").to_numpy()
    low, high = np.quantile(drawn, [0.25, 0.75], axis=1)
    known = found.predict(frame, std_error=True, uncertainty="joint")["prediction_std_error"].to_numpy()
    assert np.median((high - low) / 1.349 / known) == pytest.approx(1.0, abs=0.06)
    names = found.posterior(2, 1).filter(quantity="dispersion")["parameter"].unique(maintain_order=True).to_list()
    assert names == list(found.estimate.constants)


@pytest.mark.slow
def test_categories_are_drawn_by_thresholds_that_move() -> None:
    """Shares of draws are probabilities where thresholds hardly move: 4 binomial errors, and 2 % for their spread."""
    frame = datasets.load("wine")
    found = fit(frame, "rating ~ temp + (1 | judge)", family="cumulative")
    drawn = found.predictive(frame.head(1), 800, 1, random="none").select("^sim_.*$").row(0)
    shares = found.predict(frame.head(1), random="none").select(pl.col("^prediction_.*$")).row(0)
    for label, share in zip("12345", shares, strict=True):
        allowed = 4.0 * np.sqrt(share * (1.0 - share) / 800) + 0.02
        assert np.mean([one == label for one in drawn]) == pytest.approx(share, abs=allowed)


def test_the_mean_of_a_lognormal_response_is_its_expectation() -> None:
    """exp(mu + φ²/2), not the parameter mu of its logarithm."""
    frame = datasets.load("sleepstudy")
    found = fit(frame, "Reaction ~ Days + (1 | Subject)", family="lognormal")
    drawn = found.predictive(frame.head(1), 500, 1, of="mean").select("^sim_.*$").row(0)
    assert np.median(drawn) == pytest.approx(found.predict(frame.head(1))["prediction"][0], rel=0.02)


@pytest.mark.slow
def test_effects_of_crossed_factors_are_drawn_together() -> None:
    """Their covariance is the inverse of Henderson's matrix, blocks between factors included."""
    rng = np.random.default_rng(3)
    frame = pl.DataFrame({"a": rng.integers(0, 4, 60), "b": rng.integers(0, 3, 60)})
    frame = frame.with_columns(y=pl.col("a") + pl.col("b") + pl.Series(rng.normal(size=60)))
    found = fit(frame, "y ~ 1 + (1 | a) + (1 | b)")
    held = HeldParameters.of(found.estimate, found.spec.family)
    design = design_of(found, "this test").design
    known = known_model(design, found.spec.family, found.control, held)
    streams = [np.random.default_rng([1, k]) for k in range(20_000)]
    a, b = (one[:, 0] for one in effect_deviations(known, streams))
    z = np.zeros((60, 7))
    z[np.arange(60), design.factors[0].codes] = 1.0
    z[np.arange(60), 4 + design.factors[1].codes] = 1.0
    prior = np.repeat([held.roots[0][0, 0] ** -2, held.roots[1][0, 0] ** -2], [4, 3])
    expected = np.linalg.inv(z.T @ z / found.estimate.phi**2 + np.diag(prior))
    size = np.sqrt(np.diag(expected))
    got = np.cov(np.concatenate([a, b], axis=1).T)
    assert_allclose(got / np.outer(size, size), expected / np.outer(size, size), atol=0.04)


def test_a_draw_depends_on_the_seed_and_its_number_alone() -> None:
    found = sleep()
    few, many = found.posterior(5, 7), found.posterior(12, 7)
    columns = ["draw", "quantity", "term", "level"]
    both = few.join(many, on=[*columns, "group", "other_term"], nulls_equal=True, suffix="_more")
    assert both.height == few.height
    assert_allclose(both["value"], both["value_more"], rtol=1e-12)
    frame = datasets.load("sleepstudy")
    assert found.predictive(frame, 3, 7)["sim_2"].equals(found.predictive(frame, 9, 7)["sim_2"])


def test_what_has_no_standard_error_stays_where_it_is() -> None:
    rng = np.random.default_rng(4)
    frame = pl.DataFrame({"g": np.repeat(np.arange(10), 6), "x": rng.normal(size=60), "y": rng.normal(size=60)})
    held = fit(frame, "y ~ x + (1 | g)", fixed={"x": 0.5, "sd(g: Intercept)": 0.0}).posterior(50, 1)
    one = held.filter((pl.col("term") == "x") & (pl.col("quantity") == "coefficient"))["value"]
    assert one.unique().to_list() == [0.5]
    assert held.filter(quantity="effect")["value"].abs().max() == 0.0


def test_correlations_of_three_effects_always_make_a_covariance_matrix() -> None:
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(12), 8)
    x, w = rng.normal(size=96), rng.normal(size=96)
    b = rng.multivariate_normal(np.zeros(3), [[1, 0.8, 0.8], [0.8, 1, 0.9], [0.8, 0.9, 1]], 12)
    frame = pl.DataFrame({"g": g, "x": x, "w": w, "y": b[g, 0] + x * b[g, 1] + w * b[g, 2] + rng.normal(size=96) * 0.5})
    draws = fit(frame, "y ~ x + w + (x + w | g)").posterior(300, 6, include="theta")
    rho = draws.filter(quantity="correlation")["value"].to_numpy().reshape(300, 3)
    r = np.array([[[1, a, b], [a, 1, c], [b, c, 1]] for a, b, c in rho])
    assert np.linalg.eigvalsh(r)[:, 0].min() > -1e-9


def test_new_levels_have_effects_of_their_own_and_rows_keep_their_kind() -> None:
    frame = datasets.load("cbpp")
    found = fit(frame, "incidence ~ period + (1 | herd)", family="binomial", trials="size")
    new = frame.with_columns(herd=pl.lit("new"))
    with_new = found.predictive(new, 300, 1, of="mean").select("^sim_.*$").to_numpy().std(1)
    at_zero = found.predictive(new, 300, 1, of="mean", random="none").select("^sim_.*$").to_numpy().std(1)
    assert (with_new > 1.5 * at_zero).all()
    lazy = found.predictive(frame.lazy(), 2, 1)
    assert isinstance(lazy, pl.LazyFrame)
    assert lazy.collect()["sim_1"].dtype == pl.Int64


def test_of_many_fits_every_key_has_its_draws() -> None:
    frame = datasets.load("salamanders")
    many = fit(frame, "count ~ mined + (1 | site)", family="poisson", by="spp")
    draws = many.posterior(3, 1)
    assert draws.columns[0] == "spp"
    assert draws["spp"].n_unique() == len(many)


def test_draws_stand_for_a_covariance() -> None:
    """vcov= of draws is their covariance, in every table that takes one; draws of several models are refused."""
    found = sleep()
    draws = found.posterior(500, 1, include=("beta", "theta"))
    wide = draws["value"].to_numpy().reshape(500, -1)[:, :2]
    assert_allclose(found.vcov(vcov=draws)["covariance"], np.cov(wide.T).ravel(), rtol=1e-12)
    row = found.test("Days - Intercept", vcov=draws).row(0, named=True)
    assert row["std_error"] == pytest.approx(np.std(wide[:, 1] - wide[:, 0], ddof=1))
    for wrong, says in ((pl.concat([draws, draws]), "twice"), (draws.filter(term="Days"), "no two draws")):
        with pytest.raises(ModelError, match=says):
            found.fixef(vcov=wrong)


def test_a_collection_stacks_covariances_and_coefficients_of_its_fits() -> None:
    many = fit(datasets.load("salamanders"), "count ~ mined + (1 | site)", family="poisson", by="spp")
    key, one = next(iter(many))
    for question in (lambda f: f.vcov(full=True), lambda f: f.coef("site"), lambda f: f.diagnose().drop("value")):
        assert question(many).filter(spp=key).drop("spp").equals(question(one))


def test_what_cannot_be_drawn_is_refused_in_words() -> None:
    frame = datasets.load("sleepstudy")
    gone = fit(frame, "Reaction ~ Days + (Days | Subject)", control=Control(keep="none"))
    assert gone.posterior(3, 1, include=("beta", "theta")).height == 18
    with pytest.raises(ModelError, match="needs the rows of the fit"):
        gone.posterior(3, 1)
    with pytest.raises(ModelError, match="include='gamma'"):
        gone.posterior(3, 1, include="gamma")  # type: ignore[arg-type]
    small = fit(frame, "Reaction ~ Days + (Days | Subject)", control=Control(memory=Memory(limit=10_000_000)))
    with pytest.raises(ResourceError, match="fewer draws"):
        small.posterior(10_000, 1)


def test_arviz_gets_draws_by_name_with_levels_as_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    """ArviZ 1 takes groups in one mapping, ArviZ 0 as arguments."""
    asked: list[Any] = []
    new = SimpleNamespace(__name__="arviz_base", from_dict=lambda data, **more: asked.append((data["posterior"], more)))
    old = SimpleNamespace(__name__="arviz", from_dict=lambda **more: asked.append((more.pop("posterior"), more)))
    monkeypatch.setitem(sys.modules, "arviz_base", new)  # type: ignore[arg-type]
    sleep().to_arviz(20, 1)
    monkeypatch.setitem(sys.modules, "arviz_base", None)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "arviz", old)  # type: ignore[arg-type]
    sleep().to_arviz(20, 1)
    for posterior, more in asked:
        assert posterior["sd(Subject: Days)"].shape == (1, 20)
        assert posterior["Subject: Days"].shape == (1, 20, 18)
        assert more["dims"]["Subject: Days"] == ["Subject"]
        assert more["coords"]["Subject"][0] == "308"
    monkeypatch.setitem(sys.modules, "arviz", None)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"pip install 'polars-glmm\[bayes\]'"):
        sleep().to_arviz(20, 1)


def test_bambi_gets_the_formula_family_and_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def model(formula: Any, data: Any, **more: Any) -> None:
        asked.append((formula, data, more))

    fake = SimpleNamespace(Model=model, Formula=lambda *formulas: formulas)
    monkeypatch.setitem(sys.modules, "bambi", fake)  # type: ignore[arg-type]
    herds = datasets.load("cbpp")
    fit(herds, "incidence ~ period + (1 | herd)", family="binomial", trials="size").to_bambi()
    fit(herds, "cbind(incidence, size - incidence) ~ period + (1 | herd)", family="binomial").to_bambi()
    fit(datasets.load("sleepstudy"), "Reaction ~ Days + (Days || Subject)", "phi ~ Days").to_bambi(dropna=True)
    (first, data, more), (second, counted, _), (third, _, options) = asked
    assert first == ("p(incidence, size) ~ period + (1 | herd)",)
    assert more == {"family": "binomial", "link": "logit"}
    assert list(data["period"].cat.categories) == ["1", "2", "3", "4"]
    assert second == ("p(incidence, trials_) ~ period + (1 | herd)",)
    assert counted["trials_"].tolist() == herds["size"].to_list()
    assert third == ("Reaction ~ Days + (Days | Subject)", "sigma ~ Days")
    assert options == {"family": "gaussian", "link": {"mu": "identity", "sigma": "log"}, "dropna": True}
    with pytest.raises(ModelError, match="bambi has no family 'tweedie'"):
        fit(datasets.load("sleepstudy"), "Reaction ~ Days + (1 | Subject)", family=Tweedie(power=1.5)).to_bambi()
    weighted = datasets.load("sleepstudy").with_columns(w=pl.lit(2.0))
    with pytest.raises(ModelError, match="bambi has no precision="):
        fit(weighted, "Reaction ~ Days + (1 | Subject)", precision="w").to_bambi()
