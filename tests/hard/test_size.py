"""As many groups as rows, and nearly so: what takes seconds must not take minutes, and must be right."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import polars as pl
import pytest

from polars_glmm import IdentifiabilityError, ResourceError
from tests.hard import independent
from tests.hard.attempt import attempt, codes, fixed, names, refused, silent, variance

pytestmark = pytest.mark.slow

N = 100_000


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(23)
    x = rng.normal(size=N)
    eta = 0.5 + 0.4 * x + 0.7 * rng.normal(size=N)
    return pl.DataFrame(
        {
            "row": rng.permutation(N),
            "pair": rng.permutation(N) // 2,
            "x": x,
            "c": rng.poisson(np.exp(eta)),
            "y": eta,
            "k": (rng.random(N) < 1 / (1 + np.exp(-eta))).astype(int),
        }
    )


def test_a_hundred_thousand_groups_of_one(frame: pl.DataFrame) -> None:
    """Poisson with a row effect: overdispersion by the book, in seconds, at the optimum of its Laplace likelihood."""
    began = perf_counter()
    fit = attempt(frame, "c ~ x + (1 | row)", family="poisson")
    assert perf_counter() - began < 20
    silent(fit)
    y, x = frame["c"].to_numpy(), frame["x"].to_numpy()
    sd = variance(fit, "row", column="std_dev")
    loglik = lambda b0, b1, s: independent.observation_level_loglik(independent.POISSON, y, b0 + b1 * x, s)
    at = (fixed(fit), fixed(fit, "x"), sd)
    assert fit.loglik == pytest.approx(loglik(*at), abs=1e-4)
    for move in ((0.01, 0, 0), (0, 0.01, 0), (0, 0, 0.01)):
        assert loglik(*np.add(at, move)) < fit.loglik
        assert loglik(*np.subtract(at, move)) < fit.loglik
    assert fixed(fit, "x") == pytest.approx(0.4, abs=0.02)
    assert fit.ranef("row").height == N


def test_a_hundred_thousand_bernoulli_groups_of_one(frame: pl.DataFrame) -> None:
    """The same design for single trials determines nothing about the rows; it too must end."""
    began = perf_counter()
    fit = attempt(frame, "k ~ x + (1 | row)", family="binomial")
    assert perf_counter() - began < 30
    names(fit, "not_identified", "row")
    assert variance(fit, "row", column="std_error") is None


def test_fifty_thousand_groups_of_two(frame: pl.DataFrame) -> None:
    """Twin: pairs, gaussian and Poisson."""
    began = perf_counter()
    gaussian = attempt(frame, "y ~ x + (1 | pair)")
    counts = attempt(frame, "c ~ x + (1 | pair)", family="poisson")
    assert perf_counter() - began < 30
    assert codes(gaussian) | codes(counts) <= {"singular"}
    assert fixed(gaussian, "x") == pytest.approx(0.4, abs=0.02)


@pytest.fixture(scope="module")
def wide() -> pl.DataFrame:
    n = 40_000
    return pl.DataFrame(
        {
            "id": [f"i{k}" for k in range(n)],
            "the id": np.arange(n),
            "a": np.arange(n) % 205,
            "b": np.arange(n) % 201,
            "g": np.arange(n) % 8,
            "x": np.arange(n) / n,
            "c": np.arange(n) % 3,
        }
    )


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("family", ["gaussian", "poisson"])
@pytest.mark.parametrize(
    ("formula", "told"),
    [
        ("c ~ id", ("'id' has 40000 levels", "(1 | id)")),
        ("c ~ x + C(`the id`)", ("'the id' has 40000 levels", "(1 | `the id`)")),
        ("c ~ x:id + (1 | g)", ("'id' has 40000 levels", "(1 | id)")),
        ("c ~ x + (id | g)", ("'id' has 40000 levels", "(1 | id)")),
        ("c ~ C(a) * C(b)", ("make 41205 columns", "'C(a):C(b)'")),
        ("c ~ x + (C(a):C(b) | g)", ("columns", "'C(a):C(b)'")),
    ],
)
def test_columns_for_every_row_are_refused_before_they_are_made(
    wide: pl.DataFrame, formula: str, told: tuple[str, ...], family: str, *, lazy: bool
) -> None:
    """A key put among the effects by mistake: told by name with its levels and the remedy, at once and in no memory."""
    began = perf_counter()
    with refused(IdentifiabilityError, *told):
        attempt(wide.lazy() if lazy else wide, formula, family=family)
    assert perf_counter() - began < 5


def test_effects_beyond_memory_are_refused_before_they_are_made(wide: pl.DataFrame) -> None:
    """Half of the rows have a level of their own: it could be told, where matrices of that order had room."""
    frame = wide.with_columns(half=pl.int_range(pl.len()) // 2)
    many = pl.concat([frame.with_columns(half=pl.col("half") + 20_000 * k) for k in range(20)])
    for data in (many, many.lazy()):
        with refused(ResourceError, "'half' has 400000 levels", "(1 | half)"):
            attempt(data, "c ~ x + C(half)", family="poisson")


@pytest.mark.parametrize(
    ("rows", "formula", "told"),
    [
        (2_000, "c ~ id", ("'id' has 2000 levels in 2000 rows",)),
        (101, "c ~ id", ("'id' has 101 levels in 101 rows",)),
        (60, "x ~ id", ("60 observations", "60 fixed effects")),
        (60, "c ~ x + (id | g)", ("(id | g) has 60 effects", "60 rows")),
    ],
)
def test_as_many_levels_as_rows(wide: pl.DataFrame, rows: int, formula: str, told: tuple[str, ...]) -> None:
    with refused(IdentifiabilityError, *told):
        attempt(wide.head(rows), formula, family="gaussian" if formula.startswith("x") else "poisson")


def test_a_small_table_of_counts_may_be_saturated(wide: pl.DataFrame) -> None:
    """Twin: each count is fitted by its own effect."""
    frame = wide.head(12).with_columns(c=pl.int_range(1, 13))
    fit = attempt(frame, "c ~ id", family="poisson")
    assert fit.predict(frame)["prediction"].to_list() == pytest.approx(list(range(1, 13)))
