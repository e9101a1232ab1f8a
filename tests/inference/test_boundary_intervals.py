"""On the boundary standard errors and intervals that mean nothing are null, on every route; the others stay."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Fit
from polars_glmm.inference.varcorr import log_interval, tanh_interval

ERRORS = ("std_error", "conf_low", "conf_high")
ROUTES = ("eager", "lazy", "by", "products")


@cache
def shared_slope() -> pl.DataFrame:
    """Intercept and slope of a level move as one: their correlation is estimated at +1."""
    rng = np.random.default_rng(7)
    g = np.repeat(np.arange(12), 8)
    x = rng.normal(size=96)
    shared = rng.normal(size=12)
    y = shared[g] * (1.0 + x) + rng.normal(size=96)
    noise = rng.normal(size=(12, 8))
    slopes = x.reshape(12, 8)
    noise -= ((noise * slopes).sum(1) / (slopes**2).sum(1))[:, None] * slopes  # every level has the same slope
    flat = 2.0 * shared[g] + noise.ravel()
    return pl.DataFrame({"g": [f"g{k:02}" for k in g], "x": x, "y": y, "flat": flat, "key": ["a"] * 96})


def fitted(formula: str, route: str) -> Fit:
    frame = shared_slope()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", polars_glmm.FitWarning)
        match route:
            case "eager":
                return polars_glmm.fit(frame, formula)
            case "lazy":
                return polars_glmm.fit(frame.lazy(), formula)
            case "by":
                return polars_glmm.fit(frame, formula, by="key")["a"]
        return polars_glmm.products(frame, formula).fit()


def variances(fit: Fit) -> dict[str, dict[str, float | None]]:
    rows = fit.varcorr().filter(pl.col("other_term").is_null()).iter_rows(named=True)
    return {row["term"] or "Residual": row for row in rows}


@pytest.mark.parametrize("route", ROUTES)
def test_with_a_correlation_of_one_the_whole_term_has_no_errors(route: str) -> None:
    fit = fitted("y ~ x + (x | g)", route)
    assert fit.singular
    found = variances(fit)
    for term in ("Intercept", "x"):
        assert found[term]["estimate"] > 0.1
        assert [found[term][name] for name in ERRORS] == [None] * 3
    pair = fit.varcorr().filter(pl.col("other_term").is_not_null()).row(0, named=True)
    assert pair["correlation"] == pytest.approx(1.0, abs=1e-9)
    assert (pair["correlation_low"], pair["correlation_high"]) == (None, None)
    assert None not in [found["Residual"][name] for name in ERRORS]
    assert fit.fixef()["std_error"].null_count() == 0
    assert fit.fixef()["df"].null_count() == 0
    spread = fit.vcov(full=True)
    assert spread.filter(pl.col("parameter") == "log_sd")["covariance"].null_count() > 0


@pytest.mark.parametrize("route", ROUTES)
def test_without_correlation_a_variance_of_zero_leaves_the_other_its_errors(route: str) -> None:
    fit = fitted("flat ~ x + (x || g)", route)
    assert fit.singular
    found = variances(fit)
    assert found["x"]["estimate"] == 0.0
    assert [found["x"][name] for name in ERRORS] == [None] * 3
    assert None not in [found["Intercept"][name] for name in ERRORS]


def test_an_interval_that_spans_everything_is_none() -> None:
    assert np.isnan(log_interval(1e-8, 1e-6, 1.96)).all()
    assert np.isnan(tanh_interval(0.95, 1.0, 1.96)).all()
    low, high = log_interval(2.0, 1.0, 1.96)
    assert low * high == pytest.approx(4.0)
    assert high / low == pytest.approx(np.exp(1.96))
