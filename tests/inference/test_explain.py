"""explain(): what is counted is right, and what is announced is what a fit does."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import AGQ, Control, Memory, datasets
from polars_glmm.fitting import costs
from polars_glmm.result.explanation import EXPLANATION

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "slopes": ("sleepstudy", "Reaction ~ poly(Days, 2) + (Days | Subject)", {}),
    "nested": ("pastes", "strength ~ 1 + (1 | batch/cask)", {}),
    "crossed": ("pastes", "strength ~ 1 + (1 | batch) + (1 | cask)", {}),
    "three factors": (
        "grouseticks", "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)", {"family": "poisson"},
    ),
    "quadrature": ("grouseticks", "TICKS ~ YEAR + (1 | LOCATION)", {"family": "poisson", "method": AGQ(7)}),
    "trials": ("cbpp", "incidence ~ period + (1 | herd)", {"family": "binomial", "trials": "size"}),
    "dispersion": ("sleepstudy", "Reaction ~ Days + (1 | Subject)", {"family": "gamma"}),
    "no groups": ("sleepstudy", "Reaction ~ Days", {}),
}  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize("model", MODELS)
def test_a_lazy_frame_is_counted_as_its_rows_are(model: str) -> None:
    """By queries alone, and by the arrays of a fit: the same rows, columns, levels, sizes and elimination."""
    name, formula, options = MODELS[model]
    frame = datasets.load(name)
    parts = polars_glmm.explain(frame, formula, **options).frame.filter(pl.col("part") == "fixed")
    used = [name for names in parts["columns"].to_list() for name in names]
    hole = pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise(formula.split()[0]).alias(formula.split()[0])
    for rows in (frame, frame.with_columns(hole)):
        eager, lazy = (polars_glmm.explain(data, formula, **options) for data in (rows, rows.lazy()))
        looked = pl.col("part").is_in(["rows", "fixed", "random", "elimination"])
        assert lazy.frame.filter(looked).equals(eager.frame.filter(looked))
        assert dict(eager.frame.schema) == dict(EXPLANATION)
        assert [note.text for note in lazy.notes] == [note.text for note in eager.notes]
    fit = polars_glmm.fit(rows, formula, **options)
    assert fit.fixef()["term"].to_list() == used
    groups = eager.frame.filter(part="random")
    assert groups["name"].to_list() == [size.group for size in fit.groups]
    assert groups["size"].to_list() == [size.n_levels for size in fit.groups]
    assert eager.elimination == lazy.elimination


@pytest.mark.parametrize(
    ("model", "kind", "order", "lead"),
    [
        ("no groups", "none", 0, ()),
        ("slopes", "levels", 0, ("Subject",)),
        ("nested", "nested", 0, ("batch:cask", "batch")),
        ("three factors", "nested", 0, ("INDEX", "BROOD", "LOCATION")),
        ("crossed", "dense", 3, ("batch",)),
    ],
)
def test_nested_factors_leave_no_dense_matrix(model: str, kind: str, order: int, lead: tuple[str, ...]) -> None:
    name, formula, options = MODELS[model]
    found = polars_glmm.explain(datasets.load(name), formula, **options)
    assert found.elimination == costs.Elimination(kind, order, 8 * order**2, lead, int(kind == "dense"))


def test_what_remains_is_sparse_or_apart_where_factors_are_nearly_nested_or_nested_in_sites() -> None:
    rng = np.random.default_rng(2)
    pupil = np.repeat(np.arange(3000), 3)
    at = np.repeat(np.arange(300), 30)
    at[rng.choice(len(at), 60, replace=False)] = rng.integers(0, 300, 60)
    frame = pl.DataFrame({"y": rng.normal(size=len(at)), "pupil": pupil, "class": at})
    nearly = polars_glmm.explain(frame, "y ~ (1 | pupil) + (1 | class)")
    assert nearly.elimination == costs.Elimination("sparse", 300, 0, ("pupil",), 0)
    assert "300 unknowns of which few meet, in stages" in str(nearly)
    site = rng.integers(0, 10, 4000)
    user, item = site * 30 + rng.integers(0, 30, 4000), site * 20 + rng.integers(0, 20, 4000)
    frame = pl.DataFrame({"y": rng.normal(size=4000), "user": user, "item": item, "site": site})
    apart = polars_glmm.explain(frame, "y ~ (1 | user) + (1 | item) + (1 | site)")
    assert apart.elimination == costs.Elimination("dense", 21, 8 * 21**2, ("user",), 10)
    assert "10 dense matrices of order 21" in str(apart)


@pytest.fixture(scope="module")
def large() -> pl.DataFrame:
    rng = np.random.default_rng(11)
    n = 50_000
    return pl.DataFrame(
        {
            "y": rng.poisson(2.0, n),
            "x": rng.normal(size=n),
            "f": rng.integers(0, 4, n),
            "g": np.arange(n) % 40,
            "h": np.arange(n) % 60,
            "times": np.arange(n) % 3,
        }
    )


def test_the_route_is_that_of_the_fit(large: pl.DataFrame) -> None:
    """Sums by queries, cross-products of arrays, equal rows counted, blocks in memory, blocks on disk, or nowhere."""
    tight = Control(memory=Memory(limit=1_000_000))

    def plan(frame: pl.DataFrame | pl.LazyFrame, formula: str, **options: Any) -> Any:
        return polars_glmm.explain(frame, formula, **options).plan

    assert plan(large.head(20_000), "y ~ x + (1 | g)").route == "products"
    assert plan(large, "y ~ x + (1 | g) + (1 | h)").route == "products"
    assert plan(large, "y ~ x + (1 | g)").route == "sums"
    lazy = plan(large.lazy(), "y ~ x + (1 | g)")
    assert (lazy.route, lazy.scans) == ("sums", 1)
    learned = plan(large.lazy(), "y ~ scale(x) + C(f) + (1 | g)")
    assert (learned.route, learned.scans) == ("sums", 2)
    counted = plan(large, "y ~ C(f) + (1 | g)", family="poisson")
    assert (counted.route, counted.cells) == ("rows", 160)
    assert plan(large, "y ~ x + (1 | g)", family="poisson").cells is None
    disk = plan(large.lazy(), "y ~ x + (1 | g)", family="poisson", control=tight)
    assert (disk.route, disk.fits) == ("disk", True)
    assert 1_000_000 <= disk.cost.memory <= 1_000_000 + (16 << 20)  # and what libraries take
    both = polars_glmm.explain(large.lazy(), "y ~ x + (1 | g) + (1 | h)", family="poisson", control=tight)
    assert not both.plan.fits
    assert "does not fit in memory" in str(both)
    assert plan(large, "y ~ x + (1 | g)", family="poisson", control=tight).route == "rows"


def test_frequencies_are_observations(large: pl.DataFrame) -> None:
    found = [polars_glmm.explain(f, "y ~ x + (1 | g)", frequency="times") for f in (large, large.lazy())]
    rows = large.filter(pl.col("times") > 0)
    for one in found:
        assert f"{rows.height:,} rows used ({rows['times'].sum():,} observations)" in str(one)
    sizes = [one.frame.filter(part="random").select("smallest", "largest").row(0) for one in found]
    expected = rows.group_by("g").agg(pl.col("times").sum())["times"]
    assert sizes[0] == sizes[1] == (expected.min(), expected.max())


COUNTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "one factor": ("cbpp", "incidence ~ period + (1 | herd)", {"family": "binomial", "trials": "size"}),
    "long": ("toenail", "y ~ treatment * time + (1 | patientID)", {"family": "binomial"}),
    "quadrature": ("toenail", "y ~ treatment * time + (1 | patientID)", {"family": "binomial", "method": AGQ(9)}),
    "nested": ("grouseticks", "TICKS ~ YEAR + (1 | LOCATION/BROOD)", {"family": "poisson"}),
    "crossed": ("verbagg", "r2 ~ Anger + Gender + (1 | id) + (1 | item)", {"family": "binomial"}),
    "slopes": ("verbagg", "r2 ~ Anger + Gender + (Anger | item)", {"family": "binomial"}),
    "no groups": ("grouseticks", "TICKS ~ YEAR + cHEIGHT", {"family": "poisson"}),
}


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
@pytest.mark.parametrize("model", COUNTED)
def test_the_span_of_passes_holds_those_of_the_fit(model: str) -> None:
    name, formula, options = COUNTED[model]
    frame = datasets.load(name)
    low, high = polars_glmm.explain(frame, formula, **options).plan.cost.passes
    assert low <= polars_glmm.fit(frame, formula, **options).estimate.certificate.row_passes <= high


def test_costs_follow_their_laws(large: pl.DataFrame) -> None:
    """m unknowns left: m² · 8 bytes; time and passes grow with nodes, columns and effects; spans are of one width."""
    crossed = polars_glmm.explain(large, "y ~ x + (1 | g) + (x | h)", family="poisson", control=Control())
    assert crossed.elimination == costs.Elimination("dense", 40, 8 * 40**2, ("h",), 1)

    def cost(formula: str, **options: Any) -> costs.Cost:
        return polars_glmm.explain(large, formula, family="poisson", **options).plan.cost

    one, many = (cost("y ~ x + (1 | g)", method=AGQ(k)) for k in (1, 15))
    assert 2.0 * one.seconds[0] < many.seconds[0] < 15.0 * one.seconds[0]
    wider, deeper = cost("y ~ poly(x, 9) + (1 | g)"), cost("y ~ x + (x | g)")
    for more in (wider, deeper):
        assert more.seconds[0] > one.seconds[0]
        assert more.passes[0] > one.passes[0]
    for found in (one, many, wider, deeper, crossed.plan.cost):
        assert found.seconds[1] / found.seconds[0] == pytest.approx(4.4)
    assert "passes over 50,000 rows" in str(polars_glmm.explain(large, "y ~ x + (1 | g)", family="poisson"))


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
@pytest.mark.one_in(2)
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("options", [{}, {"family": "poisson"}, {"residual": "cs(1 | g)"}], ids=str)
def test_keys_are_counted_and_fitted_as_is_said(options: dict[str, Any], lazy: bool) -> None:
    """Of six keys one is too large for company; what is fitted together and singly is what a fit does."""
    rng = np.random.default_rng(1)
    key = np.repeat(np.arange(6), [60, 60, 48, 60, 60, 10_020])
    g, x = np.arange(len(key)) % 12, rng.standard_normal(len(key))
    y = rng.poisson(np.exp(0.5 + 0.3 * rng.standard_normal((6, 12))[key, g]))
    frame = pl.DataFrame({"key": key, "g": g, "x": x, "y": y})
    hole = frame.with_columns(key=pl.when(pl.int_range(pl.len()) > 0).then(pl.col("key")))
    rows = hole.lazy() if lazy else hole
    told = polars_glmm.explain(rows, "y ~ x + (1 | g)", by="key", **options)
    parts = {(part, name): size for part, name, size in told.frame.select("part", "name", "size").iter_rows()}
    assert (parts["keys", "key"], parts["rows", "used"], parts["rows", "dropped"]) == (6, len(key) - 1, 1)
    assert told.frame.filter(part="keys")["smallest", "largest"].row(0) == (48, 10_020)
    assert told.keys["n_rows"].to_list() == [59, 60, 48, 60, 60, 10_020]
    alone = polars_glmm.explain(hole.filter(key=5), "y ~ x + (1 | g)", **options)
    assert told.largest.frame.equals(alone.frame)
    assert "6 models, one for each key" in repr(told)
    fits = polars_glmm.fit(rows, "y ~ x + (1 | g)", by="key", **options)
    together = sum(len(batch) for batch in fits.outcomes.batches)
    assert (parts["route", "together"], parts["route", "singly"]) == (together, 6 - together)


def test_what_a_fit_by_key_refuses_is_refused_before_it() -> None:
    frame = pl.DataFrame({"key": [None, None], "x": [1.0, 2.0], "y": [1.0, 0.0]}, schema_overrides={"key": pl.Int64})
    for by, said in (("kee", "no such column"), ("key", "no row has a key")):
        with pytest.raises(polars_glmm.GlmmError, match=said):
            polars_glmm.explain(frame, "y ~ x", by=by)
