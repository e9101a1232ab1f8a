"""Maximum likelihood has no bound where [X Z] spans all rows and Z does not, wherever a search ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import Control, IdentifiabilityError, Memory, Rows
from tests.hard.attempt import attempt, refused

FORMULA = "y ~ x + (1 | g)"


def pairs(seed: int) -> pl.DataFrame:
    """Four rows in three groups: with intercept and slope that is rank 4 and [X Z] = 4 > rank Z = 3."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame({"y": rng.normal(size=4), "x": rng.normal(size=4), "g": ["a", "a", "b", "c"]})


def minus_two(frame: pl.DataFrame, tau: float, sigma: float) -> float:
    """−2ℓ at its best β, by the dense V."""
    y, x = frame["y"].to_numpy(), np.column_stack([np.ones(4), frame["x"].to_numpy()])
    same = frame["g"].to_numpy()[:, None] == frame["g"].to_numpy()
    v = sigma**2 * np.eye(4) + tau**2 * same
    solved = np.linalg.solve(v, x)
    e = y - x @ np.linalg.solve(x.T @ solved, solved.T @ y)
    return float(np.linalg.slogdet(2 * np.pi * v)[1] + e @ np.linalg.solve(v, e))


@pytest.mark.parametrize("seed", [3, 15, 18])
def test_a_search_that_ends_lower_does_not_hide_it(seed: int) -> None:
    """These seeds have a local optimum with a residual, and ℓ grows by log 10 for every tenth of sigma."""
    frame = pairs(seed)
    assert minus_two(frame, 5.0, 1e-4) - minus_two(frame, 5.0, 1e-5) == pytest.approx(2 * np.log(10), rel=1e-3)
    disk = Control(memory=Memory(limit=1), rows=Rows(compress=False))
    both = pl.concat([frame.with_columns(k=pl.lit("a")), frame.with_columns(k=pl.lit("b"))])
    routes: dict[str, Callable[[], Any]] = {
        "eager": lambda: frame.glmm.fit(FORMULA, method="ml"),
        "lazy": lambda: frame.lazy().glmm.fit(FORMULA, method="ml"),
        "disk": lambda: frame.glmm.fit(FORMULA, method="ml", control=disk),
        "products": lambda: polars_glmm.products(frame, FORMULA).fit(method="ml"),
        "by": lambda: polars_glmm.fit(both, FORMULA, method="ml", by="k")["a"],
    }
    for route in routes.values():
        with refused(IdentifiabilityError, "span all observations", "no bound", "fewer terms"):
            route()
    assert np.isfinite(attempt(frame, FORMULA).loglik)  # REML has a bound


def test_one_factor_of_two_is_enough() -> None:
    """Rows of their own beside (1 | g): V is regular only as long as theirs is not zero."""
    frame = pairs(3).with_columns(h=pl.Series(["p", "q", "r", "r"]))
    with refused(IdentifiabilityError, "span all observations"):
        frame.glmm.fit("y ~ x + (1 | g) + (1 | h)", method="ml")


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_a_variance_that_is_held_tells_the_residual_one_also_with_a_row_per_level(method: str) -> None:
    """σ² + s² is the residual variance s of the model without the factor, on every route; the levels say the rest."""
    rng = np.random.default_rng(5)
    frame = pl.DataFrame({"y": rng.normal(size=20), "x": rng.normal(size=20), "g": range(20)})
    plain = polars_glmm.fit(frame, "y ~ x", method=method)
    held = {"fixed": {"sd(g: Intercept)": 0.4}, "method": method}
    keyed = pl.concat([frame.with_columns(k=pl.lit(key)) for key in ("a", "b")])
    fits = [
        polars_glmm.fit(frame, "y ~ x + (1 | g)", **held),
        polars_glmm.fit(frame.lazy(), "y ~ x + (1 | g)", **held),
        polars_glmm.products(frame, "y ~ x + (1 | g)").fit(**held),
        polars_glmm.fit(keyed, "y ~ x + (1 | g)", by="k", **held)["a"],
    ]
    for fit in fits:
        assert fit.loglik == pytest.approx(plain.loglik, abs=1e-8)
        phi = [one.dispersion()["estimate"][0] for one in (fit, plain)]
        assert phi[0] ** 2 + 0.16 == pytest.approx(phi[1] ** 2, rel=1e-6)
        assert not [note for note in fit.notes if not note.quiet]
