"""The computing basis of fixed columns: the same span, centred and scaled, and made for any rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from polars_glmm.design.rank import independent
from polars_glmm.likelihood.parameters.basis import centred, centred_moments, plain
from polars_glmm.linalg.columns import cross_products_about, stretches


def columns(n=70_000):
    """An intercept, a covariate far from zero, an indicator: more rows than are worked on at once."""
    rng = np.random.default_rng(11)
    return np.array([np.ones(n), 1e8 + rng.standard_normal(n), rng.integers(0, 2, n).astype(float)])


def test_stretches_cover_every_row_once():
    assert [list(range(10)[rows]) for rows in stretches(10, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(stretches(0)) == []


def test_cross_products_about_means_equal_their_definition():
    x = columns()
    mean = x.mean(1)
    away = x - mean[:, None]
    assert_allclose(cross_products_about(x, mean), away @ away.T, rtol=1e-12, atol=1e-9)


def test_columns_of_the_basis_are_a_times_x():
    """With a as the change of coefficients: β'x = β_c'x_c."""
    x = columns()
    basis = centred(x)
    made = basis.columns(slice(0, x.shape[1]))
    beta = np.array([1.0, 2e-8, -0.5])
    assert_allclose(basis.inward(beta) @ made, beta @ x, rtol=1e-12)
    assert_allclose(made[1:].mean(1), 0.0, atol=1e-8)
    assert_allclose((made**2).mean(1), 1.0, rtol=1e-12)
    assert_allclose(basis.constant @ x, 1.0, rtol=1e-12)


@pytest.mark.parametrize("rows", [slice(5, 900), np.array([7, 3, 3, 69_999])], ids=["a slice", "places"])
def test_columns_of_some_rows_are_those_rows(rows):
    basis = centred(columns())
    assert_array_equal(basis.columns(rows), basis.columns(slice(0, 70_000))[:, rows])
    assert basis.columns(rows).flags.c_contiguous


def test_making_columns_changes_nothing():
    x = columns()
    before = x.copy()
    basis = centred(x)
    basis.columns(slice(0, 10))
    assert_array_equal(x, before)
    assert_array_equal(plain(x).columns(slice(0, 70_000)), x)


def test_moments_make_the_same_basis():
    x = columns()
    mean = x.mean(1)
    own, known = centred(x), centred_moments(mean, cross_products_about(x, mean) / x.shape[1])
    for name in ("shift", "scale", "a", "constant"):
        assert_allclose(getattr(known, name), getattr(own, name), rtol=1e-9, atol=1e-12)


def test_a_basis_that_holds_its_columns_keeps_the_change_of_coefficients():
    x = columns()
    basis = centred(x)
    made = basis.columns(slice(0, 100))
    held = basis.holding(made)
    assert_array_equal(held.columns(slice(0, 100)), made)
    assert_array_equal(held.a, basis.a)


def test_a_column_that_others_make_is_found_in_any_stretch():
    """The rank rule looks at all rows: here the dependence would be broken by one of them."""
    x = columns()
    y = np.vstack([x, x[1] + x[2]])
    about = np.array([False, True, True, True])
    assert independent(y, about).tolist() == [True, True, True, False]
    y[3, -1] += 1e3
    assert independent(y, about).tolist() == [True, True, True, True]
