"""uncertainty="joint" of models with several linear predictors: what moves with which parameter."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

import polars_glmm as pg
from tests.streaming.same import quietly

GROUPS, EACH = 12, 10


@cache
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(8)
    n, g = GROUPS * EACH, np.repeat(np.arange(GROUPS), EACH)
    x, u = rng.uniform(-1.0, 1.0, n).round(3), rng.standard_normal((2, GROUPS))[:, g]
    eta = np.stack([np.zeros(n), 0.4 + 0.8 * x + 0.9 * u[0], -0.3 - 0.5 * x + 0.7 * u[1]])
    kind = np.array(["a", "b", "c"])[(eta + rng.gumbel(size=(3, n))).argmax(0)]
    count = rng.poisson(np.exp(0.7 + 0.4 * x + 0.6 * u[0])) * (rng.random(n) > 0.3)
    latent = eta[1] + rng.logistic(size=n)
    up = latent > 0.4
    return pl.DataFrame(
        {
            "g": [f"g{k}" for k in g], "x": x, "kind": kind, "count": count, "rank": np.digitize(latent, [-0.5, 0.9]),
            "up": up.astype(int), "two": np.where(up, "yes", "no"),
        }
    )  # fmt: skip


MODELS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "zero-inflated": (("count ~ x + (1 | g)", "zi ~ x"), {"family": "poisson"}),
    "with a size": (("count ~ x + (1 | g)", "zi ~ 1"), {"family": "negative_binomial"}),
    "hurdle": (("count ~ x + (1 | g)", "zi ~ x"), {"family": "truncated_poisson"}),
    "unordered": (("kind ~ x + (1 |p| g)",), {"family": "categorical"}),
    "ordered": (("rank ~ x + (1 | g)",), {"family": "cumulative"}),
    "scaled": (("rank ~ x + (1 | g)", "disc ~ 0 + x"), {"family": "cumulative"}),
}


@cache
def fitted(model: str) -> Any:
    formulas, options = MODELS[model]
    return quietly(rows(), *formulas, **options)


def errors(one: Any, **asked: Any) -> np.ndarray:
    found = one.predict(rows(), std_error=True, **asked)
    return found.select(pl.col("^.*_std_error$")).to_numpy()


@pytest.mark.parametrize("model", MODELS)
def test_without_modes_there_is_nothing_to_move(model: str) -> None:
    one = fitted(model)
    joint, given = (errors(one, random="none", uncertainty=u) for u in ("joint", "conditional"))
    assert joint == pytest.approx(given, rel=1e-7)


@pytest.mark.parametrize("model", ["unordered", "ordered"])
def test_of_two_categories_it_is_that_of_a_probability(model: str) -> None:
    binomial = quietly(rows(), "up ~ x + (1 | g)", family="binomial")
    response, family = ("two", "categorical") if model == "unordered" else ("up", "cumulative")
    two = quietly(rows(), f"{response} ~ x + (1 | g)", family=family)
    expected = errors(binomial, uncertainty="joint")[:, 0]
    assert not np.allclose(expected, errors(binomial)[:, 0], rtol=1e-3)
    assert errors(two, uncertainty="joint") == pytest.approx(np.stack([expected, expected], axis=1), rel=2e-3)


def test_the_baseline_does_not_matter() -> None:
    """With effects correlated across categories the models of all baselines are one."""
    one = fitted("unordered")
    other = quietly(rows(), "kind ~ x + (1 |p| g)", family=pg.Categorical(baseline="b"))
    expected = errors(one, uncertainty="joint")
    found = other.predict(rows(), std_error=True, uncertainty="joint")
    found = found.select(f"prediction_{k}_std_error" for k in "abc").to_numpy()
    assert found == pytest.approx(expected, rel=5e-3)
    assert (expected > errors(one) * 1.001).mean() > 0.5


@pytest.mark.parametrize("model", ["zero-inflated", "with a size", "hurdle"])
def test_a_mean_of_two_parts_moves_with_both(model: str) -> None:
    """(1 − zi)·mu has the relative variance of mu and of 1 − zi, and twice what they share."""
    one = fitted(model)
    mean = one.predict(rows(), std_error=True, uncertainty="joint")
    mu = one.predict(rows(), kind="mu", std_error=True, uncertainty="joint", name="mu")
    zi = one.predict(rows(), kind="zi", std_error=True, uncertainty="joint", name="zi")
    total = (mean["prediction_std_error"] / mean["prediction"]).to_numpy()
    first = (mu["mu_std_error"] / mu["mu"]).to_numpy()
    second = (zi["zi_std_error"] / (1.0 - zi["zi"])).to_numpy()
    if model != "hurdle":
        assert (total <= (first + second) * (1.0 + 1e-9)).all()
        assert (total >= np.abs(first - second) * (1.0 - 1e-9)).all()
    else:  # the steps share nothing, and the mean above zero moves with less than mu does
        assert (total <= np.hypot(first, second) * (1.0 + 1e-6)).all()
        assert (total >= second * (1.0 - 1e-9)).all()
