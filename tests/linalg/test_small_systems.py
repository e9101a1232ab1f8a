"""Stacks of small systems, quadrature and differences against numpy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.linalg import cholesky
from polars_glmm.linalg.differences import jacobian
from polars_glmm.linalg.quadrature import gauss_hermite


@pytest.mark.parametrize("r", [1, 2, 3, 5, 12])
def test_stacked_cholesky_is_numpy_system_by_system(r):
    rng = np.random.default_rng(r)
    root = rng.normal(size=(r, r, 7))
    a = np.einsum("ikG,jkG->ijG", root, root) + np.eye(r)[:, :, None]
    b = rng.normal(size=(r, 2, 7))
    low = cholesky.factor(a)
    for g in range(7):
        assert_allclose(low[..., g], np.linalg.cholesky(a[..., g]), atol=1e-12)
        assert_allclose(cholesky.solve(low, b)[..., g], np.linalg.solve(a[..., g], b[..., g]), atol=1e-10)
        assert_allclose(cholesky.inverse(low)[..., g], np.linalg.inv(a[..., g]), atol=1e-10)
        assert_allclose(cholesky.log_determinant(low)[g], np.linalg.slogdet(a[..., g])[1], atol=1e-12)


@pytest.mark.parametrize("r", [1, 2, 3, 12])
def test_indefinite_systems_come_back_as_nan_and_leave_the_others_alone(r):
    a = np.repeat(np.eye(r)[:, :, None], 3, axis=2)
    a[-1, -1, 1] = -1.0
    bad = np.isnan(cholesky.log_determinant(cholesky.factor(a)))
    assert bad.tolist() == [False, True, False]


@pytest.mark.parametrize(("k", "r"), [(1, 1), (3, 1), (5, 2), (4, 3)])
def test_quadrature_is_exact_for_polynomials_of_degree_2k_minus_1(k, r):
    """E ∏ z_i^m for standard normals: (m − 1)!! for even m."""
    rule = gauss_hermite(k, r)
    weights = np.exp(rule.log_weights - 0.5 * (rule.nodes**2).sum(0))
    moments = {0: 1.0, 2: 1.0, 4: 3.0, 6: 15.0, 8: 105.0}
    for m in range(0, 2 * k, 2):
        assert_allclose((weights * (rule.nodes**m).prod(0)).sum(), moments[m] ** r, rtol=1e-12)
        if m:
            assert_allclose((weights * rule.nodes[0] ** (m - 1)).sum(), 0.0, atol=1e-10)


def test_jacobian_of_a_quadratic_is_exact_by_central_differences():
    a = np.array([[2.0, 1.0], [1.0, 3.0]])
    x, steps = np.array([0.3, -2.0]), np.array([1e-2, 1e-2])
    assert_allclose(jacobian(lambda v: a @ v, x, steps), a, rtol=1e-12)
    assert_allclose(jacobian(lambda v: a @ v, x, steps, a @ x), a, rtol=1e-11)
