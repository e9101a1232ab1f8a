"""Marginal means: laws that hold whatever the numbers are."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import Control, ModelError, UnknownLevelError, datasets

CAKE, TICKS, SLEEP = (datasets.load(name) for name in ("cake", "grouseticks", "sleepstudy"))
CORE = ["estimate", "std_error", "statistic", "df", "p_value", "conf_low", "conf_high"]


@pytest.fixture(scope="module")
def cake() -> Any:
    return polars_glmm.fit(CAKE, "angle ~ recipe * temperature + (1 | recipe:replicate)")


@pytest.fixture(scope="module")
def ticks() -> Any:
    return polars_glmm.fit(TICKS, "TICKS ~ YEAR * cHEIGHT + (1 | LOCATION)", family="poisson")


def close(got: pl.DataFrame, want: pl.DataFrame, rel: float = 1e-8) -> None:
    assert got.columns == want.columns
    for name in got.columns:
        if got[name].dtype.is_float():
            for a, b in zip(got[name], want[name], strict=True):
                assert a == pytest.approx(b, rel=rel, abs=1e-10) if b is not None else a is None, name
        else:
            assert got[name].to_list() == want[name].to_list(), name


def test_means_of_a_balanced_design_are_those_of_its_cells(cake: Any) -> None:
    cells = CAKE.group_by("recipe", "temperature").agg(pl.col("angle").mean()).sort("recipe", "temperature")
    found = cake.marginal_means(["recipe", "temperature"])
    assert found["estimate"].to_numpy() == pytest.approx(cells["angle"].to_numpy(), rel=1e-8)
    margins = CAKE.group_by("temperature").agg(pl.col("angle").mean()).sort("temperature")
    found = cake.marginal_means("temperature")
    assert found["estimate"].to_numpy() == pytest.approx(margins["angle"].to_numpy(), rel=1e-8)
    assert found["n_cells"].to_list() == [3] * 6
    for weights in ("proportional", "outer", "cells"):
        close(cake.marginal_means("temperature", weights=weights), found)


def test_a_mean_is_the_linear_hypothesis_of_its_cell(ticks: Any) -> None:
    """L times the coefficients, with the covariance that fixef has."""
    found = ticks.marginal_means("YEAR", at={"cHEIGHT": 10.0}, scale="link")
    names = [column.name for column in ticks.recipe.predictor("mu").columns]
    vcov = ticks.vcov()["covariance"].to_numpy().reshape(len(names), -1)
    beta = ticks.fixef()["estimate"].to_numpy()
    for k, year in enumerate(("95", "96", "97")):
        row = np.array([_entry(name, year, 10.0) for name in names])
        assert found["estimate"][k] == pytest.approx(float(row @ beta), rel=1e-10)
        assert found["std_error"][k] == pytest.approx(float(np.sqrt(row @ vcov @ row)), rel=1e-10)


def _entry(name: str, year: str, height: float) -> float:
    parts = {"Intercept": 1.0, "cHEIGHT": height, "YEAR[T.96]": float(year == "96"), "YEAR[T.97]": float(year == "97")}
    return float(np.prod([parts[part] for part in name.split(":")]))


def test_pairs_are_antisymmetric_and_ratios_are_exp_of_differences(ticks: Any) -> None:
    pairs = ticks.marginal_means("YEAR", contrast="pairwise", scale="link")
    assert pairs["contrast"].to_list() == ["96 - 95", "97 - 95", "97 - 96"]
    back = ticks.marginal_means("YEAR", contrast={"back": {"95": 1, "96": -1}}, scale="link")
    assert back["estimate"][0] == pytest.approx(-pairs["estimate"][0], rel=1e-12)
    assert back["std_error"][0] == pytest.approx(pairs["std_error"][0], rel=1e-12)
    ratios = ticks.marginal_means("YEAR", contrast="pairwise")
    assert ratios["contrast"].to_list() == ["96 / 95", "97 / 95", "97 / 96"]
    for name in ("estimate", "conf_low", "conf_high"):
        assert ratios[name].to_numpy() == pytest.approx(np.exp(pairs[name].to_numpy()), rel=1e-12)
    assert ratios["p_value"].to_list() == pairs["p_value"].to_list()
    means = ticks.marginal_means("YEAR")["estimate"]
    assert ratios["estimate"][0] == pytest.approx(means[1] / means[0], rel=1e-12)


def test_named_contrasts_are_the_sums_they_say(cake: Any) -> None:
    means = cake.marginal_means("temperature")["estimate"].to_numpy()
    kinds = {
        "reference": means[1:] - means[0],
        "sequential": np.diff(means),
        "mean": means - means.mean(),
        "pairwise": np.array([means[i] - means[j] for i in range(6) for j in range(i)]),
    }
    for kind, want in kinds.items():
        assert cake.marginal_means("temperature", contrast=kind)["estimate"].to_numpy() == pytest.approx(want, abs=1e-9)
    found = cake.marginal_means("temperature", contrast="polynomial")
    assert found["contrast"].to_list() == ["linear", "quadratic", "cubic", "quartic", "degree 5"]
    assert found["estimate"][0] == pytest.approx(float(np.array([-5, -3, -1, 1, 3, 5]) @ means), abs=1e-8)
    assert found["estimate"][1] == pytest.approx(float(np.array([5, -1, -4, -4, -1, 5]) @ means), abs=1e-8)


def test_contrasts_of_contrasts_are_differences_of_differences(cake: Any) -> None:
    found = cake.marginal_means(["recipe", "temperature"], contrast={"recipe": "reference", "temperature": "reference"})
    m = cake.marginal_means(["recipe", "temperature"])["estimate"].to_numpy().reshape(3, 6)
    want = (m[1:, 1:] - m[:1, 1:]) - (m[1:, :1] - m[:1, :1])
    assert found["estimate"].to_numpy() == pytest.approx(want.ravel(), abs=1e-9)
    terms = cake.fixef().filter(pl.col("term").str.contains(":"))
    assert sorted(found["estimate"]) == pytest.approx(sorted(terms["estimate"]), abs=1e-9)


def test_by_makes_families_that_are_adjusted_by_themselves(cake: Any) -> None:
    both = cake.marginal_means("recipe", by="temperature", contrast="pairwise", adjust="tukey")
    assert both.columns[:2] == ["contrast", "temperature"]
    assert both.columns[2:9] == CORE
    for level in ("175", "225"):
        alone = cake.marginal_means("recipe", at={"temperature": level}, contrast="pairwise", adjust="tukey")
        close(both.filter(pl.col("temperature").cast(pl.String) == level).drop("temperature"), alone)


def test_weights_that_sum_to_one_make_a_mean_not_a_ratio(ticks: Any) -> None:
    found = ticks.marginal_means("YEAR", contrast={"early": {"95": 0.5, "96": 0.5}})
    log = ticks.marginal_means("YEAR", scale="link")["estimate"]
    assert found["estimate"][0] == pytest.approx(float(np.exp(0.5 * (log[0] + log[1]))), rel=1e-12)


def test_proportional_weights_are_how_often_levels_are_there(ticks: Any) -> None:
    log = ticks.marginal_means("YEAR", scale="link")["estimate"].to_numpy()
    share = TICKS.group_by("YEAR").len().sort("YEAR")["len"].to_numpy() / TICKS.height
    found = ticks.marginal_means([], weights="proportional", scale="link")
    assert found["estimate"][0] == pytest.approx(float(share @ log), rel=1e-12)


def test_averages_of_responses_are_not_those_of_links(ticks: Any) -> None:
    on_link, on_response = (ticks.marginal_means([], average=scale) for scale in ("link", "response"))
    assert (on_link["averaged_on"][0], on_response["averaged_on"][0]) == ("link", "response")
    means = ticks.marginal_means("YEAR")["estimate"].to_numpy()
    assert on_response["estimate"][0] == pytest.approx(means.mean(), rel=1e-12)
    assert on_link["estimate"][0] == pytest.approx(float(np.exp(np.log(means).mean())), rel=1e-12)
    pairs = ticks.marginal_means("YEAR", contrast="pairwise", average="response")
    assert pairs["contrast"][0] == "96 - 95"
    assert pairs["estimate"][0] == pytest.approx(means[1] - means[0], rel=1e-12)


def test_the_population_is_predict_with_the_effects_integrated_out(ticks: Any) -> None:
    at = polars_glmm.grid(ticks, YEAR="levels", cHEIGHT=[0.0, 20.0])
    found = ticks.marginal_means(["YEAR", "cHEIGHT"], at={"cHEIGHT": [0.0, 20.0]}, random="integrate")
    asked = {"random": "integrate", "std_error": True, "interval": "confidence"}
    for random, want in (
        ("integrate", ticks.predict(at, **asked)),
        ("none", ticks.predict(at, **asked | {"random": "none"})),
    ):
        found = ticks.marginal_means(["YEAR", "cHEIGHT"], at={"cHEIGHT": [0.0, 20.0]}, random=random)
        for ours, theirs in (
            ("estimate", ""),
            ("std_error", "_std_error"),
            ("conf_low", "_low"),
            ("conf_high", "_high"),
        ):
            assert found[ours].to_numpy() == pytest.approx(want[f"prediction{theirs}"].to_numpy(), rel=1e-9)


def test_the_population_of_an_identity_link_is_the_unit_at_zero(cake: Any) -> None:
    close(cake.marginal_means("recipe", random="integrate"), cake.marginal_means("recipe"))


def test_without_variance_the_population_is_the_unit_at_zero() -> None:
    none = polars_glmm.fit(TICKS, "TICKS ~ YEAR", family="poisson")
    close(none.marginal_means("YEAR", random="integrate"), none.marginal_means("YEAR"))


@pytest.mark.parametrize("link", ["probit", "cloglog", "logit"])
def test_differences_of_probabilities_where_a_link_has_no_ratio(link: Any) -> None:
    cbpp = datasets.load("cbpp")
    fit = polars_glmm.fit(
        cbpp, "cbind(incidence, size - incidence) ~ period + (1 | herd)", family="binomial", link=link
    )
    means = fit.marginal_means("period")["estimate"].to_numpy()
    found = fit.marginal_means("period", contrast="reference")
    odds = means / (1.0 - means)
    want = odds[1:] / odds[0] if link == "logit" else means[1:] - means[0]
    assert found["estimate"].to_numpy() == pytest.approx(want, rel=1e-9)


def test_an_empty_cell_is_null_and_what_the_data_determine_is_not() -> None:
    frame = CAKE.filter(~((pl.col("recipe") == "B") & (pl.col("temperature") == "185")))
    with pytest.warns(polars_glmm.FitWarning):
        fit = polars_glmm.fit(frame, "angle ~ recipe * temperature + (1 | recipe:replicate)")
    found = fit.marginal_means("recipe")
    assert found["estimate"].is_null().to_list() == [False, True, False]
    assert found["note"][1].startswith("not_estimable")
    cells = fit.marginal_means(["recipe", "temperature"])
    assert cells["estimate"].null_count() == 1
    weighed = fit.marginal_means("recipe", weights="cells")
    assert not weighed["estimate"].null_count()
    pairs = fit.marginal_means("temperature", by="recipe", contrast="sequential")
    assert pairs.filter(pl.col("estimate").is_null())["contrast"].to_list() == ["185 - 175", "195 - 185"]
    for asked in ({"random": "integrate"}, {"average": "response"}):
        close(fit.marginal_means("recipe", **asked).select(CORE), found.select(CORE))


def test_a_difference_may_be_determined_where_its_means_are_not() -> None:
    """a is nested in b, so that its levels do not meet all of b; differences of c are none of either's business."""
    day = pl.col("Days")
    frame = SLEEP.with_columns(
        a=pl.when(day < 3).then(pl.lit("low")).when(day < 6).then(pl.lit("middle")).otherwise(pl.lit("top")),
        b=pl.when(day < 3).then(pl.lit("x")).otherwise(pl.lit("y")),
        c=pl.when(pl.col("Days") % 2 == 0).then(pl.lit("even")).otherwise(pl.lit("odd")),
    )
    with pytest.warns(polars_glmm.FitWarning):
        fit = polars_glmm.fit(frame, "Reaction ~ a + b + c + (1 | Subject)")
    assert fit.marginal_means("c")["estimate"].null_count() == 2
    whole = polars_glmm.fit(frame, "Reaction ~ a + c + (1 | Subject)")
    found, want = (one.marginal_means("c", contrast="pairwise") for one in (fit, whole))
    assert found["estimate"][0] == pytest.approx(want["estimate"][0], rel=1e-6)
    assert found["std_error"][0] == pytest.approx(want["std_error"][0], rel=1e-6)


def test_an_offset_is_zero_and_said_so_unless_another_is_asked_for() -> None:
    frame = datasets.load("owls")
    fit = polars_glmm.fit(frame, "SiblingNegotiation ~ SexParent + offset(logBroodSize) + (1 | Nest)", family="poisson")
    zero, mean, two = (fit.marginal_means("SexParent", offset=one) for one in (None, "mean", 2.0))
    assert all(note.startswith("offset_zero") for note in zero["note"])
    assert two["note"].null_count() == two.height
    assert two["estimate"][0] == pytest.approx(zero["estimate"][0] * np.exp(2.0), rel=1e-12)
    shift = float(np.exp(frame["logBroodSize"].mean()))  # type: ignore[arg-type]
    assert mean["estimate"][0] == pytest.approx(zero["estimate"][0] * shift, rel=1e-12)
    pairs = fit.marginal_means("SexParent", contrast="pairwise")
    assert pairs["note"].null_count() == 1


def test_rows_counted_by_frequency_are_rows_repeated() -> None:
    counted = TICKS.group_by("TICKS", "YEAR", "LOCATION", "HEIGHT").len("f").with_columns(x=pl.col("HEIGHT") / 100.0)
    repeated = counted[np.repeat(np.arange(counted.height), counted["f"])].drop("f")
    formula = "TICKS ~ YEAR + x + (1 | LOCATION)"
    one = polars_glmm.fit(counted, formula, family="poisson", frequency="f")
    other = polars_glmm.fit(repeated, formula, family="poisson")
    for at in ("mean", "sd", "median", "quartiles"):
        asked = {"variables": ["YEAR", "x"], "at": {"x": at}, "weights": "proportional"}
        close(one.marginal_means(**asked), other.marginal_means(**asked), rel=1e-5)
    close(one.predictions(by="YEAR"), other.predictions(by="YEAR"), rel=1e-5)


def test_a_lazy_frame_and_one_in_memory_answer_alike() -> None:
    formula = "Reaction ~ Days + (1 | Subject)"
    frame = SLEEP.with_columns(Reaction=pl.when(pl.col("Days") == 3).then(None).otherwise("Reaction"))
    eager, lazy = polars_glmm.fit(frame, formula), polars_glmm.fit(frame.lazy(), formula)
    assert eager.marginal_means("Days")["Days"][0] == pytest.approx(4.0 + 2.0 / 3.0)
    close(lazy.marginal_means("Days"), eager.marginal_means("Days"), rel=1e-6)


def test_without_rows_what_needs_none_is_answered_and_the_rest_says_so(ticks: Any) -> None:
    gone = pickle.loads(pickle.dumps(ticks))  # noqa: S301  our own
    assert_frame_equal(
        gone.marginal_means("YEAR", at={"cHEIGHT": 0.0}), ticks.marginal_means("YEAR", at={"cHEIGHT": 0.0})
    )
    for ask in (
        lambda: gone.marginal_means("YEAR"),
        lambda: gone.marginal_means([], at={"cHEIGHT": 0.0}, weights="cells"),
        lambda: gone.predictions(),
        lambda: polars_glmm.grid(gone),
    ):
        with pytest.raises(ModelError, match="keeps no rows"):
            ask()
    kept = polars_glmm.fit(SLEEP, "Reaction ~ Days + (1 | Subject)", control=Control(keep="none"))
    with pytest.raises(ModelError, match=r"at=\{'Days': 0.0\}"):
        kept.marginal_means("Days")


def test_collections_answer_model_by_model() -> None:
    many = polars_glmm.fit(CAKE, "angle ~ temperature + (1 | replicate)", by="recipe")
    found = many.marginal_means("temperature", contrast="reference", df="kenward_roger")
    assert found.columns[:2] == ["recipe", "contrast"]
    alone = polars_glmm.fit(CAKE.filter(pl.col("recipe") == "B"), "angle ~ temperature + (1 | replicate)")
    want = alone.marginal_means("temperature", contrast="reference", df="kenward_roger")
    close(found.filter(pl.col("recipe") == "B").drop("recipe"), want, rel=1e-5)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"variables": "year"}, "not a column of the model"),
        ({"variables": "LOCATION"}, "grouping factor"),
        ({"variables": ["YEAR", "YEAR"]}, "named twice"),
        ({"variables": "YEAR", "by": "YEAR"}, "named twice"),
        ({"variables": "YEAR", "contrast": "pairs"}, "Did you mean 'pairwise'"),
        ({"variables": "cHEIGHT", "contrast": "pairwise"}, "there is one"),
        ({"variables": "YEAR", "contrast": {"a": {"98": 1.0}}}, "none of"),
        ({"variables": "YEAR", "contrast": {"a": [1.0, -1.0]}}, "a weight for each"),
        ({"variables": "YEAR", "contrast": {"cHEIGHT": "pairwise"}}, "a kind for each"),
        ({"variables": "YEAR", "weights": "sizes"}, "weights="),
        ({"variables": "YEAR", "offset": 1.0}, "has none"),
        ({"variables": "YEAR", "random": "all"}, "random="),
        ({"variables": "YEAR", "scale": "log"}, "scale="),
        ({"variables": "YEAR", "average": "mean"}, "average="),
        ({"variables": "YEAR", "at": {"cHEIGHT": "middle"}}, "none of 'mean'"),
        ({"variables": "YEAR", "at": {"cHEIGHT": float("nan")}}, "not a number"),
        ({"variables": "YEAR", "adjust": "tuckey"}, "adjust="),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_remedy(ticks: Any, asked: Any, says: str) -> None:
    asked = {"contrast": "pairwise", **asked} if "adjust" in asked else asked
    with pytest.raises(ModelError, match=says):
        ticks.marginal_means(**asked)


def test_a_level_that_is_not_there_is_named(ticks: Any) -> None:
    with pytest.raises(UnknownLevelError, match="'99'"):
        ticks.marginal_means("YEAR", at={"YEAR": ["95", "99"]})
