"""Scoring steps along a curve."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose

from polars_glmm.optimize.scoring import approach
from polars_glmm.optimize.search import Evaluation, at_least


def variance(truth):
    """−ℓ of s = θ² with its expected information in θ: a quadratic in s."""

    def call(x, warm, *, curvature):
        s = x[0] ** 2
        value, slope = 50.0 * (s - truth) ** 2, 100.0 * (s - truth)
        return Evaluation(value, np.array([2 * x[0] * slope]), np.array([[400.0 * s]]) if curvature else None, warm)

    return call


def in_squares(x, step):
    return np.sqrt(np.maximum(x**2 + 2 * x * step, (0.03 * x) ** 2))


def test_one_step_in_the_right_scale_is_enough():
    near = approach(variance(0.07), np.array([3.0]), in_squares)
    assert_allclose(near.x**2, 0.07, rtol=1e-9)
    assert near.evaluations == 2


def test_it_ends_at_the_best_point_seen():
    def worse(x, warm, *, curvature):
        return Evaluation(-abs(x[0]), np.array([5.0]), np.array([[1.0]]), warm)

    near = approach(worse, np.array([4.0]), lambda x, step: x + step)
    assert near.x[0] == 4.0
    assert near.evaluations == 2


def test_it_does_nothing_near_an_optimum():
    near = approach(variance(1.0), np.array([1.001]), in_squares)
    assert near.evaluations == 1


def test_a_curvature_is_raised_relative_to_its_base():
    base = np.array([[4.0, 1.0], [1.0, 2.0]])
    flat = 4.0 * np.outer([1.0, 1.0], [1.0, 1.0])
    raised = at_least(flat, base, 0.1)
    values = np.linalg.eigvals(np.linalg.solve(base, raised))
    assert_allclose(min(values), 0.1, rtol=1e-9)
    assert_allclose(max(values), max(np.linalg.eigvals(np.linalg.solve(base, flat))), rtol=1e-9)
    assert at_least(base, np.zeros((2, 2)), 0.1) is not None
    assert_allclose(at_least(base, np.zeros((2, 2)), 0.1), 0.0)
