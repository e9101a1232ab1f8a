"""Inverse links as expressions are those of families/links.py, in both tails, with their slopes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm.errors import ModelError
from polars_glmm.families.links import LINKS
from polars_glmm.prediction.inverse_links import mean_of, slope_of

ETA = np.array([-36.0, -20.0, -5.0, -1.0, -1e-6, 0.0, 1e-6, 0.3, 1.0, 5.0, 20.0, 36.0])
POSITIVE = {"inverse", "inverse_squared", "sqrt"}


@pytest.mark.parametrize("link", LINKS)
def test_the_mean_is_that_of_the_link(link):
    eta = ETA[ETA > 0] if link in POSITIVE else ETA
    found = pl.select(mean_of(link, pl.lit(pl.Series(eta)))).to_series()
    assert_allclose(found, LINKS[link].inverse(eta), rtol=4e-15)


@pytest.mark.parametrize("link", LINKS)
def test_the_slope_is_the_derivative_of_the_mean(link):
    eta = ETA[ETA > 0] if link in POSITIVE else ETA
    found = pl.select(slope_of(link, pl.lit(pl.Series(eta)))).to_series()
    assert_allclose(found, LINKS[link].value(eta, 1)[1], rtol=1e-12)


@pytest.mark.parametrize("link", LINKS)
def test_null_stays_null(link):
    values = pl.Series([0.5, None, 1.5])
    assert pl.select(mean_of(link, pl.lit(values))).to_series().is_null().to_list() == [False, True, False]


def test_extreme_predictors_give_limits():
    eta = pl.lit(pl.Series([-1e4, -800.0, 800.0, 1e4]))
    for link in ("logit", "probit", "cloglog"):
        assert pl.select(mean_of(link, eta)).to_series().to_list() == [0.0, 0.0, 1.0, 1.0]


def test_an_unknown_link_names_the_known_ones():
    with pytest.raises(ModelError, match=r"'log-log'.*identity.*cloglog"):
        mean_of("log-log", pl.col("eta"))
