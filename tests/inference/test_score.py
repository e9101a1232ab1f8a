"""Effects of groups that were not in the fit: the rows of the fit give its modes, references, routes, messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import datasets
from polars_glmm.errors import ColumnError, ModelError, UnknownLevelError
from tests.references import uses

PREDICT, INTEGRATION = uses.entries("predict"), uses.entries("integration")

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "slopes": ("sleepstudy", "Reaction ~ Days + (Days | Subject)", {}),
    "independent": ("sleepstudy", "Reaction ~ Days + (Days || Subject)", {}),
    "nested": ("pastes", "strength ~ 1 + (1 | batch) + (1 | batch:cask)", {}),
    "trials": ("cbpp", "cbind(incidence, size - incidence) ~ period + (1 | herd)", {"family": "binomial"}),
    "counts": ("epil2", "y ~ Base + Age + (1 | subject)", {"family": "negative_binomial"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_the_rows_of_the_fit_give_its_modes(case: str, lazy: bool) -> None:
    name, formula, arguments = CASES[case]
    frame = datasets.load(name)
    fit = polars_glmm.fit(frame, formula, **arguments)
    for group in [factor.name for factor in fit.recipe.factors]:
        found = fit.score(frame.lazy() if lazy else frame, group)
        assert isinstance(found, pl.LazyFrame if lazy else pl.DataFrame)
        modes = fit.ranef().filter(pl.col("group") == group)
        both = modes.join(found.lazy().collect(), on=["level", "term"], suffix="_scored")
        assert both.height == modes.height == found.lazy().collect().height
        assert_allclose(both["estimate_scored"], both["estimate"], rtol=1e-5, atol=1e-6)
        assert_allclose(both["std_error_scored"], both["std_error"], rtol=1e-6)


@pytest.mark.reference
@pytest.mark.parametrize("name", PREDICT)
def test_a_new_group_is_scored_as_by_the_reference(name: str) -> None:
    entry = PREDICT[name]
    found = uses.fit(entry).score(pl.DataFrame(entry["data"]["score"]))
    for want in entry["results"]["score"]:
        got = found.row(by_predicate=pl.col("term") == want["term"], named=True)
        assert got["n_obs"] == len(entry["data"]["score"])
        for column in ("estimate", "std_error"):
            assert got[column] == uses.close(entry, "score", column, want[column])


@pytest.mark.reference
@pytest.mark.parametrize("name", INTEGRATION)
def test_posterior_means_are_those_of_the_reference(name: str) -> None:
    entry = INTEGRATION[name]
    fit = uses.fit(entry)
    found = {row["level"]: row for row in fit.score(uses.data(entry)).iter_rows(named=True)}
    for want in entry["results"]["laplace_error"]:
        got = found[want["level"]]
        assert got["estimate"] == uses.close(entry, "laplace_error", "mode", want["mode"])
        assert got["std_error"] == uses.close(entry, "laplace_error", "mode_sd", want["mode_sd"])
        mean = want["posterior_mean"]
        assert got["posterior_mean"] == uses.close(entry, "laplace_error", "posterior_mean", mean)


def test_sums_stream_and_weights_count() -> None:
    """precision and frequency enter as in the fit: doubled rows are rows of frequency 2."""
    rng = np.random.default_rng(3)
    n = 300
    frame = pl.DataFrame(
        {
            "x": rng.normal(size=n),
            "g": rng.integers(0, 30, n),
            "w": rng.uniform(0.5, 2.0, n),
            "f": rng.integers(1, 4, n),
        }
    ).with_columns(y=pl.Series(rng.normal(size=30)[rng.integers(0, 30, n)] + rng.normal(size=n)))
    fit = polars_glmm.fit(frame, "y ~ x + (x || g)", precision="w", frequency="f", method="ml")
    new = frame.with_columns(pl.col("g") + 100)
    counted = fit.score(new.lazy()).collect(engine="streaming")
    repeated = fit.score(new[np.repeat(np.arange(new.height), new["f"])].with_columns(f=pl.lit(1)))
    for column in ("estimate", "std_error", "n_obs"):
        assert_allclose(counted[column], repeated[column], rtol=1e-9)
    assert_allclose(counted["estimate"], fit.ranef()["estimate"], rtol=1e-4, atol=1e-8)


def test_incomplete_rows_are_left_out_and_what_cannot_be_is_said() -> None:
    sleep = datasets.load("sleepstudy").with_columns(pl.col("Subject").cast(pl.String))
    fit = polars_glmm.fit(sleep, "Reaction ~ Days + (Days | Subject)")
    new = pl.DataFrame({"Reaction": [250.0, None, 280.0], "Days": [0, 1, 4], "Subject": ["s", "s", "s"]})
    assert fit.score(new).equals(fit.score(new.drop_nulls()))
    assert fit.score(new)["n_obs"].to_list() == [2, 2]
    with pytest.raises(ColumnError, match="score needs 'Reaction'"):
        fit.score(new.drop("Reaction"))
    with pytest.raises(ModelError, match="this model has none"):
        polars_glmm.fit(sleep, "Reaction ~ Days").score(sleep)
    renamed = sleep.rename({"Subject": "group"})
    with pytest.raises(ColumnError, match="rename it"):
        polars_glmm.fit(renamed, "Reaction ~ Days + (1 | group)").score(renamed)
    herds = datasets.load("cbpp").with_columns(pl.col("period").cast(pl.String))
    counts = polars_glmm.fit(herds, "incidence ~ period + (1 | herd)", family="poisson")
    with pytest.raises(UnknownLevelError, match="has not seen"):
        counts.score(herds.with_columns(period=pl.lit("9")))


def test_predictions_take_the_effects_of_groups_that_were_scored() -> None:
    """Scored on the rows of the fit they are its own; of new groups the frame of score() joins, lazily too."""
    sleep = datasets.load("sleepstudy")
    found = polars_glmm.fit(sleep, "Reaction ~ Days + (Days | Subject)")
    own = found.predict(sleep, ranef=found.score(sleep))["prediction"]
    assert_allclose(own, found.predict(sleep)["prediction"], rtol=1e-9)
    early = pl.col("Subject").cast(pl.String) < "350"
    half = polars_glmm.fit(sleep.filter(early), "Reaction ~ Days + (Days | Subject)")
    new = sleep.filter(pl.col("Subject").cast(pl.String) >= "350").with_columns(pl.col("Subject").cast(pl.String))
    effects = half.score(new.lazy())
    predicted = half.predict(new.lazy(), ranef=effects)
    assert isinstance(predicted, pl.LazyFrame)
    wide = effects.collect().pivot(on="term", index="Subject", values="estimate")
    both = predicted.collect().join(wide, on="Subject")
    beta = half.fixef()["estimate"]
    expected = beta[0] + both["Intercept"] + (beta[1] + both["Days_right"]) * both["Days"]
    assert_allclose(both["prediction"], expected, rtol=1e-12)
    with pytest.raises(UnknownLevelError):
        half.predict(sleep.filter(pl.col("Subject").cast(pl.String) < "350"), ranef=effects)
    with pytest.raises(ModelError, match="no standard errors"):
        half.predict(new, ranef=effects, std_error=True)
    with pytest.raises(ColumnError, match=r"takes the frame of fit\.score"):
        half.predict(new, ranef=wide)
