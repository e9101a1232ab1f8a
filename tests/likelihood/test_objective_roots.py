"""The objective is that of the fit also where quadrature depends on the root of Σ along which its nodes lie.

With 3 nodes for each of two effects it was another number at the estimates, by up to 0.0074 (5 nodes: 0.0012, 9: 3e-5),
and its gradient there was up to 0.026.
"""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest

import polars_glmm
from polars_glmm import AGQ, FitWarning


def rows(seed: int, r: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    n, levels = 300 * (r - 1), 15
    g, x, z = rng.integers(0, levels, n), rng.normal(size=n) + 1.0, rng.normal(size=n)
    b = 1.2 * rng.normal(size=(levels, 3))
    eta = b[g, 0] + b[g, 1] * x + (b[g, 2] * z if r == 3 else 0.0)
    return pl.DataFrame({"y": (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int), "x": x, "z": z, "g": g})


@pytest.mark.parametrize(("r", "nodes"), [(2, 3), (2, 4), (3, 3)])
def test_the_objective_is_that_of_the_fit(r: int, nodes: int) -> None:
    formula = "y ~ 1 + (x | g)" if r == 2 else "y ~ 1 + (x + z | g)"
    frame, method = rows(r, r), AGQ(nodes=nodes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        fit = polars_glmm.fit(frame, formula, family="binomial", method=method)
    f = polars_glmm.objective(frame, formula, family="binomial", method=method)
    table = fit.varcorr()
    at = {"Intercept": fit.fixef()["estimate"][0]}
    for term, other, sd, rho in table.select("term", "other_term", "std_dev", "correlation").rows():
        at[f"sd(g: {term})" if other is None else f"cor(g: {term}, {other})"] = sd if other is None else rho
    assert not fit.singular
    assert f.loglik(at) == pytest.approx(fit.loglik, abs=1e-9)
    assert np.abs(f.gradient(at)).max() < 1e-4
    there = np.array([at[name] for name in f.names]) + 0.1
    step = 1e-5 * np.eye(len(there))
    numeric = [(f.loglik(there + h) - f.loglik(there - h)) / 2e-5 for h in step]
    np.testing.assert_allclose(f.gradient(there), numeric, atol=2e-6)
