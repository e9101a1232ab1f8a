"""Where ways to the same answer could part: little left of the response, counts, odd dtypes, numbers too large."""

from __future__ import annotations

import datetime as dt
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control, FitWarning, Memory, Rows
from polars_glmm.design.sums import parts as sum_parts
from polars_glmm.errors import (
    ColumnError,
    DatasetError,
    GlmmError,
    IdentifiabilityError,
    ModelError,
    ResponseError,
)


def quietly(frame: pl.DataFrame | pl.LazyFrame, formula: str, **options: Any) -> polars_glmm.Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(frame, formula, **options)


def grouped(n: int = 2000, levels: int = 40, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    g = rng.integers(0, levels, n)
    return pl.DataFrame({"g": g, "e": rng.normal(size=levels)[g], "z": rng.normal(size=n), "x": rng.normal(size=n)})


# digits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e4, 1e6, 1e8])
def test_levels_far_apart_lose_no_digits_when_lazy(size: float) -> None:
    """Sums of squares about one centre would: then the rows are collected, and a note says so."""
    frame = grouped().with_columns(y=size * pl.col("e") + pl.col("z"))
    here, there = (quietly(data, "y ~ x + (1 | g)") for data in (frame, frame.lazy()))
    assert there.loglik == pytest.approx(here.loglik, abs=1e-6)
    assert [note.code for note in there.notes] == ["rows_collected"]


def test_products_refuse_what_sums_cannot_hold() -> None:
    frame = grouped().with_columns(y=1e8 * pl.col("e") + pl.col("z"))
    with pytest.raises(IdentifiabilityError, match="16 digits"):
        polars_glmm.products(frame, "y ~ x + (1 | g)").fit()


def test_lazy_rows_beyond_memory_are_not_collected_for_their_digits() -> None:
    frame = grouped().with_columns(y=1e8 * pl.col("e") + pl.col("z"))
    control = Control(memory=Memory(limit=1000))
    with pytest.raises(IdentifiabilityError, match="too few"):
        quietly(frame.lazy(), "y ~ x + (1 | g)", control=control)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_response_that_is_reproduced_is_refused_on_every_route(lazy: bool) -> None:
    frame = grouped(200, 20)
    once = pl.DataFrame({"g": np.arange(30), "y": np.random.default_rng(1).normal(size=30), "f": [1, 2, 3] * 10})
    cases: list[tuple[pl.DataFrame, str, dict[str, Any]]] = [
        (frame.with_columns(y=pl.col("e") + 1e3), "y ~ 1 + (1 | g)", {}),
        (frame.with_columns(y=0.3 * pl.col("x") + 2e5), "y ~ x + (1 | g)", {}),
        (once, "y ~ 1 + (1 | g)", {"frequency": "f"}),
    ]
    for data, formula, options in cases:
        with pytest.raises(IdentifiabilityError, match="exactly"):
            quietly(data.lazy() if lazy else data, formula, **options)


@pytest.mark.parametrize("mean", [100.0, 1000.0])
def test_without_an_intercept_the_higher_of_two_hills_is_found(mean: float) -> None:
    """The random intercept may bear the mean of the response, or the covariate may."""
    frame = grouped().with_columns(y=pl.col("e") + pl.col("z") + mean, x=pl.col("x") + mean)
    formula = "y ~ 0 + x + (1 | g)"
    fits = [quietly(data, formula) for data in (frame, frame.lazy())]
    density = polars_glmm.objective(frame, formula)
    for fit in fits:
        assert fit.loglik == pytest.approx(fits[0].loglik, abs=1e-6)
    for sd in (1.0, 30.0, 300.0, 3000.0):
        given = dict(zip(density.names, [0.001, sd, 1.0], strict=True))
        assert fits[0].loglik > density.loglik(given)


def test_a_response_whose_squares_no_number_can_hold_is_refused() -> None:
    for size in (1e-90, 1e90):
        frame = grouped(200).with_columns(y=size * pl.col("z"))
        for data in (frame, frame.lazy()):
            with pytest.raises(ResponseError, match="rescale"):
                quietly(data, "y ~ x + (1 | g)")
    frame = grouped(200).with_columns(y="z", x=1e200 * pl.col("x"))
    for formula in ("y ~ x + (1 | g)", "y ~ 1 + (x | g)"):
        for data in (frame, frame.lazy()):
            with pytest.raises(ColumnError, match="rescale"):
                quietly(data, formula)


# counted rows --------------------------------------------------------------------------------------------------------


def discrete(n: int = 20_000) -> pl.DataFrame:
    rng = np.random.default_rng(2)
    trials = rng.integers(1, 4, n)
    return pl.DataFrame(
        {
            "x": rng.integers(0, 3, n), "g": rng.integers(0, 20, n), "count": rng.poisson(1.0, n),
            "n": trials, "s": rng.binomial(trials, 0.4), "f": np.ones(n, dtype=int),
        }
    )  # fmt: skip


NOT_COUNTED = Control(rows=Rows(compress=False))
PLACE = pl.int_range(pl.len())


@pytest.mark.parametrize(
    ("change", "options"),
    [
        ({"f": pl.when(PLACE == 9).then(-1).otherwise("f")}, {"frequency": "f"}),
        ({"f": pl.lit(0.5)}, {"frequency": "f"}),
        ({"f": pl.lit("a")}, {"frequency": "f"}),
        ({"count": pl.when(PLACE == 15_000).then(-1).otherwise("count")}, {}),
        ({"x": pl.when(PLACE == 15_000).then(float("inf")).otherwise("x")}, {}),
    ],
    ids=["negative frequency", "half a row", "text", "negative count", "infinite"],
)
def test_errors_speak_of_the_rows_of_the_user(change: dict[str, pl.Expr], options: dict[str, Any]) -> None:
    frame = discrete().with_columns(**change)
    told = []
    for control in (Control(), NOT_COUNTED):
        with pytest.raises(GlmmError) as caught:
            quietly(frame, "count ~ x + (1 | g)", family="poisson", control=control, **options)
        told.append((type(caught.value), str(caught.value)))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("cbind(s, n - s) ~ x + (1 | g)", {"family": "binomial"}),
        ("count ~ f + x + (1 | g)", {"family": "poisson", "frequency": "f"}),
        ("s ~ x + (1 | g)", {"family": "binomial", "trials": "n", "frequency": "n"}),
    ],
)
def test_columns_used_twice_are_counted_right(formula: str, options: dict[str, Any]) -> None:
    one, other = (quietly(discrete(), formula, control=control, **options) for control in (Control(), NOT_COUNTED))
    assert one.loglik == pytest.approx(other.loglik, rel=1e-10)
    assert one.n_obs == other.n_obs


def test_rows_without_trials_are_counted_as_rows() -> None:
    frame = (
        discrete()
        .with_columns(n=pl.when(PLACE < 5000).then(0).otherwise("n"))
        .with_columns(s=pl.when(pl.col("n") == 0).then(0).otherwise("s"))
    )
    fit = quietly(frame, "s ~ x + (1 | g)", family="binomial", trials="n")
    assert next(note.text for note in fit.notes if note.code == "rows_without_trials").startswith("5000 rows")
    for data in (frame, frame.lazy()):
        assert "15,000 rows used" in str(polars_glmm.explain(data, "s ~ x + (1 | g)", family="binomial", trials="n"))
    for data in (frame, frame.lazy()):
        for control in (Control(), Control(memory=Memory(limit=1))):
            with pytest.raises(ResponseError, match="1 of 0 trials in row 0"):
                quietly(data.with_columns(s=1), "s ~ x + (1 | g)", family="binomial", trials="n", control=control)


# dtypes and arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lazy", [False, True])
def test_whole_numbers_that_floats_confuse_are_refused_as_categories(lazy: bool) -> None:
    frame = grouped(200).with_columns(k=2**53 + pl.col("g") % 4, y="z")
    with pytest.raises(ColumnError, match=r"2\^53.*String"):
        quietly(frame.lazy() if lazy else frame, "y ~ C(k) + (1 | g)")


@pytest.mark.parametrize("lazy", [False, True])
def test_a_spline_that_leaves_values_open_is_refused_where_it_does(lazy: bool) -> None:
    frame = grouped(200).with_columns(y="z")
    with pytest.raises(ColumnError, match="not a number in row"):
        quietly(
            frame.lazy() if lazy else frame,
            "y ~ bs(x, df=5, extrapolation='na', lower_bound=-1, upper_bound=1) + (1 | g)",
        )


def test_parts_of_another_kind_are_refused() -> None:
    frame = grouped(200).with_columns(y="z", t=pl.when(pl.col("x") > 0).then(pl.lit("a")).otherwise(pl.lit("b")))
    first = polars_glmm.products(frame, "y ~ x + t + (1 | g)")
    for column in (
        {"y": pl.lit(dt.date(2020, 1, 1))}, {"x": pl.lit("abc")}, {"x": pl.lit("a", dtype=pl.Enum(["a"]))},
        {"x": pl.concat_list("x")}, {"t": pl.lit(1)},
    ):  # fmt: skip
        with pytest.raises(ColumnError, match=f"{next(iter(column))!r} is"):
            polars_glmm.products(frame.with_columns(**column), like=first)
    again = polars_glmm.products(frame.with_columns(pl.col("t").cast(pl.Categorical), x=pl.col("x") > 0), like=first)
    assert again.n_obs == 200


@pytest.mark.parametrize("levels", [{"nope": ["a"]}, {"t": ["a", None]}, {"t": 5}, ["t"], {"t": "ab"}])
def test_declared_levels_are_lists_of_labels_of_columns(levels: Any) -> None:
    frame = grouped(200).with_columns(y="z", t=pl.lit("a"))
    with pytest.raises((ModelError, ColumnError), match="levels="):
        polars_glmm.products(frame, "y ~ x + t + (1 | g)", levels=levels)


def test_products_say_what_they_do_not_take(tmp_path: Path) -> None:
    frame = grouped(200).with_columns(y="z")
    with pytest.raises(ModelError, match="leave out family="):
        polars_glmm.products(frame, "y ~ x + (1 | g)", family="binomial")
    with pytest.raises(ModelError, match="like= takes"):
        polars_glmm.products(frame, like=3)  # type: ignore[arg-type]
    path = tmp_path / "no.parquet"
    path.write_text("no table")
    with pytest.raises(DatasetError, match="no Parquet file"):
        polars_glmm.read_products(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rows(block=-1), lambda: Rows(block=1.5), lambda: Rows(threads=-1), lambda: Memory(limit="x"),
        lambda: Control(keep="nonsense"), lambda: Control(rows=3), lambda: polars_glmm.Search(decrement=0.0),
        lambda: polars_glmm.Search(max_evaluations=0),
    ],
)  # fmt: skip
def test_control_is_checked_where_it_is_made(make: Any) -> None:
    with pytest.raises(ModelError, match="is not possible: give"):
        make()


def test_crossed_factors_need_no_fixed_effect() -> None:
    rng = np.random.default_rng(5)
    frame = pl.DataFrame({"y": rng.poisson(2.0, 300), "g": rng.integers(0, 6, 300), "h": rng.integers(0, 5, 300)})
    without = quietly(frame, "y ~ 0 + (1 | g) + (1 | h)", family="poisson")
    held = quietly(frame, "y ~ 1 + (1 | g) + (1 | h)", family="poisson", fixed={"Intercept": 0.0})
    assert without.loglik == pytest.approx(held.loglik, abs=1e-8)


# random effects without variation ------------------------------------------------------------------------------------


@pytest.mark.one_in(3)
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 3.0, 1e6])
@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_a_slope_that_does_not_vary_is_redundant_beside_an_intercept(value: float, family: str) -> None:
    frame = grouped(240, 6).with_columns(v=pl.lit(value), y=pl.col("e") + pl.col("z"))
    frame = frame.with_columns(y=pl.col("y").exp().floor()) if family == "poisson" else frame
    alone = quietly(frame, "y ~ x + (1 | g)", family=family)
    for data in (frame, frame.lazy()):
        fit = quietly(data, "y ~ x + (1 + v | g)", family=family)
        assert fit.loglik == pytest.approx(alone.loglik, abs=1e-6)
        assert "redundant_terms" in {note.code for note in fit.notes}


def test_the_variance_of_a_slope_of_zeros_has_a_note_and_no_standard_error() -> None:
    frame = grouped(240, 6).with_columns(v=pl.lit(0.0), y=pl.col("z"))
    fit = quietly(frame, "y ~ x + (0 + v | g)")
    assert "redundant_terms" in {note.code for note in fit.notes}
    assert fit.varcorr()["std_error"][0] is None


def test_rows_on_disk_are_counted_from_those_of_the_user() -> None:
    """Rows without trials are passed over, not renumbered."""
    frame = grouped(400).with_columns(
        n=pl.when(PLACE < 50).then(0).otherwise(3), s=pl.when(PLACE < 50).then(0).otherwise(pl.col("g") % 4),
        p=pl.when(PLACE == 150).then(-1.0).otherwise(pl.col("x").abs() + 1.0),
    )  # fmt: skip
    for data, control in ((frame, Control()), (frame.lazy(), Control(memory=Memory(limit=1)))):
        with pytest.raises(ColumnError, match="in row 150 "):
            quietly(data, "s ~ scale(log(p)) + (1 | g)", family="binomial", trials="n", control=control)


def test_sums_in_parts_add_up_with_a_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of parts are numbers of the same kind as the other sums."""
    monkeypatch.setattr(sum_parts, "_PART", 1 << 10)
    monkeypatch.setattr(sum_parts, "_BATCH", 1 << 8)
    monkeypatch.setattr(sum_parts, "MANY_COLUMNS", 1)
    frame = grouped(4000).with_columns(y=pl.col("e") + pl.col("z"), w=pl.col("x").abs() + 0.5)
    here, there = (quietly(data, "y ~ x + (1 | g)", precision="w") for data in (frame, frame.lazy()))
    assert there.loglik == pytest.approx(here.loglik, abs=1e-7)
    assert there.n_obs == 4000


def test_residuals_of_rows_without_trials_are_silent() -> None:
    frame = discrete(200).with_columns(s=pl.min_horizontal("s", "n"))
    fit = quietly(frame, "s ~ x + (1 | g)", family="binomial", trials="n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = fit.augment(frame.with_columns(n=pl.lit(0), s=pl.lit(0)))
    assert shown["fitted"].null_count() == 0


def test_the_note_about_a_collapsed_direction_speaks_of_the_terms_of_the_table() -> None:
    """Levels that agree at the mean of t: there the effects do not vary, but both effects of the table do.

    The effect at the mean is the first of the computing columns; the intercept, at t = 0, is another.
    """
    rng = np.random.default_rng(3)
    g, t = np.repeat(np.arange(12), 20), np.tile(np.arange(20.0), 12) + 5.0
    y = 0.3 * rng.normal(size=12)[g] * (t - t.mean()) + rng.normal(size=240)
    frame = pl.DataFrame({"g": g, "t": t, "y": y}).with_columns(pl.col("y") - pl.col("y").mean().over("g"))
    fit = quietly(frame, "y ~ t + (t | g)")
    (note,) = [note for note in fit.notes if note.code == "singular"]
    assert "the correlation of 'Intercept' and 't' is estimated at −1" in note.text
    assert fit.varcorr().filter(pl.col("other_term").is_null())["std_dev"].min() > 0.1


# the same words on every route ---------------------------------------------------------------------------------------


WAYS = {
    "eager": lambda frame: (frame, Control()),
    "lazy": lambda frame: (frame.lazy(), Control()),
    "disk": lambda frame: (frame.lazy(), Control(memory=Memory(limit=20_000))),
}


def odd(n: int = 240) -> pl.DataFrame:
    rng = np.random.default_rng(6)
    g = np.arange(n) % 12
    won = rng.random(n) < 1 / (1 + np.exp(-rng.normal(size=12)[g]))
    return pl.DataFrame({"y": rng.normal(size=n), "c": rng.poisson(2.0, n), "won": won, "x": np.arange(n) % 7, "g": g})


@pytest.mark.parametrize(
    ("change", "formula", "options", "message"),
    [
        ({"c": pl.col("c") + 10**13}, "c ~ x + (1 | g)", {"family": "poisson"}, "count in larger units"),
        ({"m": pl.lit(10**13)}, "c ~ x + (1 | g)", {"family": "binomial", "trials": "m"}, "count in larger units"),
        ({"w": pl.lit(2**63, pl.UInt64)}, "y ~ x + (1 | g)", {"frequency": "w"}, "at least 0 and at most 1e\\+12"),
        ({"y": pl.lit(None)}, "y ~ x + (1 | g)", {}, "column 'y' holds nothing else"),
        ({"w": pl.lit(None)}, "y ~ x + (1 | g)", {"precision": "w"}, "column 'w' holds nothing else"),
        ({"x": pl.duration(days="x")}, "c ~ x + (1 | g)", {"family": "poisson"}, "column 'x' is Duration"),
        ({"x": pl.concat_list("x")}, "c ~ C(x) + (1 | g)", {"family": "poisson"}, "column 'x' is List"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_refused_in_one_way(
    change: dict[str, pl.Expr], formula: str, options: dict[str, Any], message: str
) -> None:
    told = set()
    for way in WAYS.values():
        frame, control = way(odd().with_columns(**change))
        with pytest.raises(GlmmError, match=message) as caught:
            polars_glmm.fit(frame, formula, control=control, **options)
        told.add(str(caught.value))
    assert len(told) == 1


@pytest.mark.parametrize("way", WAYS)
def test_an_enum_may_have_levels_that_no_row_has(way: str) -> None:
    """Of a response the two that occur count; a third that occurs is named."""
    kind = pl.Enum(["lost", "unknown", "won"])
    label = pl.when("won").then(pl.lit("won")).otherwise(pl.lit("lost"))
    frame, control = WAYS[way](odd().with_columns(s=label.cast(kind)))
    asked: dict[str, Any] = {"family": "binomial", "control": control}
    found = quietly(frame, "s ~ x + (1 | g)", **asked)
    assert found.loglik == pytest.approx(quietly(odd(), "won ~ x + (1 | g)", family="binomial").loglik, abs=1e-8)
    more = frame.with_columns(s=pl.when(pl.col("x") == 0).then(pl.lit("unknown", kind)).otherwise("s"))
    with pytest.raises(ColumnError, match=r"3 levels \('lost', 'unknown' and 'won'\); a binomial response has two"):
        polars_glmm.fit(more, "s ~ x + (1 | g)", **asked)


@pytest.mark.skipif(not hasattr(pl, "UInt128"), reason="this Polars has no UInt128")
@pytest.mark.parametrize("way", WAYS)
def test_the_widest_whole_numbers_are_keys(way: str) -> None:
    wide = pl.col("g").cast(pl.Int128).cast(getattr(pl, "UInt128", pl.Int128)) * 2**100
    frame, control = WAYS[way](odd().with_columns(g=wide))
    found = quietly(frame, "c ~ x + (1 | g)", family="poisson", control=control)
    assert found.loglik == pytest.approx(quietly(odd(), "c ~ x + (1 | g)", family="poisson").loglik, abs=1e-8)
    assert quietly(frame, "c ~ x", family="poisson", by="g").status().height == 12


@pytest.mark.parametrize("number", [1, 1500])
def test_a_sum_of_terms_may_be_long(number: int) -> None:
    """The tree of a sum is as deep as the sum is long."""
    formula = "y ~ " + " + ".join([*["x"] * number, "(1 | g)"])
    assert quietly(odd(), formula).n_obs == 240


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fixed": {"x": None}}, "it must be a number"), ({"fixed": ["x"]}, "values by name"),
        ({"fixed": {1: 2.0}}, "no parameter 1"), ({"start": {"x": "a"}}, "it must be a number"),
        ({"link": 3}, "no link"), ({"control": {}}, "not a Control"), ({"formula": 3}, "A formula is text"),
        ({"frame": 3}, "update.. takes a frame of Polars"),
    ],
)  # fmt: skip
def test_arguments_of_another_kind_are_refused_by_update_as_by_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GlmmError, match=message):
        quietly(odd(), "y ~ x + (1 | g)").update(**options)
    if not {"formula", "frame"} & options.keys():
        with pytest.raises(GlmmError, match=message):
            polars_glmm.fit(odd(), "y ~ x + (1 | g)", **options)
