"""Levels that the fit has never seen: raised with column, level and remedy, eager at the call, lazy at collect.

The random levels have two ways out (zero, null); a fixed level has none, because nothing is known about it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from polars_glmm import Fit, UnknownLevelError
from tests.hard.attempt import attempt, fixed


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(19)
    n = 240
    school, room = np.arange(n) // 24, np.arange(n) // 6 % 4
    x = rng.normal(size=n)
    f = np.array(["lo", "mid", "up"])[np.arange(n) % 3]
    eta = (
        1
        + 0.4 * x
        + 0.3 * (f == "up")
        + 0.6 * rng.normal(size=10)[school]
        + 0.4 * rng.normal(size=(10, 4))[school, room]
    )
    return pl.DataFrame(
        {"school": [f"s{k}" for k in school], "room": room, "f": f, "x": x, "c": rng.poisson(np.exp(eta))}
    )


@pytest.fixture(scope="module", params=["String", "Categorical", "Enum"])
def fit(request: Any, frame: pl.DataFrame) -> Fit:
    dtype = {"String": pl.String, "Categorical": pl.Categorical, "Enum": pl.Enum(["lo", "mid", "up"])}[request.param]
    return attempt(frame.with_columns(pl.col("f").cast(dtype)), "c ~ x + f + (1 | school / room)", family="poisson")


def spoiled(frame: pl.DataFrame, column: str, value: Any, row: int = 7) -> pl.DataFrame:
    return frame.with_columns(
        pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(column).alias(column)
    )


@pytest.mark.one_in(3)
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("verb", ["predict", "augment", "simulate", "with_ranef"])
@pytest.mark.parametrize(("column", "level"), [("f", "top"), ("school", "s99"), ("room", 9)])
def test_an_unseen_level_raises_when_it_is_met(
    fit: Fit, frame: pl.DataFrame, verb: str, column: str, level: Any, *, lazy: bool
) -> None:
    """The plan is built without reading; the error comes at collect and is ours alone."""
    bad = spoiled(frame, column, level)
    if verb == "with_ranef":  # a left join: what is not known is null
        if column == "f":
            return
        joined = fit.with_ranef(bad.lazy() if lazy else bad).lazy().collect()
        assert joined.filter(pl.col(column) == level).select(pl.last()).item() is None
        return
    if verb == "simulate" and column != "f":  # draws an effect for it
        assert fit.simulate(bad, rng=1)["sim_1"].null_count() == 0
        return
    arguments = {"rng": 1} if verb == "simulate" else {}
    with pytest.raises(UnknownLevelError) as caught:
        getattr(fit, verb)(bad.lazy() if lazy else bad, **arguments).lazy().collect()
    message = str(caught.value)
    assert column in message
    assert str(level) in message


@pytest.mark.parametrize("lazy", [False, True])
def test_the_two_ways_out_for_random_levels(fit: Fit, frame: pl.DataFrame, *, lazy: bool) -> None:
    """zero: the mean of the known part; null: no number; a fixed level raises either way."""
    bad = spoiled(spoiled(frame, "school", "s99", 7), "room", 9, 50)
    given = bad.lazy() if lazy else bad
    zero = fit.predict(given, kind="link", new_levels="zero").lazy().collect()
    null = fit.predict(given, kind="link", new_levels="null").lazy().collect()
    seen = fit.predict(frame, kind="link")
    by_hand = (
        fixed(fit) + fixed(fit, "x") * bad["x"] + sum(fixed(fit, f"f[T.{k}]") * (bad["f"] == k) for k in ("mid", "up"))
    )
    assert zero["prediction"][7] == pytest.approx(by_hand[7], abs=1e-10)
    school = fit.ranef("school").filter(pl.col("school") == bad["school"][50])["school_Intercept"].item()
    assert zero["prediction"][50] == pytest.approx(by_hand[50] + school, abs=1e-10)
    assert null["prediction"].is_null().arg_true().to_list() == [7, 50]
    others = [k for k in range(240) if k not in (7, 50)]
    assert zero["prediction"][others].to_list() == pytest.approx(seen["prediction"][others].to_list(), abs=1e-12)
    worse = spoiled(bad, "f", "top")
    for choice in ("zero", "null"):
        with pytest.raises(UnknownLevelError, match="top"):
            fit.predict(worse.lazy() if lazy else worse, new_levels=choice).lazy().collect()


@pytest.mark.parametrize("lazy", [False, True])
def test_known_levels_are_silent(fit: Fit, frame: pl.DataFrame, *, lazy: bool) -> None:
    """Twin: any subset of the known levels, in any text dtype, in any order; a null gives null and no error."""
    part = frame.filter(pl.col("f") != "mid").sample(fraction=1, shuffle=True, seed=1)
    for dtype in (pl.String, pl.Categorical, pl.Enum(["up", "unused", "lo"])):
        given = part.with_columns(pl.col("f").cast(dtype))
        ours = fit.predict(given.lazy() if lazy else given).lazy().collect()
        assert ours.drop("prediction").equals(given)
        assert ours["prediction"].null_count() == 0
    holes = spoiled(spoiled(part, "f", None, 3), "school", None, 4)
    ours = fit.predict(holes.lazy() if lazy else holes).lazy().collect()
    assert ours["prediction"].is_null().arg_true().to_list() == [3, 4]


def test_an_empty_frame_is_predicted(fit: Fit, frame: pl.DataFrame) -> None:
    none = fit.predict(frame.clear())
    assert none.height == 0
    assert none.schema["prediction"] == pl.Float64


@pytest.mark.parametrize("lazy", [False, True])
def test_a_key_of_another_dtype(fit: Fit, frame: pl.DataFrame, *, lazy: bool) -> None:
    """Integer keys read back from a file as text: by label, or a clear error; never a silent zero."""
    text = frame.with_columns(pl.col("room").cast(pl.String))
    wanted = fit.predict(frame)["prediction"].to_list()
    try:
        given = fit.predict(text.lazy() if lazy else text).lazy().collect()
    except Exception as error:  # noqa: BLE001  its kind is what is looked at
        assert type(error).__module__.startswith("polars_glmm")  # noqa: PT017
        assert "room" in str(error)  # noqa: PT017
    else:
        assert given["prediction"].to_list() == pytest.approx(wanted, abs=1e-12)
    small = frame.with_columns(pl.col("room").cast(pl.UInt8))
    assert fit.predict(small)["prediction"].to_list() == pytest.approx(wanted, abs=1e-12)
