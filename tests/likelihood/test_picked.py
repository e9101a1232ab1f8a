"""Thresholds on rows against the columns that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.families.cumulative import Cumulative
from polars_glmm.likelihood.rows.picked import Picked, open_ends


def columns_of(picked: Picked) -> np.ndarray:
    """Every coefficient's column in the upper and the lower threshold, (p, 2, m)."""
    p = picked.n_columns
    return np.array([picked.linear(e) for e in np.eye(p)])


@pytest.mark.parametrize("spacing", ["flexible", "equidistant", "symmetric"])
@pytest.mark.parametrize("q", [0, 1, 3])
def test_sums_are_those_of_the_columns(spacing, q):
    rng = np.random.default_rng(q)
    codes = rng.integers(0, 5, 40)
    jacobian = Cumulative(thresholds=spacing).jacobian(5)
    picked = Picked(codes, jacobian, np.ones((1, 40)) if q == 0 else rng.standard_normal((q, 40)))
    v, tau = rng.standard_normal((2, 40)), rng.standard_normal(picked.n_columns)
    v[0, codes == 4] = v[1, codes == 0] = 0.0
    whole = columns_of(picked)
    assert_allclose(np.tensordot(tau, whole, 1), picked.linear(tau), atol=1e-14)
    assert_allclose((whole * v).sum((1, 2)), picked.sums(v), atol=1e-12)
    assert_allclose((whole * v).sum(1), picked.scores(v), atol=1e-14)


def test_thresholds_are_those_of_the_category():
    tau, codes = np.array([-1.0, 0.5, 2.0]), np.array([0, 1, 2, 3, 1])
    found = Picked(codes, np.eye(3), np.ones((1, 5))).linear(tau) + open_ends(codes, 4)
    assert found.tolist() == [[-1.0, 0.5, 2.0, np.inf, 0.5], [-np.inf, -1.0, 0.5, 2.0, -1.0]]


def test_models_side_by_side_are_each_by_itself():
    rng = np.random.default_rng(7)
    codes, of_row = rng.integers(0, 4, 30), np.repeat([0, 1, 2], 10)
    tau, v = rng.standard_normal((6, 3)), rng.standard_normal((2, 30))
    x, jacobian = rng.standard_normal((2, 30)), np.eye(3)
    many = Picked(codes, jacobian, x)
    for k in range(3):
        own = slice(10 * k, 10 * k + 10)
        one = Picked(codes[own], jacobian, x[:, own])
        assert_allclose(many.linear(tau, of_row)[:, own], one.linear(tau[:, k]))
        assert_allclose(many.sums(v, of_row, 3)[:, k], one.sums(v[:, own]))
