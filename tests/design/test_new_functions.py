"""pi, pmin, pmax, ave and rcs: their values, and that every route gives the same ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import ModelError, UnknownLevelError
from polars_glmm.design.learn import learn
from polars_glmm.spec.model import ModelSpec

_RNG = np.random.default_rng(3)
_N = 240
FRAME = pl.DataFrame(
    {
        "x": _RNG.gamma(2.0, 2.0, _N),
        "z": _RNG.normal(size=_N),
        "g": _RNG.integers(0, 12, _N),
        "k": _RNG.integers(1, 4, _N),
    }
).with_columns(y=pl.col("x").sqrt() + pl.col("g") / 6 + _RNG.normal(size=_N), t="s" + pl.col("g").cast(pl.String))
FORMULAS = (
    "y ~ rcs(x, 4) + (1 | t)",
    "y ~ I(x - ave(x, t)) + ave(x, t) + (1 | t)",
    "y ~ ave(log(x), g) + pmin(x, 3) + pmax(x, z, 1) + (1 | t)",
    "y ~ sin(2 * pi * x / 7) + (1 | t)",
)


def column(formula: str, frame: pl.DataFrame = FRAME, frequency: str | None = None) -> np.ndarray:
    return learn(ModelSpec.parse((formula,), frequency=frequency), frame).design.mu.x


def test_the_extremes_pi_and_level_means_are_what_their_names_say() -> None:
    x, z = FRAME["x"].to_numpy(), FRAME["z"].to_numpy()
    made = column("y ~ 0 + pmin(x, 3) + pmax(x, z, 1) + sin(pi * z) + ave(x, t)")
    mean = FRAME.select(pl.col("x").mean().over("t"))["x"].to_numpy()
    expected = [np.minimum(x, 3), np.maximum(np.maximum(x, z), 1), np.sin(np.pi * z), mean]
    assert np.allclose(made, expected, rtol=1e-13)


def test_level_means_count_frequencies() -> None:
    long = FRAME[np.repeat(np.arange(FRAME.height), FRAME["k"])].with_columns(k=pl.lit(1))
    short = column("y ~ 0 + ave(x, t)", frequency="k")[0]
    assert np.allclose(np.repeat(short, FRAME["k"].to_numpy()), column("y ~ 0 + ave(x, t)", long)[0], rtol=1e-13)


@pytest.mark.parametrize("k", [3, 4, 5, 6, 7])
def test_a_restricted_cubic_spline_is_harrells_truncated_power_basis(k: int) -> None:
    x = FRAME["x"].to_numpy()
    table = {3: [0.1, 0.5, 0.9], 4: [0.05, 0.35, 0.65, 0.95], 5: [0.05, 0.275, 0.5, 0.725, 0.95],
             6: [0.05, 0.23, 0.41, 0.59, 0.77, 0.95],
             7: [0.025, 0.1833, 0.3417, 0.5, 0.6583, 0.8167, 0.975]}  # fmt: skip
    t = np.quantile(x, table[k])
    cube = [np.maximum(x - knot, 0.0) ** 3 for knot in t]
    last = t[-1] - t[-2]
    expected = [x] + [
        (cube[j] - cube[-2] * (t[-1] - t[j]) / last + cube[-1] * (t[-2] - t[j]) / last) / (t[-1] - t[0]) ** 2
        for j in range(k - 2)
    ]
    assert np.allclose(column(f"y ~ 0 + rcs(x, {k})"), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("formula", FORMULAS)
def test_every_route_makes_the_same_columns(formula: str, tmp_path: Path) -> None:
    eager, lazy = polars_glmm.fit(FRAME, formula), polars_glmm.fit(FRAME.lazy(), formula)
    products = polars_glmm.products(FRAME.lazy(), formula)
    products.write_parquet(tmp_path / "sums.parquet")
    stored = polars_glmm.read_products(tmp_path / "sums.parquet").fit()
    assert np.allclose([lazy.loglik, stored.loglik], eager.loglik, rtol=1e-10)
    fitted = eager.augment(FRAME)["fitted"]
    for one in (eager.predict(FRAME), lazy.predict(FRAME.lazy()).collect(), stored.predict(FRAME)):
        assert np.allclose(one["prediction"], fitted, rtol=1e-7)
    keyed = polars_glmm.fit(FRAME, formula, by="k")
    alone = polars_glmm.fit(FRAME.filter(k=2), formula)
    assert abs(keyed[2].loglik - alone.loglik) < 1e-8


def test_a_missing_value_or_an_unseen_level_has_no_prediction() -> None:
    fit = polars_glmm.fit(FRAME, "y ~ pmin(x, 3) + ave(x, t)")
    one = FRAME.head(2).with_columns(x=pl.Series([None, 1.0]))
    assert fit.predict(one)["prediction"].is_null().to_list() == [True, False]
    with pytest.raises(UnknownLevelError, match="has not seen"):
        fit.predict(one.with_columns(t=pl.lit("new")))


def test_a_column_named_pi_is_not_mistaken_for_the_number() -> None:
    frame = FRAME.rename({"z": "pi"})
    with pytest.raises(ModelError, match="rename the column"):
        polars_glmm.fit(frame, "y ~ log(x * pi)")
    assert np.allclose(column("y ~ 0 + pi + I(`pi`^2)", frame), [FRAME["z"], FRAME["z"] ** 2])
