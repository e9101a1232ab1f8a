"""Simulated from known parameters, fitted, and compared: estimates near the truth, intervals that cover it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import polars_glmm

MODELS, GROUPS, ROWS = 200, 25, 12
BETA, SD = (0.4, 0.5), 0.6
FAMILIES = {
    "gaussian": (lambda rng, mu: mu + 0.8 * rng.normal(size=mu.shape), lambda eta: eta, 0.8),
    "binomial": (lambda rng, mu: rng.binomial(8, mu), lambda eta: 1 / (1 + np.exp(-eta)), None),
    "poisson": (lambda rng, mu: rng.poisson(mu), np.exp, None),
    "gamma": (lambda rng, mu: rng.gamma(4.0, mu / 4.0), np.exp, 0.25),
    "inverse_gaussian": (lambda rng, mu: rng.wald(mu, 1 / 0.3), np.exp, 0.3),
    "negative_binomial": (lambda rng, mu: rng.negative_binomial(3, 3 / (3 + mu)), np.exp, 3.0),
}


def simulate(family):
    draw, mean, _ = FAMILIES[family]
    rng = np.random.default_rng(sum(map(ord, family)))
    n = MODELS * GROUPS * ROWS
    x, u = rng.uniform(-1, 1, n), np.repeat(rng.normal(size=MODELS * GROUPS) * SD, ROWS)
    frame = {
        "model": np.repeat(np.arange(MODELS), GROUPS * ROWS),
        "g": np.tile(np.repeat(np.arange(GROUPS), ROWS), MODELS),
    }
    return pl.DataFrame({**frame, "x": x, "y": draw(rng, mean(BETA[0] + BETA[1] * x + u)), "trials": np.full(n, 8)})


@pytest.mark.slow
@pytest.mark.parametrize("family", list(FAMILIES))
def test_truth_is_recovered_and_covered(family):
    """Coverage of a 95 % interval over 200 models has a standard error of 1.5 %."""
    more = {"trials": "trials"} if family == "binomial" else {}
    if family != "gaussian":
        more["method"] = polars_glmm.AGQ(5)
    fits = simulate(family).glmm.fit("y ~ x + (1 | g)", family=family, by="model", **more)
    assert set(fits.status()["status"]) == {"ok"}
    fixed = fits.fixef()
    for term, truth in zip(("Intercept", "x"), BETA, strict=True):
        rows = fixed.filter(pl.col("term") == term)
        assert abs(rows["estimate"].mean() - truth) < 4 * rows["estimate"].std() / np.sqrt(MODELS) + 0.01
        assert 0.90 <= rows.select(pl.lit(truth).is_between("conf_low", "conf_high").mean()).item() <= 0.99
    spread = fits.varcorr().filter(pl.col("group") == "g")
    assert abs(spread["std_dev"].mean() - SD) < 0.04
    assert 0.85 <= spread.select(pl.lit(SD**2).is_between("conf_low", "conf_high").mean()).item() <= 0.99
    if (phi := FAMILIES[family][2]) is not None:
        values = fits.dispersion()
        assert abs(values["estimate"].median() - phi) < 0.06 * phi
        assert 0.90 <= values.select(pl.lit(phi).is_between("conf_low", "conf_high").mean()).item() <= 0.99
