"""Average predictions, comparisons and slopes: laws, routes, and what single rows add up to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import ColumnError, ModelError, UnknownLevelError, datasets

TICKS, SLEEP, CHICKS = (datasets.load(name) for name in ("grouseticks", "sleepstudy", "chickweight"))
RANDOM = ("none", "all", "integrate")
CORE = ["estimate", "std_error", "statistic", "df", "p_value", "conf_low", "conf_high"]


@pytest.fixture(scope="module")
def ticks() -> Any:
    return polars_glmm.fit(TICKS, "TICKS ~ YEAR + cHEIGHT + (1 | LOCATION)", family="poisson")


@pytest.fixture(scope="module")
def sleep() -> Any:
    return polars_glmm.fit(SLEEP, "Reaction ~ Days + (Days | Subject)")


@pytest.mark.parametrize("random", RANDOM)
def test_an_average_prediction_is_the_average_of_predictions(ticks: Any, random: str) -> None:
    rows = (
        ticks.predict(TICKS, random=random).group_by("YEAR").agg(pl.col("prediction").mean(), n=pl.len()).sort("YEAR")
    )
    found = ticks.predictions(by="YEAR", random=random)
    assert found["estimate"].to_numpy() == pytest.approx(rows["prediction"].to_numpy(), rel=1e-12)
    assert found["n"].to_list() == rows["n"].to_list()
    assert found.columns == ["YEAR", *CORE, "n", "note"]


@pytest.mark.parametrize("random", RANDOM)
@pytest.mark.parametrize("scale", ["response", "link"])
def test_the_gradient_is_that_of_differences_in_the_parameters(ticks: Any, random: str, scale: Any) -> None:
    """std_error² = g'Vg with g by differences of the average prediction in every coefficient and variance."""
    found = ticks.predictions(by="YEAR", random=random, scale=scale)
    e = ticks.estimate
    k, gradient = len(e.beta), []
    for j in range(k + (random == "integrate")):
        step = 1e-5 * max(abs(e.report[j]), 0.01)
        ends = []
        for sign in (1.0, -1.0):
            beta, factor = e.beta.copy(), e.factors[0]
            if j < k:
                beta[j] += sign * step
            else:
                factor = replace(factor, covariances=(factor.covariances[0] + sign * step,))
            moved = replace(ticks, estimate=replace(e, beta=beta, factors=(factor,)))
            ends.append(moved.predictions(by="YEAR", random=random, scale=scale)["estimate"].to_numpy())
        gradient.append((ends[0] - ends[1]) / (2.0 * step))
    g = np.array(gradient).T
    vcov = e.report_vcov[: g.shape[1], : g.shape[1]].copy()
    vcov[:k, :k] = e.vcov_fixed
    want = np.sqrt(np.einsum("mi,ij,mj->m", g, vcov, g))
    assert found["std_error"].to_numpy() == pytest.approx(want, rel=1e-6)


def test_a_slope_of_a_linear_model_is_its_coefficient(sleep: Any) -> None:
    found, term = sleep.slopes().row(0, named=True), sleep.fixef().row(1, named=True)
    for name in CORE:
        assert found[name] == pytest.approx(term[name], rel=1e-7)
    per_day = sleep.comparisons(variables={"Days": 1}).row(0, named=True)
    ten = sleep.comparisons(variables={"Days": (0, 10)}).row(0, named=True)
    assert per_day["estimate"] == pytest.approx(term["estimate"], rel=1e-12)
    assert ten["estimate"] == pytest.approx(10.0 * term["estimate"], rel=1e-12)
    assert ten["df"] == pytest.approx(term["df"], rel=1e-7)


@pytest.mark.parametrize("random", RANDOM)
def test_a_slope_scales_with_its_variable(ticks: Any, random: str) -> None:
    in_metres = TICKS.with_columns(cHEIGHT=pl.col("cHEIGHT") / 1000.0)
    other = polars_glmm.fit(in_metres, "TICKS ~ YEAR + cHEIGHT + (1 | LOCATION)", family="poisson")
    one, two = ticks.slopes(random=random), other.slopes(random=random)
    for name, factor in (("estimate", 1000.0), ("std_error", 1000.0), ("statistic", 1.0)):
        assert two[name][0] == pytest.approx(factor * one[name][0], rel=1e-4)


def test_a_slope_under_the_log_link_is_the_coefficient_times_the_mean(ticks: Any) -> None:
    beta = ticks.fixef().filter(pl.col("term") == "cHEIGHT")["estimate"][0]
    for random in RANDOM:
        slope, mean = ticks.slopes(random=random)["estimate"][0], ticks.predictions(random=random)["estimate"][0]
        assert slope == pytest.approx(beta * mean, rel=1e-8)
    curved = polars_glmm.fit(SLEEP, "Reaction ~ Days + I(Days^2) + (1 | Subject)")
    b1, b2 = curved.fixef()["estimate"][1:]
    rows = curved.slopes(SLEEP.head(10), average=False)
    assert rows["estimate"].to_numpy() == pytest.approx((b1 + 2.0 * b2 * SLEEP["Days"][:10]).to_numpy(), rel=1e-8)


def test_slopes_of_a_variable_far_from_zero_keep_their_digits() -> None:
    far = SLEEP.with_columns(Days=pl.col("Days") + 1e6)
    near = polars_glmm.fit(SLEEP, "Reaction ~ Days + (1 | Subject)").slopes()
    away = polars_glmm.fit(far, "Reaction ~ Days + (1 | Subject)").slopes()
    assert away["estimate"][0] == pytest.approx(near["estimate"][0], rel=1e-4)
    assert away["std_error"][0] == pytest.approx(near["std_error"][0], rel=1e-3)


def test_trends_within_levels_are_the_slopes_of_the_interaction() -> None:
    fit = polars_glmm.fit(CHICKS, "weight ~ Time * Diet + (1 | Chick)")
    found = fit.slopes(polars_glmm.grid(fit), "Time", "Diet")
    terms = dict(fit.fixef().select("term", "estimate").iter_rows())
    want = [terms["Time"], *(terms["Time"] + terms[f"Time:Diet[T.{k}]"] for k in (2, 3, 4))]
    assert found["estimate"].to_list() == pytest.approx(want, rel=1e-8)


def test_comparisons_are_functions_of_two_averages(ticks: Any) -> None:
    level = ticks.predictions(variables={"YEAR": ["95", "96"]})["estimate"]
    a, b = level[1], level[0]
    ways = {"difference": a - b, "ratio": a / b, "lnratio": np.log(a / b)}
    for how, want in ways.items():
        found = ticks.comparisons(variables={"YEAR": ("95", "96")}, comparison=how)
        assert found["estimate"][0] == pytest.approx(want, rel=1e-12)
    own = ticks.comparisons(variables={"YEAR": ("95", "96")}, comparison=lambda hi, lo: np.log(hi / lo))
    log = ticks.comparisons(variables={"YEAR": ("95", "96")}, comparison="lnratio")
    ratio = ticks.comparisons(variables={"YEAR": ("95", "96")}, comparison="ratio")
    assert own["std_error"][0] == pytest.approx(log["std_error"][0], rel=1e-8)
    assert ratio["conf_low"][0] == pytest.approx(np.exp(log["conf_low"][0]), rel=1e-12)
    assert ratio["p_value"][0] == log["p_value"][0]
    cbpp = polars_glmm.fit(
        datasets.load("cbpp"), "cbind(incidence, size - incidence) ~ period + (1 | herd)", family="binomial"
    )
    odds = cbpp.comparisons(variables={"period": ("1", "2")}, comparison="lnor")
    assert odds["estimate"][0] == pytest.approx(cbpp.fixef()["estimate"][1], rel=1e-9)
    assert odds["std_error"][0] == pytest.approx(cbpp.fixef()["std_error"][1], rel=1e-9)


def test_levels_are_compared_with_the_first_in_pairs_or_one_by_one(ticks: Any) -> None:
    def names(contrast: Any) -> list[str]:
        return ticks.comparisons(variables="YEAR", contrast=contrast)["contrast"].to_list()

    assert names(None) == names("reference") == ["96 - 95", "97 - 95"]
    assert names("pairwise") == ["96 - 95", "97 - 95", "97 - 96"]
    assert names("sequential") == ["96 - 95", "97 - 96"]
    every = ticks.comparisons()
    assert every["variable"].to_list() == ["YEAR", "YEAR", "cHEIGHT"]
    assert every["contrast"][-1] == "+1"
    sd = float(TICKS["cHEIGHT"].std())  # type: ignore[arg-type]
    by_hand = ticks.comparisons(variables={"cHEIGHT": "sd"}, scale="link")
    assert by_hand["estimate"][0] == pytest.approx(sd * ticks.fixef()["estimate"][-1], rel=1e-9)


@pytest.mark.parametrize("random", RANDOM)
def test_rows_are_predicted_compared_and_average_to_the_table(ticks: Any, random: str) -> None:
    eager = ticks.comparisons(TICKS, ["YEAR"], average=False, random=random)
    lazy = ticks.comparisons(TICKS.lazy(), ["YEAR"], average=False, random=random)
    assert isinstance(lazy, pl.LazyFrame)
    assert lazy.collect().equals(eager)
    means = eager.group_by("contrast").agg(pl.col("estimate").mean()).sort("contrast")["estimate"]
    assert means.to_numpy() == pytest.approx(
        ticks.comparisons(variables="YEAR", random=random)["estimate"].to_numpy(), rel=1e-10
    )
    rows = ticks.predictions(TICKS, average=False, random=random)
    assert rows["estimate"].to_numpy() == pytest.approx(ticks.predict(TICKS, random=random)["prediction"].to_numpy())
    if random != "all":  # there the modes count as known
        want = ticks.predict(TICKS, random=random, std_error=True, interval="confidence")
        for ours, theirs in (("std_error", "std_error"), ("conf_low", "low"), ("conf_high", "high")):
            assert rows[ours].to_numpy() == pytest.approx(want[f"prediction_{theirs}"].to_numpy(), rel=1e-9)


def test_frames_in_memory_lazy_and_on_disk_answer_alike(ticks: Any, tmp_path: Any) -> None:
    shuffled = TICKS.sample(fraction=1.0, shuffle=True, seed=1)
    shuffled.write_parquet(tmp_path / "ticks.parquet")
    for frame in (shuffled, shuffled.lazy(), pl.scan_parquet(tmp_path / "ticks.parquet")):
        for verb in ("predictions", "comparisons", "slopes"):
            ours = getattr(ticks, verb)(frame, by="YEAR", random="all")
            own = getattr(ticks, verb)(by="YEAR", random="all")
            # slopes are differences over 1e-5 sd, which magnify the rounding of sums in another order by 1e5
            assert ours["estimate"].to_numpy() == pytest.approx(own["estimate"].to_numpy(), rel=1e-9)
            assert ours.columns == own.columns


def test_rows_without_a_value_do_not_count(ticks: Any) -> None:
    holes = TICKS.with_row_index("i").with_columns(
        cHEIGHT=pl.when(pl.col("i") % 3 == 0).then(None).otherwise("cHEIGHT"),
        YEAR=pl.when(pl.col("i") % 5 == 0).then(None).otherwise("YEAR"),
    )
    whole = holes.drop_nulls()
    for verb in ("predictions", "comparisons", "slopes"):
        ours, want = getattr(ticks, verb)(holes), getattr(ticks, verb)(whole)
        assert ours["n"].to_list() == want["n"].to_list() == [whole.height] * want.height
        assert ours["estimate"].to_numpy() == pytest.approx(want["estimate"].to_numpy(), rel=1e-7)
    groups = ticks.predictions(holes, by="YEAR")
    assert groups["YEAR"].to_list() == ["95", "96", "97", None]
    assert groups["estimate"].is_null().to_list() == [False, False, False, True]


def test_by_may_be_the_variable_that_is_set(ticks: Any) -> None:
    found = ticks.comparisons(variables={"YEAR": ("95", "97")}, by="YEAR")
    assert found.select("YEAR", "n").rows() == [("95", 117), ("96", 155), ("97", 131)]
    assert (found["estimate"] < 0.0).all()


def test_slopes_move_the_random_effects_that_multiply_them(sleep: Any) -> None:
    rows = sleep.slopes(SLEEP, average=False, random="all").unique("Subject", maintain_order=True)
    want = sleep.coef("Subject")["Days"]
    assert rows["estimate"].to_numpy() == pytest.approx(want.to_numpy(), rel=1e-7)


def test_collections_average_over_the_rows_of_each_key() -> None:
    many = polars_glmm.fit(CHICKS, "weight ~ Time + (1 | Chick)", by="Diet")
    own = many.slopes()
    for frame in (CHICKS, CHICKS.lazy(), CHICKS.with_columns(pl.col("Diet").cast(pl.String))):
        found = many.slopes(frame)
        assert found["estimate"].to_list() == pytest.approx(own["estimate"].to_list(), rel=1e-8)
        assert found["n"].to_list() == own["n"].to_list() == [220, 120, 120, 118]
    alone = many["3"].predictions(by="Time")
    together = many.predictions(CHICKS, by="Time").filter(pl.col("Diet") == "3")
    assert together["estimate"].to_list() == pytest.approx(alone["estimate"].to_list(), rel=1e-12)
    assert many.comparisons(variables={"Time": (0, 1)})["estimate"].to_list() == pytest.approx(
        own["estimate"].to_list(), rel=1e-7
    )


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda fit: fit.comparisons(variables="year"), ModelError, "no variable of the fixed part"),
        (lambda fit: fit.comparisons(variables={"YEAR": "all"}), ModelError, "'reference', 'pairwise'"),
        (lambda fit: fit.comparisons(variables={"cHEIGHT": "mean"}), ModelError, "'sd', 'iqr'"),
        (lambda fit: fit.comparisons(variables={"cHEIGHT": (1, 2, 3)}), ModelError, "two values"),
        (lambda fit: fit.comparisons(variables={"cHEIGHT": 0}), ModelError, "no comparison"),
        (lambda fit: fit.comparisons(comparison="odds"), ModelError, "comparison="),
        (lambda fit: fit.slopes(variables="YEAR"), ModelError, "is a factor"),
        (lambda fit: fit.predictions(by="year"), ColumnError, "year"),
        (lambda fit: fit.predictions(random="some"), ModelError, "random="),
        (lambda fit: fit.predictions(scale="log"), ModelError, "scale="),
        (lambda fit: fit.predictions([1, 2]), ModelError, "frame of Polars"),
        (lambda fit: fit.predictions(TICKS.drop("cHEIGHT")), ColumnError, "cHEIGHT"),
        (lambda fit: fit.predictions(TICKS, by="YEAR", average=False), ModelError, "average=False"),
        (lambda fit: fit.predictions(TICKS.with_columns(estimate=1), average=False), ColumnError, "estimate"),
        (lambda fit: fit.predictions(pl.DataFrame({"YEAR": ["98"], "cHEIGHT": [0.0]})), UnknownLevelError, "98"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_remedy(ticks: Any, ask: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        ask(ticks)


def test_words_of_other_packages_are_answered(ticks: Any) -> None:
    for word, says in {
        "emmeans": "marginal_means", "pairs": "contrast='pairwise'", "emtrends": "slopes", "ggpredict": "grid",
        "margins": "marginal_means", "avg_slopes": "slopes", "avg_predictions": "predictions", "ref_grid": "grid",
    }.items():  # fmt: skip
        with pytest.raises(AttributeError, match=says):
            getattr(ticks, word)
