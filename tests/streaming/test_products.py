"""Products of parts, added, are the products of the whole; stored and read they are what they were."""

from __future__ import annotations

import pickle
import re
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import DataChangedError, ModelError, Products, datasets
from polars_glmm.design.sums.moments import Layout, LevelMoments, about_means, pooled, stacked
from polars_glmm.errors import DatasetError, UnknownLevelError
from tests.streaming.frames import frame, with_missing
from tests.streaming.same import assert_same, quietly

LEVELS = {"f": ["low", "mid", "high"], "fe": ["high", "low", "mid"], "year": [2000, 2001, 2002], "flag": [True, False]}

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("y ~ x", {}),
    ("y ~ x + (x | g)", {}),
    ("y ~ x + (x || g_text)", {"method": "ml"}),
    ("y ~ fe * x + flag + (1 | g_cat)", {}),
    ("y ~ C(year, contr.sum) + poly(x, 2, raw=TRUE) + (0 + x | g)", {}),
    ("y ~ x + (1 | g) + (z | h)", {}),
    ("y ~ x + (x | g_date) + (1 | h) + (1 | inner)", {}),
    ("y ~ x + (1 | g/inner)", {}),
    ("y ~ x + (x | g_enum) + (1 | g_enum:inner)", {}),
    ("y ~ x + (0 + f | g_float)", {"frequency": "n", "precision": "w", "offset": "o"}),
    ("I(y - z) ~ x + offset(o) + I(x**2) + (1 | g_bool)", {"frequency": "n"}),
]


def cut(data: pl.DataFrame, parts: int, *, by_group: bool) -> list[pl.DataFrame]:
    """Rows in parts: in turn, or with every level of g (almost) in one part only."""
    at = pl.col("g") // 4 if by_group else pl.int_range(pl.len()) % parts
    return [data.filter(at == k) for k in range(parts)]


def known(formula: str) -> dict[str, Any]:
    return {name: labels for name, labels in LEVELS.items() if re.search(rf"\b{name}\b", formula)}


@pytest.mark.one_in(6)
@pytest.mark.parametrize("by_group", [True, False])
@pytest.mark.parametrize(("formula", "arguments"), MODELS)
def test_parts_added_are_the_whole(formula: str, arguments: dict[str, Any], by_group: bool, tmp_path: Path) -> None:
    data = with_missing(frame(rows=900, seed=21), {"x": 15})
    first, *rest = cut(data, 3, by_group=by_group)
    start = polars_glmm.products(first, formula, levels=known(formula), **arguments)
    parts = [start, *(polars_glmm.products(part.lazy(), like=start) for part in rest)]
    paths = [tmp_path / f"{k}.parquet" for k in range(3)]
    for part, path in zip(parts, paths, strict=True):
        part.write_parquet(path)
    read = [polars_glmm.read_products(path) for path in paths]
    whole = quietly(data, formula, **arguments)
    for total in (reduce(add, parts), parts[2] + (parts[0] + parts[1]), reduce(add, read)):
        fit = total.fit(control=whole.control)
        assert fit.n_dropped == whole.n_dropped
        without = lambda f: tuple(note for note in f.notes if note.code != "rows_dropped")
        assert without(fit) == without(whole)
        rtol = 1e-6 if arguments else 1e-8
        assert_allclose(fit.loglik, whole.loglik, rtol=rtol)
        assert_allclose(fit.estimate.beta, whole.estimate.beta, rtol=1e-6, atol=1e-6)
        assert_allclose(fit.estimate.report, whole.estimate.report, rtol=1e-6, atol=1e-6)
        assert fit.groups == whole.groups
        for group in whole.groups:
            one, other = (f.ranef(group.group) for f in (whole, fit))
            assert one.schema == other.schema
            assert one.select(~cs.float()).equals(other.select(~cs.float()))
            assert_allclose(other[:, -1], one[:, -1], rtol=1e-5)
        assert str(fit.summary())
        assert fit.predict(data).height == data.height


def test_all_products_in_one_step_are_the_fit() -> None:
    data = frame(seed=22)
    made = data.lazy().glmm.products("y ~ x * f + (x | g) + (1 | h)")
    assert_same(quietly(data, "y ~ x * f + (x | g) + (1 | h)"), made.fit())
    assert_same(quietly(data, "y ~ x * f + (x | g) + (1 | h)", method="ml"), made.fit("ml"))


@pytest.mark.parametrize("mean", [1e7, -1e9])
def test_centres_far_from_zero_and_from_each_other(mean: float) -> None:
    """Parts counted from their own centres, all far from zero, lose nothing."""
    data = frame(rows=1200, seed=23)
    shifted = data.with_columns(y=pl.col("y") + mean, x=pl.col("x") + pl.col("g") + mean)
    near = quietly(data.with_columns(x=pl.col("x") + pl.col("g")), "y ~ x + (1 | g)")
    first, *rest = cut(shifted, 3, by_group=True)
    start = polars_glmm.products(first, "y ~ x + (1 | g)")
    parts = [start, *(polars_glmm.products(part, like=start) for part in rest)]
    assert len({tuple(part.moments.centre) for part in parts}) == 3
    fit = reduce(add, parts).fit()
    whole = quietly(shifted, "y ~ x + (1 | g)")
    assert_allclose(fit.loglik, whole.loglik, rtol=1e-9 * abs(mean) / 1e7)
    assert_allclose(fit.loglik, near.loglik, rtol=1e-9 * abs(mean) / 1e7)
    assert_allclose(fit.estimate.beta[1], near.estimate.beta[1], rtol=1e-8 * abs(mean) / 1e7)
    assert_allclose(fit.estimate.report[2:], near.estimate.report[2:], rtol=1e-7 * abs(mean) / 1e7)


def test_months_of_a_data_set() -> None:
    data = datasets.load("insteval").with_columns(service=pl.col("service").cast(pl.String))
    formula = "y ~ service + (1 | s) + (1 | d)"
    small = data.filter(pl.col("d").cast(pl.String).cast(pl.Int64) < 300)
    halves = [small.filter(pl.int_range(pl.len()) % 2 == k) for k in (0, 1)]
    start = polars_glmm.products(halves[0], formula)
    fit = (start + polars_glmm.products(halves[1], like=start)).fit()
    assert_allclose(fit.loglik, quietly(small, formula).loglik, rtol=1e-11)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_pooling_is_the_moments_of_the_union(data: st.DataObject) -> None:
    """The pairwise formula against direct sums, whatever the means."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n, k, levels = data.draw(st.integers(2, 60)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    far = 10.0 ** data.draw(st.integers(0, 7))
    columns = np.arange(k)
    v, w, code = rng.normal(size=(k, n)) + far, rng.uniform(0.1, 3.0, n), rng.integers(0, levels, n)
    code[:levels] = np.arange(levels)[:n]
    levels = int(code.max()) + 1

    def direct(rows: Any, at: Any, count: int) -> LevelMoments:
        about = v[:, rows] - far
        add = lambda values: np.array([np.bincount(at, one, count) for one in np.atleast_2d(values)])
        weight = add(w[rows])[0]
        products = np.array([add(w[rows] * a * about) for a in about])
        return about_means(Layout(columns, columns, columns), weight, weight, add(w[rows] * about), products)

    everything = np.arange(n)
    fine = direct(everything, everything, n)
    expected = direct(everything, code, levels)
    half = int(rng.integers(1, n)) if n > 1 else 1
    parts = [fine.taken(np.arange(half)), fine.taken(np.arange(half, n))]
    for found in (pooled(fine, code, levels), stacked(*parts, (code[:half], code[half:]), levels)):
        assert_allclose(found.weight, expected.weight, rtol=1e-12)
        assert_allclose(found.mean, expected.mean, rtol=1e-9, atol=1e-9)
        assert_allclose(found.second, expected.second, rtol=1e-8, atol=1e-8)


def unlike() -> list[tuple[str, Any, Any, str]]:
    data = frame(seed=24)
    make = lambda rows, formula="y ~ x + (1 | g)", **more: polars_glmm.products(rows, formula, **more)
    return [
        ("formula", make(data), make(data, "y ~ z + (1 | g)"), "formula"),
        ("weights", make(data), make(data, precision="w"), "precision"),
        ("constants", make(data, "y ~ scale(x)"), make(data.head(50), "y ~ scale(x)"), r"scale\(x\).*like=first"),
        ("labels", make(data, "y ~ f"), make(data.filter(pl.col("f") != "mid"), "y ~ f"), "'f' has the levels.*like="),
        ("keys", make(data), make(data.with_columns(g=pl.col("g_date"))), "Cast the column"),
    ]


@pytest.mark.parametrize(("one", "other", "says"), [case[1:] for case in unlike()], ids=[case[0] for case in unlike()])
def test_unlike_recipes_are_refused_with_the_reason(one: Products, other: Products, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        one + other


def test_what_products_cannot_be() -> None:
    data = frame(seed=25)
    made = polars_glmm.products(data, "y ~ f + (1 | g)")
    with pytest.raises(UnknownLevelError, match=r"'f' has the level 'top'.*levels="):
        polars_glmm.products(data.with_columns(f=pl.lit("top")), like=made)
    with pytest.raises(ModelError, match="leave out"):
        polars_glmm.products(data, "y ~ x", like=made)
    with pytest.raises(ModelError, match="not by 'laplace'"):
        made.fit("laplace")
    with pytest.raises(ModelError, match="na"):
        polars_glmm.products(data, "y ~ bs(x, df=4, extrapolation='na')")
    with pytest.raises(ModelError, match="keeps no data"):
        made.fit().data()


def test_a_file_of_something_else(tmp_path: Path) -> None:
    frame(rows=20).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DatasetError, match="holds no products"):
        polars_glmm.read_products(tmp_path / "rows.parquet")


def test_declared_labels_that_no_part_has_are_dropped_with_a_note() -> None:
    data = frame(seed=26).filter(pl.col("f") != "mid")
    fit = polars_glmm.products(data, "y ~ f + (1 | g)", levels=LEVELS)
    with pytest.warns(polars_glmm.FitWarning, match="mid"):
        again = fit.fit()
    assert_allclose(again.loglik, quietly(data, "y ~ f + (1 | g)").loglik, rtol=1e-9)


def test_the_source_of_a_fit_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    data = with_missing(frame(seed=27), {"x": 20})
    data.write_parquet(path)
    fit = quietly(pl.scan_parquet(path), "y ~ x + (x | g)")
    assert fit.rows is None
    assert_same(quietly(data, "y ~ x + (x | g) + (1 | h)"), fit.update(". ~ . + (1 | h)"))
    augmented = fit.augment(fit.data()).collect()
    assert augmented.equals(quietly(data, "y ~ x + (x | g)").augment(data)) or augmented.height == data.height
    assert pickle.loads(pickle.dumps(fit)).source is None  # noqa: S301  # our own
    data.with_columns(pl.col("y") * 1.001).write_parquet(path)
    with pytest.raises(DataChangedError):
        fit.data()


@pytest.mark.parametrize("keep", ["rows", "source", "none"])
def test_what_is_kept(keep: Any) -> None:
    data = with_missing(frame(seed=28), {"x": 20})
    fit = polars_glmm.fit(data.lazy(), "y ~ x + (x | g)", control=polars_glmm.Control(keep=keep))
    assert (fit.rows is not None, fit.source is not None) == (keep == "rows", keep == "source")
    assert_same(quietly(data, "y ~ x + (x | g)"), fit)


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_labels_of_parts_are_the_same_labels_whatever_carries_them() -> None:
    """Text, categories, and Enums that list other labels, or the same in another order; `sum` adds parts, too."""
    data = datasets.load("grouseticks").with_columns(pl.col("BROOD").cast(pl.String))
    labels = data["BROOD"].unique().sort().to_list()
    formula = "TICKS ~ cHEIGHT + (1 | BROOD)"
    want = data.glmm.fit(formula)
    cuts = [data.filter(pl.int_range(pl.len()) % 3 == k) for k in range(3)]
    turned = pl.Enum([*labels[50:], *labels[:50], "no"])
    kinds = (pl.Enum(labels), pl.Enum(labels[::-1]), pl.String, pl.Categorical, turned)
    for k in range(len(kinds)):
        first, *others = (
            part.with_columns(pl.col("BROOD").cast(kinds[(k + j) % len(kinds)])) for j, part in enumerate(cuts)
        )
        made = polars_glmm.products(first, formula)
        parts = [made, *(polars_glmm.products(part, like=made) for part in others)]
        for whole in (sum(parts), parts[2] + (parts[0] + parts[1])):
            fit = whole.fit()  # type: ignore[union-attr]
            assert fit.loglik == pytest.approx(want.loglik, rel=1e-10)
            np.testing.assert_allclose(fit.predict(data)["prediction"], want.predict(data)["prediction"], rtol=1e-7)
