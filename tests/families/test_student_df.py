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


@pytest.mark.parametrize(("family", "further"), [(StudentT(df=3.0), ()), (FREE, (1.2,)), (FREE, (40.0,))])
def test_a_touching_parabola_lies_below_the_density(family, further):
    """log p(η + s) ≥ log p(η) + g s − ½ b s², whatever s: the law of majorisation (Lange, Little & Taylor 1989)."""
    eta = np.linspace(-6.0, 6.0, 4)
    here = family.density(ROWS, (eta, 0.2, *further), 1)
    bend = family.touching(ROWS, (eta, 0.2, *further))
    for s in (-30.0, -2.0, -0.1, 1e-3, 0.7, 5.0, 100.0):
        there = family.density(ROWS, (eta + s, 0.2, *further), 0).f
        assert (there >= here.f + here.g[0] * s - 0.5 * bend * s * s - 1e-9).all()


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


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_what_has_run_to_its_limit_is_not_polished():
    """Beyond it there is rounding alone: Newton's step and decrement were made of it (6 of 80 such draws)."""
    parts = []
    for seed in (13, 42, 44):
        rng = np.random.default_rng(seed)
        own = {"seed": seed, "g": np.repeat(np.arange(12), 10), "x": rng.normal(size=120), "y": rng.uniform(-1, 1, 120)}
        parts.append(pl.DataFrame(own))
    singly = [part.glmm.fit("y ~ x + (1 | g)", family=FREE) for part in parts]
    by_key = pl.concat(parts).glmm.fit("y ~ x + (1 | g)", family=FREE, by="seed")
    for fit, seed in zip(singly, (13, 42, 44), strict=True):
        assert {note.code for note in fit.notes} == {"singular", "at_limit"}
        assert {note.code for note in by_key[seed].notes} == {"singular", "at_limit"}
        assert fit.dispersion()["estimate"][1] == np.inf
        assert fit.fixef()["std_error"].is_finite().all()


def levels(seed: int = 3) -> pl.DataFrame:
    """Heavy tails in levels a and c of f, lighter ones than the normal distribution has in b, and in "even" in all."""
    rng = np.random.default_rng(seed)
    n = 400
    f, x, even = rng.choice(list("abc"), n), rng.normal(size=n), rng.uniform(-1.7, 1.7, n)
    mean = 1.0 + 0.5 * x
    y = mean + np.where(f == "b", even, rng.standard_t(3, n))
    return pl.DataFrame({"f": f, "x": x, "y": y, "even": mean + even, "g": rng.integers(0, 20, n)})


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
@pytest.mark.parametrize("formula", ["y ~ x", pytest.param("y ~ x + (1 | g)", marks=pytest.mark.slow)])
def test_a_level_whose_tails_are_light_has_no_df_and_leaves_the_others_as_they_are(formula):
    df = levels()
    fit = df.glmm.fit(formula, "df ~ f", family=FREE)
    (note,) = fit.notes
    assert note.code == "at_limit"
    assert f"in {(df['f'] == 'b').sum()} of 400 rows" in note.text
    assert "'df: f[T.b]'" in note.text
    assert "family='gaussian'" in note.text
    of_df = fit.fixef().filter(parameter="df")
    assert of_df["std_error"].is_null().to_list() == [False, True, False]
    cells = df.glmm.fit(formula, "df ~ 0 + f", family=FREE)
    assert_allclose(cells.loglik, fit.loglik, atol=1e-7)
    same = cells.fixef().filter(parameter="df")
    assert same["std_error"].is_null().to_list() == [False, True, False]
    assert_allclose(same["estimate"][0], of_df["estimate"][0], atol=1e-4)
    assert_allclose(same["std_error"][0], of_df["std_error"][0], rtol=1e-3)
    # larger degrees of freedom in that level change nothing more
    held = df.glmm.fit(formula, "df ~ 0 + f", family=FREE, fixed={"df: f[b]": 40.0})
    assert_allclose(held.loglik, fit.loglik, atol=1e-7)
    found = fit.predict(df, kind="df", std_error=True)
    light = (found["f"] == "b").to_numpy()
    assert np.isinf(found["prediction"].to_numpy()[light]).all()
    assert found["prediction_std_error"].is_null().to_numpy()[light].all()
    assert found["prediction_std_error"].is_not_null().to_numpy()[~light].all()


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_light_tails_everywhere_are_the_gaussian_family_whatever_the_formula():
    df = levels()
    plain = df.glmm.fit("even ~ x", family="gaussian", method="ml")
    for rows in (df, df.lazy()):
        fit = rows.glmm.fit("even ~ x", "df ~ f", family=FREE)
        assert_allclose(fit.loglik, plain.loglik, atol=1e-6)
        assert [note.code for note in fit.notes] == ["at_limit"]
        assert "in all rows" in fit.notes[0].text
        assert fit.fixef().filter(parameter="df")["std_error"].is_null().all()


def test_heavy_tails_have_no_note():
    assert not levels().filter(pl.col("f") != "b").glmm.fit("y ~ x", "df ~ f", family=FREE).notes
