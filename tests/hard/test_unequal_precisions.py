"""One row a level with unequal precisions: both variances are there, often with two hills, or one of them zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import Fit
from polars_glmm.errors import IdentifiabilityError

FORMULA = "y ~ x + (1 | g)"
SEEDS = (2, 14, 23, 27, 38, 43, 57, 59)
"""Among them responses without residual (23, 27, 38, 43) and one whose first search ends on the lower hill (57)."""


def rows(seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(10, 40))
    w = np.exp(rng.normal(0, rng.uniform(0.5, 3), n))
    y = rng.normal(0, 1, n) * rng.choice([0, 0.3, 1]) + rng.normal(0, 1, n) / np.sqrt(w) * rng.choice([0.1, 0.5, 1])
    return pl.DataFrame({"y": y, "x": rng.normal(size=n), "g": range(n), "w": w})


def best_of_grid(frame: pl.DataFrame, *, reml: bool) -> float:
    """The highest log-likelihood of N(Xβ, τ²I + φ²/w), restricted or not, on a grid of both variances."""
    y, w = frame["y"].to_numpy(), frame["w"].to_numpy()
    x = np.column_stack([np.ones(len(y)), frame["x"].to_numpy()])
    sizes = np.exp(np.linspace(-9, 4, 53)) ** 2

    def loglik(between: float, residual: float) -> float:
        v = between + residual / w
        m = x.T @ (x / v[:, None])
        e = y - x @ np.linalg.solve(m, x.T @ (y / v))
        value = np.log(2 * np.pi * v).sum() + (e**2 / v).sum()
        return float(-0.5 * (value + reml * (np.linalg.slogdet(m)[1] - 2 * np.log(2 * np.pi))))

    return max(loglik(a, b) for a in np.append(0.0, sizes) for b in sizes)


def routes(frame: pl.DataFrame, **options: Any) -> list[Fit]:
    summed = polars_glmm.products(frame.lazy(), FORMULA, precision="w").fit(method=options["method"])
    many = pl.concat([frame.with_columns(k=k) for k in range(4)])
    by_key = polars_glmm.fit(many, FORMULA, by="k", precision="w", **options)
    both = [polars_glmm.fit(data, FORMULA, precision="w", **options) for data in (frame, frame.lazy())]
    return [*both, summed, by_key[2]]


@pytest.mark.one_in(10)
@pytest.mark.filterwarnings("ignore::polars_glmm.errors.FitWarning")  # some lie on a boundary
@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_answer_is_never_below_the_best_of_a_grid(seed: int, method: str) -> None:
    frame = rows(seed)
    best = best_of_grid(frame, reml=method == "reml")
    for fit in routes(frame, method=method):
        assert fit.converged
        assert fit.loglik > best - 1e-6


@pytest.mark.parametrize("method", ["ml", "reml"])
def test_a_residual_variance_of_zero_is_an_answer_with_a_note(method: str) -> None:
    """Responses scatter alike whatever their precision: the limit is the model without φ, τ² = RSS/n or RSS/(n − p)."""
    y = np.tile([-1.0, 1.0, -1.4, 1.4, -0.3, 0.3], 5)
    frame = pl.DataFrame({"y": y, "g": range(30), "w": np.repeat(np.geomspace(0.01, 100.0, 5), 6)})
    with pytest.warns(polars_glmm.FitWarning, match="residual variance is estimated at zero"):
        fit = frame.glmm.fit("y ~ 1 + (1 | g)", precision="w", method=method)
    plain = frame.glmm.fit("y ~ 1", method=method)
    assert fit.loglik == pytest.approx(plain.loglik, abs=1e-6)
    assert fit.varcorr()["std_dev"][0] == pytest.approx(plain.estimate.phi, rel=1e-6)
    assert_allclose(fit.fixef()["std_error"], plain.fixef()["std_error"], rtol=1e-6)
    assert fit.glance()["df_model"].item() == plain.glance()["df_model"].item() + 1
    assert fit.dispersion()["std_error"].to_list() == [None]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("start", [None, {"sd(g: Intercept)": 0.02, "sd(h: x)": 0.02, "phi": 1.0}])
def test_two_factors_that_reproduce_any_response_have_no_optimum(start: dict[str, float] | None) -> None:
    """Slopes of five levels and four fixed effects span eight rows: without the rest of V there is no bound."""
    frame = pl.DataFrame(
        {
            "y": [2.461, 1.158, 1.975, 0.086, -0.427, 0.318, 1.549, 0.48],
            "x": [1.029, 1.34, -1.47, -0.152, -0.052, -0.26, 1.409, -0.405],
            "f": list("aaacacbb"), "g": list("52086227"), "h": list("20443341"), "w": [4.0, 4, 1, 0.5, 4, 0.5, 1, 1],
        }
    )  # fmt: skip
    with pytest.raises(IdentifiabilityError, match="span all observations"):
        polars_glmm.fit(frame, "y ~ x + f + (1 | g) + (0 + x | h)", method="ml", precision="w", start=start)
