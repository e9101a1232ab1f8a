"""Columns that are not what a model needs: collinear, empty, missing, of a wrong type, outside the support."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest

from polars_glmm import ColumnError, GlmmError, IdentifiabilityError, ResponseError
from tests.hard.attempt import attempt, codes, fixed, names, note, refused, silent


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(18)
    n = 200
    g = np.arange(n) % 20
    x, w = rng.normal(size=(2, n))
    f = np.array(["a", "b", "c"])[np.arange(n) // 2 % 3]
    y = 1 + x - w + (f == "b") + rng.normal(size=20)[g] + rng.normal(size=n)
    return pl.DataFrame(
        {
            "g": g,
            "h": [f"h{k}" for k in g // 2],
            "f": f,
            "x": x,
            "w": w,
            "y": y,
            "c": rng.poisson(np.exp(0.3 * y)),
            "k": (rng.random(n) < 1 / (1 + np.exp(-y))).astype(int),
            "p": np.exp(0.3 * y),
            "n": np.full(n, 9),
        }
    )


# ------------------------------------------------------------------------------------------ collinear

COLLINEAR = [
    ("y ~ x + x2", {"x2": 2 * pl.col("x")}, ["x2"], "y ~ x"),
    ("y ~ x + w + s", {"s": pl.col("x") - 3 * pl.col("w")}, ["s"], "y ~ x + w"),
    ("y ~ s + x + w", {"s": pl.col("x") - 3 * pl.col("w")}, ["w"], "y ~ s + x"),
    ("y ~ k1 + x", {"k1": pl.lit(7.0)}, ["k1"], "y ~ x"),
    ("y ~ k1 + x", {"k1": pl.lit(0.0)}, ["k1"], "y ~ x"),
    ("y ~ x + k1", {"k1": pl.lit(1e-9)}, ["k1"], "y ~ x"),
    ("y ~ x + big", {"big": 1e12 * pl.col("x") + 1e12}, ["big"], "y ~ x"),
    ("y ~ f + is_b", {"is_b": (pl.col("f") == "b").cast(float)}, ["is_b"], "y ~ f"),
    ("y ~ is_b + f", {"is_b": (pl.col("f") == "b").cast(float)}, ["f[T.b]"], "y ~ is_b + is_c"),
    ("y ~ 0 + f + one", {"one": pl.lit(1.0)}, ["one"], "y ~ 0 + f"),
    ("y ~ f + f2", {"f2": pl.col("f").str.to_uppercase()}, ["f2[T.B]", "f2[T.C]"], "y ~ f"),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("formula", "extra", "lost", "plain"), COLLINEAR, ids=[f"{c[0]}: {c[2]}" for c in COLLINEAR])
@pytest.mark.parametrize("response", ["y", "c"])
def test_collinear_columns(
    frame: pl.DataFrame, formula: str, extra: dict[str, pl.Expr], lost: list[str], plain: str, response: str
) -> None:
    """The later column is dropped, never the intercept first; it stays in the table with null, and prediction works."""
    data = frame.with_columns(**extra, is_c=(pl.col("f") == "c").cast(float))
    family = "poisson" if response == "c" else "gaussian"
    formula, plain = (f"{response}{text[1:]} + (1 | g)" for text in (formula, plain))
    fit = attempt(data, formula, family=family, method=None if family == "poisson" else "ml")
    assert codes(fit) == {"columns_dropped"}
    names(fit, "columns_dropped", *lost, absent=("Intercept", "x"))
    rest = attempt(data, plain, family=family, method=None if family == "poisson" else "ml")
    silent(rest)
    assert fit.loglik == pytest.approx(rest.loglik, abs=1e-7)
    assert fit.estimate.df_model == rest.estimate.df_model
    table = fit.fixef()
    assert set(table.filter(pl.col("estimate").is_null())["term"]) == set(lost)
    assert table.filter(pl.col("term").is_in(lost)).drop("parameter", "term").null_count().sum_horizontal()[
        0
    ] == 7 * len(lost)
    pairs = [fit.predict(data)["prediction"].to_numpy(), rest.predict(data)["prediction"].to_numpy()]
    assert np.abs(pairs[0] - pairs[1]).max() < 1e-5


@pytest.mark.parametrize("noise", [1e-3, 1e-5])
def test_nearly_collinear_columns_are_kept(frame: pl.DataFrame, noise: float) -> None:
    """Twin: two thermometers that differ in the fifth digit are two columns, and least squares has both."""
    x2 = frame["x"].to_numpy() + noise * np.random.default_rng(2).normal(size=200)
    fit = attempt(frame.with_columns(x2=x2), "y ~ x + x2")
    silent(fit)
    x = np.c_[np.ones(200), frame["x"].to_numpy(), x2]
    expected, *_ = np.linalg.lstsq(x, frame["y"].to_numpy(), rcond=None)
    assert fit.fixef()["estimate"].to_list() == pytest.approx(expected.tolist(), rel=1e-4)
    mixed = attempt(frame.with_columns(x2=x2), "y ~ x + x2 + (1 | g)")
    assert not codes(mixed) - {"singular"}
    assert fixed(mixed, "x2", "std_error") == pytest.approx(fixed(fit, "x2", "std_error"), rel=0.5)


def test_empty_cells_of_an_interaction(frame: pl.DataFrame) -> None:
    """A combination of levels without rows has no column to estimate from."""
    data = frame.with_columns(u=pl.when(pl.col("x") > 0).then(pl.lit("up")).otherwise(pl.lit("lo")))
    fit = attempt(data.filter((pl.col("f") != "b") | (pl.col("u") == "lo")), "y ~ f * u + (1 | g)")
    names(fit, "columns_dropped", "f[T.b]:u[T.up]")
    silent(attempt(data, "y ~ f * u + (1 | g)"))


# ------------------------------------------------------------------------------------------ levels without rows


def test_declared_levels_without_rows(frame: pl.DataFrame) -> None:
    """An Enum may declare more than occurs: no column, no effect, no note; the first level that occurs is the base."""
    enum = pl.Enum(["0", "a", "z", "c", "b"])
    groups = pl.Enum([str(k) for k in range(-5, 40)])
    data = frame.with_columns(f=pl.col("f").cast(enum), g=pl.col("g").cast(pl.String).cast(groups))
    fit = attempt(data, "y ~ f + x + (1 | g)")
    silent(fit)
    assert fit.fixef()["term"].to_list() == ["Intercept", "f[T.c]", "f[T.b]", "x"]
    assert fit.ranef("g")["g"].to_list() == [str(k) for k in range(20)]
    plain = attempt(frame, "y ~ f + x + (1 | g)")
    assert fit.loglik == pytest.approx(plain.loglik, abs=1e-8)
    assert fixed(fit, "f[T.b]") == pytest.approx(fixed(plain, "f[T.b]"), abs=1e-6)
    slopes = attempt(data, "y ~ f + x + (0 + f | g)")
    assert {row["term"] for row in slopes.varcorr().to_dicts() if row["group"] == "g"} == {"f[a]", "f[c]", "f[b]"}


def test_a_factor_with_one_level(frame: pl.DataFrame) -> None:
    """A factor that never varies adds nothing to the intercept: an error that names it, or a note; never a crash."""
    lone = frame.with_columns(f=pl.lit("a"))
    try:
        fit = attempt(lone, "y ~ f + x + (1 | g)")
    except GlmmError as error:
        assert "'f'" in str(error)  # noqa: PT017  # either answer will do
    else:
        assert fit.loglik == pytest.approx(attempt(frame, "y ~ x + (1 | g)").loglik, abs=1e-8)


# ------------------------------------------------------------------------------------------ missing values


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("column", "dtype"),
    [("g", pl.Int64), ("g", pl.String), ("g", pl.Null), ("x", pl.Float64), ("y", pl.Float64), ("f", pl.String)],
)
def test_a_column_that_is_all_null(frame: pl.DataFrame, column: str, dtype: Any, *, lazy: bool) -> None:
    """A join that found nothing leaves a column of nulls: the message names it."""
    empty = frame.with_columns(pl.lit(None, dtype=dtype).alias(column))
    with refused(ColumnError, f"'{column}'"):
        attempt(empty.lazy() if lazy else empty, "y ~ x + f + (1 | g)")


@pytest.mark.one_in(3)
@pytest.mark.parametrize("column", ["g", "x", "y", "f"])
@pytest.mark.parametrize("lazy", [False, True])
def test_a_column_with_some_nulls(frame: pl.DataFrame, column: str, *, lazy: bool) -> None:
    """Twin: the rows are dropped and counted, and the answer is that of the other rows."""
    holes = frame.with_columns(pl.when(pl.int_range(pl.len()) % 10 != 3).then(column).alias(column))
    fit = attempt(holes.lazy() if lazy else holes, "y ~ x + f + (1 | g)")
    assert codes(fit) == {"rows_dropped"}
    names(fit, "rows_dropped", "20", "200", column)
    assert note(fit, "rows_dropped").quiet
    rest = attempt(holes.drop_nulls(), "y ~ x + f + (1 | g)")
    silent(rest)
    assert fit.loglik == pytest.approx(rest.loglik, abs=1e-10)
    assert (fit.n_obs, fit.n_dropped) == (180, 20)
    with refused(ColumnError, column):
        attempt(holes, "y ~ x + f + (1 | g)", missing="error")


@pytest.mark.parametrize(
    ("column", "formula", "family"),
    [
        ("y", "y ~ x + (1 | g)", "gaussian"),
        ("c", "c ~ x + (1 | g)", "poisson"),
        ("x", "y ~ x + (1 | g)", "gaussian"),
        ("g", "y ~ x + (1 | g)", "gaussian"),
    ],
)
def test_nan_counts_as_missing(frame: pl.DataFrame, column: str, formula: str, family: str) -> None:
    """NaN is what pandas calls missing."""
    cast = frame.with_columns(pl.col(column).cast(pl.Float64))
    holes = cast.with_columns(pl.when(pl.int_range(pl.len()) == 5).then(float("nan")).otherwise(column).alias(column))
    fit = attempt(holes, formula, family=family)
    assert codes(fit) == {"rows_dropped"}
    assert fit.n_dropped == 1
    rest = attempt(cast.with_row_index("i").filter(pl.col("i") != 5), formula, family=family)
    assert fit.loglik == pytest.approx(rest.loglik, abs=1e-10)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
@pytest.mark.parametrize(("column", "formula", "family"), [
    ("y", "y ~ x + (1 | g)", "gaussian"),
    ("c", "c ~ x + (1 | g)", "poisson"),
    ("p", "p ~ x + (1 | g)", "gamma"),
    ("x", "y ~ x + (1 | g)", "gaussian"),
    ("x", "c ~ x + (1 | g)", "poisson"),
    ("x", "y ~ w + (x | g)", "gaussian"),
    ("x", "y ~ w + offset(x) + (1 | g)", "gaussian"),
])  # fmt: skip
def test_infinity_is_refused(frame: pl.DataFrame, column: str, formula: str, family: str, value: float) -> None:
    """An infinite value is a number gone wrong; the message names column and row, whichever part it stands in."""
    cast = frame.with_columns(pl.col(column).cast(pl.Float64))
    bad = cast.with_columns(pl.when(pl.int_range(pl.len()) == 5).then(value).otherwise(column).alias(column))
    with refused(GlmmError, column):
        attempt(bad, formula, family=family)
    with refused(GlmmError, "5"):
        attempt(bad, formula, family=family)
    large = cast.with_columns(pl.when(pl.int_range(pl.len()) == 5).then(9).otherwise(column).alias(column))
    assert attempt(large, formula, family=family).converged


@pytest.mark.parametrize(
    ("formula", "column"),
    [
        ("log(y) ~ x + (1 | g)", "y"),
        ("y ~ log(x) + (1 | g)", "x"),
        ("y ~ I(1 / z) + (1 | g)", "z"),
        ("c ~ w + offset(log(x)) + (1 | g)", "x"),
    ],
)
def test_a_transform_outside_its_domain(frame: pl.DataFrame, formula: str, column: str) -> None:
    """log of a negative number, 1/0: an error, or dropped and counted; never a number."""
    data = frame.with_columns(z=pl.when(pl.int_range(pl.len()) == 5).then(0.0).otherwise(1.0 + pl.col("w").abs()))
    try:
        fit = attempt(data, formula, family="poisson" if formula.startswith("c") else "gaussian")
    except GlmmError as error:
        assert column in str(error)  # noqa: PT017  # either answer will do
    else:
        assert column in note(fit, "rows_dropped").text
        assert fit.n_dropped > 0


# ------------------------------------------------------------------------------------------ no rows, wrong dtypes


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("formula", ["y ~ x + (1 | g)", "y ~ f", "c ~ x + (x | g)"])
def test_an_empty_frame(frame: pl.DataFrame, formula: str, *, lazy: bool) -> None:
    """A filter that matched nothing."""
    none = frame.clear()
    with refused(GlmmError, "no rows"):
        attempt(none.lazy() if lazy else none, formula, family="poisson" if formula.startswith("c") else "gaussian")


def test_a_frame_without_columns() -> None:
    with refused(ColumnError, "'y'"):
        attempt(pl.DataFrame(), "y ~ x + (1 | g)")


@pytest.mark.parametrize("rows", [1, 2])
def test_hardly_any_rows(frame: pl.DataFrame, rows: int) -> None:
    with pytest.raises((IdentifiabilityError, ColumnError)):
        attempt(frame.head(rows), "y ~ x + (1 | g)")


BAD = {
    "list": pl.Series([[1, 2]] * 200),
    "array": pl.Series([[1, 2]] * 200, dtype=pl.Array(pl.Int64, 2)),
    "struct": pl.Series([{"a": 1}] * 200),
    "object": pl.Series([object() for _ in range(200)], dtype=pl.Object),
    "binary": pl.Series([b"x", b"y"] * 100),
    "text": pl.Series(["u", "v"] * 100),
    "date": pl.Series([date(2020, 1, 1), date(2020, 1, 2)] * 100),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("family", ["gaussian", "poisson", "binomial", "gamma"])
def test_a_response_of_a_wrong_dtype(frame: pl.DataFrame, kind: str, family: str) -> None:
    with refused(ColumnError, "bad"):
        attempt(frame.with_columns(bad=BAD[kind]), "bad ~ x + (1 | g)", family=family)


@pytest.mark.parametrize("kind", ["list", "array", "object"])
@pytest.mark.parametrize(
    "formula",
    ["y ~ bad + (1 | g)", "y ~ x + (1 | bad)", "y ~ x + (bad | g)", "y ~ x + (1 | g:bad)", "y ~ x + offset(bad)"],
)
def test_a_nested_column_anywhere(frame: pl.DataFrame, kind: str, formula: str) -> None:
    with refused(GlmmError, "bad"):
        attempt(frame.with_columns(bad=BAD[kind]), formula)


@pytest.mark.parametrize("kind", ["struct", "binary"])
def test_an_odd_predictor(frame: pl.DataFrame, kind: str) -> None:
    with refused(GlmmError, "bad"):
        attempt(frame.with_columns(bad=BAD[kind]), "y ~ bad + (1 | g)")


@pytest.mark.parametrize("argument", ["trials", "offset", "frequency", "precision"])
@pytest.mark.parametrize("kind", ["text", "list", "date"])
def test_an_argument_of_a_wrong_dtype(frame: pl.DataFrame, argument: str, kind: str) -> None:
    family = "binomial" if argument == "trials" else "gaussian"
    with refused(GlmmError, "bad"):
        attempt(frame.with_columns(bad=BAD[kind]), "k ~ x + (1 | g)", family=family, **{argument: "bad"})


KEYS = [
    pl.Int8,
    pl.UInt64,
    pl.Int128,
    pl.String,
    pl.Categorical,
    pl.Float64,
    pl.Date,
    pl.Datetime("us"),
    pl.Duration("us"),
    pl.Decimal(10, 2),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", KEYS, ids=str)
def test_any_plain_dtype_groups(frame: pl.DataFrame, dtype: Any) -> None:
    """Twin: a key may be of any plain dtype, and the fit does not depend on it."""
    plain = attempt(frame, "y ~ x + (1 | g)")
    key = frame["g"].cast(pl.String).cast(dtype) if dtype == pl.Categorical else frame["g"].cast(dtype)
    data = frame.with_columns(g=key)
    fit = attempt(data, "y ~ x + (1 | g)")
    silent(fit)
    assert fit.loglik == pytest.approx(plain.loglik, abs=1e-9)
    joined = data.join(fit.ranef("g"), on="g", how="left")
    assert joined["g_Intercept"].null_count() == 0
    assert fit.predict(data)["prediction"].to_list() == pytest.approx(
        plain.predict(frame)["prediction"].to_list(), abs=1e-8
    )


NUMBERS = [pl.Float32, pl.Int8, pl.Int128, pl.UInt16, pl.Decimal(12, 4)]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@pytest.mark.parametrize("column", ["c", "v"])
def test_any_number_is_a_number(frame: pl.DataFrame, dtype: Any, column: str) -> None:
    """A small or odd number type gives the answer of Float64: nothing overflows on the way."""
    data = frame.with_columns(v=pl.col("c") % 5 + 100)
    plain = attempt(data, "c ~ v + (v | g)", family="poisson")
    fit = attempt(data.with_columns(pl.col(column).cast(dtype)), "c ~ v + (v | g)", family="poisson")
    assert fit.loglik == pytest.approx(plain.loglik, abs=1e-8)
    squared = attempt(data.with_columns(pl.col("v").cast(dtype)), "c ~ I(v * v) + (1 | g)", family="poisson")
    assert squared.loglik == pytest.approx(attempt(data, "c ~ I(v * v) + (1 | g)", family="poisson").loglik, abs=1e-6)


# ------------------------------------------------------------------------------------------ outside the support

OUTSIDE = [
    ("poisson", {}, -1.0),
    ("poisson", {}, 1.5),
    ("negative_binomial", {}, -1.0),
    ("negative_binomial", {}, 0.5),
    ("binomial", {}, 2.0),
    ("binomial", {}, -1.0),
    ("binomial", {}, 0.3),
    ("binomial", {"trials": "n"}, 10.0),
    ("binomial", {"trials": "n"}, -1.0),
    ("binomial", {"trials": "n"}, 2.5),
    ("gamma", {}, 0.0),
    ("gamma", {}, -2.0),
    ("inverse_gaussian", {}, 0.0),
    ("inverse_gaussian", {}, -2.0),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("family", "arguments", "value"), OUTSIDE)
@pytest.mark.parametrize("lazy", [False, True])
def test_a_response_outside_the_support(
    frame: pl.DataFrame, family: str, arguments: dict[str, str], value: float, *, lazy: bool
) -> None:
    """One impossible value among 200: named with its row, before any fitting; the twin without it fits."""
    response = {"poisson": "c", "negative_binomial": "c", "binomial": "k"}.get(family, "p")
    good = frame.with_columns(v=pl.col(response).cast(pl.Float64))
    if arguments:
        good = good.with_columns(v=(pl.col("c").clip(0, 9)).cast(pl.Float64))
    bad = good.with_columns(v=pl.when(pl.int_range(pl.len()) == 42).then(value).otherwise("v"))
    with refused(ResponseError, "v", f"{value:g}", "42"):
        attempt(bad.lazy() if lazy else bad, "v ~ x + (1 | g)", family=family, **arguments)
    assert not codes(attempt(good, "v ~ x + (1 | g)", family=family, **arguments)) - {"singular"}


@pytest.mark.parametrize(
    ("argument", "family", "value"),
    [
        ("frequency", "poisson", -1.0),
        ("frequency", "poisson", 1.5),
        ("precision", "gaussian", -1.0),
        ("trials", "binomial", -1.0),
        ("trials", "binomial", 2.5),
    ],
)
def test_weights_outside_their_range(frame: pl.DataFrame, argument: str, family: str, value: float) -> None:
    data = frame.with_columns(v=pl.when(pl.int_range(pl.len()) == 42).then(value).otherwise(3.0))
    with refused(GlmmError, "v", f"{value:g}", "42"):
        attempt(data, "k ~ x + (1 | g)", family=family, **{argument: "v"})


@pytest.mark.parametrize(
    ("argument", "family"), [("frequency", "poisson"), ("precision", "gaussian"), ("trials", "binomial")]
)
def test_weights_of_zero(frame: pl.DataFrame, argument: str, family: str) -> None:
    """Zero weight drops a row like its absence, and zero everywhere leaves nothing, which is said."""
    data = frame.with_columns(
        v=pl.when(pl.int_range(pl.len()) == 42).then(0).otherwise(1),
        k=pl.when(pl.int_range(pl.len()) == 42).then(0).otherwise("k"),
    )
    fit = attempt(data, "k ~ x + (1 | g)", family=family, **{argument: "v"})
    rest = attempt(data.filter(pl.col("v") > 0), "k ~ x + (1 | g)", family=family, **{argument: "v"})
    assert fit.loglik == pytest.approx(rest.loglik, abs=1e-9)
    assert fit.n_obs == rest.n_obs
    with refused(GlmmError, "0"):
        attempt(data.with_columns(v=pl.lit(0), k=pl.lit(0)), "k ~ x + (1 | g)", family=family, **{argument: "v"})


def test_decimal_and_boolean_responses(frame: pl.DataFrame) -> None:
    rounded = frame.with_columns(y=pl.col("y").round(2))
    money = rounded.with_columns(y=pl.Series([Decimal(f"{v:.2f}") for v in rounded["y"]]))
    one, two = attempt(rounded, "y ~ x + (1 | g)"), attempt(money, "y ~ x + (1 | g)")
    assert one.loglik == pytest.approx(two.loglik, abs=1e-9)
    yes = attempt(frame.with_columns(k=pl.col("k") == 1), "k ~ x + (1 | g)", family="binomial")
    silent(yes)
    assert yes.loglik == pytest.approx(attempt(frame, "k ~ x + (1 | g)", family="binomial").loglik, abs=1e-9)
