"""Beside a separated column: rows that the direction at infinity does not move have their standard errors."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    """Level "a" of f has successes only."""
    rng = np.random.default_rng(8)
    g, x, f = np.repeat(np.arange(15), 30), rng.normal(size=450), rng.choice(list("abc"), 450, p=[0.1, 0.45, 0.45])
    eta = 0.6 * x + np.where(f == "c", 1.0, -0.5) + rng.normal(0.0, 0.8, 15)[g]
    y = (rng.random(450) < 1.0 / (1.0 + np.exp(-eta))) | (f == "a")
    return pl.DataFrame({"g": g, "x": x, "f": f, "y": y})


NEW = pl.DataFrame({"g": [1, 1, 2, 1], "x": [0.5, 0.5, -1.0, 0.5], "f": ["b", "c", "c", "a"]})
"""The last row lies along the direction at infinity."""


@pytest.mark.one_in(6)
@pytest.mark.parametrize("formula", [f"y ~ {fixed} + x + (1 | g)" for fixed in ("f", "0 + f", "C(f, contr.sum)")])
@pytest.mark.parametrize("random", ["none", "all"])
def test_rows_beside_a_separated_level_are_those_of_the_fit_without_it(frame, formula, random):
    """The reference level is the separated one: intercept and contrasts run off together, their sums do not."""
    without = frame.filter(pl.col("f") != "a").glmm.fit("y ~ f + x + (1 | g)", family="binomial")
    options = {"random": random, "std_error": True, "interval": "confidence"}
    expected = without.predict(NEW.head(3), **options).select(pl.col("^prediction.*$")).to_numpy()
    many = pl.concat([frame.with_columns(k=pl.lit(k)) for k in range(4)])
    for fit in (
        frame.glmm.fit(formula, family="binomial"),
        frame.lazy().glmm.fit(formula, family="binomial"),
        many.glmm.fit(formula, family="binomial", by="k")[1],
    ):
        assert any(note.code == "separation" for note in fit.notes)
        found = fit.predict(NEW.lazy(), **options).collect()
        assert_allclose(found.head(3).select(pl.col("^prediction.*$")).to_numpy(), expected, rtol=1e-4)
        assert found["prediction"][3] > 0.999
        assert found["prediction_std_error"][3] is None
        assert found["prediction_low"][3] is None


def test_a_held_coefficient_adds_nothing_to_the_error_of_rows_that_involve_it(frame):
    fit = frame.filter(pl.col("f") != "a").glmm.fit("y ~ x + (1 | g)", family="binomial", fixed={"x": 0.5})
    told = fit.predict(pl.DataFrame({"g": [1, 1], "x": [0.0, 1.0]}), std_error=True, kind="link", random="none")
    assert_allclose(told["prediction_std_error"][0], fit.fixef()["std_error"][0], rtol=1e-9)
    assert told["prediction_std_error"][1] == told["prediction_std_error"][0]
