"""Gaussian models of few rows, whose likelihood may have a hill near no effects beside one of large ones."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")


def rows(seed: int) -> tuple[pl.DataFrame, str]:
    """Few rows of two factors, and a formula."""
    rng = np.random.default_rng(seed)
    n, n_g, n_h = int(rng.choice([15, 20])), int(rng.choice([4, 6])), int(rng.choice([3, 5]))
    g, h, x = rng.integers(n_g, size=n), rng.integers(n_h, size=n), rng.normal(size=n)
    y = rng.choice([0.0, 1.0]) * rng.normal(size=n_g)[g] + rng.normal(size=n)
    formula = str(rng.choice(["y ~ 1 + (x | g)", "y ~ 1 + (x | g) + (1 | h)", "y ~ 1 + (1 | g) + (0 + x | h)"]))
    return pl.DataFrame({"y": y, "x": x, "g": g, "h": h, "key": 1}), formula


SEEDS = [155, 160]
"""Data with two hills, of which the search from large effects found the lower one."""


@pytest.mark.parametrize("seed", [*SEEDS, *(pytest.param(k, marks=pytest.mark.slow) for k in range(40))])
def test_no_start_leads_higher_and_every_route_ends_there(seed: int) -> None:
    frame, formula = rows(seed)
    fit = frame.glmm.fit(formula, method="ml")
    terms = fit.varcorr().filter(pl.col("std_dev").is_not_null(), pl.col("group") != "Residual")
    names = [f"sd({group}: {term})" for group, term in terms.select("group", "term").rows()]
    for size in (0.01, 1.0):
        other = frame.glmm.fit(formula, method="ml", start=dict.fromkeys(names, size) | {"phi": 1.0})
        assert fit.loglik > other.loglik - 1e-6
    assert frame.lazy().glmm.fit(formula, method="ml").loglik == pytest.approx(fit.loglik, abs=1e-6)
    assert frame.glmm.fit(formula, method="ml", by="key")[1].loglik == pytest.approx(fit.loglik, abs=1e-6)
