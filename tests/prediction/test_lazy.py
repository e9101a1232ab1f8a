"""A LazyFrame stays lazy: planning reads the schema only, and guards speak when, and only when, rows are computed."""

from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from polars_glmm.errors import UnknownLevelError
from polars_glmm.prediction.predictions import predict
from polars_glmm.prediction.ranef_join import with_ranef
from polars_glmm.prediction.residuals import augment

FORMULA = "s ~ x + f + bs(t, df=4) + offset(t) + (x | g) + (1 | a/h)"
BINOMIAL = {"family": "binomial", "trials": "m"}
VERBS = {
    "predict": predict,
    "predict with errors": lambda frame, fit: predict(frame, fit, std_error=True, interval="confidence"),
    "predict without levels": lambda frame, fit: predict(frame, fit, new_levels="null"),
    "with_ranef": with_ranef,
    "augment": augment,
}
ENGINES = ["in-memory", "streaming"]


@pytest.fixture(scope="module")
def fit(made, trial):
    return made(trial, FORMULA, **BINOMIAL)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("engine", ENGINES)
def test_lazy_equals_eager(fit, trial, verb, engine):
    lazy = VERBS[verb](trial.lazy(), fit)
    assert isinstance(lazy, pl.LazyFrame)
    eager = VERBS[verb](trial, fit)
    assert isinstance(eager, pl.DataFrame)
    assert lazy.collect_schema() == eager.schema
    assert_frame_equal(lazy.collect(engine=engine), eager, rel_tol=1e-13)


@pytest.mark.parametrize("verb", VERBS)
def test_planning_collects_nothing(fit, trial, verb):
    def refuse(_: pl.DataFrame) -> pl.DataFrame:
        raise AssertionError("collected")

    never = trial.lazy().map_batches(refuse, schema=trial.schema)
    plan = VERBS[verb](never, fit)
    plan.collect_schema()
    with pytest.raises(AssertionError, match="collected"):
        plan.collect()


@pytest.mark.parametrize("verb", VERBS)
def test_a_scanned_file_streams_to_a_file(fit, trial, verb, tmp_path):
    trial.write_parquet(tmp_path / "in.parquet", row_group_size=64)
    VERBS[verb](pl.scan_parquet(tmp_path / "in.parquet"), fit).sink_parquet(tmp_path / "out.parquet")
    assert_frame_equal(pl.read_parquet(tmp_path / "out.parquet"), VERBS[verb](trial, fit), rel_tol=1e-13)


@pytest.mark.parametrize("column", ["f", "g"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("output", ["prediction", "prediction_std_error", "prediction_low"])
def test_the_guard_survives_a_projection_to_any_output(fit, trial, column, engine, output):
    bad = trial.with_columns(pl.when(pl.int_range(pl.len()) == 399).then(pl.lit("new")).otherwise(column).alias(column))
    plan = predict(bad.lazy(), fit, std_error=True, interval="confidence").select(pl.col(output).sum())
    with pytest.raises(UnknownLevelError, match=f"column '{column}' has level 'new'"):
        plan.collect(engine=engine)


@pytest.mark.parametrize("output", ["fitted", "fixed", "resid", "resid_pearson", "resid_deviance"])
def test_the_guard_survives_in_every_column_of_augment(fit, trial, output):
    with pytest.raises(UnknownLevelError, match="column 'f' has level 'new'"):
        augment(trial.lazy().with_columns(f=pl.lit("new")), fit).select(output).collect()


def test_the_guard_reaches_a_sink(fit, trial, tmp_path):
    trial.with_columns(g=pl.lit("new")).write_parquet(tmp_path / "in.parquet")
    plan = predict(pl.scan_parquet(tmp_path / "in.parquet"), fit)
    with pytest.raises(UnknownLevelError, match="column 'g' has level 'new'"):
        plan.sink_parquet(tmp_path / "out.parquet")


def test_a_plan_may_go_on_after_the_prediction(fit, trial):
    later = predict(trial.lazy(), fit).filter(pl.col("prediction") > 0.5).group_by("f").len().sort("f").collect()
    assert_frame_equal(later, predict(trial, fit).filter(pl.col("prediction") > 0.5).group_by("f").len().sort("f"))


def test_two_predictions_side_by_side(fit, trial):
    both = predict(predict(trial.lazy(), fit), fit, random="none", name="typical").collect()
    assert both.columns[-2:] == ["prediction", "typical"]
    assert_frame_equal(both.select("prediction"), predict(trial, fit).select("prediction"))
