"""Checks of a fit and the error of Laplace's approximation: references, laws, what is found where it was put in."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy.special import ndtr

import polars_glmm
from polars_glmm import datasets
from polars_glmm.errors import ColumnError, ModelError
from polars_glmm.inference.mode_normality import _anderson
from tests.references import uses

INTEGRATION = uses.entries("integration")


@cache
def fitted(name: str) -> Any:
    return uses.fit(INTEGRATION[name])


@pytest.mark.reference
@pytest.mark.parametrize("name", INTEGRATION)
def test_the_error_of_laplace_is_that_of_the_reference(name: str) -> None:
    entry, fit = INTEGRATION[name], fitted(name)
    total, want = fit.laplace_error().row(0, named=True), entry["results"]["laplace_total"][0]
    for got, column in (("loglik_laplace",) * 2, ("loglik", "loglik_exact"), ("error",) * 2):
        assert total[got] == uses.close(entry, "laplace_total", column, want[column])
    levels = {row["level"]: row for row in fit.laplace_error(per="level").iter_rows(named=True)}
    for want in entry["results"]["laplace_error"]:
        got = levels[want["level"]]
        assert got["loglik_laplace"] == uses.close(entry, "laplace_error", "loglik_laplace", want["loglik_laplace"])
        assert got["loglik"] == uses.close(entry, "laplace_error", "loglik_exact", want["loglik_exact"])


@pytest.mark.reference
@pytest.mark.parametrize("name", INTEGRATION)
def test_expected_zeros_are_those_of_the_reference(name: str) -> None:
    entry, want = INTEGRATION[name], INTEGRATION[name]["results"]["zeros"][0]
    row = fitted(name).check("zero_inflation", n=20, rng=1).row(0, named=True)
    assert row["statistic"] == want["observed_zeros"]
    column = "expected_zeros_marginal"
    assert row["expected"] == uses.close(entry, "zeros", column, want[column])


def test_draws_state_their_own_error() -> None:
    herds = datasets.load("cbpp")
    fit = polars_glmm.fit(herds, "cbind(incidence, size - incidence) ~ period + (1 | herd)", family="binomial")
    exact = fit.laplace_error()["loglik"][0]
    drawn = fit.laplace_error("importance", n=4000, rng=2).row(0, named=True)
    assert abs(drawn["loglik"] - exact) < 4.0 * drawn["mc_error"]
    assert drawn["effective"] > 3000.0
    assert fit.laplace_error("importance", n=50, rng=1)["note"][0] is not None


def test_a_gaussian_model_has_no_error_and_nested_factors_one_row() -> None:
    pastes = datasets.load("pastes")
    fit = polars_glmm.fit(pastes, "strength ~ 1 + (1 | batch) + (1 | batch:cask)", method="ml")
    row = fit.laplace_error().row(0, named=True)
    assert row["group"] == "batch + batch:cask"
    assert row["error"] == 0.0
    assert row["loglik"] == pytest.approx(fit.loglik, abs=1e-6)
    with pytest.raises(ModelError, match="one grouping factor"):
        fit.laplace_error(per="level")
    with pytest.raises(ModelError, match="has none"):
        polars_glmm.fit(pastes, "strength ~ 1").laplace_error()


def overdispersed(seed: int, extra: float, zeros: float) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(60), 12)
    mu = np.exp(1.0 + 0.5 * rng.normal(size=60)[g] + extra * rng.normal(size=720))
    return pl.DataFrame({"y": rng.poisson(mu) * (rng.random(720) >= zeros), "g": g, "t": np.tile(np.arange(12), 60)})


def test_what_was_put_in_is_found_and_what_was_not_is_not() -> None:
    fine = polars_glmm.fit(overdispersed(1, 0.0, 0.0), "y ~ 1 + (1 | g)", family="poisson").check(rng=1, time="t")
    assert fine["p_value"].min() > 0.005
    assert fine["test"].to_list() == [
        "dispersion", "zero_inflation", "outliers", "uniformity", "heteroscedasticity", "autocorrelation",
        "ranef_normality",
    ]  # fmt: skip
    rough = polars_glmm.fit(overdispersed(1, 0.7, 0.0), "y ~ 1 + (1 | g)", family="poisson").check("dispersion", rng=1)
    assert rough["statistic"][0] > 1.5
    assert rough["p_value"][0] < 0.01
    holes = overdispersed(1, 0.0, 0.2)
    empty = polars_glmm.fit(holes, "y ~ 1 + (1 | g)", family="poisson").check(["zero_inflation"], rng=1)
    assert empty["statistic"][0] > empty["expected"][0] + 5.0 * empty["std_error"][0]


def test_the_dispersion_of_a_linear_model_is_its_residual_degrees_of_freedom() -> None:
    """χ²/(n − p) of standardised residuals is (n − p)σ̂²/σ̂²/(n − p) = 1 where σ̂² is unbiased."""
    sleep = datasets.load("sleepstudy")
    row = polars_glmm.fit(sleep, "Reaction ~ Days").check("dispersion", n=10, rng=1).row(0, named=True)
    assert row["statistic"] == pytest.approx(1.0, rel=1e-9)
    assert "178.0 = 180 rows" in row["method"]


def test_anderson_and_darling_by_the_integral() -> None:
    """A² = −n − Σ (2i − 1)/n (log u_i + log(1 − u_{n+1−i})) of one point: −1 − log u − log(1 − u)."""
    for z in (-1.3, 0.2, 2.0):
        u = float(ndtr(z))
        assert_allclose(_anderson(np.array([[z]])), -1.0 - np.log(u) - np.log1p(-u))


def test_one_seed_gives_one_table_and_messages_say_what_is_wrong() -> None:
    sleep = datasets.load("sleepstudy")
    fit = polars_glmm.fit(sleep, "Reaction ~ Days + (Days | Subject)")
    assert fit.check(n=30, rng=5).equals(fit.check(n=30, rng=5, frame=sleep.lazy()))
    assert fit.check(n=5)["seed"].n_unique() == 1
    with pytest.raises(ModelError, match=r"no test 'uniform'.*uniformity"):
        fit.check("uniform")
    with pytest.raises(ModelError, match="needs time="):
        fit.check(["autocorrelation"])
    with pytest.raises(ModelError, match="is of counts"):
        fit.check("zero_inflation")
    with pytest.raises(ColumnError, match="check needs 'when'"):
        fit.check("autocorrelation", time="when")
    gone = polars_glmm.fit(sleep, "Reaction ~ Days + (Days | Subject)", control=polars_glmm.Control(keep="none"))
    with pytest.raises(ModelError, match=r"check\(\) needs the rows"):
        gone.check()
    assert gone.check(frame=sleep, n=5, rng=1).height == 6
