"""x'beta is a number only where the data determine it, the same in every parametrisation (Searle 1971, §5.4)."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")

FORMULAS = (
    "y ~ f * h + x + double + (1 | g)",
    "y ~ f * h + double + x + (1 | g)",
    "y ~ 0 + f:h + x + (1 | g)",
    "y ~ h + f:h + double + (1 | g)",
    "y ~ C(f, contr.sum) * C(h, contr.helmert) + x + (1 | g)",
)
EMPTY = {("c", "D"), ("a", "B")}
CELLS = [(f, h) for f in "abc" for h in "ABCD"]


@pytest.fixture(scope="module")
def crossed() -> pl.DataFrame:
    """Two factors with two empty cells, a column far from zero and its double."""
    rng = np.random.default_rng(11)
    rows = [cell for cell in CELLS if cell not in EMPTY for _ in range(8)]
    n = len(rows)
    frame = pl.DataFrame(rows, schema=["f", "h"], orient="row").with_columns(
        g=rng.integers(1, 9, n), x=rng.normal(size=n) + 1e4, noise=rng.normal(size=n), count=rng.poisson(3.0, n)
    )
    return frame.with_columns(double=2 * pl.col("x") - 7, y=pl.col("noise") + pl.col("x") - 1e4)


@pytest.fixture(scope="module")
def grid() -> pl.DataFrame:
    frame = pl.DataFrame(CELLS, schema=["f", "h"], orient="row").with_columns(g=pl.lit(1), x=pl.lit(1e4 + 0.3))
    return frame.with_columns(double=2 * pl.col("x") - 7)


def numbers(fit, frame, **options) -> np.ndarray:
    made = fit.predict(frame, random="none", std_error=True, interval="confidence", **options)
    return made.lazy().collect().select(pl.col("^prediction.*$")).to_numpy()


def fits(frame: pl.DataFrame, formula: str):
    """One model on every route."""
    yield frame.glmm.fit(formula)
    yield frame.lazy().glmm.fit(formula)
    yield polars_glmm.products(frame, formula).fit()
    yield pl.concat([frame.with_columns(k=pl.lit(k)) for k in range(4)]).glmm.fit(formula, by="k")[2]


@pytest.mark.slow
def test_all_parametrisations_on_all_routes_agree_where_a_prediction_is_estimable_and_are_null_elsewhere(crossed, grid):
    expected = numbers(crossed.glmm.fit(FORMULAS[0]), grid)
    assert [cell for cell, row in zip(CELLS, expected, strict=True) if np.isnan(row).all()] == [("a", "B"), ("c", "D")]
    for formula in FORMULAS:
        for fit in fits(crossed, formula):
            for frame in (grid, grid.lazy()):
                assert_allclose(numbers(fit, frame), expected, rtol=1e-6, atol=1e-6)


def test_a_row_that_breaks_the_dependence_of_a_dropped_column_is_null(crossed, grid):
    for formula in FORMULAS[:2]:
        fit = crossed.glmm.fit(formula)
        broken = grid.with_columns(pl.col("double") + 1.0)
        assert numbers(fit, broken).shape == (12, 4)
        assert np.isnan(numbers(fit, broken)).all()


def test_no_row_of_the_fit_is_undetermined(crossed):
    for formula in FORMULAS:
        assert crossed.glmm.fit(formula).augment(crossed)["fitted"].null_count() == 0


def test_keyed_augment_and_simulate_know_no_undetermined_mean_either(crossed, grid):
    fit = crossed.glmm.fit(FORMULAS[0])
    lacks = [cell in EMPTY for cell in CELLS]
    assert fit.simulate(grid, rng=1)["sim_1"].is_null().to_list() == lacks
    told = fit.augment(grid.with_columns(y=0.0))
    assert told["fitted"].is_null().to_list() == told["resid_deviance"].is_null().to_list() == lacks
    many = pl.concat([crossed.with_columns(k=pl.lit(k)) for k in range(4)]).glmm.fit(FORMULAS[0], by="k")
    assert many.predict(grid.with_columns(k=pl.lit(1)), random="none")["prediction"].is_null().to_list() == lacks


def test_phi_of_an_empty_cell_is_null_and_so_are_its_draws(crossed, grid):
    fit = crossed.glmm.fit("y ~ x + (1 | g)", "phi ~ f * h", family="gaussian", method="laplace")
    lacks = [cell in EMPTY for cell in CELLS]
    assert fit.predict(grid, kind="phi")["prediction"].is_null().to_list() == lacks
    assert fit.predict(grid, random="none")["prediction"].null_count() == 0
    assert fit.simulate(grid, rng=1)["sim_1"].is_null().to_list() == lacks


def test_links_and_responses_are_null_alike(crossed, grid):
    fit = crossed.glmm.fit("count ~ f * h + (1 | g)", family="poisson")
    for kind in ("link", "response"):
        assert fit.predict(grid, kind=kind, random="none")["prediction"].null_count() == 2
