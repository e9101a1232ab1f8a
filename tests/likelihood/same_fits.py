"""Fits that must be the same: of one model by two routes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm.likelihood.estimate import Between, FactorEstimate


def same_fits(there: polars_glmm.Fit, here: polars_glmm.Fit) -> None:
    """Log-likelihood, counts, notes and tables."""
    assert there.loglik == pytest.approx(here.loglik, abs=1e-8)
    assert there.converged == here.converged
    assert (there.n_obs, there.n_dropped, there.groups) == (here.n_obs, here.n_dropped, here.groups)
    assert [note.code for note in there.notes] == [note.code for note in here.notes]
    for table in ("fixef", "varcorr", "ranef"):
        mine, other = getattr(there, table)(), getattr(here, table)()
        for name in other.columns:
            if other[name].dtype.is_float():
                rtol = 1e-5 if name == "estimate" else 1e-4
                assert_allclose(mine[name].to_numpy(), other[name].to_numpy(), rtol=rtol, atol=1e-6)
            else:
                assert mine[name].equals(other[name], null_equal=True)
    for mine, other in zip(there.estimate.factors, here.estimate.factors, strict=True):
        for one, another in zip(mine.between, other.between, strict=True):
            _same_between(one, another, here.estimate.factors)


def _same_between(one: Between, other: Between, factors: tuple[FactorEstimate, ...]) -> None:
    """Covariances of levels of two factors, which are 0 where they are not kept."""
    assert (one.other, one.every) == (other.other, other.every)
    (n,) = (factor.modes.shape[1] for factor in factors if factor.name == one.other)
    _, left, right = np.intersect1d(one.own * n + one.its, other.own * n + other.its, return_indices=True)
    assert len(left) == len(one.own)
    assert_allclose(one.covariance[..., left], other.covariance[..., right], rtol=1e-4, atol=1e-6)
    rest = np.ones(len(other.own), dtype=bool)
    rest[right] = False
    assert_allclose(other.covariance[..., rest], 0.0, atol=1e-12)
