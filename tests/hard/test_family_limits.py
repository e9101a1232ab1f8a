"""Families whose dispersion runs to an end are the family there: its log-likelihood, a value of phi, and a note."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import optimize, stats

import polars_glmm
from polars_glmm.errors import ModelError, ResponseError
from polars_glmm.families import resolve_family

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.errors.FitWarning")


def even() -> pl.DataFrame:
    """Counts that vary less than by chance."""
    rng = np.random.default_rng(5)
    n = 160
    return pl.DataFrame(
        {
            "y": rng.binomial(10, 0.5, n).clip(1), "s": np.tile([4, 5, 6, 5], n // 4), "n": np.full(n, 10),
            "x": rng.normal(size=n), "g": np.arange(n) % 16, "key": np.arange(n) % 2,
        }
    )  # fmt: skip


ENDS = [
    ("nbinom1", "y", 0.0), ("nbinom2", "y", np.inf), ("betabinomial", "s", np.inf),
    ("truncated_nbinom1", "y", 0.0), ("truncated_nbinom2", "y", np.inf),
]  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("name", "response", "phi"), ENDS)
def test_without_overdispersion_a_family_is_its_limit_on_every_route(name: str, response: str, phi: float) -> None:
    family, frame = resolve_family(name), even()
    assert family.limit is not None
    sizes = {"trials": "n"} if family.takes_trials else {}
    fit = frame.glmm.fit(f"{response} ~ x + (1 | g)", family=name, **sizes)
    limit = frame.glmm.fit(f"{response} ~ x + (1 | g)", family=family.limit, **sizes)
    assert fit.dispersion()["estimate"].item() == phi == family.limit_phi
    assert fit.loglik == pytest.approx(limit.loglik, abs=1e-6)
    assert fit.glance()["df_model"].item() == limit.glance()["df_model"].item() + 1
    assert "no_overdispersion" in [note.code for note in fit.notes]
    assert fit.augment(frame)["resid_deviance"].to_numpy() == pytest.approx(
        limit.augment(frame)["resid_deviance"].to_numpy(), rel=1e-5, abs=1e-6
    )
    assert fit.simulate(frame, rng=1)["sim_1"].is_between(0, 60).all()
    assert frame.lazy().glmm.fit(f"{response} ~ x + (1 | g)", family=name, **sizes).loglik == pytest.approx(fit.loglik)
    by_key = frame.glmm.fit(f"{response} ~ x", family=name, by="key", **sizes)
    assert by_key.dispersion()["estimate"].to_list() == [phi, phi]


@pytest.mark.parametrize(("name", "response", "phi"), ENDS)
def test_next_to_its_limit_a_density_and_its_slope_in_phi_are_those_there(name: str, response: str, phi: float) -> None:
    family, frame = resolve_family(name), even()
    assert family.limit is not None
    trials = frame["n"].to_numpy().astype(float) if family.takes_trials else None
    rows = polars_glmm.families.Rows(frame[response].to_numpy().astype(float), trials)
    eta = np.linspace(-3.0, 4.0, frame.height)
    for zeta in (25.0, 32.0, 60.0):
        near = family.density(rows, (eta, zeta if phi > 1.0 else -zeta), 1)
        there = family.limit.density(rows, (eta,), 1)
        assert np.abs(near.f - there.f).max() < 1e4 * np.exp(-zeta) + 1e-12
        assert near.g[1] is not None
        assert np.abs(near.g[1]).max() < 1e4 * np.exp(-zeta) + 1e-12


@pytest.mark.slow
def test_counts_of_the_logarithmic_series_are_fitted_on_every_route() -> None:
    """The limit phi → 0 with mu/phi fixed of counts above zero (Fisher, Corbet & Williams 1943)."""
    rng = np.random.default_rng(2)
    q, g = np.repeat([0.4, 0.9], 40), np.arange(80) % 10
    y = np.where(np.arange(80) % 40 < 30, 1, rng.logseries(q))
    frame = pl.DataFrame({"y": y, "g": g, "key": np.repeat([0, 1], 40)})
    fits = frame.glmm.fit("y ~ 1 + (1 | g)", family="truncated_nbinom2", by="key")
    part = frame.filter(pl.col("key") == 1)
    series = optimize.minimize_scalar(
        lambda q: -stats.logser.logpmf(y[40:], q).sum(), bounds=(1e-6, 1.0 - 1e-9), method="bounded",
        options={"xatol": 1e-12},
    )  # fmt: skip
    alone = part.glmm.fit("y ~ 1", family="truncated_nbinom2")
    assert alone.loglik == pytest.approx(-series.fun, abs=1e-6)
    assert alone.dispersion()["estimate"][0] < 1e-6
    fit = part.glmm.fit("y ~ 1 + (1 | g)", family="truncated_nbinom2")
    assert fit.converged
    assert fit.loglik > alone.loglik - 1e-6
    assert fits[1].loglik == pytest.approx(fit.loglik, abs=1e-6)


def test_what_a_family_cannot_be_asked_is_refused_with_what_to_do() -> None:
    frame = even().with_columns(share=pl.col("s") / 10, one=pl.lit(1.0))
    with pytest.raises(ModelError, match="Single trials say nothing of the dispersion"):
        frame.glmm.fit("y ~ x", family="beta_binomial")
    with pytest.raises(ResponseError, match="strictly between 0 and 1"):
        frame.with_columns(share=pl.lit(1.0)).glmm.fit("share ~ x", family="beta")
    with pytest.raises(ResponseError, match="Zeros belong to family='poisson'"):
        frame.with_columns(y=pl.col("y") - 1).glmm.fit("y ~ x", family="truncated_poisson")
    with pytest.raises(ModelError, match="no closed form"):
        frame.glmm.fit("y ~ x + (1 | g)", family="nbinom1", method=polars_glmm.Laplace(curvature="expected"))
    with pytest.raises(ModelError, match="'mu'"):
        frame.glmm.fit("y ~ x", family="truncated_poisson").predict(frame, kind="mean")


def test_a_mean_that_is_not_mu_is_predicted_with_its_slope() -> None:
    """Lognormal: exp(mu + phi²/2), with errors in beta and log phi; counts above zero: mu/(1 − exp −mu)."""
    rng = np.random.default_rng(2)
    frame = pl.DataFrame({"x": rng.normal(size=200), "g": np.arange(200) % 20})
    frame = frame.with_columns(y=np.exp(0.4 * frame["x"].to_numpy() + rng.normal(size=200)))
    fit = frame.glmm.fit("y ~ x + (1 | g)", family="lognormal")
    of = {kind: fit.predict(frame, kind=kind, std_error=True) for kind in ("response", "link", "mu")}
    phi = fit.dispersion()["estimate"].item()
    mean = np.exp(of["link"]["prediction"] + phi**2 / 2)
    assert of["mu"]["prediction"].to_numpy() == pytest.approx(of["link"]["prediction"].to_numpy())
    assert of["response"]["prediction"].to_numpy() == pytest.approx(mean.to_numpy(), rel=1e-12)
    zero = fit.predict(frame, random="none", std_error=True)
    slopes = np.column_stack([np.ones(200), frame["x"], np.zeros(200), np.full(200, phi**2)])
    vcov = fit.vcov(full=True)["covariance"].to_numpy().reshape(4, 4)
    error = zero["prediction"].to_numpy() * np.sqrt(np.einsum("nk,kl,nl->n", slopes, vcov, slopes))
    assert zero["prediction_std_error"].to_numpy() == pytest.approx(error, rel=1e-7)
    counts = frame.with_columns(y=rng.poisson(1.0, 200).clip(1))
    truncated = counts.glmm.fit("y ~ x + (1 | g)", family="truncated_poisson")
    mu = truncated.predict(counts, kind="mu")["prediction"].to_numpy()
    seen = truncated.predict(counts)["prediction"].to_numpy()
    assert seen == pytest.approx(mu / -np.expm1(-mu), rel=1e-12)
    assert truncated.augment(counts)["fitted"].to_numpy() == pytest.approx(seen, rel=1e-12)
