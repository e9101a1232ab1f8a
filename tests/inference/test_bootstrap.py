"""Bootstraps: every draw is an ordinary fit of data that the model, or its groups, could have given."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy.special import ndtr, ndtri

import polars_glmm
from polars_glmm import anova, datasets
from polars_glmm.design.learn import learn
from polars_glmm.errors import FitWarning, ModelError
from polars_glmm.inference.bootstrap import bootstrap_intervals
from polars_glmm.inference.natural import naturals
from polars_glmm.inference.resampling import null_distribution
from polars_glmm.likelihood.refits.law import Law
from polars_glmm.likelihood.refits.resample import leave_out, resampled

SLEEP = datasets.load("sleepstudy")
CBPP = datasets.load("cbpp")
TICKS = datasets.load("grouseticks")
SHARES = CBPP.with_columns(share=pl.col.incidence / pl.col.size)

MODELS: dict[str, tuple[pl.DataFrame, tuple[str, ...], str, dict[str, Any]]] = {
    "one factor": (SLEEP, ("Reaction ~ Days + (Days | Subject)",), "Reaction", {}),
    "nested": (datasets.load("pastes"), ("strength ~ 1 + (1 | batch/cask)",), "strength", {"method": "ml"}),
    "crossed": (datasets.load("penicillin"), ("diameter ~ 1 + (1 | plate) + (1 | sample)",), "diameter", {}),
    "weights": (
        SLEEP.with_columns(w=0.5 + pl.col.Days / 5, o=pl.col.Days * 3.0),
        ("Reaction ~ Days + offset(o) + (1 | Subject)",), "Reaction", {"precision": "w"},
    ),
    "crossed with weights": (
        datasets.load("penicillin").with_columns(w=pl.int_range(pl.len()) % 3 + 1.0),
        ("diameter ~ 1 + (1 | plate) + (1 | sample)",), "diameter", {"precision": "w"},
    ),
    "counts of successes": (
        CBPP, ("incidence ~ period + (1 | herd)",), "incidence", {"family": "binomial", "trials": "size"}
    ),
    "negative binomial": (TICKS, ("TICKS ~ YEAR + (1 | LOCATION)",), "TICKS", {"family": "negative_binomial"}),
    "phi formula": (SLEEP, ("Reaction ~ Days + (1 | Subject)", "phi ~ Days"), "Reaction", {}),
    "no random effects": (CBPP, ("incidence ~ period",), "incidence", {"family": "binomial", "trials": "size"}),
    "held": (SLEEP, ("Reaction ~ Days + (1 | Subject)",), "Reaction", {"fixed": {"phi": 30.0, "Days": 10.0}}),
}  # fmt: skip


def quiet(frame: pl.DataFrame, *formulas: str, **arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(frame, *formulas, **arguments)


@cache
def fitted(name: str) -> Any:
    frame, formulas, _, arguments = MODELS[name]
    return quiet(frame, *formulas, **arguments)


def values_of(fit: Any) -> list[float]:
    return [one.estimate for one in naturals(fit) if one.estimate is not None]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", MODELS)
def test_every_draw_is_the_fit_of_its_responses(name: str) -> None:
    frame, formulas, response, arguments = MODELS[name]
    fit = fitted(name)
    draws = fit.bootstrap(5, rng=3)
    law = Law.of(learn(fit.call.spec(), frame).design, fit.spec.family, fit.estimate)
    for number, y in enumerate(law.responses(3, range(5))):
        own = draws.filter(draw=number)
        whole = fit.family in ("binomial", "negative_binomial")
        again = quiet(
            frame.with_columns(pl.Series(response, y, dtype=pl.Int64 if whole else pl.Float64)), *formulas, **arguments
        )
        assert own["status"][0] == ("singular" if again.singular else "ok")
        assert_allclose(own["value"], values_of(again), rtol=2e-3, atol=2e-4)
        keys = ["parameter", "group", "term", "other_term", "quantity"]
        assert own.select(keys).equals(fit.confint().select(keys))


def test_shares_of_trials_are_fitted_together_like_counts() -> None:
    counts = fitted("counts of successes").bootstrap(30, rng=5)
    shares = quiet(SHARES, "share ~ period + (1 | herd)", family="binomial", trials="size").bootstrap(30, rng=5)
    assert_allclose(counts["value"], shares["value"], rtol=1e-4, atol=1e-6)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["one factor", "crossed", "counts of successes"])
def test_a_draw_depends_on_the_seed_and_its_number_alone(name: str) -> None:
    fit = fitted(name)
    few, more = fit.bootstrap(6, rng=11), fit.bootstrap(14, rng=11)
    assert_allclose(more["value"][: few.height], few["value"], rtol=1e-5, atol=1e-7)
    assert few["seed"].unique().to_list() == [11]
    assert not np.allclose(fit.bootstrap(6, rng=12)["value"], few["value"])


def test_without_a_seed_the_frame_has_the_one_that_repeats_it() -> None:
    fit = fitted("one factor")
    first = fit.bootstrap(4)
    again = fit.bootstrap(4, rng=int(first["seed"][0]))
    assert_allclose(again["value"], first["value"], rtol=1e-7)
    generator = np.random.default_rng(1)
    assert fit.bootstrap(4, generator)["seed"][0] != fit.bootstrap(4, generator)["seed"][0]


def test_responses_have_the_mean_and_covariance_of_the_model() -> None:
    fit = fitted("one factor")
    design = learn(fit.call.spec(), SLEEP).design
    y = Law.of(design, fit.spec.family, fit.estimate).responses(0, range(4000))[:, :10]
    beta, (sigma,) = fit.estimate.beta, fit.estimate.factors[0].covariances
    z = np.stack([np.ones(10), np.arange(10.0)])
    v = z.T @ sigma @ z + fit.estimate.phi**2 * np.eye(10)
    error = np.sqrt(np.diag(v) / len(y))
    assert (np.abs(y.mean(0) - beta @ z) < 4.5 * error).all()
    # Var of a sample covariance: (v_ij² + v_ii v_jj)/n
    assert (np.abs(np.cov(y.T) - v) < 4.5 * np.sqrt((v**2 + np.outer(np.diag(v), np.diag(v))) / len(y))).all()


def test_random_effects_of_phi_are_drawn_and_profiled_too() -> None:
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(40), 8)
    b = rng.normal(size=(40, 2)) * [1.0, 0.5]
    frame = pl.DataFrame({"g": g, "y": 1.0 + b[g, 0] + np.exp(0.1 + b[g, 1]) * rng.normal(size=320)})
    formulas = ("y ~ 1 + (1 | g)", "phi ~ 1 + (1 | g)")
    fit = quiet(frame, *formulas)
    y = Law.of(learn(fit.call.spec(), frame).design, fit.spec.family, fit.estimate).responses(0, range(600))
    sds = fit.confint().filter(quantity="sd")["estimate"]
    # E[e^(2(γ + c))] = e^(2γ + 2s²) for c ~ N(0, s²)
    within = np.exp(2.0 * fit.estimate.gamma[0] + 2.0 * sds[1] ** 2)
    assert y.var() == pytest.approx(sds[0] ** 2 + within, rel=0.03)
    assert fit.bootstrap(2, rng=1)["parameter"].to_list()[:4] == ["mu", "mu", "phi", "phi"]
    objective = polars_glmm.objective(frame, *formulas)
    for row in fit.profile("sd(g: phi Intercept)", points=3).iter_rows(named=True):
        at = {one["name"]: one["value"] for one in row["conditional"]} | {"sd(g: phi Intercept)": row["value"]}
        assert -2.0 * objective.loglik(at) == pytest.approx(row["deviance"], abs=1e-6)


def test_rows_that_stand_for_several_are_several_draws() -> None:
    counted = SLEEP.with_columns(f=pl.lit(2))
    fit = quiet(counted, "Reaction ~ Days + (1 | Subject)", frequency="f")
    doubled = quiet(pl.concat([SLEEP, SLEEP]), "Reaction ~ Days + (1 | Subject)")
    spread = lambda draws: draws.filter(term="Days")["value"].std()
    assert fit.estimate.phi == pytest.approx(doubled.estimate.phi, rel=1e-6)
    one, other = spread(fit.bootstrap(300, rng=1)), spread(doubled.bootstrap(300, rng=2))
    assert one == pytest.approx(other, rel=0.2)
    assert one == pytest.approx(doubled.fixef().filter(term="Days")["std_error"][0], rel=0.15)


def test_in_balanced_gaussian_models_draws_spread_by_the_standard_errors() -> None:
    fit = fitted("one factor").update(method="ml")
    draws = fit.bootstrap(600, rng=2).filter(quantity="coefficient")
    spread = draws.group_by("term", maintain_order=True).agg(pl.col.value.std())["value"]
    assert_allclose(spread, fit.fixef()["std_error"], rtol=0.12)  # 4 standard errors of a standard deviation


def test_resampled_levels_are_as_many_levels_each_with_its_own_rows() -> None:
    fit = fitted("nested")
    design = learn(fit.call.spec(), MODELS["nested"][0]).design
    batch = next(f for f in design.factors if f.name == "batch")
    for made in resampled(design, "batch", 4, range(5)):
        top = next(f for f in made.factors if f.name == "batch")
        cask = next(f for f in made.factors if f.name != "batch")
        assert top.n_levels == batch.n_levels == 10
        assert made.n_rows == 60  # balanced
        assert (np.bincount(top.codes) == 6).all()
        assert cask.n_levels == 30
        rows = {tuple(made.y[top.codes == level]) for level in range(10)}
        assert rows <= {tuple(design.y[batch.codes == level]) for level in range(10)}
        assert len(rows) < 10


def test_a_cluster_draw_is_the_fit_of_its_levels_side_by_side() -> None:
    fit = fitted("one factor")
    draws = fit.bootstrap(4, rng=9, kind="cluster")
    subjects = SLEEP["Subject"].unique(maintain_order=True).to_list()
    for number in range(4):
        chosen = np.random.default_rng([9, number]).integers(18, size=18)
        parts = [
            SLEEP.filter(pl.col.Subject == subjects[k]).with_columns(Subject=pl.lit(place))
            for place, k in enumerate(chosen)
        ]
        again = quiet(pl.concat(parts), "Reaction ~ Days + (Days | Subject)")
        assert_allclose(draws.filter(draw=number)["value"], values_of(again), rtol=1e-3, atol=1e-4)


def test_resamples_that_cannot_be_fitted_stay_as_rows_with_a_status() -> None:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(6), 5)
    frame = pl.DataFrame({"g": g, "x": (g == 0).astype(float), "y": rng.normal(size=30) + rng.normal(size=6)[g]})
    draws = quiet(frame, "y ~ x + (1 | g)").bootstrap(40, rng=1, kind="cluster")
    assert draws.height == 40 * 4
    gone = draws.filter(status="failed")
    with_zero = sum(0 not in np.random.default_rng([1, k]).integers(6, size=6) for k in range(40))
    assert gone["draw"].n_unique() == with_zero > 0
    assert gone["value"].null_count() == gone.height
    fit = quiet(frame, "y ~ x + (1 | g)")
    table = fit.confint("bootstrap", "x", draws=draws)
    assert table["status"].to_list() == ["failed_draws"]
    assert table["n_draws"].to_list() == [40 - with_zero]


def test_intervals_are_quantiles_mirrored_quantiles_and_corrected_quantiles() -> None:
    fit = fitted("one factor")
    draws = fit.bootstrap(200, rng=8)
    days = draws.filter(quantity="coefficient", term="Days")["value"].to_numpy()
    estimate = float(fit.estimate.beta[1])
    low, high = np.quantile(days, [0.05, 0.95], method="weibull")

    def ends(interval: str) -> list[float]:
        row = fit.confint("bootstrap", "Days", 0.9, draws=draws, interval=interval).row(0, named=True)
        assert (row["method"], row["n_draws"], row["status"], row["conf_level"]) == ("bootstrap", 200, "ok", 0.9)
        return [row["conf_low"], row["conf_high"]]

    assert_allclose(ends("percentile"), [low, high])
    assert_allclose(ends("basic"), [2 * estimate - high, 2 * estimate - low])
    subjects = SLEEP["Subject"].unique(maintain_order=True)
    left_out = np.array(
        [
            quiet(SLEEP.filter(pl.col.Subject != one), "Reaction ~ Days + (Days | Subject)").estimate.beta[1]
            for one in subjects
        ]
    )
    away = left_out.mean() - left_out
    a = (away**3).sum() / (6.0 * (away**2).sum() ** 1.5)
    z0 = ndtri((days < estimate).mean())
    z = z0 + ndtri([0.05, 0.95])
    assert_allclose(ends("bca"), np.quantile(days, ndtr(z0 + z / (1.0 - a * z)), method="weibull"), rtol=1e-5)


def test_parts_left_out_cover_every_row_once() -> None:
    for name in ("nested", "no random effects"):
        design = learn(fitted(name).call.spec(), MODELS[name][0]).design
        parts = list(leave_out(design))
        assert sum(design.n_rows - part.n_rows for part in parts) == design.n_rows
        assert len(parts) == (10 if name == "nested" else 56)


def test_a_bootstrap_test_agrees_with_the_exact_one() -> None:
    small = quiet(SLEEP, "Reaction ~ Days", method="ml")
    large = small.update(". ~ . + I(Days ^ 2)")
    row = anova(small, large, method="bootstrap", n=300, rng=4).row(1, named=True)
    exact = large.fixef()["p_value"][2]  # t with n − p degrees of freedom
    assert row["n_draws"] == 300
    assert row["p_bootstrap"] == pytest.approx(exact, abs=4.0 * row["mc_error"])


@pytest.mark.slow
def test_a_bootstrap_test_of_a_variance_agrees_with_the_exact_null_distribution() -> None:
    frame = datasets.load("dyestuff")
    small, large = quiet(frame, "Yield ~ 1", method="reml"), quiet(frame, "Yield ~ 1 + (1 | Batch)")
    row = anova(small, large, method="bootstrap", n=600, rng=4).row(1, named=True)
    # RLRsim 3.1-8, exactRLRT, nsim = 100000: 0.00463
    assert row["p_bootstrap"] == pytest.approx(0.00463, abs=4.0 * row["mc_error"])
    draws = null_distribution(small, large, n=50, rng=4).statistics
    assert (draws >= 0.0).all()
    assert (draws < 1e-5).sum() > 15  # more than half of the null distribution is at zero


def test_collections_bootstrap_each_model() -> None:
    frame = datasets.load("chickweight").filter(pl.col.Diet.cast(pl.String).is_in(["1", "2"]))
    fits = polars_glmm.fit(frame, "weight ~ Time + (1 | Chick)", by="Diet")
    table = fits.bootstrap(25, rng=1)
    assert table.columns[:2] == ["Diet", "draw"]
    for key, fit in fits:
        own = table.filter(pl.col.Diet.cast(pl.String) == str(key)).drop("Diet")
        assert own.equals(fit.bootstrap(25, rng=1))
    assert fits.confint("bootstrap", "Time", n=25, rng=1).height == 2


def test_what_cannot_be_resampled_is_refused_with_what_can() -> None:
    crossed = fitted("crossed")
    with pytest.raises(ModelError, match="Use kind='parametric'"):
        crossed.bootstrap(5, kind="cluster", group="plate")
    with pytest.raises(ModelError, match="name the factor whose levels to resample, 'plate' and 'sample'"):
        crossed.bootstrap(5, kind="cluster")
    with pytest.raises(ModelError, match="this model has none"):
        fitted("no random effects").bootstrap(5, kind="cluster")
    with pytest.raises(ModelError, match="kind='case'"):
        crossed.bootstrap(5, kind="case")
    with pytest.raises(ModelError, match="n=0"):
        crossed.bootstrap(0)
    with pytest.raises(ModelError, match="rng=-1"):
        crossed.bootstrap(5, rng=-1)
    with pytest.raises(ModelError, match="too few for an interval"):
        crossed.confint("bootstrap", n=5, rng=1)
    with pytest.raises(ModelError, match="Did you mean 'percentile'"):
        crossed.confint("bootstrap", interval="percentil")
    with pytest.raises(ModelError, match="no column 'draw'"):
        bootstrap_intervals(crossed, pl.DataFrame({"value": [1.0]}), "all", 0.95, "percentile", None)
    with pytest.raises(ModelError, match="method='boot'"):
        anova(fitted("one factor"), fitted("one factor").update(". ~ . + I(Days ^ 2)"), method="boot")
