"""Correlation matrices: derivatives against differences, corner cases, and natural parameters there and back."""

from __future__ import annotations

import numpy as np
import pytest

from polars_glmm.covariance.correlations import CORRELATIONS, Correlation, root, root_slopes
from polars_glmm.linalg.differences import jacobian

SIZE = 4
PLACES = {
    "order": np.arange(SIZE, dtype=float)[:, None],
    "label": np.arange(SIZE, dtype=float)[:, None],
    "time": np.array([[0.0], [0.4], [1.9], [5.0]]),
    "coordinates": np.array([[0.0, 0.0], [1.0, 0.5], [0.3, 2.0], [4.0, 1.0]]),
    "any": np.zeros((SIZE, 1)),
}
BY_NAME = pytest.mark.parametrize("correlation", CORRELATIONS.values(), ids=lambda one: one.name)


def some_x(correlation: Correlation) -> np.ndarray:
    return np.random.default_rng(3).normal(0.2, 0.5, correlation.count(SIZE))


@BY_NAME
def test_every_working_vector_makes_a_correlation_matrix(correlation: Correlation) -> None:
    rng = np.random.default_rng(8)
    for _ in range(50):
        x = rng.normal(0.0, 1.5, correlation.count(SIZE))
        found = correlation.matrix(x, PLACES[correlation.kind], SIZE)
        assert np.allclose(np.diag(found), 1.0, rtol=0, atol=1e-14)
        assert np.array_equal(found, found.T)
        assert np.linalg.eigvalsh(found).min() > -1e-14


@BY_NAME
def test_slopes_are_the_derivatives_of_the_matrix_of_its_root_and_of_the_natural_parameters(
    correlation: Correlation,
) -> None:
    x, places = some_x(correlation), PLACES[correlation.kind]
    steps = np.full(len(x), 1e-5)
    by_differences = jacobian(lambda v: correlation.matrix(v, places, SIZE).ravel(), x, steps)
    slopes = correlation.slopes(x, places, SIZE)
    assert np.allclose(slopes.reshape(len(x), -1), by_differences, rtol=0, atol=1e-9)
    low = root(correlation.matrix(x, places, SIZE))
    by_differences = jacobian(lambda v: root(correlation.matrix(v, places, SIZE)).ravel(), x, steps)
    assert np.allclose(root_slopes(low, slopes).reshape(len(x), -1), by_differences, rtol=0, atol=1e-9)
    by_differences = jacobian(lambda v: correlation.natural(v, SIZE), x, steps)
    assert np.allclose(correlation.natural_slopes(x, SIZE).T, by_differences, rtol=0, atol=1e-8)


@BY_NAME
def test_natural_parameters_lead_back_to_the_working_ones(correlation: Correlation) -> None:
    x = some_x(correlation)
    assert np.allclose(correlation.working(correlation.natural(x, SIZE), SIZE), x, rtol=1e-12, atol=1e-12)


@BY_NAME
def test_some_of_the_places_have_the_matrix_of_all_without_the_others(correlation: Correlation) -> None:
    x, places = some_x(correlation), PLACES[correlation.kind]
    some = [0, 2, 3]
    whole, part = correlation.matrix(x, places, SIZE), correlation.matrix(x, places[some], SIZE)
    assert np.allclose(part, whole[np.ix_(some, some)], rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", ["ar1", "toep", "us"])
def test_zero_working_parameters_mean_no_correlation(name: str) -> None:
    one = CORRELATIONS[name]
    assert np.array_equal(one.matrix(np.zeros(one.count(SIZE)), PLACES["order"], SIZE), np.eye(SIZE))


def test_ar1_toep_us_car1_and_exp_agree_where_they_are_the_same_process() -> None:
    x, order = np.array([0.7]), PLACES["order"]
    ar1 = CORRELATIONS["ar1"].matrix(x, order, SIZE)
    powers = np.tanh(0.7) ** np.arange(1.0, SIZE)
    assert np.allclose(CORRELATIONS["toep"].matrix(np.array([0.7, 0.0, 0.0]), order, SIZE), ar1, rtol=0, atol=1e-15)
    us = CORRELATIONS["us"]
    x_us = us.working(ar1[np.tril_indices(SIZE, -1)], SIZE)
    assert np.allclose(us.matrix(x_us, order, SIZE), ar1, rtol=0, atol=1e-14)
    log_range = -np.log(-np.log(powers[:1]))
    for name in ("car1", "exp"):
        assert np.allclose(CORRELATIONS[name].matrix(log_range, order, SIZE), ar1, rtol=0, atol=1e-15)


def test_exchangeable_correlations_reach_their_lower_bound_and_no_further() -> None:
    cs = CORRELATIONS["cs"]
    low = cs.natural(np.array([-40.0]), SIZE)[0]
    assert low == pytest.approx(-1 / 3, abs=1e-12)
    assert np.isnan(cs.working(np.array([-0.34]), SIZE)).all()


def test_natural_parameters_that_make_no_matrix_are_told_by_nan() -> None:
    assert np.isnan(CORRELATIONS["us"].working(np.array([0.9, 0.9, -0.9]), 3)).all()
    assert np.isnan(CORRELATIONS["toep"].working(np.array([0.9, -0.9, 0.0]), SIZE)).any()
    assert np.isnan(CORRELATIONS["ar1"].working(np.array([1.2]), SIZE)).all()
