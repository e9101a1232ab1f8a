"""A fit from a lazy frame, made of sums by group, equals the fit of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from polars_glmm import GlmmError
from polars_glmm.design.sums import parts as sum_parts
from polars_glmm.design.sums import summarise as sums
from polars_glmm.design.sums.queries import Glimpse, SumQueries
from polars_glmm.errors import ColumnError, IdentifiabilityError
from tests.references import translate
from tests.streaming.frames import frame, with_missing
from tests.streaming.same import assert_same, quietly

REFERENCES = {
    name: entry
    for name, entry in translate.entries("lmm", "glmm").items()
    if entry["family"] == "gaussian" and entry.get("link") in (None, "identity") and "dispersion_formula" not in entry
}


@pytest.mark.one_in(3)
@pytest.mark.reference
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "insteval" in name else []) for name in REFERENCES]
)
def test_reference_models(name: str) -> None:
    entry = REFERENCES[name]
    data = translate.data(entry)
    one, other = (
        quietly(rows, *translate.formulas(entry), **translate.arguments(entry)) for rows in (data, data.lazy())
    )
    assert other.certificate.row_passes == 0
    assert_same(one, other, rtol=1e-8)


FORMULAS = [
    "y ~ x",
    "y ~ 1 + (1 | g)",
    "y ~ x + z + (x | g)",
    "y ~ x + (x || g)",
    "y ~ x + (0 + x | g)",
    "y ~ 0 + x + (1 | g)",
    "y ~ 0 + f + x + (1 | g)",
    "y ~ f * x + (1 | g)",
    "y ~ fe + fc + flag + (1 | g)",
    "y ~ C(year) + C(f, contr.sum) + (1 | g)",
    "y ~ C(f, contr.helmert):x + C(fe, contr.poly) + (1 | g)",
    "y ~ x + (f | g)",
    "y ~ x + (0 + f | g)",
    "y ~ x + (1 | g) + (0 + x | g)",
    "y ~ x + (1 | g) + (1 | h)",
    "y ~ x + (x | g) + (1 | h)",
    "y ~ x + (1 | h) + (z | g)",
    "y ~ x + (x | h) + (z | g)",
    "y ~ x + (1 | g/inner)",
    "y ~ x + (x | g) + (1 | g:inner)",
    "y ~ x + (1 | g) + (x | g:inner)",
    "y ~ x + (1 | g) + (1 | h) + (1 | inner)",
    "y ~ x + (1 | h/inner) + (1 | g)",
    "y ~ scale(x) + center(z) + (1 | g)",
    "y ~ standardize(log(positive)) + (scale(z) | g)",
    "y ~ poly(z, 3) + (1 | g)",
    "y ~ bs(x, df=5) + ns(z, df=3) + (1 | g)",
    "y ~ cr(z, df=4) + (1 | g)",
    "y ~ center(scale(z)) + poly(center(x), 2) + (1 | g)",
    "y ~ I(x**2) + I(x > 0) + exp(x / 3) + x32 + count + (1 | g)",
    "log(positive) ~ x + (1 | g)",
    "I(y - z) ~ x + offset(o) + (1 | g)",
    "y ~ x + I(2 * x) + flag + (1 | g)",
    "y ~ x + I(x + 1e-2 * z) + (1 | g)",
    "y ~ x + I(x + 1e-10 * z) + (1 | g)",
    "y ~ f + x + I(x + 1e-2 * z) + I(x - 1e-11 * z) + (x | g)",
    "y ~ f + fe + (1 | g)",
    "count ~ x + (1 | g)",
    "flag ~ x + (1 | g)",
    *(f"y ~ x + (x | g_{dtype})" for dtype in ["text", "cat", "enum", "float", "date", "bool", "wide", "small"]),
    "y ~ x + (1 | g_cat:inner) + (1 | g_cat)",
    "y ~ x + (1 | inner:g_enum)",
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("formula", FORMULAS)
def test_formulas(formula: str) -> None:
    data = frame()
    assert_same(quietly(data, formula), quietly(data.lazy(), formula))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("arguments", [
    {"frequency": "n"},
    {"precision": "w"},
    {"offset": "o"},
    {"frequency": "n", "precision": "w", "offset": "o"},
    {"method": "ml", "frequency": "n", "precision": "w"},
    {"groups": {"g": "1 + x"}, "method": "ml"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("formula", ["y ~ x + scale(z) + (x | g)", "y ~ f + (1 | g) + (1 | h)", "y ~ poly(z, 2)"])
def test_arguments(formula: str, arguments: dict[str, Any]) -> None:
    data = frame(seed=3)
    if "groups" in arguments and "| g)" in formula:
        formula = "y ~ x"
    assert_same(quietly(data, formula, **arguments), quietly(data.lazy(), formula, **arguments), rtol=1e-6)


@pytest.mark.parametrize("columns", [
    {"y": 9}, {"x": 9, "g_text": 11}, {"f": 7}, {"y": 8, "x": 8, "z": 8, "f": 8, "g_text": 8, "n": 9, "w": 10},
], ids=str)  # fmt: skip
def test_missing_values_are_left_out_and_counted(columns: dict[str, int]) -> None:
    data = with_missing(frame(seed=5), columns)
    formula, weights = "y ~ x * f + scale(z) + (x | g_text)", {"frequency": "n", "precision": "w"}
    one, other = (quietly(rows, formula, **weights) for rows in (data, data.lazy()))
    assert one.n_dropped > 0
    assert_same(one, other, rtol=1e-6)


def test_a_level_that_only_dropped_rows_have_is_no_level() -> None:
    data = frame(seed=6).with_columns(x=pl.when((pl.col("g") == 3) | (pl.col("f") == "mid")).then(None).otherwise("x"))
    one, other = (quietly(rows, "y ~ x + f + (1 | g)") for rows in (data, data.lazy()))
    assert 3 not in other.ranef("g")["g"].to_list()
    assert_same(one, other)


@pytest.mark.parametrize(("formula", "mean"), [
    ("y ~ x + (x | g)", 1e7), ("y ~ far + (1 | g)", 1e7), ("y ~ far + (1 | g) + (1 | h)", -1e7),
    ("y ~ 0 + f + far + (1 | g)", 1e7), ("y ~ far + (far | g)", 1e3), ("y ~ far + (0 + far | g)", 1e4),
])  # fmt: skip
def test_large_means_cost_no_digits(formula: str, mean: float) -> None:
    data = frame(seed=7, mean=mean).with_columns(far=pl.col("x") - 2 * mean)
    assert_same(quietly(data, formula), quietly(data.lazy(), formula), rtol=1e-7)


@pytest.mark.parametrize("wrong", [-1e6, 1e6])
def test_first_rows_that_mislead_cost_a_scan_and_no_digits(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    data = frame(seed=8, mean=50.0)
    one = quietly(data, "y ~ x + (x | g)")
    monkeypatch.setattr(SumQueries, "look", lambda queries: Glimpse(np.full(queries.k, wrong), 0))
    assert_same(one, quietly(data.lazy(), "y ~ x + (x | g)"))


@pytest.mark.parametrize("cut", [1, 2, 7])
def test_files_however_cut(tmp_path: Path, cut: int) -> None:
    data = frame(rows=700, seed=9)
    for k, part in enumerate(data.iter_slices(-(-700 // cut))):
        part.write_parquet(tmp_path / f"part{k}.parquet", row_group_size=50)
    lazy = pl.scan_parquet(tmp_path / "*.parquet")
    formula = "y ~ x * f + (x | g_cat) + (1 | h)"
    assert_same(quietly(data, formula), quietly(lazy, formula))


def test_a_query_before_the_fit_is_part_of_it() -> None:
    data = frame(rows=600, seed=10)
    changed = lambda rows: rows.filter(pl.col("h") != 2).with_columns(u=pl.col("x") * pl.col("z")).sort("positive")
    assert_same(quietly(changed(data), "y ~ u + (u | g)"), quietly(changed(data.lazy()), "y ~ u + (u | g)"))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("seed", range(6))
def test_random_designs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = frame(rows=int(rng.integers(80, 3000)), seed=100 + seed, mean=float(rng.choice([0.0, 50.0])))
    fixed = rng.choice(["x", "z", "f", "fe:x", "flag", "count", "poly(z, 2)", "I(x*z)"], 3, replace=False)
    random = rng.choice(["(1 | g)", "(x | g_text)", "(z || h)", "(1 | h:inner)", "(0 + f | g_enum)"], 2, replace=False)
    formula = f"y ~ {' + '.join(fixed)} + {' + '.join(random)}"
    assert_same(quietly(data, formula), quietly(data.lazy(), formula), rtol=1e-7)


MESSAGES = [
    (lambda d: d, "y ~ nope + (1 | g)", {}, "nope"),
    (lambda d: d.head(0), "y ~ x + (1 | g)", {}, "no rows"),
    (lambda d: d.head(0), "y ~ f + (1 | g)", {}, "no rows"),
    (lambda d: d.with_columns(x=pl.lit(None, dtype=pl.Float64)), "y ~ x + f + (1 | g)", {}, "holds nothing else"),
    (
        lambda d: d.with_columns(pl.col("x").replace(d["x"][7], float("inf"))),
        "y ~ x + (1 | g)",
        {},
        "infinite in row 7",
    ),
    (lambda d: d, "y ~ log(x) + (1 | g)", {}, "not a number in row"),
    (lambda d: d, "log(count) ~ x + (1 | g)", {}, "in row"),
    (lambda d: d, "y ~ poly(log(x), 2) + (1 | g)", {}, "in row"),
    (lambda d: d, "y ~ scale(log(x)) + (1 | g)", {}, "in row"),
    (lambda d: d, "y ~ g_date + (1 | g)", {}, "g_date"),
    (lambda d: d, "f ~ x + (1 | g)", {}, "response 'f'"),
    (lambda d: d, "y ~ x + (1 | g)", {"frequency": "x"}, "whole number"),
    (lambda d: d, "y ~ x + (1 | g)", {"precision": "x"}, "not negative"),
    (lambda d: d.with_columns(n=0), "y ~ x + (1 | g)", {"frequency": "n"}, "No row is left"),
    (lambda d: with_missing(d, {"x": 5}), "y ~ x + (1 | g)", {"missing": "error"}, "have a missing value"),
    (lambda d: d.with_columns(one=pl.lit("a")), "y ~ one + (1 | g)", {}, "one level"),
    (lambda d: d.with_columns(one=pl.lit("a")), "y ~ x + (1 | one)", {}, "one level only"),
    (lambda d: d.with_row_index("each"), "y ~ x + (1 | each)", {}, "each"),
    (lambda d: d.with_columns(y=2.0), "y ~ x + (1 | g)", {}, "constant"),
    (lambda d: d, "y ~ scale(k) + (1 | g)", {}, "k"),
    (lambda d: d.with_columns(k=1.5), "y ~ scale(k) + (1 | g)", {}, "do not vary"),
    (lambda d: d.with_columns(lists=pl.concat_list("x", "z")), "y ~ x + (1 | lists)", {}, "List"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "formula", "arguments", "says"), MESSAGES)
def test_wrong_data_raise_the_same(change: Any, formula: str, arguments: dict[str, Any], says: str) -> None:
    data = change(frame(rows=120, seed=11))
    raised = []
    for rows in (data, data.lazy()):
        with pytest.raises(GlmmError, match=says) as caught:
            quietly(rows, formula, **arguments)
        raised.append((type(caught.value), str(caught.value)))
    assert raised[0] == raised[1]


def test_more_columns_than_rows() -> None:
    data = frame(rows=6, seed=12)
    for rows in (data, data.lazy()):
        with pytest.raises((IdentifiabilityError, ColumnError)):
            quietly(rows, "y ~ x + z + positive + o + w + x:z + x:o + (1 | g_bool)")


@pytest.mark.one_in(6)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    "formula", ["y ~ x + f + (x | g)", "y ~ x + (1 | g_cat) + (z | h)", "y ~ x + (1 | g/inner)", "y ~ x"]
)
@pytest.mark.parametrize("weights", [{}, {"frequency": "n", "precision": "w"}], ids=["", "weighted"])
def test_rows_in_parts(
    formula: str, weights: dict[str, str], dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many levels in no order, and with many columns, the rows go by in parts of bounded size."""
    data = with_missing(frame(rows=1000, seed=13), {"x": 9})
    one = quietly(data, formula, **weights)
    monkeypatch.setattr(sum_parts, "_PART", 150)
    monkeypatch.setattr(sum_parts, "_BATCH", 40)
    monkeypatch.setattr(sum_parts, "MANY_COLUMNS", 1 if dense else 100)
    way = lambda queries: (queries.look().shift, lambda shift: sum_parts.collect_in_parts(queries, shift))
    monkeypatch.setattr(sums, "way", way)
    assert_same(one, quietly(data.lazy(), formula, **weights), rtol=1e-5 if weights else 1e-8)


def test_many_columns() -> None:
    data = frame(rows=3000, seed=14)
    data = data.with_columns(label=pl.format("l{}", pl.int_range(pl.len()) * 7919 % 45))
    assert_same(quietly(data, "y ~ x + label + (x | g)"), quietly(data.lazy(), "y ~ x + label + (x | g)"))
