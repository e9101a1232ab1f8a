"""The quasi-Newton search on functions with known minima."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.optimize import many as batch_search
from polars_glmm.optimize import search
from polars_glmm.optimize.search import Evaluation, minimise, newton_step, restrict


def quadratic(scales):
    h = np.diag(np.asarray(scales, dtype=float))
    return lambda x, warm, *, curvature: Evaluation(0.5 * x @ h @ x, h @ x, h if curvature else None, warm)


def rosenbrock(x, warm, *, curvature):
    value = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    gradient = np.array([-2 * (1 - x[0]) - 400 * x[0] * (x[1] - x[0] ** 2), 200 * (x[1] - x[0] ** 2)])
    return Evaluation(value, gradient, np.diag([800.0, 200.0]) if curvature else None, warm)


def test_the_right_curvature_ends_a_quadratic_in_one_step():
    found = minimise(quadratic([1e6, 1.0, 1e-6]), np.array([1.0, 2.0, -3.0]), tolerance=1e-12, max_evaluations=50)
    assert found.settled
    assert found.evaluations == 2
    assert_allclose(found.x, 0.0, atol=1e-9)


def test_a_curved_valley_is_followed_to_its_end():
    found = minimise(rosenbrock, np.array([-1.2, 1.0]), tolerance=1e-14, max_evaluations=500)
    assert found.settled
    assert_allclose(found.x, [1.0, 1.0], atol=1e-6)


def test_points_outside_the_domain_are_stepped_back_from():
    def barrier(x, warm, *, curvature):
        if x[0] <= 0:
            return Evaluation(np.inf, np.zeros(1), None, warm)
        return Evaluation(
            x[0] - np.log(x[0]), np.array([1 - 1 / x[0]]), np.array([[0.01]]) if curvature else None, warm
        )

    found = minimise(barrier, np.array([5.0]), tolerance=1e-14, max_evaluations=200)
    assert_allclose(found.x, [1.0], atol=1e-6)


def test_an_exhausted_search_says_so():
    found = minimise(rosenbrock, np.array([-1.2, 1.0]), tolerance=1e-14, max_evaluations=5)
    assert not found.settled


def test_the_decrement_does_not_depend_on_the_scale_of_the_parameters():
    h, g = np.array([[4.0, 1.0], [1.0, 2.0]]), np.array([0.5, -1.0])
    d = np.diag([1e6, 1e-4])
    assert_allclose(newton_step(h, g)[1], newton_step(d @ h @ d, d @ g)[1], rtol=1e-9)
    assert_allclose(newton_step(h, g)[1], 0.5 * g @ np.linalg.solve(h, g), rtol=1e-12)


@pytest.mark.parametrize("held", [[True, False, False], [False, True, True]])
def test_held_coordinates_stay(held):
    free = ~np.array(held)
    x = np.array([1.0, 2.0, 3.0])
    found = minimise(restrict(quadratic([1.0, 2.0, 3.0]), x, free), x[free], tolerance=1e-12, max_evaluations=50)
    assert_allclose(found.x, 0.0, atol=1e-9)


def test_a_curvature_of_both_signs_is_mended_before_it_is_updated() -> None:
    """Then B stays positive definite and meets the secant condition B s = y, for one search and for many."""
    b = np.array([[2.0, 0.3], [0.3, -121.0]])
    s, y = np.array([0.5, 0.2]), np.array([1.0, 0.7])
    one, many = search._bfgs(b, s, y), batch_search._bfgs(b[None].copy(), s[None], y[None])[0]
    assert np.linalg.eigvalsh(one).min() > 0.0
    assert_allclose(one @ s, y, rtol=1e-12)
    assert_allclose(many, one, rtol=1e-12)


@pytest.mark.parametrize("bend", [1.0, 1e-9, -1.0])
def test_a_quick_step_is_that_by_eigenvalues(bend: float) -> None:
    """Where the curvature is positive definite with ease, hardly, and not at all."""
    rng = np.random.default_rng(5)
    for n in (1, 2, 5, 9):
        q = np.linalg.qr(rng.normal(size=(n, n)))[0]
        h, g = (q * np.append(np.linspace(1.0, 2.0, n - 1), bend)) @ q.T, rng.normal(size=n)
        for found, wanted in zip(newton_step(h, g, quick=True), newton_step(h, g), strict=True):
            assert_allclose(found, wanted, rtol=1e-11, atol=1e-13)


def test_a_coordinate_that_would_run_on_for_nothing_takes_no_step_from_the_others() -> None:
    """exp(−z) falls for ever: its steps would double, each the whole step, while the valley beside it waits."""

    def value(x, warm, *, curvature):
        del warm
        far = np.exp(-x[0])
        gradient = np.array([-far, 4.0 * (x[1] - 3.0) ** 3])
        bend = np.diag([1e-3 * far, 12.0 * (x[1] - 3.0) ** 2 + 1e-12]) if curvature else None
        return Evaluation(float(far + (x[1] - 3.0) ** 4), gradient, bend, None)

    found = minimise(value, np.array([30.0, 9.0]), tolerance=1e-9, max_evaluations=200, limit=np.array([3.0, np.inf]))
    assert found.settled
    assert found.x[0] < 60.0
    assert abs(found.x[1] - 3.0) < 0.02
