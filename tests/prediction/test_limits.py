"""Parameters at a limit: a row predicts what `dispersion()` says of a constant there, and other rows keep their errors.

The coding of a formula is no part of the answer: in `phi ~ 0 + f` the levels stand apart, and the error of log phi in a
level that has one is that of its coefficient.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import Fit, StudentT


@cache
def frame() -> pl.DataFrame:
    """In f0 all responses have less spread than the family's limit, in f1 more; `none` is never zero in f0."""
    rng = np.random.default_rng(3)
    n = 300
    f, g = np.arange(n) % 2, rng.integers(0, 12, n)
    mu = np.exp(1.0 + 0.4 * rng.standard_normal(12)[g])
    shares = rng.beta(1.0, 1.0, n)
    return pl.DataFrame(
        {
            "count": np.where(f == 0, np.round(mu), rng.negative_binomial(2, 2.0 / (2.0 + mu))).astype(int),
            "share": np.where(f == 0, 5, rng.binomial(10, shares)),
            "none": np.where(f == 0, np.maximum(rng.poisson(2.0, n), 1), rng.poisson(2.0, n) * rng.integers(0, 2, n)),
            "light": rng.uniform(-1.0, 1.0, n),
            "ten": 10,
            "f": [f"f{k}" for k in f],
            "g": g,
        }
    )


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "negative_binomial": ("count", {}),
    "negative_binomial1": ("count", {}),
    "beta_binomial": ("share", {"trials": "ten"}),
}


def fitted(rows: pl.DataFrame, *formulas: str, **named: Any) -> Fit:
    with pytest.warns(polars_glmm.FitWarning):
        return polars_glmm.fit(rows, *formulas, **named)


def of_each(fit: Fit, kind: Any) -> pl.DataFrame:
    """Predictions of a row of each level, with errors and limits."""
    rows = frame().unique("f", keep="first", maintain_order=True).sort("f")
    made = fit.predict(rows, kind=kind, random="none", std_error=True, interval="confidence")
    return made.select(pl.col("^prediction.*$"))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("family", CASES)
def test_phi_at_the_limit_is_that_of_a_constant_there(family: str) -> None:
    response, more = CASES[family]
    named = {"family": family, **more}
    alone = fitted(frame().filter(f="f0"), f"{response} ~ 1", **named).dispersion()["estimate"].item()
    assert alone in (0.0, np.inf)
    fits = [fitted(frame(), f"{response} ~ 1", formula, **named) for formula in ("phi ~ f", "phi ~ 0 + f")]
    first, second = (of_each(fit, "phi") for fit in fits)
    assert first.row(0) == second.row(0) == (alone, None, None, None)
    own = fits[1].fixef().filter(parameter="phi", term="f[f1]")
    phi, error = np.exp(own["estimate"].item()), own["std_error"].item()
    for made in (first, second):
        assert_allclose(made["prediction"][1], phi, rtol=1e-5)
        assert_allclose(made["prediction_std_error"][1], phi * error, rtol=1e-4)
    lazy = fits[0].predict(frame().lazy(), kind="phi").collect()
    assert lazy.filter(f="f0")["prediction"].unique().to_list() == [alone]


def test_zeros_that_are_predicted_without_error() -> None:
    """P(zi) is 0 where no response is zero; the mean and P(0) of both levels follow what is estimated."""
    fits = [fitted(frame(), "none ~ 1", formula, family="poisson") for formula in ("zi ~ f", "zi ~ 0 + f")]
    first, second = (of_each(fit, "zi") for fit in fits)
    assert first.row(0) == second.row(0) == (0.0, None, None, None)
    own = fits[1].fixef().filter(parameter="zi", term="f[f1]")
    share = first["prediction"][1]
    assert_allclose(first["prediction_std_error"][1], share * (1.0 - share) * own["std_error"].item(), rtol=1e-4)
    mu, error = (fits[0].fixef().filter(parameter="mu")[name].item() for name in ("estimate", "std_error"))
    found = of_each(fits[0], "zero")
    rate = np.exp(mu)
    assert_allclose(found["prediction"][0], np.exp(-rate), rtol=1e-8)
    assert_allclose(found["prediction_std_error"][0], rate * np.exp(-rate) * error, rtol=1e-4)
    assert_allclose(of_each(fits[0], "response")["prediction_std_error"][0], rate * error, rtol=1e-4)


def test_degrees_of_freedom_without_end() -> None:
    """df of light tails is infinite, by a formula as by a constant; the mean and its interval are gaussian."""
    constant = fitted(frame(), "light ~ 1 + f", family=StudentT(df=None))
    formula = fitted(frame(), "light ~ 1 + f", "df ~ f", family=StudentT(df=None))
    gaussian = polars_glmm.fit(frame(), "light ~ 1 + f", method="ml")
    for fit in (constant, formula):
        assert of_each(fit, "df").row(0) == (np.inf, None, None, None)
        assert_allclose(of_each(fit, "response")["prediction"], of_each(gaussian, "response")["prediction"], atol=1e-5)
    made = of_each(constant, "response")
    half = 1.959963984540054 * made["prediction_std_error"]
    assert_allclose(made["prediction_high"], made["prediction"] + half, rtol=1e-9)
    assert_allclose(made["prediction_low"], made["prediction"] - half, rtol=1e-9)


def test_a_file_keeps_what_is_at_a_limit(tmp_path: Any) -> None:
    fit = fitted(frame(), "count ~ 1", "phi ~ f", family="negative_binomial")
    fit.write(tmp_path / "fit.glmm")
    assert of_each(polars_glmm.read_fit(tmp_path / "fit.glmm"), "phi").equals(of_each(fit, "phi"))
    held = fitted(frame(), "count ~ f", "phi ~ f", family="negative_binomial", fixed={"f[T.f1]": 0.3})
    assert of_each(held, "phi").row(0) == (np.inf, None, None, None)
    assert of_each(held, "phi")["prediction_std_error"][1] > 0.0
