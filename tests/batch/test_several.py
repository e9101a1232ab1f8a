"""`by=` of several grouping factors: collection[key] is the fit on the filtered frame, also of keys of other kinds."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm import AGQ, Control
from polars_glmm.control import Rows
from polars_glmm.errors import GlmmError
from polars_glmm.likelihood.many.company import ROOM, ROOM_AT_ONCE, of_one_size
from tests.batch.test_law import alone, assert_same_fit, assert_same_table, ids, together

SAME_LOGLIK = 1e-8
SAME_ERROR = 1e-3
"""Of variances of estimates: those of a fit move by 3e-4 when its forward differences take a tenth of their steps."""
SIZES = {0: (60, 8, 5), 1: (90, 9, 12), 2: (40, 6, 4), 3: (80, 8, 6), 4: (70, 7, 5), 5: (60, 8, 5), 6: (70, 8, 5),
         7: (80, 12, 4), 8: (900, 50, 20), 9: (16, 5, 3)}  # fmt: skip
"""Rows, and levels of a and of b: in key 1 b has more than a."""


def mixed() -> pl.DataFrame:
    """Keys of all sizes; 3 has no variance between levels of a, 4 none at all, 5 one level of b, 6 gaps, 7 a in b."""
    rng = np.random.default_rng(3)
    parts = []
    for key, (n, g, h) in SIZES.items():
        a, b = rng.integers(g, size=n), rng.integers(h, size=n)
        b = a % h if key == 7 else np.zeros_like(b) if key == 5 else b
        x, t = rng.standard_normal(n), rng.integers(0, 6, n) / 2.0
        of_a = (0.0 if key in (3, 4) else 0.7) * rng.standard_normal((2, g))[:, a]
        of_b = (0.0 if key == 4 else 0.5) * rng.standard_normal(h)[b]
        eta = 0.6 + 0.3 * x + of_a[0] + 0.4 * of_a[1] * t + of_b
        parts.append(
            pl.DataFrame(
                {
                    "key": key, "a": [f"a{i}" for i in a], "b": b, "c": a // 3, "row": np.arange(n), "x": x, "t": t,
                    "level": eta + 0.5 * rng.standard_normal(n), "count": rng.poisson(np.exp(eta - 0.5)),
                    "hit": rng.random(n) < 1.0 / (1.0 + np.exp(-eta)), "weight": rng.integers(1, 4, n),
                }
            )
        )  # fmt: skip
    frame = pl.concat(parts).sample(fraction=1.0, shuffle=True, seed=2)
    gap = (pl.col("key") == 6) & (pl.col("row") % 9 == 0)
    x = pl.when(gap).then(None).otherwise("x")
    return frame.with_columns(x=x, b=pl.when(gap & (pl.col("row") > 20)).then(None).otherwise("b"))


MIXED = mixed()
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("level ~ x + (1 | a) + (1 | b)", {}),
    ("level ~ x + (1 | b) + (1 + t | a)", {"method": "ml", "frequency": "weight"}),
    ("level ~ 1 + (1 | c / a)", {}),
    ("count ~ x + (1 | a) + (1 | b)", {"family": "poisson", "frequency": "weight"}),
    ("count ~ (1 | c / row) + (0 + t | a) + (1 | b)", {"family": "poisson"}),
    ("hit ~ x + (1 | b) + (1 | a)", {"family": "binomial"}),
]


@pytest.mark.one_in(6)
@pytest.mark.parametrize(("formula", "options"), ROUTES, ids=ids)
def test_every_key_is_the_fit_of_its_rows(formula: str, options: dict[str, Any]) -> None:
    collection = together(MIXED, formula, options)
    status = dict(collection.status().select("key", "status").iter_rows())
    for key in SIZES:
        own = alone(MIXED, key, formula, options)
        if isinstance(own, GlmmError):
            assert status[key] == "failed"
            with pytest.raises(type(own)) as caught:
                collection[key]
            assert str(caught.value) == str(own)
            continue
        assert status[key] == ("singular" if own.singular else "ok")
        assert_allclose(collection[key].loglik, own.loglik, rtol=SAME_LOGLIK)
        assert_same_fit(collection[key], own, SAME_ERROR)
    assert (collection.outcomes.batch_of >= 0).sum() >= len(SIZES) // 2
    for verb in ("fixef", "varcorr", "dispersion", "ranef", "glance"):
        parts = [getattr(one, verb)().insert_column(0, pl.lit(key).alias("key")) for key, one in collection]
        whole = getattr(collection, verb)()
        assert_same_table(whole, pl.concat(parts).with_columns(pl.col("key").cast(whole.schema["key"])), 1e-12, 1e-14)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("formula", "options"), [ROUTES[1], ROUTES[3], ROUTES[0]], ids=ids)
def test_lazy_and_uncompressed_rows_have_the_same_models(formula: str, options: dict[str, Any]) -> None:
    eager = together(MIXED, formula, options)
    plain = options | {"control": Control(rows=Rows(compress=False))}
    for other in (together(MIXED.lazy(), formula, options), together(MIXED, formula, plain)):
        assert (other.outcomes.batch_of == eager.outcomes.batch_of).all()
        assert_same_table(other.status().drop("text", "notes"), eager.status().drop("text", "notes"), 0.0, 0.0)
        assert_allclose(other.glance()["loglik"], eager.glance()["loglik"], rtol=SAME_LOGLIK)


def test_what_the_rows_of_a_key_cannot_tell_is_said_as_by_its_fit() -> None:
    """a is nested in c, so that c:a and a divide the rows of every key in the same way."""
    formula, options = "level ~ x + (1 | c / a) + (0 + t | a)", {"method": "ml"}
    collection, key = together(MIXED.filter(pl.col("key") < 5), formula, options), 1
    own = alone(MIXED, key, formula, options)
    assert not isinstance(own, GlmmError)
    assert "same_partition" in {note.code for note in own.notes}
    assert_same_fit(collection[key], own, SAME_ERROR)


def test_terms_of_one_factor_have_notes_of_their_own() -> None:
    formula, options = "count ~ x + (1 | a) + (0 + t | a)", {"family": "poisson"}
    collection = together(MIXED, formula, options)
    assert (collection.outcomes.batch_of >= 0).sum() >= 5
    for key in (3, 4):
        own = alone(MIXED, key, formula, options)
        assert not isinstance(own, GlmmError)
        assert own.singular
        assert collection[key].notes == own.notes


def test_quadrature_of_several_factors_is_left_to_the_fits_of_keys() -> None:
    few = MIXED.filter(pl.col("key").is_in([0, 2, 7, 9]))
    asked: dict[str, Any] = {"family": "poisson", "method": AGQ(nodes=3)}
    formula = "count ~ 1 + (1 | c / a)"
    collection = together(few, formula, asked)
    assert (collection.outcomes.batch_of < 0).all()
    own = alone(few, 2, formula, asked)
    assert not isinstance(own, GlmmError)
    assert collection[2].loglik == pytest.approx(own.loglik, rel=SAME_LOGLIK)


def test_models_that_go_together_are_of_about_one_size() -> None:
    """Each is in one company; together, each as large as the largest, they take no more than the room there is."""
    rng = np.random.default_rng(0)
    room = np.concatenate([rng.integers(4, 60, 3000), rng.integers(100, ROOM, 300), [0, ROOM]])
    companies = list(of_one_size(room))
    assert sorted(np.concatenate(companies).tolist()) == list(range(len(room)))
    for own in companies:
        assert len(own) * int(room[own].max()) <= max(ROOM_AT_ONCE, ROOM)
    assert len(companies) < 12
