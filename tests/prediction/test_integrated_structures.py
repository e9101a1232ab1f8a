"""Averages over the population of random effects with a structure: one parameter stands in several entries of Σ."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest

import polars_glmm

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")


@cache
def counts() -> pl.DataFrame:
    rng = np.random.default_rng(3)
    v, t, x = np.repeat(np.arange(30), 20), np.tile(np.arange(5), 120), rng.normal(size=600)
    eta = 0.3 + 0.4 * x + 0.6 * rng.normal(size=(30, 5))[v, t]
    return pl.DataFrame({"v": v, "t": t, "f": t.astype(str), "x": x, "y": rng.poisson(np.exp(eta))})


@cache
def fitted(term: str) -> polars_glmm.Fit:
    return polars_glmm.fit(counts(), f"y ~ x + {term}", family="poisson")


TERMS = ("cs(0 + f | v)", "homcs(0 + f | v)", "id(0 + f | v)", "ar1(0 + f | v)", "exp(0 + t | v)")


@pytest.mark.parametrize("term", TERMS)
def test_standard_errors_of_predictions_are_those_of_predict(term: str) -> None:
    fit, one = fitted(term), counts().head(1)
    wanted = polars_glmm.predict(one, fit, random="integrate", std_error=True)
    for average in (True, False):
        found = fit.predictions(frame=one, random="integrate", average=average)
        assert found["estimate"].item() == pytest.approx(wanted["prediction"].item(), rel=1e-8)
        assert found["std_error"].item() == pytest.approx(wanted["prediction_std_error"].item(), rel=1e-8)


def test_a_field_varies_as_much_at_a_new_point_as_at_any() -> None:
    fit, one = fitted("exp(0 + t | v)"), counts().head(1)
    here, there = (
        polars_glmm.predict(frame, fit, random="integrate", std_error=True)
        for frame in (one, one.with_columns(t=pl.lit(2.5)))
    )
    assert there.drop("t").equals(here.drop("t"))
    fixed = polars_glmm.predict(one, fit, random="none")["prediction"].item()
    assert here["prediction"].item() > 1.05 * fixed


def test_means_over_a_grid_are_those_predictions() -> None:
    fit, x = fitted("homcs(0 + f | v)"), 0.25
    (mean,) = fit.marginal_means("x", at={"x": [x]}, random="integrate").rows(named=True)
    at = counts().head(1).with_columns(x=pl.lit(x))
    told = fit.predictions(frame=at, random="integrate").rows(named=True)[0]
    assert mean["estimate"] == pytest.approx(told["estimate"], rel=1e-8)  # equal variances: no cell is another
    assert mean["std_error"] == pytest.approx(told["std_error"], rel=1e-8)
