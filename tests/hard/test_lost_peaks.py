"""Laplace's approximation where a mode is about to vanish: it has no bound there, and is not followed for long."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from polars_glmm import AGQ
from polars_glmm.likelihood.marginal.peaks import WIDE, widest
from tests.hard.attempt import attempt, codes


def ordered() -> pl.DataFrame:
    """150 rows of four categories with the errors of a logistic law, ten levels, and slopes."""
    r = np.random.default_rng(5)
    g, h, x, _ = r.integers(0, 10, 150), r.integers(0, 6, 150), r.normal(size=150), r.integers(0, 3, 150)
    b, c, _, slope = r.normal(size=10) * 0.6, r.normal(size=6) * 0.4, r.normal(size=10), r.normal(size=10) * 0.3
    latent = 0.4 * x + b[g] + c[h] + slope[g] * x + r.logistic(size=150)
    return pl.DataFrame({"y": np.searchsorted([-1.5, 0.0, 1.5], latent) + 1, "x": x, "g": g})


def counts() -> pl.DataFrame:
    """150 counts of twelve levels crossed with six, with more zeros in some of the twelve."""
    r = np.random.default_rng(2)
    g, h, x, _ = r.integers(0, 12, 150), r.integers(0, 6, 150), r.normal(size=150), r.integers(0, 3, 150)
    b, c, z = r.normal(size=12) * 0.6, r.normal(size=6) * 0.4, r.normal(size=12) * 0.72
    mu = np.exp(0.6 + 0.4 * x + b[g] + c[h] + (r.normal(size=12) * 0.3)[g] * x)
    y = r.negative_binomial(mu / 1.5, 1 / 2.5)
    return pl.DataFrame({"y": np.where(r.random(150) < 1 / (1 + np.exp(0.8 - z[g])), 0, y), "x": x, "g": g, "h": h})


@pytest.mark.slow
def test_a_search_that_loses_a_peak_is_stopped_and_quadrature_has_an_optimum() -> None:
    """What Laplace's exceeds the integral by grows without end; on the way it passes any likelihood that there is."""
    frame, model = ordered(), {"family": "cumulative", "link": "cauchit"}
    laplace = attempt(frame, "y ~ x + (x | g)", **model)
    assert "not_converged" in codes(laplace)
    said = next(note for note in laplace.notes if note.code == "not_converged")
    assert "mode of a level is about to vanish" in said.text
    assert "AGQ" in said.advice
    assert laplace.certificate.evaluations < 150
    integrated = attempt(frame, "y ~ x + (x | g)", **model, method=AGQ(nodes=7))
    assert integrated.converged
    assert laplace.loglik > integrated.loglik + 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::polars_glmm.errors.FitWarning")
def test_each_of_many_models_is_told_apart() -> None:
    both = pl.concat([ordered().with_columns(k=1), ordered().with_columns(k=2)])
    keyed = both.glmm.fit("y ~ x + (x | g)", family="cumulative", link="cauchit", by="k")
    for fit in (keyed[1], keyed[2]):
        assert "mode of a level is about to vanish" in str(fit.notes)


@pytest.mark.slow
def test_crossed_counts_lose_one_in_few_evaluations() -> None:
    """They took 300, of up to 200 passes each."""
    fit = attempt(counts(), "y ~ x + (1 | g) + (1 | h)", "zi ~ 1 + (1 | g)", family="negative_binomial1")
    said = next(note for note in fit.notes if note.code == "not_converged")
    assert "mode of a level is about to vanish" in said.text
    assert fit.certificate.evaluations < 100


@pytest.mark.slow
def test_zeros_with_effects_of_their_own_have_an_optimum_by_quadrature() -> None:
    """glmmTMB 1.1.5, ziformula = ~ x + (1 | g), family = nbinom2: an error; se = FALSE: false convergence, −384.5."""
    r = np.random.default_rng(16)
    g, h, x, _ = r.integers(0, 25, 250), r.integers(0, 6, 250), r.normal(size=250), r.integers(0, 3, 250)
    b, c, z, slope = r.normal(size=25) * 0.6, r.normal(size=6) * 0.4, r.normal(size=25) * 0.72, r.normal(size=25) * 0.3
    y = r.negative_binomial(1.5, 1.5 / (1.5 + np.exp(0.6 + 0.4 * x + b[g] + c[h] + slope[g] * x)))
    y = np.where(r.random(250) < 1 / (1 + np.exp(0.8 - z[g])), 0, y)
    frame, formulas = pl.DataFrame({"y": y, "x": x, "g": g}), ("y ~ x + (1 | g)", "zi ~ x + (1 | g)")
    fits = [attempt(frame, *formulas, family="negative_binomial", method=AGQ(nodes=n)) for n in (11, 21)]
    assert all(fit.converged for fit in fits)
    assert abs(fits[0].loglik - fits[1].loglik) < 1e-3
    laplace = attempt(frame, *formulas, family="negative_binomial")
    assert "mode of a level is about to vanish" in str(laplace.notes)


def test_the_widest_combination_of_a_level_counts() -> None:
    """Of Var(u | y) with variances below the mark the sum of two effects may be beyond it."""
    one = np.full((2, 2, 1), 0.6 * WIDE)
    one[0, 0, 0] = one[1, 1, 0] = 0.7 * WIDE
    assert widest([np.eye(2)[:, :, None]]) == 1.0
    assert np.isclose(widest([np.eye(2)[:, :, None], one]), 1.3 * WIDE)
    assert widest([np.full((1, 1, 3), np.nan)]) == np.inf
    assert widest([]) == 0.0
