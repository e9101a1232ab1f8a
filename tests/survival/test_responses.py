"""How times, intervals and limits are written and read, on every route, and what is refused."""

from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import Control, Memory, Rows
from polars_glmm.errors import ColumnError, FormulaError, ModelError, ResponseError
from tests.survival.frames import times

FRAME = times(7, groups=15, size=8, frailty=0.9)
WEIBULL = {"family": "weibull"}
SPILL = Control(memory=Memory(limit=1), rows=Rows(compress=False))


def loglik(frame: pl.DataFrame, left: str, **named: object) -> float:
    return polars_glmm.fit(frame, f"{left} ~ x", **{**WEIBULL, **named}).loglik


def intervals(frame: pl.DataFrame) -> pl.DataFrame:
    """The same times as intervals, some of which are open: two ends, and R's codes."""
    code = (pl.int_range(pl.len()) % 4).alias("code")
    return frame.with_columns(code).with_columns(
        lower=pl.when(pl.col("code") != 2).then("time"),
        upper=pl.when(pl.col("code") == 1)
        .then("time")
        .when(pl.col("code") >= 2)
        .then(pl.col("time") + 0.8 * (pl.col("code") == 3)),
    )


def test_an_event_is_boolean_or_one_and_zero_or_a_comparison():
    one = loglik(FRAME, "surv(time, event)")
    coded = FRAME.with_columns(status=pl.col("event").cast(pl.Int64) + 1, number=pl.col("event").cast(pl.Float64))
    for left in ("Surv(time, event)", "surv(time, number)", "surv(time, status == 2)", "surv(0 + time, event == 1)"):
        assert loglik(coded, left) == pytest.approx(one, abs=1e-9)
    assert loglik(coded, "surv(time)") == pytest.approx(loglik(coded, "time"), abs=1e-9)


def test_ends_of_intervals_and_codes_say_the_same():
    frame = intervals(FRAME)
    both = loglik(frame, "surv(lower, upper, kind='interval')")
    assert loglik(frame, "Surv(lower, upper, type='interval2')") == both
    infinite = frame.with_columns(pl.col("lower").fill_null(0.0), pl.col("upper").fill_null(float("inf")))
    assert loglik(infinite, "surv(lower, upper, kind='interval')") == pytest.approx(both, abs=1e-9)
    first = pl.coalesce("lower", "upper").alias("first")
    assert loglik(frame.with_columns(first), "surv(first, upper, code, kind='interval')") == pytest.approx(
        both, abs=1e-9
    )


def test_a_row_without_either_end_is_missing_and_one_with_one_is_not():
    frame = intervals(FRAME)
    gap = pl.DataFrame(
        {"lower": [None], "upper": [None], "x": [0.1]}, schema=frame.select("lower", "upper", "x").schema
    )
    fit = polars_glmm.fit(pl.concat([frame, gap], how="diagonal"), "surv(lower, upper, kind='interval') ~ x", **WEIBULL)
    assert fit.n_obs == FRAME.height
    assert any(note.code == "rows_dropped" for note in fit.notes)


def test_a_late_entry_of_zero_is_none():
    frame = FRAME.with_columns(start=pl.lit(0.0), late=pl.min_horizontal(pl.lit(0.3), pl.col("time") / 2))
    assert loglik(frame, "surv(start, time, event)") == pytest.approx(loglik(frame, "surv(time, event)"), abs=1e-9)
    assert loglik(frame, "surv(late, time, event)") > loglik(frame, "surv(time, event)")


def test_a_left_censored_time_is_code_two():
    frame = FRAME.with_columns(code=pl.when("event").then(1).otherwise(2))
    assert loglik(frame, "surv(time, event, kind='left')") == pytest.approx(loglik(frame, "cens(time, code)"), abs=1e-9)


def test_limits_of_what_can_be_measured_are_codes_too():
    y = pl.col("x") * 2.0 + pl.col("time").log()
    frame = FRAME.with_columns(y=y.clip(-1.0, 2.0)).with_columns(
        code=pl.when(pl.col("y") <= -1.0).then(2).when(pl.col("y") >= 2.0).then(0).otherwise(1),
        word=pl.when(pl.col("y") <= -1.0).then(pl.lit("left")).when(pl.col("y") >= 2.0).then(pl.lit("right"))
        .otherwise(pl.lit("observed")),
    )  # fmt: skip
    one = polars_glmm.fit(frame, "cens(y, code) ~ x", method="ml")
    for left in ("cens(y, lower=-1, upper=2)", "cens(y, word)"):
        assert polars_glmm.fit(frame, f"{left} ~ x", method="ml").loglik == pytest.approx(one.loglik, abs=1e-9)
    assert polars_glmm.fit(frame, "y ~ x", method="ml").loglik < one.loglik
    assert one.spec.formula == "cens(y, code) ~ x"


def test_durations_are_days_whatever_their_unit():
    days = FRAME.with_columns(pl.col("time").mul(86_400e6).cast(pl.Int64).cast(pl.Duration("us")))
    fit = polars_glmm.fit(days, "surv(time, event) ~ x", **WEIBULL)
    assert fit.loglik == pytest.approx(loglik(FRAME, "surv(time, event)"), abs=1e-6)
    assert "Durations ('time') are read in days." in [note.text for note in fit.notes]
    for unit in ("ms", "ns"):
        other = days.with_columns(pl.col("time").cast(pl.Duration(unit)))
        assert loglik(other, "surv(time, event)") == pytest.approx(fit.loglik, abs=1e-4)


ROUTES = {
    "lazy": lambda frame, left, named: polars_glmm.fit(frame.lazy(), f"{left} ~ x + (1 | g)", **named),
    "disk": lambda frame, left, named: polars_glmm.fit(
        frame.lazy(), f"{left} ~ x + (1 | g)", control=SPILL, **named
    ),
    "by": lambda frame, left, named: polars_glmm.fit(
        frame.with_columns(k=pl.lit(1)), f"{left} ~ x + (1 | g)", by="k", **named
    )[1],
}


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "left", ["surv(time, event)", "surv(lower, upper, kind='interval')", "surv(late, time, event)"]
)
@pytest.mark.parametrize("route", ROUTES)
def test_every_route_gives_the_same_fit(left, route):
    frame = intervals(FRAME).with_columns(late=pl.min_horizontal(pl.lit(0.3), pl.col("time") / 2))
    one = polars_glmm.fit(frame, f"{left} ~ x + (1 | g)", **WEIBULL)
    other = ROUTES[route](frame, left, WEIBULL)
    assert other.loglik == pytest.approx(one.loglik, abs=1e-8)
    assert_frame_equal(other.fixef(), one.fixef(), rel_tol=1e-6, abs_tol=1e-8)


def test_equal_rows_are_counted():
    frame = FRAME.with_columns(pl.col("time").round(0) + 1.0, pl.col("x").round(0)).with_columns(n=pl.lit(3))
    repeated = pl.concat([frame] * 3)
    one = polars_glmm.fit(frame, "surv(time, event) ~ x + (1 | g)", frequency="n", **WEIBULL)
    assert one.loglik == pytest.approx(
        polars_glmm.fit(repeated, "surv(time, event) ~ x + (1 | g)", **WEIBULL).loglik, abs=1e-8
    )


def test_a_fit_is_kept_in_a_file(tmp_path):
    frame = intervals(FRAME)
    fit = polars_glmm.fit(frame, "surv(lower, upper, kind='interval') ~ x + (1 | g)", family="exponential")
    fit.write(tmp_path / "fit")
    again = polars_glmm.read_fit(tmp_path / "fit")
    assert again.formula == fit.formula
    assert again.spec.family == fit.spec.family
    assert_frame_equal(again.augment(frame), fit.augment(frame))
    ph = polars_glmm.fit(FRAME, "surv(time, event) ~ x", family=polars_glmm.Weibull(metric="ph"))
    ph.write(tmp_path / "ph")
    assert polars_glmm.read_fit(tmp_path / "ph").spec.family == ph.spec.family


WRONG = [
    ("surv(time, event) ~ x", lambda f: f.with_columns(event=False), ResponseError, "there is no event"),
    ("surv(time, event) ~ x", lambda f: f.with_columns(event=pl.lit(2)), ResponseError, "write event == 2"),
    ("surv(time, event) ~ x", lambda f: f.with_columns(event=pl.lit("died")), ColumnError, "is text"),
    ("surv(time, event) ~ x", lambda f: f.with_columns(time=pl.col("time") - 50), ResponseError, "a time is above 0"),
    ("surv(time, event) ~ x", lambda f: f.with_columns(time=pl.lit(0)), ResponseError, "no time to it"),
    ("surv(late, time, event) ~ x", lambda f: f.with_columns(late=pl.lit(99)), ResponseError, "not after its entry"),
    ("surv(late, time, event) ~ x", lambda f: f.with_columns(late=pl.lit(-1)), ResponseError, "not negative"),
    (
        "surv(time, upper, kind='interval') ~ x", lambda f: f.with_columns(upper=pl.col("time") / 2), ResponseError,
        "wrong way round",
    ),
    (
        "surv(time, event) ~ x", lambda f: f.with_columns(time=pl.date(2020, 1, 1)), ColumnError,
        "the time since some origin",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("formula", "change", "error", "words"), WRONG, ids=[words for *_, words in WRONG])
@pytest.mark.parametrize("route", ["eager", "disk"])
def test_what_is_no_time_or_no_event_is_said_with_its_row(formula, change, error, words, route):
    frame = change(FRAME)
    control = SPILL if route == "disk" else None
    with pytest.raises(error, match=words):
        polars_glmm.fit(frame if control is None else frame.lazy(), formula, control=control, **WEIBULL)


@pytest.mark.parametrize(
    ("formula", "family", "error", "words"),
    [
        ("surv(time, event) ~ x", "gaussian", ModelError, "Times are no gaussian responses"),
        ("surv(time, event) ~ x", "poisson", ModelError, "that is for .*weibull"),
        ("cens(time) ~ x", "gaussian", FormulaError, "what tells seen from censored"),
        ("surv(time, event, kind='middle') ~ x", "weibull", FormulaError, "kind is one of"),
        ("surv(time, event, x, kind='right') ~ x", "weibull", FormulaError, "takes two arguments"),
        ("surv(time + 1, event, kind='interval') ~ x", "weibull", FormulaError, "An interval is two columns"),
        ("cens(time, lower=3, upper=1) ~ x", "gaussian", FormulaError, "not below"),
        ("x ~ surv(time, event)", "weibull", FormulaError, "stands alone before"),
    ],
)
def test_what_needs_no_data_to_be_wrong(formula, family, error, words):
    with pytest.raises(error, match=words):
        polars_glmm.fit(FRAME, formula, family=family)


def test_a_key_without_an_event_says_so_and_the_others_are_fitted():
    frame = FRAME.with_columns(k=pl.col("g") % 3).with_columns(event=pl.col("event") & (pl.col("k") != 1))
    with pytest.warns(polars_glmm.FitWarning, match="failed .ResponseError.: 1"):
        fits = polars_glmm.fit(frame, "surv(time, event) ~ x + (1 | g)", by="k", **WEIBULL)
    status = fits.status()
    assert status.filter(k=1)["text"].item().startswith("response surv(time, event): there is no event")
    alone = polars_glmm.fit(frame.filter(k=0), "surv(time, event) ~ x + (1 | g)", **WEIBULL)
    assert fits[0].loglik == pytest.approx(alone.loglik, abs=1e-8)
