"""predict, augment and with_ranef by key: every row is answered by the model of its own key."""

from __future__ import annotations

import warnings
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm import FitCollection, fit
from polars_glmm.errors import ColumnError, FitWarning, UnknownLevelError
from tests.batch.frames import many, spoiled

pytestmark = pytest.mark.slow

VERBS: list[tuple[str, dict[str, Any]]] = [
    ("predict", {}),
    ("predict", {"random": "none", "kind": "link"}),
    ("predict", {"std_error": True, "interval": "confidence", "name": "p"}),
    ("augment", {"prefix": "a_"}),
    ("with_ranef", {}),
]
FORMULAS = ["count ~ x + f + (1 | group)", "count ~ poly(x, 2) + (1 + t | group)"]


def fitted(frame: pl.DataFrame, formula: str) -> FitCollection:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return fit(frame, formula, family="poisson", by="key")


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize(("verb", "options"), VERBS)
def test_every_row_is_answered_by_its_own_model(formula: str, verb: str, options: dict[str, Any]) -> None:
    frame = spoiled()
    collection = fitted(frame, formula)
    status = dict(collection.status().select("key", "status").iter_rows())
    whole = getattr(collection, verb)(frame, **options)
    assert whole.select(frame.columns).equals(frame)
    added = [name for name in whole.columns if name not in frame.columns]
    for key in frame["key"].unique():
        part = whole.filter(key=key).select(added)
        if status[key] == "failed":
            assert part.null_count().row(0) == (part.height,) * len(added)
        else:
            own = getattr(collection[key], verb)(frame.filter(key=key), **options)
            own = own.with_columns(pl.lit(None, pl.Float64).alias(n) for n in added if n not in own.columns)
            # standard errors are sums in another order
            exact = not options.get("std_error")
            assert_frame_equal(part, own.select(added), check_exact=exact, rel_tol=1e-12, abs_tol=0.0)
    assert_frame_equal(getattr(collection, verb)(frame.lazy(), **options).collect(), whole)
    assert_frame_equal(getattr(frame.glmm, verb)(collection, **options), whole)
    assert_frame_equal(getattr(polars_glmm, verb)(frame, collection, **options), whole)


def test_keys_without_a_model_follow_new_levels() -> None:
    frame = many()
    collection = fitted(frame.filter(pl.col("key") < 5), FORMULAS[0])
    with pytest.raises(UnknownLevelError, match=r"'5'.*new_levels=\"null\""):
        collection.predict(frame.sort("key"))
    for new_levels in ("zero", "null"):
        told = collection.predict(frame, new_levels=new_levels)
        assert told.filter(pl.col("key") >= 5)["prediction"].null_count() == frame.filter(pl.col("key") >= 5).height
        assert told.filter(pl.col("key") < 5)["prediction"].null_count() == 0
    with pytest.raises(UnknownLevelError, match="for which there is no model"):
        collection.augment(frame)
    unkeyed = frame.with_columns(key=pl.lit(None, dtype=frame.schema["key"]))
    assert collection.predict(unkeyed)["prediction"].null_count() == frame.height
    with pytest.raises(ColumnError, match="key"):
        collection.predict(frame.drop("key"))
    with pytest.raises(ColumnError, match="'x'"):
        collection.predict(frame.drop("x"))


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("new_levels", ["zero", "null"])
def test_a_level_unseen_in_its_own_model_is_new_wherever_else_it_is_known(formula: str, new_levels: str) -> None:
    frame = many()
    gone = pl.concat_str(pl.lit("g"), pl.col("key") % 2)
    collection = fitted(frame.filter(pl.col("group") != gone), formula)
    options: dict[str, Any] = {"new_levels": new_levels, "std_error": True}
    told = collection.predict(frame, **options)
    for key in frame["key"].unique():
        own = collection[key].predict(frame.filter(key=key), **options)
        assert_frame_equal(told.filter(key=key), own, rel_tol=1e-12, abs_tol=0.0)
    with pytest.raises(UnknownLevelError, match=r"columns 'key' and 'group' have level"):
        collection.predict(frame)


@pytest.mark.parametrize("family", ["gamma", "gaussian"])
def test_the_dispersion_of_every_row_is_that_of_its_own_model(family: str) -> None:
    frame = many().with_columns(time=pl.col("count") + 0.5 + pl.col("x").abs())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        collection = fit(frame, "time ~ x + (1 | group)", family=family, by="key")
    options: dict[str, Any] = {"kind": "phi", "std_error": True}
    told, shown = collection.predict(frame, **options), collection.augment(frame)
    assert told["prediction"].n_unique() > 1
    for key in frame["key"].unique():
        rows = frame.filter(key=key)
        assert_frame_equal(told.filter(key=key), collection[key].predict(rows, **options), rel_tol=1e-12, abs_tol=0.0)
        assert_frame_equal(shown.filter(key=key), collection[key].augment(rows), rel_tol=1e-12, abs_tol=0.0)
