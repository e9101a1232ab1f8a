"""Estimates that run to infinity: the likelihood has no maximum, and the fit must say along which columns.

The supremum is known all the same: rows predicted without error contribute log 1 = 0, so what is left is the fit to the
other rows. A twin has one row on the wrong side, or one count that is not zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from polars_glmm import AGQ, Fit
from tests.hard.attempt import attempt, codes, fixed, names, silent, variance

G, EACH = 30, 10


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(20)
    g = np.repeat(np.arange(G), EACH)
    b = rng.normal(0, 1, G)
    f = np.tile(["a", "b", "c", "d", "e"], G * EACH // 5)
    x = rng.normal(size=G * EACH)
    p = 1 / (1 + np.exp(-(0.3 + 0.5 * x + b[g])))
    return pl.DataFrame(
        {
            "g": g,
            "f": f,
            "x": x,
            "s": (x > 0).astype(int),
            "y": (rng.random(len(g)) < p).astype(int),
            "c": rng.poisson(np.exp(1 + 0.7 * b[g])),
            "n": rng.negative_binomial(3, 3 / (3 + np.exp(1 + 0.7 * b[g]))),
        }
    )


def same_as_without(fit: Fit, rest: Fit, lost: str) -> None:
    """The other estimates are those of the fit without the rows that are predicted perfectly."""
    assert fit.loglik == pytest.approx(rest.loglik, abs=1e-5)
    for term, estimate in rest.fixef().select("term", "estimate").iter_rows():
        assert fixed(fit, term) == pytest.approx(estimate, abs=1e-3)
        assert fixed(fit, term, "std_error") == pytest.approx(fixed(rest, term, "std_error"), rel=1e-3)
    assert variance(fit, "g") == pytest.approx(variance(rest, "g"), rel=1e-3)
    assert variance(fit, "g", column="std_error") == pytest.approx(variance(rest, "g", column="std_error"), rel=1e-2)
    assert fixed(fit, lost, "std_error") is None
    assert fixed(fit, lost, "p_value") is None


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
@pytest.mark.parametrize("formula", ["s ~ x", "s ~ x + (1 | g)"])
def test_complete_separation(frame: pl.DataFrame, formula: str, link: str) -> None:
    """The sign of x is the response: every probability goes to 0 or 1, and the likelihood to 1."""
    fit = attempt(frame, formula, family="binomial", link=link)
    names(fit, "separation", "x")
    assert -1e-3 < fit.loglik <= 0
    assert fixed(fit, "x", "std_error") is None
    assert "not_converged" not in codes(fit)


@pytest.mark.parametrize("formula", ["s ~ x", "s ~ x + (1 | g)"])
def test_complete_separation_but_for_some_rows(frame: pl.DataFrame, formula: str) -> None:
    """Twin: three rows on the wrong side."""
    wrong = frame.with_columns(s=pl.when(pl.int_range(pl.len()) % 100 == 7).then(1 - pl.col("s")).otherwise("s"))
    fit = attempt(wrong, formula, family="binomial")
    assert codes(fit) <= {"singular"}
    assert 0 < fixed(fit, "x", "std_error") < fixed(fit, "x") / 2


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("column", "arguments"),
    [
        ("y", {"family": "binomial"}),
        ("y", {"family": "binomial", "link": "probit"}),
        ("y", {"family": "binomial", "link": "cloglog"}),
        ("y", {"family": "binomial", "method": AGQ(5)}),
        ("c", {"family": "poisson"}),
        ("c", {"family": "poisson", "method": AGQ(5)}),
        ("n", {"family": "negative_binomial"}),
    ],
)
def test_a_level_without_any_event(frame: pl.DataFrame, column: str, arguments: dict[str, Any]) -> None:
    """Quasi-complete separation: nothing ever happened at level b of a fixed factor; the other levels do not care."""
    empty = frame.with_columns(pl.when(pl.col("f") == "b").then(0).otherwise(column).alias(column))
    fit = attempt(empty, f"{column} ~ f + (1 | g)", **arguments)
    assert codes(fit) == {"separation"}
    names(fit, "separation", "f[T.b]", absent=("Intercept", "f[T.c]", "f[T.d]"))
    rest = attempt(empty.filter(pl.col("f") != "b"), f"{column} ~ f + (1 | g)", **arguments)
    silent(rest)
    same_as_without(fit, rest, "f[T.b]")


@pytest.mark.parametrize(("column", "family"), [("y", "binomial"), ("c", "poisson"), ("n", "negative_binomial")])
def test_a_level_with_one_event(frame: pl.DataFrame, column: str, family: str) -> None:
    """Twin: one event at level b. The estimate is far out and its standard error large, but both are there."""
    first = int(frame.with_row_index().filter(pl.col("f") == "b")["index"][0])
    once = frame.with_columns(
        pl.when(pl.int_range(pl.len()) == first)
        .then(1)
        .when(pl.col("f") == "b")
        .then(0)
        .otherwise(column)
        .alias(column)
    )
    fit = attempt(once, f"{column} ~ f + (1 | g)", family=family)
    silent(fit)
    assert fixed(fit, "f[T.b]") < -2
    assert 0.5 < fixed(fit, "f[T.b]", "std_error") < 2


def test_the_reference_level_without_any_event(frame: pl.DataFrame) -> None:
    """The intercept itself runs off, and every difference from it."""
    empty = frame.with_columns(c=pl.when(pl.col("f") == "a").then(0).otherwise("c"))
    fit = attempt(empty, "c ~ f + (1 | g)", family="poisson")
    names(fit, "separation", "Intercept", "f[T.b]", "f[T.e]")
    cells = attempt(empty, "c ~ 0 + f + (1 | g)", family="poisson")
    names(cells, "separation", "f[a]", absent=("f[b]", "f[c]"))
    assert cells.loglik == pytest.approx(fit.loglik, abs=1e-5)


def test_separation_in_an_interaction(frame: pl.DataFrame) -> None:
    """Only the cell of level b and x > 0 is empty: the interaction is named, the main effects are not."""
    half = frame.with_columns(h=pl.when(pl.col("x") > 0).then(pl.lit("up")).otherwise(pl.lit("lo")))
    empty = half.with_columns(c=pl.when((pl.col("f") == "b") & (pl.col("h") == "up")).then(0).otherwise("c"))
    fit = attempt(empty, "c ~ f * h + (1 | g)", family="poisson")
    names(fit, "separation", "f[T.b]:h[T.up]", absent=("Intercept", "f[T.b]", "h[T.up]"))
    silent(attempt(half, "c ~ f * h + (1 | g)", family="poisson"))


@pytest.mark.parametrize(
    ("value", "family"), [(0, "poisson"), (0, "binomial"), (1, "binomial"), (0, "negative_binomial")]
)
@pytest.mark.parametrize("formula", ["y ~ 1 + (1 | g)", "y ~ 1"])
def test_nothing_but_zeros(frame: pl.DataFrame, formula: str, value: int, family: str) -> None:
    """A response that never (or always) happens: the intercept runs off and the likelihood goes to 1."""
    fit = attempt(frame.with_columns(y=pl.lit(value)), formula, family=family)
    names(fit, "separation", "Intercept")
    assert -1e-3 < fit.loglik <= 0
    assert fixed(fit, column="std_error") is None


def test_zeros_in_one_level_of_a_random_factor(frame: pl.DataFrame) -> None:
    """A random effect is shrunk: a group of zeros has a finite mode, the lowest of all, and no note."""
    empty = frame.with_columns(c=pl.when(pl.col("g") == 3).then(0).otherwise("c"))
    fit = attempt(empty, "c ~ 1 + (1 | g)", family="poisson")
    silent(fit)
    modes = fit.ranef("g")
    assert modes["g_Intercept"].arg_min() == modes["g"].index_of(3)
    assert -5 < modes["g_Intercept"].min() < -1


def test_separation_along_a_combination(frame: pl.DataFrame) -> None:
    """x + w predicts the response, neither does alone: both are named, an innocent bystander is not."""
    rng = np.random.default_rng(3)
    w, z = rng.normal(size=(2, frame.height))
    both = frame.with_columns(w=w, z=z, s=(pl.col("x") + w > 0).cast(int))
    fit = attempt(both, "s ~ x + w", family="binomial")
    names(fit, "separation", "x", "w")
    assert -1e-3 < fit.loglik <= 0


def test_cloglog_and_identity_know_no_separation_below(frame: pl.DataFrame) -> None:
    """Poisson with identity link: a cell of zeros has mean 0 on the border of the domain, not a slope to infinity."""
    empty = frame.with_columns(c=pl.when(pl.col("f") == "b").then(1).otherwise(pl.col("c") + 1))
    silent(attempt(empty, "c ~ f", family="poisson", link="identity"))


def test_what_separation_leaves_is_estimated_whatever_the_reference_level() -> None:
    """One empty cell of two by two: its coefficient is infinite, all contrasts of the other cells are known.

    Without variance between groups the standard error of a log ratio of two Poisson means is √(1/Σy₁ + 1/Σy₂).
    """
    rng = np.random.default_rng(0)
    cells = [(f"p{p}", h, r) for p in range(12) for h in "AX" for r in "AH"]
    mean = {"AA": 6.0, "XA": 3.0, "AH": 0.0, "XH": 3.0}
    counts = [int(rng.poisson(mean[h + r])) for _, h, r in cells]
    frame = pl.DataFrame(cells, schema=["p", "h", "r"], orient="row").with_columns(y=pl.Series(counts))
    other = frame.with_columns(pl.col("h").replace({"A": "Z"}))  # now X comes first
    sums = dict(frame.group_by(pl.concat_str("h", "r")).agg(pl.sum("y")).iter_rows())
    one, two = (attempt(data, "y ~ h * r + (1 | p)", family="poisson") for data in (frame, other))
    assert one.loglik == pytest.approx(two.loglik, abs=1e-6)
    contrast = np.sqrt(1.0 / sums["AA"] + 1.0 / sums["XA"])
    assert fixed(one, "h[T.X]", "std_error") == pytest.approx(contrast, rel=1e-3)
    assert fixed(two, "h[T.Z]", "std_error") == pytest.approx(contrast, rel=1e-3)
    assert fixed(two, "r[T.H]", "std_error") == pytest.approx(np.sqrt(1.0 / sums["XH"] + 1.0 / sums["XA"]), rel=1e-3)
    for fit, infinite in ((one, ["r[T.H]", "h[T.X]:r[T.H]"]), (two, ["h[T.Z]:r[T.H]"])):
        names(fit, "separation", infinite[0])
        for term in infinite:
            assert fixed(fit, term, "std_error") is None


def test_two_empty_levels_are_two_directions(frame: pl.DataFrame) -> None:
    """What remains is the fit without their rows."""
    empty = frame.with_columns(c=pl.when(pl.col("f").is_in(["b", "d"])).then(0).otherwise("c"))
    fit = attempt(empty, "c ~ f + (1 | g)", family="poisson")
    rest = attempt(empty.filter(~pl.col("f").is_in(["b", "d"])), "c ~ f + (1 | g)", family="poisson")
    for lost in ("f[T.b]", "f[T.d]"):
        same_as_without(fit, rest, lost)


def test_an_empty_reference_level_leaves_differences_of_the_others(frame: pl.DataFrame) -> None:
    """Intercept and all levels are infinite together; no standard error is made up for any of them."""
    empty = frame.with_columns(c=pl.when(pl.col("f") == "a").then(0).otherwise("c"))
    fit = attempt(empty, "c ~ f + (1 | g)", family="poisson")
    rest = attempt(empty.filter(pl.col("f") != "a"), "c ~ f + (1 | g)", family="poisson")
    assert fit.loglik == pytest.approx(rest.loglik, abs=1e-5)
    assert fit.fixef()["std_error"].null_count() == 5
    for level in "cde":
        difference = fixed(fit, f"f[T.{level}]") - fixed(fit, "f[T.b]")
        assert difference == pytest.approx(fixed(rest, f"f[T.{level}]"), abs=1e-3)
