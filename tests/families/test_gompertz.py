"""Gompertz's law, whose growth is any number: mass, moments, draws, limits, and fits beside others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import minimize

import polars_glmm
from polars_glmm.families import Exponential, Gompertz, Rows, jet
from polars_glmm.families.gompertz import log_growth

FAMILY = Gompertz()
GROWTHS = [-0.7, -1e-9, 0.0, 1e-9, 0.02, 1.3]


def density(y: float, mu: float, gamma: float) -> float:
    return float(np.exp(FAMILY.density(Rows(np.array([y])), (np.log([mu]), gamma), 0).f[0]))


@pytest.mark.parametrize("gamma", GROWTHS)
def test_all_of_the_mass_is_there_but_what_never_has_the_event(gamma: float) -> None:
    mass = quad(density, 0.0, np.inf, args=(0.8, gamma), epsabs=1e-12, limit=200)[0]
    never = float(np.exp(0.8 / gamma)) if gamma < 0.0 else 0.0
    assert mass == pytest.approx(1.0 - never, abs=1e-8)
    rows, mu = Rows(np.array([0.3, 1.0, 2.0])), np.full(3, 0.8)
    sides = FAMILY.cdf(rows, mu, gamma), FAMILY.cdf(rows, mu, gamma, upper=True)
    for y, below, above in zip(rows.y, *sides, strict=True):
        assert below == pytest.approx(quad(density, 0.0, y, args=(0.8, gamma), epsabs=1e-13)[0], abs=1e-11)
        assert above == pytest.approx(1.0 - below, abs=1e-14)
    assert_allclose(FAMILY.quantile(sides[0], mu, gamma), rows.y, rtol=1e-9)
    assert np.isinf(FAMILY.quantile(1.0, mu, gamma)).all()


@pytest.mark.parametrize("gamma", [0.0, 1e-7, 0.02, 1.3, 40.0])
def test_mean_and_variance_are_those_of_the_density(gamma: float) -> None:
    first, second = (
        quad(lambda t, k=k: t**k * density(t, 0.8, gamma), 0.0, np.inf, epsabs=1e-13, limit=200)[0] for k in (1, 2)
    )
    mean, slope = FAMILY.expectation(np.array([0.8]), gamma)
    assert mean[0] == pytest.approx(first, rel=1e-10)
    assert FAMILY.variance(np.array([0.8]), gamma)[0] == pytest.approx(second - first**2, rel=1e-7)
    h = 1e-5
    ends = [FAMILY.expectation(np.array([0.8 + d]), gamma)[0][0] for d in (h, -h)]
    assert slope[0] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-7)


def test_what_falls_has_no_mean_and_some_are_never_drawn() -> None:
    mu = np.full(4000, 0.5)
    assert np.isinf(FAMILY.expectation(mu, -0.4)[0]).all()
    drawn = FAMILY.draw(np.random.default_rng(1), mu, -0.4, Rows(mu))
    assert np.isinf(drawn).mean() == pytest.approx(np.exp(-0.5 / 0.4), abs=0.02)


@pytest.mark.parametrize("gamma", [-0.2, 0.0, 0.9])
def test_draws_have_the_distribution(gamma: float) -> None:
    mu = np.full(3000, 0.7)
    drawn = FAMILY.draw(np.random.default_rng(2), mu, gamma, Rows(mu))
    seen = FAMILY.cdf(Rows(drawn[np.isfinite(drawn)]), mu[np.isfinite(drawn)], gamma)
    most = 1.0 - np.exp(0.7 / gamma) if gamma < 0.0 else 1.0
    assert stats.kstest(seen / most, "uniform").pvalue > 1e-3


def test_the_logarithm_of_growth_keeps_its_digits_and_has_its_derivatives() -> None:
    u = np.array([-700.0, -30.0, -1.0001, -0.9999, -1e-3, 0.0, 1e-8, 0.5, 0.9999, 1.0001, 2.0, 30.0, 700.0])
    parts = log_growth(jet.variable(u, 0, 3, 3)).parts
    assert_allclose(parts[()][1:-1], np.log(np.where(u == 0.0, 1.0, np.expm1(u) / np.where(u == 0.0, 1.0, u)))[1:-1],
                    rtol=1e-12, atol=1e-15)  # fmt: skip
    for k in range(3):
        h = 1e-4
        below = [log_growth(jet.variable(u + d, 0, 3, 3)).parts[(0,) * k] for d in (h, -h)]
        assert_allclose(parts[(0,) * (k + 1)], (below[0] - below[1]) / (2 * h), rtol=1e-5, atol=1e-7)
    assert np.isfinite(np.array(list(parts.values()))).all()


def test_without_growth_it_is_the_exponential_of_hazards() -> None:
    y, eta = np.array([0.2, 1.0, 7.0]), np.array([-1.0, 0.3, 0.8])
    other = Exponential(metric="ph")
    ours = FAMILY.density(Rows(y), (eta, 0.0), 2)
    theirs = other.density(Rows(y), (eta,), 2)
    assert_allclose(ours.f, theirs.f + other.constant(Rows(y)), rtol=1e-13)
    assert_allclose(ours.w[0, 0], theirs.w[0, 0], rtol=1e-13)


def lives(seed: int = 3, gamma: float = 0.3) -> pl.DataFrame:
    """360 times in 60 groups, some censored."""
    rng = np.random.default_rng(seed)
    g, x, b = np.repeat(np.arange(60), 6), rng.normal(size=360), 0.6 * rng.normal(size=60)
    time = FAMILY.draw(rng, np.exp(-2.0 + 0.5 * x + b[g]), gamma, Rows(x))
    end = rng.exponential(6.0, 360) + 1.0
    return pl.DataFrame({"time": np.minimum(time, end), "event": time <= end, "x": x, "g": g})


@pytest.mark.parametrize("gamma", [0.3, -0.15])
def test_a_regression_is_the_maximum_of_its_likelihood_written_out(gamma: float) -> None:
    frame = lives(gamma=gamma)
    t, d, x = frame["time"].to_numpy(), frame["event"].to_numpy(), frame["x"].to_numpy()

    def minus_loglik(p: np.ndarray) -> float:
        eta = p[0] + p[1] * x
        return -float(np.sum(d * (eta + p[2] * t) - np.exp(eta) * np.expm1(p[2] * t) / p[2]))

    best = minimize(minus_loglik, [-1.0, 0.0, 0.1], method="BFGS", options={"gtol": 1e-6})
    fit = frame.glmm.fit("surv(time, event) ~ x", family="gompertz")
    assert fit.loglik == pytest.approx(-best.fun, abs=1e-7)
    found = [*fit.fixef()["estimate"], fit.dispersion()["estimate"][0]]
    assert_allclose(found, best.x, atol=1e-4)
    low, high, error = fit.dispersion().select("conf_low", "conf_high", "std_error").row(0)
    assert (high - low) / error == pytest.approx(2 * 1.959964, rel=1e-6)


@pytest.mark.slow
def test_frailty_is_integrated_and_time_has_any_unit() -> None:
    """Twenty-five nodes beside Laplace; days in place of years divide gamma, and shift ℓ by the events' log unit."""
    frame = lives()
    fit = frame.glmm.fit("surv(time, event) ~ x + (1 | g)", family="gompertz")
    finer = frame.glmm.fit("surv(time, event) ~ x + (1 | g)", family="gompertz", method=polars_glmm.AGQ(nodes=25))
    assert fit.converged
    assert finer.loglik == pytest.approx(fit.loglik, abs=0.05)
    days = frame.with_columns(pl.col("time") * 365.25).glmm.fit("surv(time, event) ~ x + (1 | g)", family="gompertz")
    events = int(frame["event"].sum())
    assert days.loglik == pytest.approx(fit.loglik - events * np.log(365.25), abs=1e-6)
    assert days.dispersion()["estimate"][0] * 365.25 == pytest.approx(fit.dispersion()["estimate"][0], rel=1e-4)
    held = frame.glmm.fit("surv(time, event) ~ x + (1 | g)", family="gompertz", fixed={"gamma": 0.0})
    plain = frame.glmm.fit("surv(time, event) ~ x + (1 | g)", family=Exponential(metric="ph"))
    assert held.loglik == pytest.approx(plain.loglik, abs=1e-7)
    assert held.loglik < fit.loglik
    lazy = frame.lazy().glmm.fit("surv(time, event) ~ x + (1 | g)", family="gompertz")
    assert lazy.loglik == pytest.approx(fit.loglik, abs=1e-8)
    both = pl.concat([frame.with_columns(k=1), frame.with_columns(k=2)])
    keyed = both.glmm.fit("surv(time, event) ~ x + (1 | g)", family="gompertz", by="k")
    assert keyed[2].loglik == pytest.approx(fit.loglik, abs=1e-7)


@pytest.mark.slow
def test_growth_is_printed_profiled_and_kept(tmp_path: Path) -> None:
    fit = lives().glmm.fit("surv(time, event) ~ x + (1 | g)", family="gompertz")
    value, error = fit.dispersion().select("estimate", "std_error").row(0)
    assert f"gamma = {value:.5f} (std. error {error:.5f})" in " ".join(str(fit).split())
    assert "growth of the log hazard per unit of time." in " ".join(str(fit).split())
    profile = fit.confint("profile").filter(parameter="gamma").row(0, named=True)
    assert profile["conf_low"] < value < profile["conf_high"]
    assert profile["conf_high"] - profile["conf_low"] == pytest.approx(2 * 1.96 * error, rel=0.1)
    for end in ("conf_low", "conf_high"):
        held = lives().glmm.fit(
            "surv(time, event) ~ x + (1 | g)", family="gompertz", fixed={"gamma": profile[end]}
        )  # fmt: skip
        assert 2 * (fit.loglik - held.loglik) == pytest.approx(3.8415, abs=1e-3)
    fit.write(tmp_path / "lives.fit")
    again = polars_glmm.read_fit(tmp_path / "lives.fit")
    at = {"kind": "survival", "times": [2.0], "random": "none"}
    assert_allclose(again.predict(lives(), **at)["prediction"], fit.predict(lives(), **at)["prediction"], rtol=1e-14)


def test_zeros_beside_have_a_share_of_their_own() -> None:
    """A hurdle is two fits: zeros by a logistic one, times above zero by this family."""
    frame = lives().filter("event").with_columns(
        y=pl.when(pl.int_range(pl.len()) % 3 == 0).then(0.0).otherwise("time")
    )  # fmt: skip
    both = frame.glmm.fit("y ~ x", "zi ~ 1", family="gompertz")
    above = frame.filter(pl.col("y") > 0).glmm.fit("y ~ x", family="gompertz")
    share = (frame["y"] == 0).mean()
    zeros = frame.height * (share * np.log(share) + (1 - share) * np.log1p(-share))
    assert both.loglik == pytest.approx(above.loglik + zeros, abs=1e-6)
    assert_allclose(both.fixef().filter(parameter="mu")["estimate"], above.fixef()["estimate"], atol=1e-5)
