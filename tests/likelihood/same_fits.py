"""Fits that must be the same: of one model by two routes."""

from __future__ import annotations

import pytest
from numpy.testing import assert_allclose

import polars_glmm


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
