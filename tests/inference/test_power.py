"""Power: exact where the test is an F test, and honest about refits that fail."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest
from scipy.stats import chi2, ncf

import polars_glmm
from polars_glmm import datasets
from polars_glmm.errors import FitWarning, ModelError

SLEEP = datasets.load("sleepstudy").drop("Reaction")


@pytest.mark.slow
def test_without_random_effects_power_is_that_of_an_f_test() -> None:
    frame = pl.DataFrame({"x": np.tile(np.arange(5.0), 4)})
    parameters = {"Intercept": 1.0, "x": 0.4, "phi": 1.0}
    row = polars_glmm.power(frame, "y ~ x", parameters=parameters, test="x", n=500, rng=1).row(0, named=True)
    # the likelihood-ratio test rejects where n log(1 + F/(n − p)) > χ²₁
    bound = 18 * np.expm1(chi2(1).ppf(0.95) / 20)
    noncentrality = 0.4**2 * float(((frame["x"] - 2.0) ** 2).sum())
    exact = ncf(1, 18, noncentrality).sf(bound)
    assert row["conf_low"] < exact < row["conf_high"]
    assert row["power"] == row["rejected"] / row["n"]
    assert (row["effect"], row["failed"], row["type_s"]) == (0.4, 0, 0.0)
    assert 1.0 < row["type_m"] < 1.3
    assert row["power"] == pytest.approx(exact, abs=4.0 * np.sqrt(exact * (1 - exact) / 500))


def test_a_test_of_nothing_rejects_at_its_level() -> None:
    parameters = {"Intercept": 0.5, "x": 0.0, "sd(g: Intercept)": 0.5}
    frame = pl.DataFrame({"g": np.repeat(np.arange(15), 12), "x": np.tile([0.0, 1.0], 90)})
    row = polars_glmm.power(
        frame, "y ~ x + (1 | g)", family="poisson", parameters=parameters, test="x", n=400, rng=2
    ).row(0, named=True)
    assert row["power"] == pytest.approx(0.05, abs=4.0 * np.sqrt(0.05 * 0.95 / 400))
    assert row["type_s"] is None


@pytest.mark.slow
def test_more_levels_have_more_power() -> None:
    parameters = {
        "Intercept": 250.0, "Days": 3.0, "sd(Subject: Intercept)": 25.0, "sd(Subject: Days)": 6.0, "phi": 26.0,
    }  # fmt: skip
    table = polars_glmm.power(
        SLEEP, "Reaction ~ Days + (Days | Subject)", parameters=parameters, test="Days", n=100, rng=3,
        vary={"Subject": [6, 18, 40]},
    )  # fmt: skip
    assert table.columns[0] == "Subject"
    assert table["Subject"].to_list() == [6, 18, 40]
    assert table["power"].is_sorted()
    assert table["power"][2] - table["power"][0] > 0.3
    again = polars_glmm.power(
        SLEEP, "Reaction ~ Days + (Days | Subject)", parameters=parameters, test="Days", n=100, rng=3
    )
    assert again["rejected"][0] == table["rejected"][1]  # 18 levels are those of the frame


def test_a_pilot_fit_gives_its_parameters() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        pilot = datasets.load("sleepstudy").glmm.fit("Reaction ~ Days + (1 | Subject)")
    row = polars_glmm.power(SLEEP, "Reaction ~ Days + (1 | Subject)", parameters=pilot, test="Days", n=20, rng=4).row(
        0, named=True
    )
    assert row["power"] == 1.0
    assert row["effect"] == pytest.approx(pilot.estimate.beta[1])


def test_what_is_not_in_the_model_is_named() -> None:
    known = {"Intercept": 0.0, "Days": 1.0, "phi": 1.0}
    ask = lambda **changes: polars_glmm.power(
        SLEEP, "y ~ Days", **{"parameters": known, "test": "Days", "n": 5, "rng": 1, **changes}
    )
    with pytest.raises(ModelError, match="without a value: 'phi'"):
        ask(parameters={"Intercept": 0.0, "Days": 1.0})
    with pytest.raises(ModelError, match="no parameter 'days'"):
        ask(parameters={**known, "days": 1.0})
    with pytest.raises(ModelError, match="test='Day' names no fixed effect"):
        ask(test="Day")
    with pytest.raises(ModelError, match="alpha=5"):
        ask(alpha=5)
    with pytest.raises(ModelError, match="no grouping factor 'Subject'"):
        ask(vary={"Subject": [3]})
    with pytest.raises(ModelError, match="one grouping factor at a time"):
        ask(vary={})
