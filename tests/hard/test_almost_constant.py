"""Responses almost constant within levels: the maximum to the last digit there is, or one sentence on every route.

With noise s → 0 within levels the residual sd is s times a constant and the other estimates tend to a limit, so that a
fit at one s tells what the fits at all others are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control, Fit, IdentifiabilityError
from polars_glmm.control import Memory, Rows
from tests.hard.attempt import attempt, codes

LEVELS, EACH = 12, 8


@cache
def almost_constant(noise: float) -> pl.DataFrame:
    rng = np.random.default_rng(11)
    g, h = np.repeat(np.arange(LEVELS), EACH), np.tile(np.arange(EACH), LEVELS)
    one = rng.normal(size=LEVELS)[g]
    two = one + rng.normal(size=EACH)[h]
    e = noise * rng.normal(size=LEVELS * EACH)
    columns = {"g": [f"g{k:02}" for k in g], "h": [f"h{k}" for k in h], "x": rng.normal(size=len(g))}
    return pl.DataFrame(columns | {"one": one + e, "two": two + e, "positive": np.exp(0.3 * one + e)})


def routes(frame: pl.DataFrame) -> dict[str, Callable[..., Any]]:
    """The ways to a fit: rows, counted rows, a lazy frame, rows on disk, one key beside a healthy one."""
    counted = frame.with_columns(times=1)
    noise = np.random.default_rng(1).normal(size=frame.height)
    healthy = almost_constant(1e-3).with_columns(
        one=pl.col("one") + noise, two=pl.col("two") + noise, positive=pl.col("positive") * np.exp(noise)
    )
    keyed = pl.concat([frame.with_columns(k=pl.lit("bad")), healthy.with_columns(k=pl.lit("good"))])
    disk = Control(memory=Memory(limit=1), rows=Rows(compress=False))

    def key(formula: str, **arguments: Any) -> Fit:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", polars_glmm.FitWarning)
            found = polars_glmm.fit(keyed, formula, by="k", **arguments)
        reason = found.status().filter(pl.col("k") == "bad").row(0, named=True)
        if reason["status"] == "failed":
            raise IdentifiabilityError(reason["notes"][0]["text"])
        return found["bad"]

    return {
        "rows": lambda formula, **a: attempt(frame, formula, **a),
        "counted": lambda formula, **a: attempt(counted, formula, frequency="times", **a),
        "lazy": lambda formula, **a: attempt(frame.lazy(), formula, **a),
        "disk": lambda formula, **a: attempt(frame.lazy(), formula, control=disk, **a),
        "key": key,
    }


def rows_within(found: dict[str, Callable[..., Any]], formula: str) -> dict[str, Callable[..., Any]]:
    """Those that may look at rows; where only sums fit into memory their 16 digits do not do, and that is said."""
    with pytest.raises(IdentifiabilityError, match=r"16 digits|within rounding"):
        found["disk"](formula)
    return {name: fit for name, fit in found.items() if name != "disk"}


def sds(fit: Fit) -> list[float]:
    return fit.varcorr().filter(pl.col("other_term").is_null())["std_dev"].to_list()


@pytest.mark.parametrize("noise", [1e-6, pytest.param(1e-9, marks=pytest.mark.slow), 1e-12])
def test_one_factor_keeps_its_digits_however_small_the_residual(noise: float) -> None:
    """Balanced one-way ML: σ² = SSW/(n − G), τ² = SSB/(nG) − σ²/n (Searle, Casella & McCulloch 1992, § 3.7)."""
    frame = almost_constant(noise)
    y = frame["one"].to_numpy().reshape(LEVELS, EACH)
    within = y - y.mean(1, keepdims=True)
    sigma = np.sqrt((within**2).sum() / (LEVELS * (EACH - 1)))
    tau = np.sqrt(y.mean(1).var() - sigma**2 / EACH)
    for name, fit in rows_within(routes(frame), "one ~ 1 + (1 | g)").items():
        found = fit("one ~ 1 + (1 | g)", method="ml")
        assert found.converged, name
        assert sds(found) == pytest.approx([tau, sigma], rel=1e-7), name


@pytest.mark.parametrize("noise", [1e-6, pytest.param(1e-9, marks=pytest.mark.slow), 1e-12])
def test_a_slope_without_variance_does_not_cost_the_intercept_its_digits(noise: float) -> None:
    """By the law of small noise; the digits of y itself are ε/s of the residual's."""
    reference = attempt(almost_constant(1e-4), "one ~ 1 + (x | g)")
    expected = np.array(sds(reference)) * [1.0, noise / 1e-4, noise / 1e-4]
    loglik = reference.loglik - LEVELS * (EACH - 1) * np.log(noise / 1e-4)
    for name, fit in rows_within(routes(almost_constant(noise)), "one ~ 1 + (x | g)").items():
        found = fit("one ~ 1 + (x | g)")
        assert found.converged, name
        assert not codes(found) & {"not_converged", "flat_direction"}, name
        assert sds(found) == pytest.approx(expected, rel=3e-4), name
        assert found.loglik == pytest.approx(loglik, abs=0.02), name


@pytest.mark.slow
def test_two_factors_and_log_links_are_fitted_while_the_numbers_carry_them() -> None:
    for formula, options in CASES:
        reference = np.array(sds(attempt(almost_constant(1e-3), formula, **options)))
        found = attempt(almost_constant(1e-5), formula, **options)
        assert found.converged
        assert not codes(found) & {"not_converged", "flat_direction"}
        shared = 2 if "h" in formula else 1
        assert sds(found)[:shared] == pytest.approx(reference[:shared], rel=1e-3)


CASES: list[tuple[str, dict[str, Any]]] = [
    ("two ~ 1 + (1 | g) + (1 | h)", {}),
    ("positive ~ 1 + (1 | g)", {"family": "gamma", "link": "log"}),
    ("positive ~ 1 + (1 | g)", {"family": "inverse_gaussian", "link": "log"}),
    ("positive ~ 1 + (1 | g)", {"family": "gaussian", "link": "log"}),
]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("noise", [1e-6, pytest.param(1e-9, marks=pytest.mark.slow), 1e-12])
@pytest.mark.parametrize(("formula", "options"), CASES)
def test_beyond_the_digits_every_route_says_the_same_quickly(
    formula: str, options: dict[str, Any], noise: float
) -> None:
    said = set()
    began = perf_counter()
    found = routes(almost_constant(noise))
    if "h" in formula.split("~")[1]:
        found.pop("disk")  # crossed factors need more memory than that
    for fit in found.values():
        with pytest.raises(IdentifiabilityError) as caught:
            fit(formula, **options)
        said.add(str(caught.value))
    assert perf_counter() - began < 30.0
    (text,) = said
    for word in ("'g'", "within rounding", "no bound", "one row per level"):
        assert word in text
    assert ("'h'" in text) == ("h" in formula.split("~")[1])
    assert ("residual variance" in text) == (options.get("family", "gaussian") == "gaussian")
