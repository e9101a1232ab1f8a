"""As many groups as rows, and nearly so: what takes seconds must not take minutes, and must be right."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import polars as pl
import pytest

from polars_glmm import IdentifiabilityError
from tests.hard import independent
from tests.hard.attempt import attempt, codes, fixed, names, refused, silent, variance

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


def test_as_many_levels_as_rows_in_a_fixed_factor() -> None:
    """A key put among the fixed effects by mistake is refused, and soon."""
    frame = pl.DataFrame({"id": [f"i{k}" for k in range(2_000)], "y": np.random.default_rng(1).normal(size=2_000)})
    began = perf_counter()
    with refused(IdentifiabilityError, "2000 observations", "2000 fixed effects"):
        attempt(frame, "y ~ id")
    assert perf_counter() - began < 10
