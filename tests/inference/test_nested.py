"""anova tests a model against one that holds it: other offsets, functions of a column, slopes and units are refused.

Each refused pair had a p-value: an offset in one of two Poisson models 1.6e-21, exp(x) in x + z 2e-10, and a column in
other units, whose restricted likelihood is another one by the logarithm of the units, 1e-4 for a variance of zero.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Fit, FitWarning, ModelError, anova


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    n = 200
    g, x, t = np.repeat(np.arange(20), 10), rng.normal(size=n), rng.uniform(1, 5, n)
    f = np.arange(n) % 4
    return pl.DataFrame(
        {
            "y": 1 + x + 0.3 * f + rng.normal(size=20)[g] + rng.normal(size=n), "x": x, "z": rng.normal(size=n),
            "t": t, "log_t": np.log(t), "c": rng.poisson(np.exp(0.3 * x + 0.5 * rng.normal(size=20)[g]) * t),
            "g": [f"g{i}" for i in g], "h": [f"h{i}" for i in np.arange(n) % 10], "f": [f"f{i}" for i in f], "k": f,
        }
    )  # fmt: skip


def fitted(frame: pl.DataFrame | pl.LazyFrame, formula: str, **more: Any) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(frame, formula, **more)


COUNTS = {"family": "poisson"}
ML = {"method": "ml"}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("small", "large", "more"),
    [
        ("c ~ x + (1 | g)", "c ~ x + z + offset(log_t) + (1 | g)", COUNTS),
        ("c ~ x + offset(log(t)) + (1 | g)", "c ~ x + z + (1 | g)", COUNTS),
        ("y ~ x + offset(log_t) + (1 | g)", "y ~ x + z + (1 | g)", ML),
    ],
)
def test_offsets_that_differ_are_refused(
    rows: pl.DataFrame, small: str, large: str, more: dict[str, str], lazy: bool
) -> None:
    frame = rows.lazy() if lazy else rows
    with pytest.raises(ModelError, match=r"not nested: .* another offset"):
        anova(fitted(frame, small, **more), fitted(frame, large, **more))


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("y ~ exp(x) + (1 | g)", "y ~ x + z + (1 | g)"),
        ("y ~ x + (x | g)", "y ~ x + (z + t | g)"),
        ("y ~ k + (1 | g)", "y ~ I(k > 1) + I(k > 2) + (1 | g)"),
    ],
)
def test_other_functions_and_slopes_are_refused(rows: pl.DataFrame, small: str, large: str) -> None:
    with pytest.raises(ModelError, match="not nested"):
        anova(fitted(rows, small, **ML), fitted(rows, large, **ML))


@pytest.mark.parametrize(
    ("small", "large", "more"),
    [
        ("c ~ x + offset(log_t) + (1 | g)", "c ~ x + log_t + (1 | g)", COUNTS),
        ("c ~ x + offset(log(t)) + (1 | g)", "c ~ x + z + offset(log_t) + (1 | g)", COUNTS),
        ("y ~ x + (1 | g)", "y ~ poly(x, 2) + (1 | g)", ML),
        ("y ~ k + (1 | g)", "y ~ C(k) + (1 | g)", ML),
        ("y ~ f + x + (1 | g)", "y ~ 0 + f + f:x + (1 | g)", ML),
        ("y ~ C(f, contr.sum) + (1 | g)", "y ~ f * x + (1 | g)", ML),
        ("y ~ I(x + z) + (1 | g)", "y ~ x + z + (x | g)", ML),
    ],
)
def test_what_is_nested_under_other_names_is_tested(
    rows: pl.DataFrame, small: str, large: str, more: dict[str, str]
) -> None:
    table = anova(fitted(rows, small, **more), fitted(rows, large, **more))
    assert table["df"][1] > 0
    assert 0.0 <= table["p_value"][1] <= 1.0


def test_a_coefficient_that_is_held_elsewhere_is_no_case_of_it(rows: pl.DataFrame) -> None:
    free = fitted(rows, "y ~ x + (1 | g)", **ML)
    held = fitted(rows, "y ~ x + z + t + (1 | g)", **ML, fixed={"x": 0.9})
    with pytest.raises(ModelError, match="not nested"):
        anova(free, held)
    assert anova(fitted(rows, "y ~ x + (1 | g)", **ML, fixed={"x": 0.9}), held)["df"][1] == 2


@pytest.mark.parametrize("lazy", [False, True])
def test_restricted_likelihoods_of_other_units_are_refused(rows: pl.DataFrame, lazy: bool) -> None:
    frames = [rows, rows.with_columns(pl.col("x") / 1000)]
    one, other = (frame.lazy() if lazy else frame for frame in frames)
    with pytest.raises(ModelError, match="'x' has other values, or other units"):
        anova(fitted(one, "y ~ x + (1 | g)"), fitted(other, "y ~ x + (1 | g) + (1 | h)"))
    assert anova(fitted(one, "y ~ x + (1 | g)", **ML), fitted(other, "y ~ x + (1 | g) + (1 | h)", **ML)).height == 2


def test_a_variance_held_at_zero_is_on_the_boundary(rows: pl.DataFrame) -> None:
    none = fitted(rows, "y ~ x + (1 | g) + (1 | h)", **ML, fixed={"sd(h: Intercept)": 0.0})
    table = anova(none, fitted(rows, "y ~ x + (1 | g) + (1 | h)", **ML))
    assert table["distribution"][1] == "chibar2(01)"


def test_a_column_of_the_mean_is_a_case_of_one_that_moves_every_threshold() -> None:
    """Proportional odds are nominal effects that are equal at all thresholds (ordinal's nominal_test)."""
    wine, ordered = polars_glmm.datasets.load("wine"), {"family": "cumulative"}
    equal = polars_glmm.fit(wine, "rating ~ temp + contact + (1 | judge)", **ordered)
    nominal = polars_glmm.fit(wine, "rating ~ temp + (1 | judge)", "thresholds ~ contact", **ordered)
    assert anova(equal, nominal)["df"][1] == 3
    scaled = polars_glmm.fit(wine, "rating ~ temp + (1 | judge)", "disc ~ contact + temp", **ordered)
    with pytest.raises(ModelError, match="not nested"):
        anova(equal, scaled)
