"""Intervals for new responses and averages over the population: laws, and the same numbers on every route."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import datasets
from polars_glmm.errors import FitWarning, ModelError
from polars_glmm.families import Rows
from polars_glmm.families.averages import averaged_cdf, averaged_mean
from polars_glmm.families.links import LINKS


@pytest.fixture(scope="module")
def sleep() -> pl.DataFrame:
    return datasets.load("sleepstudy")


@pytest.fixture(scope="module")
def slopes(sleep: pl.DataFrame) -> Any:
    return polars_glmm.fit(sleep, "Reaction ~ Days + (Days | Subject)")


@pytest.fixture(scope="module")
def ticks() -> pl.DataFrame:
    return datasets.load("grouseticks")


@pytest.fixture(scope="module")
def counts(ticks: pl.DataFrame) -> Any:
    return polars_glmm.fit(ticks, "TICKS ~ YEAR + (1 | LOCATION)", family="poisson")


@pytest.fixture(scope="module")
def herds() -> pl.DataFrame:
    return datasets.load("cbpp")


@pytest.fixture(scope="module")
def shares(herds: pl.DataFrame) -> Any:
    return polars_glmm.fit(herds, "cbind(incidence, size - incidence) ~ period + (1 | herd)", family="binomial")


def test_limits_of_counts_are_the_smallest_that_hold_the_level(counts: Any, ticks: pl.DataFrame) -> None:
    """With v of the linear predictor: P(Y < low) and P(Y > high) are at most 5 %, P(Y ≤ low) and P(Y ≥ high) more."""
    made = counts.predict(ticks, interval="prediction", conf_level=0.9)
    link = counts.predict(ticks, kind="link", std_error=True)
    eta, v = link["prediction"].to_numpy(), link["prediction_std_error"].to_numpy() ** 2
    low, high = made["prediction_low"].to_numpy(), made["prediction_high"].to_numpy()
    assert (low == np.floor(low)).all()
    assert (high == np.floor(high)).all()

    def below(y: np.ndarray) -> np.ndarray:
        return averaged_cdf(counts.spec.family, Rows(y), eta, v, None)

    assert (below(low - 1) < 0.05).all()
    assert (below(low) >= 0.05).all()
    assert (below(high) >= 0.95).all()
    assert (below(high - 1) < 0.95).all()


def test_limits_for_trials_are_shares_of_them(shares: Any, herds: pl.DataFrame) -> None:
    made = shares.predict(herds, interval="prediction")
    for end in ("low", "high"):
        successes = made[f"prediction_{end}"] * made["size"]
        assert_allclose(successes, successes.round(), atol=1e-9)
        assert made[f"prediction_{end}"].is_between(0.0, 1.0).all()


@pytest.mark.parametrize("family", ["gamma", "inverse_gaussian"])
def test_limits_of_continuous_responses_hold_their_level_exactly(family: str, sleep: pl.DataFrame) -> None:
    fit = polars_glmm.fit(sleep, "Reaction ~ Days + (1 | Subject)", family=family, link="log")
    made = fit.predict(sleep, interval="prediction", conf_level=0.8)
    link = fit.predict(sleep, kind="link", std_error=True)
    eta, v = link["prediction"].to_numpy(), link["prediction_std_error"].to_numpy() ** 2
    for end, p in (("low", 0.1), ("high", 0.9)):
        rows = Rows(made[f"prediction_{end}"].to_numpy())
        assert_allclose(averaged_cdf(fit.spec.family, rows, eta, v, fit.estimate.phi), p, rtol=1e-9)


def test_a_linear_model_without_groups_has_the_textbook_interval(sleep: pl.DataFrame) -> None:
    """ŷ ± t₁₋α/₂(n − p) s √(1 + x'(X'X)⁻¹x)."""
    fit = polars_glmm.fit(sleep, "Reaction ~ Days")
    x = np.column_stack([np.ones(sleep.height), sleep["Days"].to_numpy()])
    y = sleep["Reaction"].to_numpy()
    beta = np.linalg.lstsq(x, y, rcond=None)[0]
    s = np.sqrt(((y - x @ beta) ** 2).sum() / (len(y) - 2))
    leverage = np.einsum("np,pq,nq->n", x, np.linalg.inv(x.T @ x), x)
    t = 1.9733808446466185  # of 178 degrees of freedom
    made = fit.predict(sleep, interval="prediction")
    assert_allclose(made["prediction_high"], x @ beta + t * s * np.sqrt(1 + leverage), rtol=1e-6)


def test_the_average_needs_no_groups_and_is_the_mean_of_the_link(slopes: Any, counts: Any, shares: Any) -> None:
    """Identity: x'β. Log: exp(x'β + z'Σz/2). Logit: by the integral; and nothing of it reads a key."""
    days = pl.DataFrame({"Days": [0, 3, 9]})
    assert_allclose(
        slopes.predict(days, random="integrate")["prediction"], slopes.predict(days, random="none")["prediction"]
    )
    year = pl.DataFrame({"YEAR": ["95", "96"]})
    half = 0.5 * counts.varcorr()["estimate"][0]
    eta = counts.predict(year, random="none", kind="link")["prediction"]
    assert_allclose(counts.predict(year, random="integrate")["prediction"], (eta + half).exp())
    period = pl.DataFrame({"period": ["1", "4"]})
    eta = shares.predict(period, random="none", kind="link")["prediction"].to_numpy()
    v = np.full(2, shares.varcorr()["estimate"][0])
    assert_allclose(
        shares.predict(period, random="integrate")["prediction"], averaged_mean(LINKS["logit"], eta, v).value
    )


def test_the_standard_error_of_an_average_with_slopes_is_the_delta_method(sleep: pl.DataFrame) -> None:
    """Against differences of the average in every reported parameter, log link, correlated slopes."""
    fit = polars_glmm.fit(sleep, "Reaction ~ Days + (Days | Subject)", family="gamma", link="log")
    days = np.array([0.0, 4.0, 9.0])
    found = fit.predict(pl.DataFrame({"Days": days}), random="integrate", std_error=True, interval="confidence")

    def average(report: np.ndarray) -> np.ndarray:
        b0, b1, a, c, d = report[:5]
        return np.exp(b0 + b1 * days + 0.5 * (a + 2 * days * c + days**2 * d))

    report, vcov = fit.estimate.report, fit.estimate.report_vcov
    steps = 1e-6 * np.eye(len(report)) * np.maximum(np.abs(report), 1e-3)
    jacobian = np.array([(average(report + h) - average(report - h)) / (2 * h.sum()) for h in steps])
    error = np.sqrt(np.einsum("pn,pq,qn->n", jacobian, vcov, jacobian))
    assert_allclose(found["prediction"], average(report), rtol=1e-12)
    assert_allclose(found["prediction_std_error"], error, rtol=1e-6)
    assert_allclose(
        found["prediction_high"], average(report) * np.exp(1.959963984540054 * error / average(report)), rtol=1e-6
    )


def test_every_route_gives_the_same_intervals(ticks: pl.DataFrame) -> None:
    """Lazily, streaming in batches, and by key."""
    fits = polars_glmm.fit(ticks, "TICKS ~ cHEIGHT + (1 | LOCATION)", family="poisson", by="YEAR")
    for asked in ({"interval": "prediction"}, {"interval": "prediction", "random": "integrate"},
                  {"random": "integrate", "std_error": True, "interval": "confidence"}):  # fmt: skip
        whole = fits.predict(ticks, **asked)
        for key, fit in fits:
            rows = ticks.filter(pl.col("YEAR") == key)
            single = fit.predict(rows, **asked)
            lazy = fit.predict(rows.lazy(), **asked).collect(engine="streaming")
            for name in (c for c in single.columns if c.startswith("prediction")):
                assert_allclose(whole.filter(pl.col("YEAR") == key)[name], single[name], rtol=1e-10)
                assert_allclose(lazy[name], single[name], rtol=1e-12)


def test_joint_uncertainty_adds_the_movement_of_the_modes(slopes: Any, sleep: pl.DataFrame) -> None:
    """Of a gaussian model β̂ and θ̂ are uncorrelated, so every row gains; an unseen level, whose mode is 0, does not."""
    rows = sleep.with_columns(pl.col("Subject").cast(pl.String))
    new = rows.head(10).with_columns(Subject=pl.lit("new"))
    asked = {"kind": "link", "std_error": True, "new_levels": "zero"}
    given = slopes.predict(pl.concat([rows, new]), **asked)["prediction_std_error"]
    joint = slopes.predict(pl.concat([rows, new]), **asked, uncertainty="joint")["prediction_std_error"]
    assert (joint[:180] > given[:180]).all()
    assert (joint[:180] < 1.3 * given[:180]).all()
    assert_allclose(joint[180:], given[180:], rtol=1e-10)


def test_a_population_without_variance_is_the_unit_at_zero() -> None:
    """y alternates within groups, so their means are less spread than chance would have them."""
    frame = pl.DataFrame({"y": [1, 3, 2, 2] * 30, "g": [k // 4 for k in range(120)]})
    with pytest.warns(FitWarning, match="estimated at zero"):
        fit = polars_glmm.fit(frame, "y ~ 1 + (1 | g)", family="poisson")
    zero, whole = (fit.predict(frame, random=random, std_error=True) for random in ("none", "integrate"))
    assert_allclose(whole["prediction"], zero["prediction"])
    assert_allclose(whole["prediction_std_error"], zero["prediction_std_error"])


def test_what_cannot_be_asked_is_said(slopes: Any, counts: Any, sleep: pl.DataFrame, ticks: pl.DataFrame) -> None:
    with pytest.raises(ModelError, match="averages kind="):
        slopes.predict(sleep, kind="link", random="integrate")
    with pytest.raises(ModelError, match="for a new response"):
        slopes.predict(sleep, kind="phi", interval="prediction")
    with pytest.raises(ModelError, match="uncertainty='both' is not known"):
        slopes.predict(sleep, uncertainty="both")
    with pytest.raises(ModelError, match="fitted by REML"):
        counts.predict(ticks, interval="confidence", df="satterthwaite")
    with pytest.raises(ModelError, match="positive number"):
        slopes.predict(sleep, interval="confidence", df=-1.0)
    gone = polars_glmm.fit(sleep, "Reaction ~ Days + (Days | Subject)", control=polars_glmm.Control(keep="none"))
    with pytest.raises(ModelError, match="uncertainty='joint' needs the rows"):
        gone.predict(sleep, uncertainty="joint")
    fits = polars_glmm.fit(sleep.with_columns(half=pl.col("Days") > 4), "Reaction ~ Days + (1 | Subject)", by="half")
    with pytest.raises(ModelError, match="of one fit"):
        fits.predict(sleep, uncertainty="joint")


def test_random_effects_on_phi_are_not_averaged_over_silently(sleep: pl.DataFrame) -> None:
    fit = polars_glmm.fit(sleep, "Reaction ~ Days + (1 | Subject)", "phi ~ 1 + (1 | Subject)")
    averaged, at_zero = (fit.predict(sleep, random=random, std_error=True) for random in ("integrate", "none"))
    for name in ("prediction", "prediction_std_error"):  # the mean of y knows nothing of phi
        assert averaged[name].to_numpy() == pytest.approx(at_zero[name].to_numpy(), rel=1e-9)
    for ask in (
        lambda: fit.predict(sleep, interval="prediction"),
        lambda: fit.augment(sleep, quantile=True, given="integrate"),
        lambda: fit.glance(conditional=True),
    ):
        with pytest.raises(ModelError, match="on the mean"):
            ask()
    assert abs(fit.laplace_error()["error"].item()) > 1e-3  # the density is not normal in both
