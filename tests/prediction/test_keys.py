"""A key means the same level in whatever dtype new data carry it."""

from __future__ import annotations

from datetime import date, datetime

import polars as pl
import pytest

from polars_glmm.errors import ColumnError, UnknownLevelError
from polars_glmm.prediction.predictions import predict
from polars_glmm.prediction.ranef_join import with_ranef

LABELS = [pl.String, pl.Categorical, pl.Enum(["lo", "mid", "up", "more"]), pl.Enum(["more", "up", "mid", "lo"])]
NUMBERS = [pl.Int64, pl.Int32, pl.UInt16, pl.Float64, pl.Float32, pl.Decimal(12, 2)]


@pytest.mark.parametrize("learned", LABELS, ids=str)
@pytest.mark.parametrize("found", LABELS, ids=str)
def test_labels_match_by_text(made, trial, learned, found):
    """As grouping factor and as fixed factor alike."""
    fit = made(trial.with_columns(pl.col("f").cast(learned)), "y ~ f + (x | f)")
    known = predict(trial.with_columns(pl.col("f").cast(learned)), fit)["prediction"]
    other = trial.with_columns(pl.col("f").cast(found))
    assert predict(other, fit)["prediction"].equals(known)
    assert predict(other.lazy(), fit).collect().schema["f"] == found
    assert with_ranef(other, fit).schema["f"] == found
    assert with_ranef(other, fit)["f_x"].null_count() == 0
    with pytest.raises(UnknownLevelError, match="'f' has level 'more'"):
        predict(trial.with_columns(f=pl.lit("more", dtype=found)), fit)


@pytest.mark.parametrize("learned", NUMBERS, ids=str)
@pytest.mark.parametrize("found", NUMBERS, ids=str)
def test_numbers_match_by_value(made, trial, learned, found):
    fit = made(trial.with_columns(pl.col("h").cast(learned)), "y ~ x + (1 | h)")
    known = predict(trial.with_columns(pl.col("h").cast(learned)), fit)["prediction"]
    assert predict(trial.with_columns(pl.col("h").cast(found)), fit)["prediction"].equals(known)


@pytest.mark.parametrize("value", [100.5, 1e30, -1.0, float("inf")])
def test_a_number_that_is_no_level_is_unseen_not_rounded(made, trial, value):
    fit = made(trial.with_columns(pl.col("h").cast(pl.UInt8)), "y ~ x + (1 | h)")
    with pytest.raises(UnknownLevelError, match="column 'h' has level"):
        predict(trial.with_columns(h=pl.lit(value)), fit)


def test_a_number_too_large_for_the_learned_dtype_is_unseen_not_missing(made, trial):
    fit = made(trial.with_columns(pl.col("h").cast(pl.UInt8)), "y ~ x + (1 | h)")
    with pytest.raises(UnknownLevelError, match="level '356'"):
        predict(trial.with_columns(h=pl.lit(356)), fit)


def test_a_nan_key_is_missing(made, trial):
    fit = made(trial.with_columns(pl.col("h").cast(pl.Float64)), "y ~ x + (1 | h)")
    assert predict(trial.with_columns(h=pl.lit(float("nan"))), fit)["prediction"].null_count() == trial.height


def test_moments_match_whatever_their_unit(made, trial):
    start = datetime(2024, 1, 1)  # noqa: DTZ001  a naive moment is meant
    days = trial.with_columns(d=start + pl.duration(days=pl.col("k")))
    fit = made(days.with_columns(pl.col("d").dt.cast_time_unit("us")), "y ~ x + (1 | d)")
    known = predict(days.with_columns(pl.col("d").dt.cast_time_unit("us")), fit)["prediction"]
    for unit in ("ms", "ns"):
        assert predict(days.with_columns(pl.col("d").dt.cast_time_unit(unit)), fit)["prediction"].equals(known)
    with pytest.raises(ColumnError, match=r"'d' is Date.*Datetime"):
        predict(days.with_columns(pl.col("d").dt.date()), fit)


def test_moments_with_and_without_a_zone_are_not_compared(made, trial):
    days = trial.with_columns(d=pl.datetime(2024, 1, 1, time_zone="UTC") + pl.duration(days=pl.col("k")))
    fit = made(days, "y ~ x + (1 | d)")
    known = predict(days, fit)["prediction"]
    assert predict(days.with_columns(pl.col("d").dt.convert_time_zone("Asia/Tokyo")), fit)["prediction"].equals(known)
    with pytest.raises(ColumnError, match=r"'d' is Datetime.*cannot be compared"):
        predict(days.with_columns(pl.col("d").dt.replace_time_zone(None)), fit)


def test_durations_match_whatever_their_unit(made, trial):
    spans = trial.with_columns(d=pl.duration(seconds=pl.col("k"), time_unit="ms"))
    fit = made(spans, "y ~ x + (1 | d)")
    finer = spans.with_columns(pl.col("d").dt.cast_time_unit("us"))
    assert predict(finer, fit)["prediction"].equals(predict(spans, fit)["prediction"])
    with pytest.raises(UnknownLevelError, match="'d' has level"):
        predict(finer.with_columns(pl.col("d") + pl.duration(microseconds=1, time_unit="us")), fit)


@pytest.mark.parametrize(
    "values", [[True, False], [date(2024, 1, 1), date(2024, 2, 1)], [b"p", b"q"]], ids=["boolean", "date", "binary"]
)
def test_keys_of_other_dtypes(made, trial, values):
    frame = trial.with_columns(key=pl.Series(values * 200))
    fit = made(frame, "y ~ x + (1 | key)")
    assert predict(frame, fit, kind="link")["prediction"].to_list() == pytest.approx(fit.eta.tolist())


@pytest.mark.parametrize("learned", NUMBERS, ids=str)
@pytest.mark.parametrize("found", NUMBERS, ids=str)
def test_numbers_marked_as_categorical_match_by_value(made, trial, learned, found):
    fit = made(trial.with_columns(pl.col("k").cast(learned)), "y ~ C(k) + (1 | g)")
    other = trial.with_columns(pl.col("k").cast(found))
    assert predict(other, fit, kind="link")["prediction"].to_list() == pytest.approx(fit.eta.tolist())
    with pytest.raises(UnknownLevelError, match="column 'k' has level"):
        predict(trial.with_columns(k=pl.lit(7).cast(found)), fit)


@pytest.mark.parametrize(
    ("column", "found"), [("f", pl.Date), ("flag", pl.String), ("k", pl.String), ("f", pl.Float64)]
)
def test_a_categorical_of_another_nature_is_refused(made, trial, column, found):
    fit = made(trial, "y ~ f + flag + C(k) + (1 | g)")
    with pytest.raises(ColumnError, match=f"column '{column}' is {found}.*Cast it to"):
        predict(trial.lazy().with_columns(pl.lit(None, dtype=found).alias(column)), fit)
