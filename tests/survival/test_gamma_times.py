"""Times with a gamma distribution: its mass in both tails, fits beside the likelihood written out, and seen times."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy import special, stats
from scipy.optimize import minimize

import polars_glmm
from polars_glmm.families.gamma_mass import log_mass


@pytest.mark.parametrize("k", [0.3, 1.0, 2.5, 30.0, 1e3, 1e6])
def test_mass_is_scipys(k: float) -> None:
    w = np.log(k) + np.array([-8.0, -3.0, -1.0, -0.1, 0.0, 0.1, 0.5, 1.0, 2.0]) / max(1.0, np.sqrt(k))
    shape, none = np.full_like(w, k), np.full_like(w, np.inf)
    assert_allclose(np.exp(log_mass(w, none, shape, 0)[0, 0]), special.gammaincc(k, np.exp(w)), atol=2e-13)
    assert_allclose(np.exp(log_mass(-none, w, shape, 0)[0, 0]), special.gammainc(k, np.exp(w)), atol=2e-13)


def test_far_tails_keep_their_digits() -> None:
    """Below: x^k/(k Γ(k)) (1 − kx/(k + 1)); above: x^(k − 1)e^(−x)/Γ(k) times a continued fraction (scipy's logsf)."""
    k, none = np.array([0.7, 3.0, 40.0]), np.full(3, np.inf)
    low = log_mass(-none, np.full(3, -60.0), k, 3)
    assert_allclose(low[0, 0], -60.0 * k - special.gammaln(k + 1.0), rtol=1e-13)
    assert_allclose(low[1, 0], k, rtol=1e-12)
    high = log_mass(np.full(3, np.log(400.0)), none, k, 3)
    assert_allclose(high[0, 0], stats.gamma(k).logsf(400.0), rtol=1e-11)


def lives(n: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(8)
    g, x = np.arange(n) % 50, rng.normal(size=n)
    time = rng.gamma(2.0, np.exp(1.0 + 0.4 * x + 0.5 * rng.normal(size=50)[g]) / 2.0)
    end = rng.exponential(6.0, n) + 0.5
    return pl.DataFrame({"time": np.minimum(time, end), "event": time <= end, "x": x, "g": g})


def test_a_regression_is_the_maximum_of_its_likelihood_written_out() -> None:
    frame = lives()
    t, d, x = frame["time"].to_numpy(), frame["event"].to_numpy(), frame["x"].to_numpy()

    def minus_loglik(p: np.ndarray) -> float:
        shape = np.exp(-p[2])
        law = stats.gamma(shape, scale=np.exp(p[0] + p[1] * x) / shape)
        return -float(np.where(d, law.logpdf(t), law.logsf(t)).sum())

    best = minimize(minus_loglik, [1.0, 0.0, 0.0], method="BFGS", options={"gtol": 1e-5})
    fit = frame.glmm.fit("surv(time, event) ~ x", family="gamma")
    assert fit.loglik == pytest.approx(-best.fun, abs=1e-7)
    assert_allclose([*fit.fixef()["estimate"], np.log(fit.dispersion()["estimate"][0])], best.x, atol=2e-5)


def test_with_all_times_seen_it_is_the_gamma_family_and_with_phi_one_the_exponential() -> None:
    frame = lives()
    seen = frame.with_columns(event=pl.lit(value=True)).glmm.fit("surv(time, event) ~ x + (1 | g)", family="gamma")
    plain = frame.glmm.fit("time ~ x + (1 | g)", family="gamma")
    assert seen.loglik == pytest.approx(plain.loglik, abs=1e-7)
    held = frame.glmm.fit("surv(time, event) ~ x + (1 | g)", family="gamma", fixed={"phi": 1.0})
    exponential = frame.glmm.fit("surv(time, event) ~ x + (1 | g)", family="exponential")
    assert held.loglik == pytest.approx(exponential.loglik, abs=1e-7)
    assert_allclose(held.fixef()["std_error"], exponential.fixef()["std_error"], rtol=1e-5)


@pytest.mark.slow
def test_every_route_has_the_fit_and_frailty_is_integrated() -> None:
    frame, model = lives(), "surv(time, event) ~ x + (1 | g)"
    fit = frame.glmm.fit(model, family="gamma")
    assert fit.converged
    assert frame.lazy().glmm.fit(model, family="gamma").loglik == pytest.approx(fit.loglik, abs=1e-8)
    keyed = pl.concat([frame.with_columns(k=1), frame.with_columns(k=2)]).glmm.fit(model, family="gamma", by="k")
    assert keyed[2].loglik == pytest.approx(fit.loglik, abs=1e-7)
    finer = frame.glmm.fit(model, family="gamma", method=polars_glmm.AGQ(nodes=21))
    assert finer.loglik == pytest.approx(fit.loglik, abs=0.1)
    spread = frame.glmm.fit(model, "phi ~ x", family="gamma")
    assert spread.converged
    assert spread.loglik >= fit.loglik
