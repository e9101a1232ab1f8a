"""with_ranef() is the left join that fit.ranef(group) is made for."""

from __future__ import annotations

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from polars_glmm.errors import ColumnError
from polars_glmm.prediction.ranef_join import with_ranef


def test_it_is_a_left_join_with_every_wide_table(made, trial):
    fit = made(trial, "y ~ x + (x | g) + (1 | a/b)")
    expected = trial
    for group, keys in {"g": ["g"], "a": ["a"], "a:b": ["a", "b"]}.items():
        expected = expected.join(fit.ranef(group), on=keys, how="left", maintain_order="left")
    assert_frame_equal(with_ranef(trial, fit), expected)
    assert with_ranef(trial, fit).columns[-8:] == [
        "g_Intercept", "g_Intercept_se", "g_x", "g_x_se", "a_Intercept", "a_Intercept_se", "a:b_Intercept",
        "a:b_Intercept_se",
    ]  # fmt: skip


def test_unseen_levels_and_null_keys_have_nulls(made, trial):
    fit = made(trial, "y ~ x + (1 | g)")
    odd = trial.with_columns(g=pl.Series(["new", None] * 200))
    assert with_ranef(odd, fit)["g_Intercept"].null_count() == trial.height


def test_only_keys_are_needed(made, trial):
    fit = made(trial, "y ~ x + (x | g)")
    assert with_ranef(trial.select("g"), fit).columns == ["g", "g_Intercept", "g_Intercept_se", "g_x", "g_x_se"]
    with pytest.raises(ColumnError, match="with_ranef needs 'g'"):
        with_ranef(trial.drop("g"), fit)


def test_a_clash_raises_and_prefix_is_the_way_out(made, trial):
    fit = made(trial, "y ~ x + (1 | g)")
    taken = with_ranef(trial, fit)
    with pytest.raises(ColumnError, match=r"already has 'g_Intercept' and 'g_Intercept_se'.*prefix="):
        with_ranef(taken.lazy(), fit)
    assert with_ranef(taken, fit, prefix="second_").columns[-2:] == ["second_g_Intercept", "second_g_Intercept_se"]


def test_two_effects_of_one_name_are_refused(made, trial):
    frame = trial.rename({"h": "g_h", "x": "h_Intercept"})
    fit = made(frame, "y ~ 1 + (0 + h_Intercept | g) + (1 | g_h)")
    with pytest.raises(ColumnError, match=r"'g_h_Intercept'.*would be added twice"):
        with_ranef(frame, fit)


def test_without_random_effects_nothing_is_added(made, trial):
    assert_frame_equal(with_ranef(trial, made(trial, "y ~ x")), trial)
