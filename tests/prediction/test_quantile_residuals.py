"""Quantile residuals and distributions of rows: reference bounds, the uniform law, streams, sums of probabilities."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy import special, stats

import polars_glmm
from polars_glmm import datasets
from polars_glmm.errors import ModelError
from polars_glmm.prediction.quantile_residuals import uniform_of
from tests.references import uses

INTEGRATION = uses.entries("integration")


@cache
def fitted(name: str) -> Any:
    return uses.fit(INTEGRATION[name])


@pytest.mark.reference
@pytest.mark.parametrize("name", INTEGRATION)
def test_bounds_are_those_of_the_reference(name: str) -> None:
    entry, fit = INTEGRATION[name], fitted(name)
    frame = uses.data(entry)
    modes = fit.augment(frame, quantile=True, rng=1)
    whole = fit.augment(frame.lazy(), quantile=True, given="integrate", rng=1).collect(engine="streaming")
    for want in entry["results"]["quantile_bounds"]:
        i = want["row"] - 1
        for made, given in ((modes, "conditional"), (whole, "marginal")):
            for end in ("low", "high"):
                column = f"{given}_{end}"
                assert made[f"quantile_{end}"][i] == uses.close(entry, "quantile_bounds", column, want[column])


@pytest.mark.reference
@pytest.mark.parametrize("name", INTEGRATION)
def test_probabilities_and_zeros_are_those_of_the_reference(name: str) -> None:
    entry, fit = INTEGRATION[name], fitted(name)
    at = pl.DataFrame(entry["data"]["at"])
    if sizes := entry["data"].get("sizes"):
        trials = {"cbpp": ("incidence", "size"), "kubo_seeds": ("y", "N")}.get(entry["dataset"])
        if trials is not None:
            at = at.with_columns(pl.lit(0).alias(trials[0]), pl.Series(trials[1], sizes))
    mixture, zero = (fit.distribution(at, entry["data"]["ks"], random=random) for random in ("integrate", "none"))
    for i, want in enumerate(entry["results"]["pmf"]):
        assert mixture["value"][i] == want["k"]
        assert mixture["probability"][i] == uses.close(entry, "pmf", "marginal", want["marginal"])
        assert zero["probability"][i] == uses.close(entry, "pmf", "unit_zero", want["unit_zero"])
    frame, want = uses.data(entry), entry["results"]["zeros"][0]
    for random, column in (("integrate", "expected_zeros_marginal"), ("all", "expected_zeros_conditional")):
        counts = fit.count_table(frame, random=random)
        assert counts["observed"][0] == want["observed_zeros"]
        assert counts["expected"][0] == uses.close(entry, "zeros", column, want[column])
    pearson = (fit.augment(frame)["resid_pearson"] ** 2).sum()
    assert pearson == uses.close(entry, "zeros", "pearson_chi2", want["pearson_chi2"])


def test_draws_hang_on_seed_and_place_alone() -> None:
    u = uniform_of(7, np.arange(200_000))
    assert_allclose(u[5:9], uniform_of(7, np.arange(5, 9)))
    assert 0.0 < u.min() < u.max() < 1.0
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(u, uniform_of(8, np.arange(200_000)))[0, 1]) < 0.01


def test_residuals_stream_and_carry_their_seed() -> None:
    ticks = datasets.load("grouseticks")
    fit = polars_glmm.fit(ticks, "TICKS ~ YEAR + (1 | LOCATION)", family="poisson")
    made = fit.augment(ticks, quantile=True, rng=3)
    again = fit.augment(ticks.lazy(), quantile=True, rng=3).collect(engine="streaming")
    assert made.equals(again)
    seed = fit.augment(ticks, quantile=True)["quantile_seed"].unique().item()
    once = fit.augment(ticks, quantile=True, rng=seed)
    assert once["resid_quantile"].equals(fit.augment(ticks, quantile=True, rng=int(seed))["resid_quantile"])
    assert "quantile_seed" not in fit.augment(ticks).columns
    fits = polars_glmm.fit(ticks, "TICKS ~ 1 + (1 | LOCATION)", family="poisson", by="YEAR")
    whole = fits.augment(ticks, quantile=True, rng=3)
    for key, one in fits:
        rows = ticks.filter(pl.col("YEAR") == key)
        own = whole.filter(pl.col("YEAR") == key)["resid_quantile"]
        assert_allclose(own, one.augment(rows, quantile=True, rng=3)["resid_quantile"])
    with pytest.raises(ModelError, match="given='mode' is not known"):
        fit.augment(ticks, quantile=True, given="mode")
    with pytest.raises(ModelError, match="whole number from 0"):
        fit.augment(ticks, quantile=True, rng=-1)


def test_of_a_linear_model_they_are_standardised_residuals() -> None:
    """Continuous: no draw; at the modes (y − ŷ)/σ, integrated (y − Xβ)/√(z'Σz + σ²), far tails with all digits."""
    sleep = datasets.load("sleepstudy")
    fit = polars_glmm.fit(sleep, "Reaction ~ Days + (Days | Subject)")
    far = sleep.with_columns(pl.when(pl.int_range(pl.len()) == 0).then(1200.0).otherwise("Reaction").alias("Reaction"))
    made = fit.augment(far, quantile=True)
    assert_allclose(made["resid_quantile"], made["resid"] / fit.estimate.phi, rtol=1e-9)
    whole = fit.augment(far, quantile=True, given="integrate")
    (a, c), (_, d) = fit.estimate.factors[0].covariances[0]
    days = far["Days"].to_numpy()
    sd = np.sqrt(a + 2 * c * days + d * days**2 + fit.estimate.phi**2)
    assert_allclose(whole["resid_quantile"], (far["Reaction"] - made["fixed"]).to_numpy() / sd, rtol=1e-9)


def test_probabilities_sum_to_one_and_average_over_rows() -> None:
    salamanders = datasets.load("salamanders")
    fit = polars_glmm.fit(salamanders, "count ~ mined + (1 | site)", family="negative_binomial")
    listed = fit.distribution(salamanders.head(3))
    assert listed["row"].unique().sort().to_list() == [0, 1, 2]
    assert_allclose(listed.group_by("row").agg(pl.col("probability").sum())["probability"], 1.0, atol=2e-6)
    first = listed.filter(pl.col("row") == 0)
    assert_allclose(first["probability"].cum_sum(), first["cumulative"], rtol=1e-9)
    averaged = fit.distribution(salamanders, range(5), by="mined")
    for key in salamanders["mined"].unique():
        rows = fit.distribution(salamanders.filter(pl.col("mined") == key), range(5))
        mean = rows.group_by("value", maintain_order=True).agg(pl.col("probability").mean())["probability"]
        assert_allclose(averaged.filter(pl.col("mined") == key)["probability"], mean, rtol=1e-10)
    table = fit.count_table(salamanders.lazy())
    assert table["observed"].sum() == salamanders.height
    assert table["value"].max() == salamanders["count"].max()
    gaussian = polars_glmm.fit(salamanders, "count ~ mined + (1 | site)")
    with pytest.raises(ModelError, match="needs values="):
        gaussian.distribution(salamanders)
    with pytest.raises(ModelError, match="is of counts"):
        gaussian.count_table(salamanders)
    density = gaussian.distribution(salamanders.head(1), np.linspace(-40, 40, 4001))
    assert density["probability"].sum() * 0.02 == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["poisson", "binomial", "negative_binomial", "gamma", "gaussian"])
def test_residuals_of_simulated_responses_are_normal_with_the_effects_integrated_out(family: str) -> None:
    """1500 groups of 4 rows go together a little; a distance that would show 2 % of wrong probability is not met."""
    rng = np.random.default_rng(11)
    n = 6000
    x = rng.normal(size=n)
    eta = 0.4 + 0.5 * x + 0.8 * np.repeat(rng.normal(size=n // 4), 4)
    mu = special.expit(eta) if family == "binomial" else np.exp(eta)
    draws = {
        "poisson": lambda: rng.poisson(mu).astype(float),
        "binomial": lambda: rng.binomial(6, mu).astype(float),
        "negative_binomial": lambda: rng.poisson(mu * rng.gamma(2.0, 0.5, n)).astype(float),
        "gamma": lambda: mu * rng.gamma(4.0, 0.25, n),
        "gaussian": lambda: eta + 0.7 * rng.normal(size=n),
    }
    frame = pl.DataFrame({"y": draws[family](), "x": x, "g": np.arange(n) // 4, "n": np.full(n, 6)})
    link = "log" if family == "gamma" else None
    trials = "n" if family == "binomial" else None
    fit = polars_glmm.fit(frame, "y ~ x + (1 | g)", family=family, link=link, trials=trials)
    made = fit.augment(frame, quantile=True, given="integrate", rng=1)["resid_quantile"].to_numpy()
    assert stats.kstest(special.ndtr(made), "uniform").pvalue > 0.005
    assert np.std(made) == pytest.approx(1.0, abs=0.03)
