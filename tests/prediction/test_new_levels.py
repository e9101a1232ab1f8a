"""Levels that the fit has not seen: an error that says where and what to do, zero, or null."""

from __future__ import annotations

import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm.errors import UnknownLevelError
from polars_glmm.prediction.predictions import predict


def replaced(frame: pl.DataFrame, column: str, value: object, rows: int = 3) -> pl.DataFrame:
    """The first rows hold another value in one column."""
    value = pl.lit(value, dtype=frame.schema[column])
    return frame.with_columns(pl.when(pl.int_range(pl.len()) < rows).then(value).otherwise(column).alias(column))


FIXED = {
    "f": ("y ~ x * f + (1 | g)", "top"),
    "k": ("y ~ C(k) + (1 | g)", 77),
    "a": ("y ~ x + (a | g)", "s"),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("new_levels", ["error", "zero", "null"])
@pytest.mark.parametrize("column", FIXED)
def test_an_unseen_level_of_a_categorical_variable_always_raises(made, trial, column, new_levels, lazy):
    formula, level = FIXED[column]
    fit, bad = made(trial, formula), replaced(trial, column, level)
    message = f"column '{column}' has level '{level}'.*drop these rows, or fit again"
    with pytest.raises(UnknownLevelError, match=message):
        predict(bad.lazy() if lazy else bad, fit, new_levels=new_levels).lazy().collect()


def test_a_declared_level_without_rows_is_unseen(made, trial):
    fit = made(trial.filter(pl.col("e") != "mid"), "y ~ e + (1 | g)")
    with pytest.raises(UnknownLevelError, match=r"'e' has level 'mid'.*knows 'up' and 'lo'"):
        predict(trial, fit)


def test_a_categorical_slope_does_not_matter_without_its_factor(made, trial):
    fit = made(trial, "y ~ x + (a | g)")
    assert predict(replaced(trial, "a", "s"), fit, random="none")["prediction"].null_count() == 0


@pytest.mark.parametrize("lazy", [False, True])
def test_an_unseen_level_of_a_grouping_factor_raises_with_its_remedy(made, trial, lazy):
    fit = made(trial, "y ~ x + (x | g) + (1 | h)")
    bad = replaced(replaced(trial, "g", "Z9"), "h", 999, 1)
    frame = bad.lazy() if lazy else bad
    with pytest.raises(UnknownLevelError, match=r"'g' has level 'Z9'.*knows 20 levels.*new_levels=\"zero\""):
        predict(frame, fit).lazy().collect()
    with pytest.raises(UnknownLevelError, match="'h' has level '999'"):
        predict(frame, fit, random=["h"]).lazy().collect()
    predict(frame, fit, random="none").lazy().collect()


def test_the_message_of_an_eager_call_is_only_ours(made, trial):
    fit = made(trial, "y ~ x + (1 | g)")
    with pytest.raises(UnknownLevelError) as caught:
        predict(replaced(trial, "g", "Z9"), fit)
    assert "__glmm" not in str(caught.value)
    assert str(caught.value).endswith("for no prediction.")


def test_composite_levels_are_named_by_their_parts(made, trial):
    fit = made(trial.filter((pl.col("a") != "p") | (pl.col("b") != "1")), "y ~ x + (1 | a:b)")
    with pytest.raises(UnknownLevelError, match="columns 'a' and 'b' have level 'p:1'"):
        predict(trial, fit)


def test_zero_leaves_the_fixed_part_and_null_leaves_nothing(made, trial):
    fit = made(trial, "y ~ x + (x | g)")
    bad = replaced(trial, "g", "Z9", 5)
    zero = predict(bad, fit, new_levels="zero")["prediction"]
    assert_allclose(zero[:5], fit.eta_fixed[:5], rtol=1e-12)
    assert_allclose(zero[5:], fit.eta[5:], rtol=1e-12)
    null = predict(bad, fit, new_levels="null")["prediction"]
    assert null[:5].null_count() == 5
    assert null[5:].equals(zero[5:])


def test_an_unseen_nested_level_keeps_the_effect_of_its_known_parent(made, trial):
    fit = made(trial, "y ~ x + (1 | a/b)")
    outer = fit.design.factors[0]
    assert outer.name == "a"
    effect = fit.estimate.factors[0].modes[0][outer.codes]
    bad = replaced(trial, "b", "9", 5)
    found = predict(bad, fit, new_levels="zero")["prediction"]
    assert_allclose(found[:5], (fit.eta_fixed + effect)[:5], rtol=1e-12)
    assert predict(bad, fit, new_levels="null")["prediction"][:5].null_count() == 5


@pytest.mark.parametrize("new_levels", ["error", "zero", "null"])
def test_a_missing_key_is_null_under_every_policy(made, trial, new_levels):
    fit = made(trial, "y ~ x + (1 | a/b)")
    found = predict(replaced(trial, "b", None, 5), fit, new_levels=new_levels)["prediction"]
    assert found.is_null().to_list() == [True] * 5 + [False] * 395


def test_a_level_known_only_from_incomplete_rows_does_not_raise_in_them(made, trial):
    odd = replaced(replaced(trial, "g", "only here"), "x", None)
    odd = replaced(odd, "f", "also", 2)
    fit = made(odd, "y ~ x + f + (1 | g)")
    assert predict(odd, fit)["prediction"].null_count() == 3
