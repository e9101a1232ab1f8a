"""Degrees of freedom of Student's t as a parameter: its density in all three predictors, its limit, its fit."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import polars_glmm as pg
from polars_glmm.families import Rows, StudentT
from tests.families.conftest import named
from tests.families.five_points import STEPS, next_ones

FREE, ROWS = StudentT(df=None), Rows(np.array([-2.0, 0.3, 1.3, 4.0]))


@pytest.mark.parametrize("delta", [-1.0, 0.5, 3.0, 15.0, 25.0, 35.0])
def test_a_density_is_that_of_t_and_of_its_gaussian_limit(delta):
    found = FREE.density(ROWS, (np.full(4, 0.3), 0.2, delta), 0).f + FREE.constant(ROWS)
    law = stats.t(np.exp(delta), 0.3, np.exp(0.2)) if delta < 25.0 else stats.norm(0.3, np.exp(0.2))
    assert_allclose(found, law.logpdf(ROWS.y), rtol=1e-9)


@pytest.mark.parametrize("delta", [-1.0, 2.0, 12.0])
def test_each_derivative_is_the_difference_of_the_one_below(delta):
    def at(*moved: float):
        return named(FREE.density(ROWS, (np.full(4, 0.1 + moved[0]), 0.2 + moved[1], delta + moved[2]), 3, (3, 3, 3)))

    here, h = at(0.0, 0.0, 0.0), 1e-3
    for k in range(3):
        near = [at(*(times * h * np.eye(3)[k])) for times in STEPS]
        for one in next_ones(here, near, k, h):
            assert_allclose(one.slope, one.wanted, rtol=1e-6, atol=1e-8)


def frame(tails) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    g, x = rng.integers(0, 30, 600), rng.normal(size=600)
    y = 1.0 + 0.5 * x + 0.6 * rng.normal(size=30)[g] + 0.8 * tails(rng)
    return pl.DataFrame({"g": g, "x": x, "y": y})


def test_an_estimate_is_the_best_of_the_numbers_held(tmp_path):
    data = frame(lambda rng: rng.standard_t(4.0, size=600))
    fit = data.glmm.fit("y ~ x + (1 | g)", family=FREE)
    table = fit.dispersion()
    assert table["parameter"].to_list() == ["phi", "df"]
    df = table["estimate"][1]
    logliks = [data.glmm.fit("y ~ x + (1 | g)", family=StudentT(df=times * df)).loglik for times in (0.9, 1.0, 1.1)]
    assert_allclose(fit.loglik, logliks[1], rtol=1e-10)
    assert logliks[1] > max(logliks[0], logliks[2])
    held = data.glmm.fit("y ~ x + (1 | g)", family=FREE, fixed={"df": 4.0})
    assert_allclose(held.loglik, data.glmm.fit("y ~ x + (1 | g)", family=StudentT(df=4.0)).loglik, rtol=1e-10)
    fit.write(tmp_path / "fit.glmm")
    assert pg.read_fit(tmp_path / "fit.glmm").dispersion().equals(table)


def test_light_tails_end_at_the_gaussian_with_a_note():
    data = frame(lambda rng: rng.uniform(-1.5, 1.5, size=600))
    with pytest.warns(pg.FitWarning, match="df has no finite estimate"):
        fit = data.glmm.fit("y ~ x + (1 | g)", family=FREE)
    assert fit.dispersion()["estimate"][1] == np.inf
    assert_allclose(fit.loglik, data.glmm.fit("y ~ x + (1 | g)", method="ml").loglik, atol=1e-3)
