"""Pictures: each is the chart of a small frame, which holds what it says; charts are read, not looked at."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import vl_convert

import polars_glmm
from polars_glmm import ModelError, datasets
from polars_glmm.plot import chart, counts, effects, estimates, levels, residuals
from polars_glmm.result.pictures import shrinkage_frame

SLEEP, TICKS, OWLS = datasets.load("sleepstudy"), datasets.load("grouseticks"), datasets.load("owls")
JAPANESE = SLEEP.with_columns(
    個体=pl.lit("被験者の非常に長い名前と番号・") + pl.col("Subject").cast(pl.String) + pl.lit(" 番")
)


@pytest.fixture(scope="module")
def sleep() -> Any:
    return SLEEP.glmm.fit("Reaction ~ Days + (Days | Subject)")


@pytest.fixture(scope="module")
def ticks() -> Any:
    return TICKS.glmm.fit("TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)", family="poisson")


def profiled() -> pl.DataFrame:
    zeta = np.linspace(-2, 2, 9)
    parts = [
        pl.DataFrame(
            {"parameter": "mu", "quantity": quantity, "group": group, "term": "Days", "value": zeta, "zeta": zeta}
        )
        for quantity, group in (("coefficient", None), ("sd", "Subject"))
    ]
    return pl.concat(parts, how="vertical_relaxed")


def drawn() -> pl.DataFrame:
    values = np.random.default_rng(3).gamma(4.0, 1.0, 900)
    return pl.DataFrame(
        {"draw": np.arange(900), "term": np.repeat(["Intercept", "Days", "sd"], 300), "estimate": values}
    )


PICTURES: dict[str, Callable[[Any, Any], Any]] = {
    "caterpillar": lambda sleep, ticks: sleep.plot.caterpillar(),
    "caterpillar of many": lambda sleep, ticks: ticks.plot.caterpillar("BROOD"),
    "long labels": lambda sleep, ticks: JAPANESE.glmm.fit("Reaction ~ Days + (1 | 個体)").plot.caterpillar(),
    "qq_ranef": lambda sleep, ticks: ticks.plot.qq_ranef(),
    "residuals": lambda sleep, ticks: ticks.plot.residuals(residual="deviance"),
    "residuals without groups": lambda sleep, ticks: SLEEP.glmm.fit("Reaction ~ Days").plot.residuals(),
    "effects": lambda sleep, ticks: sleep.plot.effects("Days"),
    "effects of a factor": lambda sleep, ticks: ticks.plot.effects("YEAR"),
    "effects by a factor": lambda sleep, ticks: ticks.plot.effects("cHEIGHT", by="YEAR"),
    "effects by a number": lambda sleep, ticks: ticks.plot.effects("YEAR", by="cHEIGHT"),
    "trajectories": lambda sleep, ticks: sleep.plot.trajectories("Days", levels=4),
    "shrinkage": lambda sleep, ticks: sleep.plot.shrinkage(),
    "shrinkage of one term": lambda sleep, ticks: SLEEP.glmm.fit("Reaction ~ Days + (1 | Subject)").plot.shrinkage(),
    "counts": lambda sleep, ticks: ticks.plot.counts(n=20),
    "hanging counts": lambda sleep, ticks: ticks.plot.counts(n=20, hanging=True),
    "mixture": lambda sleep, ticks: ticks.plot.mixture(),
    "mixture of several": lambda sleep, ticks: ticks.plot.mixture(TICKS.head(3)),
    "forest": lambda sleep, ticks: ticks.plot.forest(),
    "forest of keys": lambda sleep, ticks: OWLS.glmm.fit("NegPerChick ~ ArrivalTime", by="SexParent").plot.forest(),
    "profile": lambda sleep, ticks: sleep.plot.profile(profiled()),
    "bootstrap": lambda sleep, ticks: sleep.plot.bootstrap(drawn()),
    "influence": lambda sleep, ticks: sleep.plot.influence(
        pl.DataFrame({"level": [str(k) for k in range(99)], "cooks_distance": np.arange(99) / 99})
    ),
}  # fmt: skip


@pytest.mark.one_in(6)
@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_a_chart_that_compiles(name: str, sleep: Any, ticks: Any) -> None:
    made = PICTURES[name](sleep, ticks)
    spec = made.to_dict()  # checked against the schema of Vega-Lite
    assert sum(len(rows) for rows in spec["datasets"].values()) <= 5000
    assert len(json.dumps(spec)) < 400_000
    assert vl_convert.vegalite_to_vega(spec)["marks"]
    assert not {"#000", "#000000", "black", "white", "#fff"} & set(texts(spec))


def test_a_picture_is_drawn(sleep: Any) -> None:
    assert vl_convert.vegalite_to_png(sleep.plot.caterpillar().to_dict(), scale=0.5).startswith(b"\x89PNG")


def texts(value: Any) -> Iterator[str]:
    """All texts of a specification but those of its data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            if key != "datasets":
                yield from texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)


def fields(made: Any) -> set[str]:
    """The columns that a chart encodes."""
    found: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("field"), str):
                found.add(value["field"])
            for one in value.values():
                look(one)
        elif isinstance(value, list):
            for one in value:
                look(one)

    look({key: value for key, value in made.to_dict().items() if key != "datasets"})
    return found


def test_a_picture_is_the_chart_of_its_frame(sleep: Any, ticks: Any) -> None:
    frame = levels.caterpillar_frame(sleep)
    assert sleep.plot.caterpillar().to_dict() == levels.caterpillar_chart(frame).to_dict()
    assert sleep.plot.qq_ranef().to_dict() == levels.qq_chart(frame).to_dict()
    frame = residuals.residual_frame(ticks, TICKS)
    assert ticks.plot.residuals().to_dict() == residuals.residual_chart(frame).to_dict()
    frame = counts.mixture_frame(ticks, TICKS.head(1))
    assert ticks.plot.mixture(TICKS.head(1)).to_dict() == counts.mixture_chart(frame).to_dict()
    assert fields(counts.mixture_chart(frame)) == {"value", "probability", "law"}


def test_a_caterpillar_holds_the_random_effects_in_order(ticks: Any) -> None:
    frame = levels.caterpillar_frame(ticks, "BROOD")
    table = ticks.ranef().filter(group="BROOD").sort("estimate")
    assert frame["level"].to_list() == table["level"].to_list()
    assert frame["estimate"].to_list() == table["estimate"].to_list()
    assert (frame["high"] - frame["estimate"]).to_numpy() == pytest.approx(1.959964 * table["std_error"].to_numpy())
    assert frame["quantile"].is_sorted()
    with pytest.raises(ModelError, match="'BROOD' and 'LOCATION'"):
        levels.caterpillar_frame(ticks, "BROD")


def test_of_many_levels_some_are_drawn_with_a_note() -> None:
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(3000), 2)
    frame = pl.DataFrame({"g": g, "y": rng.normal(size=3000)[g] + rng.normal(size=6000)})
    fit = frame.glmm.fit("y ~ 1 + (1 | g)")
    told = levels.caterpillar_frame(fit)
    assert told.height == levels.MOST
    assert (told["rank"][0], told["rank"][-1], told["n_levels"][0]) == (1, 3000, 3000)
    assert any("400 of 3,000 levels" in text for text in texts(fit.plot.caterpillar().to_dict()))
    told = residuals.residual_frame(fit, frame.lazy())
    assert told.height < 1000
    assert told.filter(panel="fitted", kind="points")["n"].sum() == 6000
    assert fit.plot.residuals().to_dict()["title"]["subtitle"][0].startswith("6,000 rows")


def test_residuals_are_those_of_augment(sleep: Any) -> None:
    frame = residuals.residual_frame(sleep, SLEEP)
    told = sleep.augment(SLEEP)
    points = frame.filter(panel="fitted", kind="points").sort("x", "y")
    wanted = told.sort("fitted", "resid_pearson")
    assert points["x"].to_list() == wanted["fitted"].to_list()
    assert points["y"].to_list() == wanted["resid_pearson"].to_list()
    size = frame.filter(panel="size", kind="points")["y"]
    assert sorted(size) == pytest.approx(sorted(told["resid_pearson"].abs().sqrt()))
    means = told.group_by("Subject").agg(pl.col("resid_pearson").mean())["resid_pearson"].sort()
    assert frame.filter(panel="levels")["y"].to_list() == pytest.approx(means.to_list())


def test_an_effect_is_the_prediction_with_the_rest_at_typical_values(ticks: Any) -> None:
    frame = effects.effect_frame(ticks, "cHEIGHT", TICKS, "YEAR")
    line = frame.filter(kind="line")
    assert line.height == effects.STEPS * 3
    grid = line.select(cHEIGHT="x", YEAR=pl.col("by").cast(TICKS.schema["YEAR"]))
    assert line["y"].to_list() == pytest.approx(ticks.predict(grid, random="none")["prediction"].to_list())
    point = frame.filter(kind="point")
    assert point.height == TICKS.height
    assert sorted(point["y"]) == pytest.approx(sorted(TICKS["TICKS"]))
    assert effects.typical(ticks, TICKS)["cHEIGHT"][0] == pytest.approx(TICKS["cHEIGHT"].mean())
    with pytest.raises(ModelError, match="Did you mean 'cHEIGHT'"):
        ticks.plot.effects("cHEIGTH")
    with pytest.raises(ModelError, match="at most 6"):
        effects.effect_frame(OWLS.glmm.fit("NegPerChick ~ Nest + ArrivalTime"), "ArrivalTime", OWLS, "Nest")


def test_levels_of_an_effect_stand_in_their_order() -> None:
    fit = OWLS.with_columns(pl.col("FoodTreatment").cast(pl.Enum(["Satiated", "Deprived"])))
    made = fit.glmm.fit("NegPerChick ~ FoodTreatment").plot.effects("FoodTreatment").to_dict()
    assert made["layer"][1]["encoding"]["x"]["sort"] == ["Satiated", "Deprived"]


def test_trajectories_are_fitted_values_of_some_levels(sleep: Any) -> None:
    frame = effects.trajectory_frame(sleep, "Days", SLEEP.lazy(), levels=3)
    told = sleep.augment(SLEEP.filter(pl.col("Subject").is_in(frame["level"].unique().to_list())))
    assert frame.height == told.height == 30
    assert sorted(frame["fitted"]) == pytest.approx(sorted(told["fitted"]))
    assert sorted(frame["fixed"]) == pytest.approx(sorted(told["fixed"]))
    assert sorted(frame["y"]) == pytest.approx(sorted(told["Reaction"]))


def test_a_level_alone_is_its_own_regression(sleep: Any) -> None:
    frame = shrinkage_frame(sleep, SLEEP)
    alone = SLEEP.glmm.fit("Reaction ~ Days", by="Subject").fixef()
    wanted = alone.select("term", level=pl.col("Subject").cast(pl.String), estimate="estimate")
    both = frame.join(wanted, on=["level", "term"])
    assert both.height == frame.height == 36
    assert both["own"].to_numpy() == pytest.approx(both["estimate"].to_numpy(), rel=1e-6)
    coef = sleep.coef().with_columns(pl.col("Subject").cast(pl.String))
    assert frame.filter(term="Days").sort("level")["conditional"].to_list() == coef.sort("Subject")["Days"].to_list()


def test_with_one_varying_term_all_else_is_that_of_the_model() -> None:
    """Balanced with a random intercept: its own estimate is the fixed one plus the mean residual of the level."""
    fit = SLEEP.glmm.fit("Reaction ~ Days + (1 | Subject)")
    frame = shrinkage_frame(fit, SLEEP).sort("level")
    intercept, slope = fit.fixef()["estimate"]
    own = SLEEP.group_by(pl.col("Subject").cast(pl.String)).agg((pl.col("Reaction") - slope * pl.col("Days")).mean())
    assert frame["own"].to_list() == pytest.approx(own.sort("Subject")["Reaction"].to_list())
    inner = (frame["conditional"] - intercept).abs() <= (frame["own"] - intercept).abs()
    assert inner.all()


def test_counts_are_those_of_the_data_and_of_draws(ticks: Any) -> None:
    frame = counts.count_frame(ticks, TICKS, n=30, rng=2)
    assert frame["observed"].sum() == TICKS.height
    assert frame["expected"].sum() == pytest.approx(TICKS.height)
    width = frame["width"][0]
    assert frame["observed"][0] == (TICKS["TICKS"] < width).sum()
    drawn_ = ticks.simulate(TICKS, 30, rng=2).select(pl.col("^sim_.*$")).to_numpy()
    assert frame["expected"][0] == pytest.approx((drawn_ < width).sum() / 30)
    with pytest.raises(ModelError, match="gaussian"):
        SLEEP.glmm.fit("Reaction ~ Days").plot.counts()


def test_a_mixture_is_the_law_of_simulated_new_levels() -> None:
    rng = np.random.default_rng(1)
    p = 1.0 / (1.0 + np.exp(-rng.normal(0.3, 1.2, 60)))
    rows = pl.DataFrame({"g": np.repeat(np.arange(60), 3), "n": 8, "k": rng.binomial(8, np.repeat(p, 3))})
    fit = rows.glmm.fit("k ~ 1 + (1 | g)", family="binomial", trials="n")
    at = rows.head(1)
    frame = counts.mixture_frame(fit, at)
    assert frame["mixture"].sum() == pytest.approx(1.0, abs=1e-9)
    assert frame["unit"].sum() == pytest.approx(1.0, abs=1e-12)
    mean = fit.predict(at, random="none")["prediction"][0]
    assert (frame["value"] * frame["unit"]).sum() == pytest.approx(8 * mean)
    many = pl.DataFrame({"g": np.arange(40_000), "n": 8, "k": 0})
    share = np.bincount(fit.simulate(many, 1, rng=1)["sim_1"].to_numpy(), minlength=9) / many.height
    assert frame["mixture"].to_numpy() == pytest.approx(share, abs=0.01)


def test_the_variance_of_random_effects_along_a_row(sleep: Any) -> None:
    at = pl.DataFrame({"Days": [0.0, 3.0], "Subject": ["308", "308"]})
    sigma = sleep.estimate.factors[0].covariances[0]
    wanted = [z @ sigma @ z for z in (np.array([1.0, 0.0]), np.array([1.0, 3.0]))]
    assert counts.random_variance(sleep, at) == pytest.approx(wanted)


def test_bootstrap_bins_hold_every_draw_and_names_are_those_of_parameters() -> None:
    frame = estimates.bootstrap_frame(drawn())
    assert frame["draws"].sum() == 900
    assert frame["label"].unique(maintain_order=True).to_list() == ["Intercept", "Days", "sd"]
    assert estimates.named(profiled())["label"].unique(maintain_order=True).to_list() == ["Days", "sd(Subject: Days)"]


def test_profiles_draws_and_intervals_of_a_fit_are_drawn(sleep: Any) -> None:
    names = [
        "Intercept",
        "Days",
        "sd(Subject: Intercept)",
        "sd(Subject: Days)",
        "cor(Subject: Intercept, Days)",
        "sigma",
    ]
    draws = sleep.bootstrap(n=20, rng=1)
    frame = estimates.bootstrap_frame(draws)
    assert set(names) <= {*frame["label"]}
    assert frame.filter(label="Days")["draws"].sum() == 20
    middle = draws.filter(quantity="coefficient", term="Days")["value"].median()
    assert frame.filter(label="Days")["middle"][0] == pytest.approx(middle)
    assert set(names) <= {*estimates.forest_frame(sleep.confint())["label"]}
    profiles = sleep.profile(which=["Days"], points=5)
    assert estimates.named(profiles)["label"].unique().to_list() == ["Days"]
    for made in (sleep.plot.bootstrap(draws), sleep.plot.profile(profiles), sleep.plot.forest(sleep.confint())):
        assert vl_convert.vegalite_to_vega(made.to_dict())["marks"]


def test_forests_are_of_any_table_of_estimates(ticks: Any) -> None:
    frame = estimates.forest_frame(ticks.fixef())
    assert frame["label"].to_list() == ticks.fixef()["term"].to_list()
    with pytest.raises(ModelError, match="conf_low"):
        ticks.plot.forest(ticks.ranef())
    with pytest.raises(ModelError, match="label="):
        ticks.plot.forest(ticks.fixef().select("estimate", "conf_low", "conf_high"))


def test_long_names_are_cut_and_stay_distinct() -> None:
    frame = chart.shortened(JAPANESE, "個体", 20)
    assert frame["個体"].n_unique() == 18
    assert frame["個体"].str.len_chars().max() <= 20


@pytest.mark.slow
def test_what_needs_rows_says_so(sleep: Any, tmp_path: Path) -> None:
    sleep.write(tmp_path / "sleep.glmm")
    read: Any = polars_glmm.read_fit(tmp_path / "sleep.glmm")
    with pytest.raises(ModelError, match="keeps no data"):
        read.plot.residuals()
    assert read.plot.residuals(SLEEP).to_dict() == sleep.plot.residuals().to_dict()
    assert read.plot.residuals(SLEEP.to_pandas()).to_dict() == sleep.plot.residuals().to_dict()
    with pytest.raises(ModelError, match="data="):
        read.plot.effects("Days", data=7)
    assert read.plot.caterpillar().to_dict() == sleep.plot.caterpillar().to_dict()


def test_without_altair_the_extra_is_named(sleep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(ModelError, match=r"polars-glmm\[plot\]"):
        sleep.plot.caterpillar()
