"""Zeros beside counts or spread of counts: a likelihood with a hill at no further zeros and one inside."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm.errors import FitWarning

SEEDS = (0, 1, 6, 8, 9)
FORMULAS = ("y ~ x + (1 | g)", "zi ~ 1")


def frame(seed: int) -> pl.DataFrame:
    """Few small counts of 20 levels, as much spread as zeros."""
    rng = np.random.default_rng(seed)
    n, g = 160, np.repeat(np.arange(20), 8)
    x, b = rng.standard_normal(n), 0.8 * rng.standard_normal(20)
    mu, phi = np.exp(-0.3 + 0.3 * x + b[g]), 0.8
    y = rng.poisson(mu * rng.gamma(phi, 1.0 / phi, n)) * (rng.random(n) < 0.85)
    return pl.DataFrame({"y": y, "x": x, "g": g})


def fitted(data: pl.DataFrame, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(data, *FORMULAS, family="negative_binomial", **options)


@cache
def alone(seed: int) -> Any:
    return fitted(frame(seed))


@pytest.mark.one_in(6)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_start_inside_leads_higher(seed: int) -> None:
    highest = max(fitted(frame(seed), start={"zi: Intercept": zi}).loglik for zi in (-3.0, -1.0))
    assert alone(seed).loglik >= highest - 1e-6


@pytest.mark.slow
def test_models_of_keys_are_those_of_their_rows() -> None:
    frames = [frame(seed).with_columns(key=pl.lit(seed)) for seed in SEEDS]
    found = fitted(pl.concat(frames), by="key").glance().sort("key")["loglik"].to_list()
    assert found == pytest.approx([alone(seed).loglik for seed in SEEDS], abs=1e-6)
