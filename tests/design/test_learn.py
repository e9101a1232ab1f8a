"""learn(): rows, levels, responses and columns, and the errors that name what is wrong with the data."""

from __future__ import annotations

import pickle
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from polars.testing import assert_frame_equal

from polars_glmm.design.learn import Learned, learn
from polars_glmm.design.response import response_arrays
from polars_glmm.errors import ColumnError, GlmmError, ModelError, ResponseError
from polars_glmm.frames import levels as levels_module
from polars_glmm.spec.model import ModelSpec

N = 24
INF = float("inf")
TRIALS = {"family": "binomial", "trials": "n"}


def make(formula: str = "y ~ x + (1 | g)", frame: pl.DataFrame | pl.LazyFrame | None = None, **options: Any) -> Learned:
    missing = options.pop("missing", "drop")
    further = options.pop("further", ())
    return learn(ModelSpec.parse((formula, *further), **options), FRAME if frame is None else frame, missing=missing)


RNG = np.random.default_rng(1)
FRAME = pl.DataFrame(
    {
        "y": RNG.normal(size=N),
        "x": RNG.normal(size=N),
        "z": RNG.uniform(1, 2, N),
        "g": [*"dbca"] * 6,
        "h": [1, 1, 1, 1, 7, 7, 7, 7] * 3,
        "f": ["u", "v", "w"] * 8,
        "b": [True, False] * 12,
        "count": RNG.poisson(2.0, N),
        "n": [4] * N,
        "k": [0, 1, 2, 3, 4, 3, 2, 1] * 3,
        "when": [date(2024, 1, 1)] * N,
    }
)


def codes_of(series: pl.Series) -> tuple[list[int], list[Any]]:
    made = make("y ~ 1 + (1 | key)", FRAME.with_columns(series.alias("key")))
    factor, recipe = made.design.factors[0], made.recipe.factors[0]
    assert factor.codes.dtype == np.int32
    assert recipe.levels.schema == {"key": series.dtype}
    assert recipe.levels.height == factor.n_levels
    return factor.codes.tolist(), recipe.levels["key"].to_list()


KEYS: dict[str, list[Any]] = {
    "text": [*"dbca"],
    "integers": [40, -2, 7, 5],
    "far integers": [10**12, -(10**12), 0, 5],
    "dates": [date(2024, 3, 1) - timedelta(days=d) for d in (0, 40, 2, 365)],
    "floats": [2.5, -1.0, 0.25, 0.0],
    "flags": [True, False, True, False],
}


@pytest.mark.parametrize("few", [True, False], ids=["dictionary", "query"])
@pytest.mark.parametrize(
    "series",
    [
        pl.Series("text", KEYS["text"] * 6),
        pl.Series("categorical", KEYS["text"] * 6, dtype=pl.Categorical),
        pl.Series("int", KEYS["integers"] * 6),
        pl.Series("int8", KEYS["integers"] * 6, dtype=pl.Int8),
        pl.Series("uint64", [5, 0, 2**63, 7] * 6, dtype=pl.UInt64),
        pl.Series("far", KEYS["far integers"] * 6),
        pl.Series("date", KEYS["dates"] * 6),
        pl.Series("datetime", KEYS["dates"] * 6).cast(pl.Datetime("us")),
        pl.Series("duration", [timedelta(hours=h) for h in (3, 1, 2, 0)] * 6),
        pl.Series("float", KEYS["floats"] * 6),
        pl.Series("flag", KEYS["flags"] * 6),
        pl.Series("decimal", [Decimal("1.5"), Decimal("-2.25"), Decimal("0.1"), Decimal(9)] * 6),
        pl.Series("binary", [b"d", b"b", b"c", b"a"] * 6),
        pl.Series("struct", [{"a": a, "b": b} for a, b in ((2, "x"), (1, "z"), (1, "y"), (3, "a"))] * 6),
    ],
    ids=lambda series: series.name,
)
def test_keys_of_any_dtype_are_coded_by_sorted_value(
    series: pl.Series, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(levels_module, "_FEW_ROWS", 3000 if few else 0)
    codes, found = codes_of(series)
    wanted = sorted(set(map(_sortable, series.to_list())))
    assert [_sortable(value) for value in found] == wanted
    assert codes == [wanted.index(_sortable(value)) for value in series.to_list()]


def _sortable(value: Any) -> Any:
    return tuple(value.values()) if isinstance(value, dict) else value


def test_an_enum_keeps_its_own_order_and_loses_its_unused_levels() -> None:
    dtype = pl.Enum(["d", "never", "c", "b", "a"])
    codes, found = codes_of(FRAME["g"].cast(dtype))
    assert found == [*"dcba"]
    assert codes == ["dcba".index(value) for value in FRAME["g"]]
    assert make("y ~ h2", FRAME.with_columns(h2=FRAME["g"].cast(dtype))).design.mu.names == (
        "Intercept", "h2[T.c]", "h2[T.b]", "h2[T.a]",
    )  # fmt: skip


def test_physical_codes_of_a_categorical_never_matter() -> None:
    """Categories are shared by a process: codes depend on what was seen before."""
    pl.Series(["zz", "d", "b"], dtype=pl.Categorical)
    frame = FRAME.with_columns(c=pl.col("g").cast(pl.Categorical))
    made = make("y ~ c + (1 | c)", frame)
    assert made.design.mu.names == ("Intercept", "c[T.b]", "c[T.c]", "c[T.d]")
    assert_array_equal(made.design.factors[0].codes, ["abcd".index(value) for value in FRAME["g"]])


def test_composite_and_nested_keys_are_the_combinations_that_occur() -> None:
    made = make("y ~ 1 + (1 | g/h)")
    outer, inner = made.recipe.factors
    assert (outer.name, outer.keys, inner.name, inner.keys) == ("g", ("g",), "g:h", ("g", "h"))
    wanted = FRAME.select("g", "h").unique().sort("g", "h")
    assert_frame_equal(inner.levels, wanted)
    rows = inner.levels[made.design.factors[1].codes]
    assert_frame_equal(rows, FRAME.select("g", "h"))


def test_terms_on_one_factor_stand_side_by_side() -> None:
    made = make("y ~ x + (1 | g) + (1 | h) + (0 + f | g) + (x || g)")
    factor, other = made.design.factors
    assert [(term.start, term.stop, term.structure, term.names) for term in factor.terms] == [
        (0, 1, "us", ("Intercept",)),
        (1, 4, "us", ("f[u]", "f[v]", "f[w]")),
        (4, 6, "diag", ("Intercept", "x")),
    ]
    assert factor.z.shape == (6, N)
    assert factor.z.flags.c_contiguous
    assert_allclose(factor.z[1:4].sum(axis=0), 1.0)
    assert_allclose(factor.z[5], FRAME["x"])
    assert other.name == "h"
    assert [column.name for column in made.recipe.factors[0].terms[1].columns] == ["f[u]", "f[v]", "f[w]"]


def test_double_bars_over_a_categorical_say_what_they_drop() -> None:
    notes = make("y ~ x + (f || g)").notes
    assert [(note.code, note.quiet) for note in notes] == [("double_bar_categorical", True)]
    assert "lme4" in notes[0].text
    assert make("y ~ x + (x || g)").notes == ()


def test_eager_and_lazy_learn_the_same() -> None:
    formula = "y ~ x * f + poly(z, 2) + (1 + x | g) + (1 | h)"
    eager, lazy = make(formula), make(formula, FRAME.lazy())
    assert_array_equal(eager.design.mu.x, lazy.design.mu.x)
    assert eager.recipe.predictors == lazy.recipe.predictors
    for one, two in zip(eager.design.factors, lazy.design.factors, strict=True):
        assert_array_equal(one.codes, two.codes)


def test_a_lazy_frame_is_projected_and_collected_once() -> None:
    calls = []

    def spy(batch: pl.DataFrame) -> pl.DataFrame:
        calls.append(batch.columns)
        return batch

    make(
        "y ~ x + (1 | g)",
        FRAME.lazy().select("y", "x", "g").map_batches(spy, schema=FRAME.select("y", "x", "g").schema),
    )
    assert len(calls) == 1


def test_a_recipe_survives_pickling() -> None:
    recipe = make("y ~ bs(x, 4) + C(f, contr.sum) + (x | g)").recipe
    again = pickle.loads(pickle.dumps(recipe))  # noqa: S301
    assert again.predictors == recipe.predictors
    assert_frame_equal(again.factors[0].levels, recipe.factors[0].levels)


# missing values -------------------------------------------------------------------------------------------------------

HOLES = FRAME.with_columns(
    x=pl.when(pl.int_range(N) == 2).then(float("nan")).otherwise("x"),
    g=pl.when(pl.int_range(N) == 5).then(None).otherwise("g"),
    z=pl.when(pl.int_range(N) == 7).then(None).otherwise("z"),
)


def test_rows_with_a_null_or_nan_in_a_used_column_are_dropped_and_counted() -> None:
    made = make(frame=HOLES)
    assert made.n_dropped == 2
    assert made.kept is not None
    assert_array_equal(np.flatnonzero(~made.kept), [2, 5])
    assert made.design.n_rows == N - 2
    assert_allclose(made.design.y, FRAME["y"].to_numpy()[made.kept])
    (note,) = made.notes
    assert (note.code, note.quiet) == ("rows_dropped", True)
    assert "2 of 24" in note.text
    assert "'x' and 'g'" in note.text
    assert make().kept is None


@pytest.mark.parametrize("column", ["y", "o", "c", "w"])
def test_a_missing_value_in_any_argument_drops_the_row(column: str) -> None:
    frame = FRAME.with_columns(o="z", c="n", w="z").with_columns(
        pl.when(pl.int_range(N) == 3).then(None).otherwise(pl.col(column)).alias(column)
    )
    made = make(frame=frame, offset="o", frequency="c", precision="w")
    assert made.n_dropped == 1


def test_constants_are_learned_from_the_rows_that_stay() -> None:
    frame = HOLES.with_columns(x=pl.when(pl.int_range(N) == 5).then(1e6).otherwise("x"))
    assert abs(make("y ~ scale(x) + (1 | g)", frame).design.mu.x[1].mean()) < 1e-12


def test_levels_are_those_of_the_rows_that_stay() -> None:
    frame = FRAME.with_columns(x=pl.when(pl.col("g") == "a").then(None).otherwise("x"))
    assert make("y ~ x + g + (1 | g)", frame).recipe.factors[0].levels["g"].to_list() == ["b", "c", "d"]


# errors ---------------------------------------------------------------------------------------------------------------


def _with(**columns: Any) -> pl.DataFrame:
    return FRAME.with_columns(**columns)


def _odd(value: float) -> pl.DataFrame:
    """A number of successes in `odd`, whole but for one."""
    return _with(odd=pl.when(pl.int_range(N) == 9).then(value).otherwise(pl.col("k").cast(pl.Float64)))


@pytest.mark.parametrize(
    ("formula", "frame", "options", "error", "message"),
    [
        ("y ~ xx", FRAME, {}, ColumnError, "no column 'xx'"),
        ("count ~ couunt", FRAME, {}, ColumnError, "Did you mean 'count'?"),
        ("y ~ x + (1 | gg)", FRAME, {}, ColumnError, "no column 'gg'"),
        ("y ~ x", FRAME, {"offset": "o"}, ColumnError, "no column 'o'"),
        ("y ~ x", FRAME.clear(), {}, ColumnError, "has no rows"),
        ("y ~ x + (1 | g)", _with(g=pl.lit(None, dtype=pl.String)), {}, ColumnError, "column 'g' holds nothing else"),
        ("y ~ x", _with(x=pl.lit(None)), {}, ColumnError, "column 'x' holds nothing else"),
        ("y ~ x + (1 | g)", HOLES, {"missing": "error"}, ColumnError, "2 rows have a missing value in 'x' and 'g'"),
        ("y ~ x", FRAME, {"missing": "raise"}, ModelError, "use 'drop' or 'error'"),
        ("y ~ x", _with(x=pl.col("x").replace(FRAME["x"][3], INF)), {}, ColumnError, "'x' is infinite in row 3 ("),
        ("y ~ x", _with(y=pl.lit(-INF)), {}, ColumnError, "'y' is infinite in row 0 (24 in all"),
        ("y ~ log(x)", FRAME, {}, ColumnError, "log(x) is not a number in row"),
        ("y ~ log(k)", FRAME, {}, ColumnError, "log(k) is infinite in row 0 (k = 0)"),
        ("y ~ I(1 / k)", FRAME, {}, ColumnError, "I(1 / k) is infinite in row 0"),
        ("y ~ x + offset(log(k))", FRAME, {}, ColumnError, "the offset is infinite in row 0"),
        ("log(count) ~ x", FRAME, {}, ColumnError, "response log(count) is infinite"),
        ("g ~ x", FRAME, {}, ColumnError, "response 'g' is String. The gaussian family needs numbers"),
        ("g ~ x", FRAME, {"family": "binomial"}, ColumnError, "Make it Boolean"),
        ("f2 ~ x", _with(f2=FRAME["f"].cast(pl.Enum([*"uvw"]))), {"family": "binomial"}, ColumnError, "has 3 levels"),
        ("when ~ x", FRAME, {}, ColumnError, "response 'when' is Date"),
        ("y ~ when", FRAME, {}, ColumnError, "column 'when' is Date: a fixed effect is numeric"),
        ("y ~ log(f)", FRAME, {}, ColumnError, "column 'f' is String: arithmetic and functions need numbers"),
        ("y ~ x", FRAME, {"offset": "f"}, ColumnError, "column 'f' is String"),
        ("y ~ one", _with(one=pl.lit("same")), {}, ColumnError, "'one' has one level"),
        ("y ~ x * C(n)", FRAME, {}, ColumnError, "'C(n)' has one level"),
        ("y ~ x + (one | g)", _with(one=pl.lit("same")), {}, ColumnError, "'one' has one level"),
        ("y ~ C(f, contr.treatment('U'))", FRAME, {}, GlmmError, "The base level 'U'"),
        ("y ~ C(f, levels=['u', 'v'])", FRAME, {}, ColumnError, "the level 'w'"),
        ("y ~ C(x + 1)", FRAME, {}, GlmmError, "C() takes a column"),
        ("y ~ poly(b, 2)", FRAME, {}, ColumnError, "there are 2"),
        ("y ~ poly(x, 0)", FRAME, {}, GlmmError, "whole number of at least 1"),
        ("y ~ poly(x, z)", FRAME, {}, GlmmError, "'z' is not a constant"),
        ("y ~ log(poly(x, 2))", FRAME, {}, GlmmError, "several columns"),
        ("y ~ Intercept", _with(Intercept="x"), {}, ColumnError, "two columns called 'Intercept'"),
        ("y ~ bs(x, df=2)", FRAME, {}, GlmmError, "df is a whole number of at least 3"),
        ("y ~ bs(x, knots=99)", FRAME, {}, GlmmError, "knots lie between"),
        ("y ~ bs(x, df=4, knots=[0.])", FRAME, {}, GlmmError, "df or knots, not both"),
        ("y ~ bs(n, df=4)", FRAME, {}, ColumnError, "do not span an interval"),
        ("y ~ bs(x, 4, upper_bound=0)", FRAME, {}, ColumnError, "lie outside the bounds"),
        ("y ~ cr(x, knots=[0.1, 0.1])", FRAME, {}, ColumnError, "2 inner knots are not distinct"),
        ("y ~ cr(x)", FRAME, {}, GlmmError, "give df or knots"),
        ("y ~ scale(n)", FRAME, {}, ColumnError, "do not vary"),
        ("y ~ x + (1 | l)", _with(l=pl.concat_list("k")), {}, ColumnError, "one plain value in each row"),
        ("y ~ x", FRAME, {"frequency": "x"}, ColumnError, "whole number of at least 0"),
        ("y ~ x", _with(c=-1), {"frequency": "c"}, ColumnError, "frequency='c' is -1 in row 0"),
        ("y ~ x", _with(c=0), {"frequency": "c"}, ColumnError, "No row is left"),
        ("y ~ x", _with(w=-0.5), {"precision": "w"}, ColumnError, "precision='w' is -0.5 in row 0"),
        ("y ~ x", FRAME, {"family": "poisson"}, ResponseError, "which the poisson family cannot produce"),
        ("count ~ x", FRAME, {"family": "binomial"}, ResponseError, "trials="),
        ("y ~ x", FRAME, {"family": "gamma"}, ResponseError, "gamma"),
        ("x ~ z", FRAME, TRIALS, ResponseError, "neither a number of successes"),
        ("odd ~ z", _odd(2.5), TRIALS, ResponseError, "odd is 2.5 of 4 trials in row 9"),
        ("odd ~ z", _odd(0.5), TRIALS, ResponseError, "odd is 0.5 of 4 trials in row 9"),
        ("odd ~ z", _odd(2.000001), TRIALS, ResponseError, "odd is 2.000001 of 4 trials in row 9"),
        ("k ~ z", _with(n=3), TRIALS, ResponseError, "4 of 3 trials"),
        ("k ~ z", _with(n=pl.lit(4.5)), TRIALS, ResponseError, "number of trials is 4.5"),
        ("zero ~ z", _with(zero=pl.col("b").cast(pl.Float64)), TRIALS, ResponseError, "cbind("),
        ("cbind(k, x) ~ z", FRAME, {"family": "binomial"}, ResponseError, "the number of failures"),
        ("cbind(k, 3 - k) ~ z", FRAME, {"family": "binomial"}, ResponseError, "failures is -1 in row 4"),
    ],
)  # fmt: skip
def test_wrong_data_raise_and_name_the_place(
    formula: str, frame: pl.DataFrame, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        make(formula, frame, **options)
    assert message in str(caught.value)


def test_rows_are_counted_in_the_users_frame() -> None:
    frame = HOLES.with_columns(k=pl.when(pl.int_range(N) == 9).then(-1).otherwise("k"))
    with pytest.raises(ColumnError, match="in row 9"):
        make("y ~ x + log(k + 1) + (1 | g)".replace("log(k + 1)", "log(k + 1)"), frame)


# responses ------------------------------------------------------------------------------------------------------------


def test_boolean_and_two_level_enum_responses() -> None:
    frame = _with(
        e=pl.when("b").then(pl.lit("yes")).otherwise(pl.lit("no")).cast(pl.Enum(["no", "yes"])),
        late=pl.when("b").then(pl.lit("yes")).otherwise(pl.lit("no")).cast(pl.Enum(["maybe", "no", "yes"])),
    )
    for name in ("b", "e", "late"):
        made = make(f"{name} ~ x", frame, family="binomial")
        assert_array_equal(made.design.y, FRAME["b"].cast(pl.Float64))
        assert_array_equal(response_arrays(made.recipe, frame).y, made.design.y)
        assert [note.code for note in made.notes] == ([] if name == "b" else ["response_levels"])


def test_trials_take_successes_or_their_proportion() -> None:
    frame = _with(share=pl.col("k") / pl.col("n"), no=pl.col("n") - pl.col("k"))
    expected = FRAME["k"].cast(pl.Float64).to_numpy()
    for formula, options, codes in (
        ("k ~ x", {"trials": "n"}, []),
        ("share ~ x", {"trials": "n"}, ["response_proportion"]),
        ("k/n ~ x", {"trials": "n"}, ["response_proportion"]),
        ("cbind(k, no) ~ x", {}, []),
        ("cbind(k, n - k) ~ x", {}, []),
    ):
        made = make(formula, frame, family="binomial", **options)
        assert_array_equal(made.design.y, expected)
        assert made.design.trials is not None
        assert_array_equal(made.design.trials, 4.0)
        assert [note.code for note in made.notes] == codes
        again = response_arrays(made.recipe, frame)
        assert_array_equal(again.y, expected)
        assert again.trials is not None
        assert_array_equal(again.trials, 4.0)


def test_a_frame_without_the_response_has_no_residuals() -> None:
    made = make("k/n ~ x", family="binomial", trials="n")
    with pytest.raises(ColumnError, match="'k' and 'n'"):
        response_arrays(made.recipe, FRAME.drop("k", "n"))


def test_whole_numbers_of_zero_and_one_are_successes() -> None:
    made = make("one ~ x", _with(one=pl.col("b").cast(pl.Int64)), family="binomial", trials="n")
    assert made.design.y.max() == 1.0
    assert made.notes == ()


def test_rows_without_trials_are_left_out() -> None:
    made = make("k ~ x", _with(n=pl.when(pl.col("k") == 0).then(0).otherwise(4)), family="binomial", trials="n")
    assert made.design.n_rows == int((FRAME["k"] > 0).sum())
    assert [note.code for note in made.notes] == ["rows_without_trials"]
    assert made.n_dropped == 0


def test_offsets_add_up() -> None:
    made = make("count ~ x + offset(log(z)) + offset(2 * x)", family="poisson", offset="y")
    assert made.design.mu.offset is not None
    expected = np.log(FRAME["z"]) + 2 * FRAME["x"] + FRAME["y"]
    assert_allclose(made.design.mu.offset, expected)
    node = made.recipe.predictor("mu").offset
    assert node is not None
    assert_allclose(FRAME.select(o=node.to_expr())["o"], expected)
    assert node.inputs() == {"z", "x", "y"}
    constant = make("y ~ x + offset(0 * n)").design.mu.offset
    assert constant is not None
    assert_array_equal(constant, np.zeros(N))


def test_frequency_and_precision_of_zero_drop_the_row_silently() -> None:
    frame = _with(c=pl.int_range(N) % 3, w=(pl.int_range(N) % 2) * 0.5)
    made = make(frame=frame, frequency="c", precision="w")
    keep = (np.arange(N) % 3 > 0) & (np.arange(N) % 2 > 0)
    assert made.kept is not None
    assert_array_equal(made.kept, keep)
    assert (made.n_dropped, made.notes) == (0, ())
    assert_array_equal(made.design.frequency, (np.arange(N) % 3)[keep])
    assert_array_equal(made.design.precision, np.full(keep.sum(), 0.5))
    assert made.design.n_obs == int((np.arange(N) % 3)[keep].sum())


@pytest.mark.parametrize(
    "term",
    ["scale(x)", "standardize(x)", "center(x)", "poly(x, 3)", "bs(x, 5)", "ns(x, 3)", "cr(x, df=4)",
     "cr(x, df=3, constraints='center')", "cc(x, df=3, constraints='center')"],
)  # fmt: skip
def test_frequency_k_teaches_the_same_constants_as_k_copies(term: str) -> None:
    frame = _with(c=1 + pl.int_range(N) % 3)
    weighted = make(f"y ~ {term}", frame, frequency="c").recipe.predictor("mu").columns
    copied = make(f"y ~ {term}", frame[np.repeat(np.arange(frame.height), frame["c"])]).recipe.predictor("mu").columns
    new = pl.DataFrame({"x": np.linspace(-1, 1, 7)})
    for one, two in zip(weighted[1:], copied[1:], strict=True):
        assert_allclose(
            new.select(v=one.node.to_expr())["v"], new.select(v=two.node.to_expr())["v"], rtol=1e-9, atol=1e-12
        )


def test_a_formula_for_phi_has_its_own_predictor() -> None:
    made = make("y ~ x + (1 | g)", further=("phi ~ 0 + f + offset(z)",))
    assert made.design.phi is not None
    assert made.design.phi.names == ("f[u]", "f[v]", "f[w]")
    assert_allclose(made.design.phi.offset, FRAME["z"])
    assert made.recipe.predictor("phi").parameter == "phi"


def test_a_model_without_fixed_columns() -> None:
    made = make("y ~ 0 + (1 | g)")
    assert made.design.mu.x.shape == (0, N)
    assert made.design.mu.names == ()


# natural splines: R 4.2.2, splines::ns --------------------------------------------------------------------------------

X = [0.1, 0.4, 0.5, 0.9, 1.3, 1.7, 2.2, 2.9, 3.3, 4.1]


def test_ns_is_rs() -> None:
    frame = pl.DataFrame({"x": X, "y": range(10)})
    columns = make("y ~ ns(x, 3)", frame).recipe.predictor("mu").columns[1:]
    made = frame.select(column.node.to_expr().alias(column.name) for column in columns).to_numpy()
    assert_allclose(made[1], [-0.0836059818655, 0.235200831022, -0.147576992014], rtol=1e-10)
    assert_allclose(made[9], [-0.1525338685399, 0.409433015554, 0.743100852985], rtol=1e-10)
    beyond = pl.DataFrame({"x": [-1.0, 5.0]}).select(column.node.to_expr().alias(column.name) for column in columns)
    assert_allclose(beyond.row(0), [0.330122103747, -0.886117225848, 0.555995122101], rtol=1e-10)
    assert_allclose(beyond.row(1), [-0.714751630707, 0.497491219267, 1.217260411440], rtol=1e-10)
    whole = make("y ~ 0 + ns(x, df=4, intercept=TRUE)", frame).design.mu.x[:, 0]
    assert_allclose(whole, [-0.218055706720, -0.237881364914, 0.638523663716, -0.400642298802], rtol=1e-10)
    assert_allclose(
        make("y ~ ns(x, knots=c(1, 2))", frame).design.mu.x[1:, 1],
        [-0.0937724970479, 0.241973000209, -0.14425313474], rtol=1e-10,
    )  # fmt: skip


# expressions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "term",
    ["x", "log(z)", "I(x > 0)", "f", "b", "C(k)", "C(f, contr.sum)", "poly(x, 2)", "bs(x, 4)", "ns(x, 3)",
     "cc(x, df=4)", "cr(x, df=4)", "scale(x):f", "bs(x, 4, lower_bound=-1, upper_bound=1, extrapolation='zero')"],
)  # fmt: skip
def test_an_expression_is_null_where_an_input_is_null_or_nan(term: str) -> None:
    columns = make(f"y ~ {term}", FRAME).recipe.predictor("mu").columns[1:]
    for column in columns:
        for name in column.node.inputs():
            hole = FRAME.head(3).with_columns(
                pl.when(pl.int_range(3) == 1).then(None).otherwise(pl.col(name)).alias(name)
            )
            value = hole.select(v=column.node.to_expr())["v"]
            assert value.dtype == pl.Float64
            assert value.is_null().to_list() == [False, True, False], column.name
            if FRAME.schema[name].is_float():
                nan = hole.with_columns(pl.col(name).fill_null(float("nan")))
                assert nan.select(v=column.node.to_expr())["v"].is_null().to_list() == [False, True, False]


def test_text_categorical_and_enum_are_one_to_a_recipe() -> None:
    columns = make("y ~ f").recipe.predictor("mu").columns
    for dtype in (pl.String, pl.Categorical, pl.Enum(["w", "v", "u", "other"])):
        other = FRAME.with_columns(pl.col("f").cast(dtype))
        made = other.select(v=columns[2].node.to_expr())["v"]
        assert_array_equal(made, (FRAME["f"] == "w").cast(pl.Float64))


def test_numbers_as_levels_match_by_value() -> None:
    frame = _with(tenth=pl.col("k").cast(pl.Decimal(4, 1)) / 10, half=pl.col("k") / 2)
    for name, level in (("tenth", "0.2"), ("half", "1.0")):
        made = make(f"y ~ 0 + C({name})", frame)
        (at,) = [i for i, found in enumerate(made.design.mu.names) if found.startswith(f"C({name})[{level}")]
        expected = (FRAME["k"] == 2).cast(pl.Float64)
        assert_array_equal(made.design.mu.x[at], expected)
        assert_array_equal(frame.select(v=made.recipe.predictor("mu").columns[at].node.to_expr())["v"], expected)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("backend", ["polars", "pandas", "pyarrow"])
def test_narwhals_makes_the_same_columns(backend: str) -> None:
    terms = (
        "f + b + C(k) + C(f, contr.sum) + poly(x, 2) + bs(x, 4) + cc(x, df=4) + I(x > 0) + log(z) + log1p(z) + expm1(x)"
    )
    columns = make(f"y ~ {terms}").recipe.predictor("mu").columns[1:]
    frame = FRAME.select("f", "b", "k", "x", "z")
    native = {"polars": lambda: frame, "pandas": frame.to_pandas, "pyarrow": frame.to_arrow}[backend]()
    made = nw.from_native(native).select(*(column.node.to_expr(nw).alias(f"c{i}") for i, column in enumerate(columns)))
    own = frame.select(column.node.to_expr().alias(f"c{i}") for i, column in enumerate(columns))
    assert_allclose(made.to_numpy(), own.to_numpy(), rtol=1e-12, atol=1e-14)


def test_recipes_know_their_categorical_columns() -> None:
    made = make("y ~ f + x:b + C(k) + (0 + f | g)")
    known = {name: (found.levels, found.dtype) for name, found in made.recipe.categoricals.items()}
    assert known == {
        "f": (("u", "v", "w"), pl.String),
        "b": (("false", "true"), pl.Boolean),
        "k": (("0", "1", "2", "3", "4"), pl.Int64),
    }


# rank -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "dropped"),
    [
        ("y ~ x + I(2 * x)", ["I(2 * x)"]),
        ("y ~ x + z + I(x + z) + k", ["I(x + z)"]),
        ("y ~ n + x", ["n"]),
        ("y ~ f + C(f, contr.sum)", ["C(f, contr.sum)[S.u]", "C(f, contr.sum)[S.v]"]),
        ("y ~ 0 + f + n", ["n"]),
        ("y ~ 0 + n + x + I(n * x)", ["I(n * x)"]),
        ("y ~ far + near", []),
        ("y ~ tiny + x", []),
        ("y ~ 0 + f + far", []),
        ("y ~ x + almost", []),
        ("y ~ x + closer", ["closer"]),
    ],
)
def test_columns_that_earlier_ones_determine_are_dropped_and_named(formula: str, dropped: list[str]) -> None:
    frame = _with(
        far=1e8 + pl.col("x"), near=pl.col("z") * 1e-9, tiny=pl.col("z") * 1e-100,
        almost=pl.col("x") + 1e-7 * pl.col("z"), closer=pl.col("x") + 1e-11 * pl.col("z"),
    )  # fmt: skip
    made = make(formula, frame)
    recipe = made.recipe.predictor("mu")
    lost = [column.name for column, kept in zip(recipe.columns, recipe.kept, strict=True) if not kept]
    assert lost == dropped
    assert len(made.design.mu.names) == len(made.design.mu.x) == sum(recipe.kept)
    notes = [note for note in made.notes if note.code == "columns_dropped"]
    assert len(notes) == bool(dropped)
    for name in dropped:
        assert repr(name) in notes[0].text


def test_more_columns_than_rows() -> None:
    made = make("y ~ x + z + k + f", FRAME.head(3))
    assert len(made.design.mu.names) == 3
    assert made.design.mu.names[0] == "Intercept"
