"""A negative binomial whose likelihood has a hill at a finite phi and another at the Poisson limit: the higher one."""

from __future__ import annotations

import warnings

import numpy as np
import polars as pl
import pytest

import polars_glmm

FORMULA = "y ~ x + (1 | a) + (1 | b)"


def counts(seed: int) -> pl.DataFrame:
    """Few counts of two crossed factors, with some overdispersion."""
    rng = np.random.default_rng(seed)
    n, n_a, n_b = int(rng.integers(40, 120)), int(rng.integers(4, 12)), int(rng.integers(3, 8))
    a, b, x = rng.integers(n_a, size=n), rng.integers(n_b, size=n), rng.normal(size=n)
    of_a = rng.choice([0.2, 0.6]) * rng.normal(size=n_a)
    mu = np.exp(0.5 + 0.5 * x + of_a[a] + 0.3 * rng.normal(size=n_b)[b])
    phi = rng.choice([3.0, 10.0, 30.0])
    return pl.DataFrame({"a": a, "b": b, "x": x, "y": rng.negative_binomial(phi, phi / (phi + mu))})


@pytest.mark.parametrize("seed", [10, *(pytest.param(k, marks=pytest.mark.slow) for k in range(20, 40))])
def test_no_phi_that_is_held_is_likelier_than_the_one_that_is_estimated(seed: int) -> None:
    frame = counts(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        free = polars_glmm.fit(frame, FORMULA, family="negative_binomial")
        for phi in (5.0, 50.0, 500.0, 5000.0):
            held = polars_glmm.fit(frame, FORMULA, family="negative_binomial", fixed={"phi": phi})
            assert free.loglik > held.loglik - 1e-6
        poisson = polars_glmm.fit(frame, FORMULA, family="poisson")
        assert free.loglik > poisson.loglik - 1e-6
