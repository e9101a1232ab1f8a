"""Counts with less spread than Poisson have no negative binomial: its size runs to infinity, which is an answer."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.special import gammaln

from tests.hard import independent
from tests.hard.attempt import attempt, codes, fixed, names, silent, variance


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(21)
    g = np.repeat(np.arange(25), 10)
    x = rng.normal(size=250)
    b = 0.4 * rng.normal(size=25)
    mean = np.exp(1 + 0.2 * x + b[g])
    return pl.DataFrame(
        {
            "g": g,
            "x": x,
            "under": rng.binomial(40, mean / 40 * 0.9),
            "narrow": rng.binomial(np.maximum(1, np.round(mean / 0.9)).astype(int), 0.9),
            "poisson": rng.poisson(mean),
            "over": rng.negative_binomial(2, 2 / (2 + mean)),
        }
    )


@pytest.mark.parametrize("formula", ["narrow ~ x", "narrow ~ x + (1 | g)"])
def test_underdispersed_counts(frame: pl.DataFrame, formula: str) -> None:
    """phi = inf without error, Poisson's likelihood and estimates, and one note that says so."""
    fit = attempt(frame, formula, family="negative_binomial")
    plain = attempt(frame, formula, family="poisson")
    assert codes(fit) - codes(plain) == {"no_overdispersion"}
    names(fit, "no_overdispersion", "Poisson")
    dispersion = fit.dispersion().row(0, named=True)
    assert dispersion["estimate"] == float("inf")
    assert [dispersion[k] for k in ("std_error", "conf_low", "conf_high")] == [None] * 3
    assert fit.loglik == pytest.approx(plain.loglik, abs=1e-5)
    assert fit.converged
    assert fit.estimate.df_model == plain.estimate.df_model + 1
    for term in ("Intercept", "x"):
        assert fixed(fit, term) == pytest.approx(fixed(plain, term), abs=1e-4)
        assert fixed(fit, term, "std_error") == pytest.approx(fixed(plain, term, "std_error"), rel=1e-3)
    if "g" in formula:
        assert variance(fit, "g") == pytest.approx(variance(plain, "g"), rel=1e-3, abs=1e-8)
    assert fit.predict(frame)["prediction"].to_list() == pytest.approx(
        plain.predict(frame)["prediction"].to_list(), rel=1e-4
    )
    assert fit.augment(frame)["resid_pearson"].to_list() == pytest.approx(
        plain.augment(frame)["resid_pearson"].to_list(), rel=1e-3, abs=1e-5
    )
    assert "inf" in str(fit)
    assert fit.simulate(frame, n=1, rng=1)["sim_1"].null_count() == 0


def test_hardly_overdispersed_counts_with_large_size(frame: pl.DataFrame) -> None:
    """A size of some thousands with means of a thousand is seen, though 1/size is small: no note."""
    rng = np.random.default_rng(22)
    mean = 1000 * np.exp(0.2 * frame["x"].to_numpy())
    data = frame.with_columns(y=rng.negative_binomial(3000, 3000 / (3000 + mean)))
    fit = attempt(data, "y ~ x", family="negative_binomial")
    silent(fit)
    assert fit.dispersion()["estimate"][0] == pytest.approx(3000, rel=0.6)
    assert fit.loglik > attempt(data, "y ~ x", family="poisson").loglik + 2


@pytest.mark.parametrize("formula", ["over ~ x", "over ~ x + (1 | g)"])
def test_overdispersed_counts(frame: pl.DataFrame, formula: str) -> None:
    """Twin: a finite size with its error, at the maximum of the likelihood by its formula."""
    fit = attempt(frame, formula, family="negative_binomial")
    silent(fit)
    size = fit.dispersion()["estimate"][0]
    assert size == pytest.approx(2, rel=0.5)
    if "g" in formula:
        return
    y, x = frame["over"].to_numpy(), frame["x"].to_numpy()

    def loglik(t: np.ndarray) -> float:
        mean, k = np.exp(t[0] + t[1] * x), np.exp(t[2])
        density = (
            gammaln(y + k) - gammaln(k) - gammaln(y + 1) + k * np.log(k / (k + mean)) + y * np.log(mean / (k + mean))
        )
        return float(density.sum())

    at = [fixed(fit), fixed(fit, "x"), np.log(size)]
    assert fit.loglik == pytest.approx(loglik(np.array(at)), abs=1e-8)
    assert independent.best(loglik, at) < fit.loglik + 1e-6


def test_two_ways_of_overdispersion(frame: pl.DataFrame) -> None:
    """A row effect and a size describe the same excess; the fit stands wherever it ends, with its notes."""
    data = frame.with_row_index("row")
    both = attempt(data, "over ~ x + (1 | row)", family="negative_binomial")
    assert both.loglik >= attempt(data, "over ~ x", family="negative_binomial").loglik - 1e-4
    assert both.loglik >= attempt(data, "over ~ x + (1 | row)", family="poisson").loglik - 1e-4
    assert codes(both) <= {"singular", "no_overdispersion"}
