"""mm() met with data: the levels of all slots together, which rows are missing, and what columns cannot be."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm.answer.tally import group_sizes
from polars_glmm.design.learn import Learned, learn
from polars_glmm.errors import ColumnError
from polars_glmm.spec.model import ModelSpec

TERM = "(1 | mm(a, b, weights=(u, v)))"


def learned(frame: pl.DataFrame | pl.LazyFrame, term: str = TERM, **arguments: Any) -> Learned:
    return learn(ModelSpec.parse((f"y ~ 1 + {term}",)), frame, **arguments)


def frame(**columns: Any) -> pl.DataFrame:
    made = {
        "y": [1.0, 2.5, 3.0, 4.0], "a": ["p", "q", "r", "p"], "b": ["q", "q", None, "s"],
        "u": [0.5, 0.25, 1.0, 0.5], "v": [0.5, 0.75, 0.0, 0.5],
    }  # fmt: skip
    return pl.DataFrame(made | columns)


def shares(found: Learned) -> np.ndarray:
    (factor,) = found.design.factors
    assert factor.sets is not None
    return factor.sets.at(factor.codes).shares.toarray()


def test_levels_are_those_of_all_columns_and_weights_of_a_level_add_up() -> None:
    found = learned(frame())
    (factor,) = found.recipe.factors
    assert factor.levels.to_dict(as_series=False) == {"mm(a, b)": ["p", "q", "r", "s"]}
    assert_allclose(shares(found), [[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.5, 0, 0, 0.5]])
    assert found.n_dropped == 0
    assert factor.columns == ("a", "b", "u", "v")


def test_without_weights_every_slot_has_its_part() -> None:
    found = learned(frame(b=["q", "q", "r", "s"], c=list("qqqq")), "(1 | mm(a, b, c))")
    assert_allclose(shares(found)[0], np.array([1, 2, 0, 0]) / 3)
    assert found.notes == ()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("columns", "kept"),
    [
        ({}, [0, 1, 2, 3]),
        ({"v": [0.5, 0.75, None, 0.5]}, [0, 1, 2, 3]),  # neither key nor weight: a slot that is not used
        ({"v": [0.5, 0.75, float("nan"), 0.5]}, [0, 1, 2, 3]),
        ({"v": [0.5, 0.75, 0.1, 0.5]}, [0, 1, 3]),  # a weight without a key
        ({"v": [0.5, None, 0.0, 0.5]}, [0, 2, 3]),  # a key without a weight
        ({"a": ["p", None, "r", "p"], "u": [0.5, 0.0, 1.0, 0.5]}, [0, 1, 2, 3]),
        ({"b": ["q", "q", "z", "s"]}, [0, 1, 2, 3]),  # weight 0: whatever it holds
    ],
)
def test_a_row_is_missing_where_a_slot_in_use_is(columns: dict[str, list[Any]], kept: list[int], lazy: bool) -> None:
    made = frame(**columns)
    found = learned(made.lazy() if lazy else made)
    assert (np.arange(4) if found.kept is None else np.flatnonzero(found.kept)).tolist() == kept
    alone = learned(made[kept])
    assert found.recipe.factors[0].levels.equals(alone.recipe.factors[0].levels)
    assert_allclose(shares(found), shares(alone))


def test_missing_columns_are_named() -> None:
    with pytest.raises(ColumnError, match="1 row has a missing value in 'b'"):
        learned(frame(v=[0.5, 0.75, 0.1, 0.5]), missing="error")


@pytest.mark.parametrize(
    "keys",
    [
        lambda one: one.cast(pl.Categorical),
        lambda one: one.cast(pl.Enum(["s", "r", "q", "p"])),
        lambda one: one.replace_strict(dict(zip("pqrs", [3, 1, 0, 2], strict=True))),
        lambda one: one.replace_strict(dict(zip("pqrs", [3.5, 1.0, 0.0, 2.0], strict=True))),
        lambda one: one.replace_strict({k: date(2020, 1, n) for n, k in enumerate("pqrs", 1)}),
    ],
)
def test_keys_may_have_any_dtype_of_a_grouping_factor(keys: Any) -> None:
    """The rows' shares are the same, levels in the order of the dtype."""
    names = ["p", "q", "r", "s"]
    made = frame().with_columns(keys(pl.col("a")), keys(pl.col("b")))
    found, order = learned(made), made.select(pl.concat([keys(pl.lit(pl.Series(names)))])).to_series()
    levels = found.recipe.factors[0].levels.to_series().to_list()
    places = [levels.index(one) for one in order.to_list()]
    assert_allclose(shares(found)[:, places], shares(learned(frame())))


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"b": [1, 1, 2, 3]}, "different dtypes: 'a' is String, 'b' is Int64"),
        ({"u": ["1", "2", "3", "4"]}, "the column 'u' of weights is String, not numeric"),
        ({"u": [0.5, float("inf"), 1.0, 0.5]}, "column 'u' is infinite in row 1"),
        ({"u": [0.0] * 4, "v": [0.0] * 4}, "the weights of all rows are 0"),
    ],
)
def test_what_cannot_be_a_slot_is_named(columns: dict[str, list[Any]], what: str) -> None:
    for made in (frame(**columns), frame(**columns).lazy()):
        with pytest.raises(ColumnError, match=what):
            learned(made)


def test_weights_that_do_not_sum_to_one_are_said() -> None:
    (note,) = learned(frame(u=[0.5, 0.25, 2, 0.5])).notes
    assert note.code == "membership_weights"
    assert "'u' and 'v' sum to 2 in row 2" in note.text
    assert note.quiet


def test_a_slot_is_a_column_of_its_own_elsewhere() -> None:
    """A key that is a grouping factor too may not be missing."""
    made = frame(v=[0.5, 0.75, None, 0.5])
    assert learned(made).n_dropped == 0
    assert learned(made, f"{TERM} + (1 | b)").n_dropped == 1


def test_numbers_of_rows_are_those_a_level_takes_part_in() -> None:
    rng = np.random.default_rng(2)
    made = pl.DataFrame({"y": rng.normal(size=60), "a": rng.integers(0, 4, 60), "b": rng.integers(0, 4, 60)})
    (size,) = group_sizes(learned(made, "(1 | mm(a, b))").design)
    rows = [made.filter((pl.col("a") == k) | (pl.col("b") == k)).height for k in range(4)]
    assert (size.smallest, size.largest, size.mean) == (min(rows), max(rows), np.mean(rows))
