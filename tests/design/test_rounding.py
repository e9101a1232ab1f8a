"""Columns nearly alike: kept where numbers can tell them apart, on every route, and dropped with the true reason."""

from __future__ import annotations

import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import datasets

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")


def fits(frame: pl.DataFrame, formula: str, **arguments):
    yield frame.glmm.fit(formula, **arguments)
    yield frame.lazy().glmm.fit(formula, **arguments)
    yield pl.concat([frame.with_columns(k=pl.lit(k)) for k in range(4)]).glmm.fit(formula, by="k", **arguments)[0]


def powers(k: int) -> str:
    return "Reaction ~ year" + "".join(f" + I(year^{j})" for j in range(2, k + 1)) + " + (1 | Subject)"


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("origin", "k"), [(0, 4), (100, 4), (2010, 3), (20100, 3), (1_000_000, 2)])
def test_raw_powers_that_are_kept_have_the_likelihood_of_their_space(origin, k):
    frame = datasets.load("sleepstudy").with_columns(year=pl.col("Days") + origin)
    expected = frame.glmm.fit(f"Reaction ~ poly(year, {k}) + (1 | Subject)", method="ml").loglik
    for fit in fits(frame, powers(k), method="ml"):
        assert fit.fixef()["estimate"].null_count() == 0
        assert_allclose(fit.loglik, expected, atol=1e-6)


@pytest.mark.parametrize("origin", [2010, 20100, 1_000_000])
def test_a_power_that_is_lost_to_rounding_is_not_called_redundant(origin):
    frame = datasets.load("sleepstudy").with_columns(year=pl.col("Days") + origin)
    lost = set()
    for fit in fits(frame, powers(4), method="ml"):
        (note,) = (note for note in fit.notes if note.code == "columns_dropped")
        assert "rounding" in note.text
        assert "poly()" in note.advice
        lost.add(tuple(fit.fixef().filter(pl.col("estimate").is_null())["term"]))
    assert len(lost) == 1
    (note,) = (n for n in polars_glmm.products(frame, powers(4)).fit().notes if n.code == "columns_dropped")
    assert "Products do not tell" in note.text
    assert "poly()" in note.advice


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "formula",
    [
        "Reaction ~ year + I(12 * year) + (1 | Subject)",
        "Reaction ~ year + I(year^2) + I(year * year) + (1 | Subject)",
        "Reaction ~ year + I(year^2) + I((year - 2000)^2) + (1 | Subject)",
        "Reaction ~ two + I(two^2) + (1 | Subject)",
        "Reaction ~ year * two + both + (1 | Subject)",
    ],
)
def test_a_true_combination_is_called_one(formula):
    frame = datasets.load("sleepstudy").with_columns(year=pl.col("Days") + 2010, two=2010 + pl.col("Days") % 2)
    frame = frame.with_columns(both=pl.col("year") * pl.col("two"))
    for fit in fits(frame, formula):
        (note,) = (note for note in fit.notes if note.code == "columns_dropped")
        assert "determined by the columns before" in note.text
        assert fit.fixef()["estimate"].null_count() == 1
