"""`by=` of a frame that an engine holds: the models of its rows, from sums and counts of which no row is read out."""

from __future__ import annotations

import warnings
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control, FitCollection
from polars_glmm.control import Rows
from polars_glmm.errors import ColumnError
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_fewer import same_sums, tell_enough

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
N, KEYS = 1500, 6


def made() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    k, g, x = rng.integers(0, KEYS, N), rng.integers(0, 12, N), rng.normal(size=N) + 3
    f, d = rng.choice(["a", "it's"], N), rng.integers(0, 3, N)
    u = rng.normal(size=(KEYS, 12, 2)) * np.array([0.8, 0.3])
    y = 1 + 0.5 * x + (f == "a") + u[k, g, 0] + u[k, g, 1] * (x - 3) + rng.normal(size=N)
    return pl.DataFrame(
        {
            "key": [f"k{one}" for one in k], "half": k % 2, "g": g, "x": x, "f": f, "d": d, "y": y, "x2": x**2,
            "n": rng.integers(0, 3, N), "w": rng.uniform(0.5, 2.0, N), "c": rng.poisson(np.exp(0.3 * (f == "a"))),
            "exact": x + 1e-5 * rng.normal(size=N),
        }
    )  # fmt: skip


DATA = made()
HOLES = DATA.with_columns(
    x=pl.when(pl.int_range(N) % 97 == 3).then(float("nan")).otherwise("x"),
    f=pl.when((pl.int_range(N) % 89 == 3) & (pl.col("key") == "k1")).then(None).otherwise("f"),
)


@pytest.fixture(autouse=True)
def few_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polars_glmm.frames.counted._FEWEST_ROWS", 100)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    plain = EngineFrame.rows

    def rows(self: EngineFrame, *arguments: Any) -> Any:
        seen.append(1)
        return plain(self, *arguments)

    monkeypatch.setattr(EngineFrame, "rows", rows)
    return seen


def relation(frame: pl.DataFrame) -> Any:
    return duckdb.connect().from_arrow(frame.to_arrow())


def same(there: FitCollection, here: FitCollection) -> None:
    for table in ("glance", "fixef", "varcorr", "ranef"):
        if table == "ranef" and not here[next(iter(here))[0]].groups:
            continue
        got, want = getattr(there, table)(), getattr(here, table)()
        assert got.columns == want.columns
        for name in want.columns:
            if name in ("evaluations", "row_passes", "seconds", "gradient", "decrement"):
                continue
            if want[name].dtype.is_float():
                np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6, err_msg=name)
            else:
                assert got[name].equals(want[name], null_equal=True), name
    np.testing.assert_allclose(there.glance()["loglik"], here.glance()["loglik"], rtol=0, atol=1e-8)
    assert there.status().equals(here.status(), null_equal=True)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("formula", "options", "frame"),
    [
        ("y ~ x + f + (1 | g)", {}, HOLES),
        ("y ~ x + f + (1 | g)", {"frequency": "n", "method": "ml"}, DATA),
        ("y ~ x + offset(d)", {}, HOLES),
        ("c ~ f + (1 | g)", {"family": "poisson"}, DATA),
        ("y ~ x * f + (1 | g)", {}, DATA),
        ("c ~ f + factor(d) + (1 | g)", {"family": "poisson"}, HOLES),
    ],
)
def test_models_by_key_are_those_of_the_rows(
    formula: str, options: dict[str, Any], frame: pl.DataFrame, reads: list[int]
) -> None:
    here = polars_glmm.fit(frame, formula, by="key", **options)
    there = polars_glmm.fit(relation(frame), formula, by="key", **options)
    assert not reads
    same(there, here)
    one, other = there["k1"], here["k1"]
    assert (one.n_obs, one.n_dropped, one.groups) == (other.n_obs, other.n_dropped, other.groups)
    assert [note.text for note in one.notes] == [note.text for note in other.notes]


def test_few_keys_and_several_columns_are_no_exception(reads: list[int]) -> None:
    for by in (["half"], ["half", "key"]):
        here = polars_glmm.fit(DATA, "y ~ x + (1 | g)", by=by)
        there = polars_glmm.fit(relation(DATA), "y ~ x + (1 | g)", by=by)
        assert not reads
        np.testing.assert_allclose(there.glance()["loglik"], here.glance()["loglik"], rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("formula", "options", "said"),
    [
        ("y ~ x + f + (1 | g)", {}, "rows stay with DuckDB, which sums them by key: "),
        ("c ~ f + (1 | g)", {"family": "poisson"}, "rows stay with DuckDB, which counts them: "),
        ("y ~ scale(x) + (1 | g)", {}, "rows stay with DuckDB until they are read out, once"),
    ],
)
def test_explain_says_what_becomes_of_the_rows_of_keys(
    formula: str, options: dict[str, Any], said: str, reads: list[int]
) -> None:
    key = pl.when(pl.int_range(N) % 50 == 3).then(None).otherwise("key")
    frame = HOLES.with_columns(key=key) if "read out" in said else HOLES
    here = polars_glmm.explain(frame, formula, by="key", **options)
    there = polars_glmm.explain(relation(frame), formula, by="key", **options)
    assert bool(reads) == ("read out" in said)
    assert said in str(there)
    assert there.keys.equals(here.keys)
    both = [one.frame.filter(pl.col("part").is_in(["keys", "rows", "route"])) for one in (here, there)]
    assert both[0].equals(both[1])


def test_a_model_of_a_key_is_asked_again_from_its_rows() -> None:
    here, there = (polars_glmm.fit(frame, "y ~ x + f + (1 | g)", by="key")["k2"] for frame in (DATA, relation(DATA)))
    assert there.update("y ~ x + (1 | g)").loglik == pytest.approx(here.update("y ~ x + (1 | g)").loglik, abs=1e-8)


def of_a_key() -> pl.DataFrame:
    """Numbers that are one number in a key, or made of another there, or of another size in every key."""
    k = pl.col("key").rank("dense").cast(pl.Int64)
    return DATA.with_columns(
        year=2019.9 + k,
        mostly=pl.when(pl.col("key") == "k2").then(5.3).otherwise(pl.col("d") + pl.col("g") / 7),
        twice=pl.when(pl.col("key") == "k2").then(2 * pl.col("x") + 3).otherwise(pl.col("x2") / 9),
        price=10.0**k * (1 + 0.01 * pl.col("x")),
        own=pl.when(pl.col("f") == "a").then(0.1).otherwise("x2"),
        small=pl.col("y") * 1e-4 + 10.0**k,
    )


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("formula", "from_sums"),
    [
        ("y ~ x + year + (1 | g)", True),
        ("y ~ x + mostly + (1 | g)", True),
        ("y ~ x + own * f + (1 | g)", True),
        ("y ~ x + twice + (1 | g)", False),
        ("y ~ price + (1 | g)", False),
        ("small ~ x + (1 | g)", False),
    ],
)
def test_a_key_keeps_and_drops_the_columns_that_its_rows_do(formula: str, from_sums: bool, reads: list[int]) -> None:
    frame = of_a_key()
    here = polars_glmm.fit(frame, formula, by="key")
    there = polars_glmm.fit(relation(frame), formula, by="key")
    assert bool(reads) != from_sums
    got, want = there.fixef()["estimate"], here.fixef()["estimate"]
    assert got.is_null().to_list() == want.is_null().to_list()
    np.testing.assert_allclose(got.drop_nulls(), want.drop_nulls(), rtol=1e-6)
    np.testing.assert_allclose(there.glance()["loglik"], here.glance()["loglik"], rtol=0, atol=1e-8)


def test_sums_that_are_all_but_their_mean_or_each_other_do_not_tell_enough() -> None:
    rng, pools = np.random.default_rng(4), np.repeat([0, 1], 3)
    rows = rng.normal(size=(6, 50, 3))
    n = np.full(6, 50.0)

    def told(rows: np.ndarray[Any, np.dtype[np.float64]]) -> bool:
        away = rows - rows.mean(1, keepdims=True)
        raw, cross = (np.einsum("cni,cnj->cij", one, one) for one in (rows, away))
        return tell_enough(pools, n, raw, cross)

    assert told(rows)
    assert not told(rows + np.array([0.0, 0.0, 1e3]))
    third = rows.copy()
    third[3:, :, 2] = third[3:, :, 1] * 2 + 1e-4 * third[3:, :, 2]
    assert not told(third)
    third[3, :, 2] = rows[3, :, 2]  # one cell of the pool tells them apart
    assert told(third)


def test_keys_that_polars_has_no_dtype_for_are_refused() -> None:
    frame = relation(DATA).query("given", "select *, to_hours(d::int) as span from given")
    with pytest.raises(ColumnError, match="'span' is Object"):
        polars_glmm.fit(frame, "y ~ x", by="span")


@pytest.mark.one_in(5)
@pytest.mark.parametrize(
    ("formula", "options", "by"),
    [
        ("y ~ scale(x) + (1 | g)", {}, "key"),
        ("y ~ x + x2 + x:x2", {}, "key"),
        ("y ~ x + (1 | g)", {"precision": "w"}, "key"),
        ("log(c + 1) ~ x", {}, "key"),
        ("exact ~ x + (1 | g)", {}, "key"),
        ("y ~ x + ou(0 + d | g)", {}, "half"),
        ("c ~ x + (1 | g)", {"family": "poisson"}, "key"),
        ("c ~ f + (1 | mm(g, d))", {"family": "poisson"}, "half"),
        ("c ~ f + (1 | g)", {"family": "poisson", "control": Control(rows=Rows(compress=False))}, "key"),
    ],
)
def test_what_sums_do_not_hold_is_fitted_from_rows(
    formula: str, options: dict[str, Any], by: str, reads: list[int]
) -> None:
    here = polars_glmm.fit(DATA, formula, by=by, **options)
    there = polars_glmm.fit(relation(DATA), formula, by=by, **options)
    assert reads
    np.testing.assert_allclose(there.glance()["loglik"], here.glance()["loglik"], rtol=0, atol=1e-8)


def test_keys_that_fail_fail_with_the_words_of_their_rows() -> None:
    """One key has rows of a single level, and one has missing values in all rows."""
    lone = DATA.with_columns(g=pl.when(pl.col("key") == "k3").then(1).otherwise("g"))
    empty = DATA.with_columns(x=pl.when(pl.col("key") == "k3").then(None).otherwise("x"))
    for frame in (lone, empty):
        here, there = (polars_glmm.fit(rows, "y ~ x + (1 | g)", by="key") for rows in (frame, relation(frame)))
        assert there.status().equals(here.status(), null_equal=True)
        assert (here.status()["status"] == "failed").any()


def test_rows_of_many_keys_that_fail_are_read_once(reads: list[int]) -> None:
    lone = DATA.with_columns(g=pl.when(pl.col("key") > "k1").then(1).otherwise("g"))
    found = polars_glmm.fit(relation(lone), "y ~ x + (1 | g)", by="key")
    assert (found.status()["status"] == "failed").sum() == KEYS - 2
    assert len(reads) == 1


@pytest.mark.filterwarnings("always::polars_glmm.FitWarning")
@pytest.mark.parametrize("formula", ["exact ~ x + (1 | g)", "c ~ f + (1 | d)"])
def test_a_warning_is_given_once(formula: str) -> None:
    family = "gaussian" if formula.startswith("exact") else "poisson"
    with warnings.catch_warnings(record=True) as here:
        warnings.simplefilter("always")
        polars_glmm.fit(DATA, formula, by="key", family=family)
    with warnings.catch_warnings(record=True) as there:
        warnings.simplefilter("always")
        polars_glmm.fit(relation(DATA), formula, by="key", family=family)
    assert [str(one.message) for one in there] == [str(one.message) for one in here]


def test_rows_without_trials_are_counted_as_rows() -> None:
    tried = DATA.with_columns(s=(pl.col("n") > 1).cast(pl.Int64))
    for frame in (tried, tried.with_columns(f=HOLES["f"])):
        here, there = (
            polars_glmm.fit(rows, "s ~ f + (1 | g)", family="binomial", trials="n", by="key")["k1"]
            for rows in (frame, relation(frame))
        )
        assert [note.text for note in there.notes] == [note.text for note in here.notes]
        assert any("trial" in note.text for note in here.notes)


def test_the_rows_of_same_sums_have_the_same_sums() -> None:
    rng, cells, k = np.random.default_rng(2), 60, 3
    n = rng.integers(1, 9, cells)
    rows = [rng.normal(size=(size, k)) + 50 for size in n]
    for own in rows[:20]:
        own[:, 1] = own[0, 1]  # no variance
    mean = np.array([own.mean(0) for own in rows])
    cross = np.array([(own - own.mean(0)).T @ (own - own.mean(0)) for own in rows])
    place, frequency, values = same_sums(n.astype(float), mean, cross)
    assert (frequency == np.round(frequency)).all()
    assert (frequency >= 1).all()
    for cell, own in enumerate(rows):
        w, v = frequency[place == cell], values[place == cell]
        assert len(w) == min(n[cell], k + 1)
        assert w.sum() == n[cell]
        np.testing.assert_allclose(w @ v, own.sum(0), rtol=1e-12)
        away = v - mean[cell]
        np.testing.assert_allclose((away * w[:, None]).T @ away, cross[cell], atol=1e-10)
