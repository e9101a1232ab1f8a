"""Correlations of rows in groups: what whitening, solving and derivatives say, against dense matrices."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.linalg import block_diag

from polars_glmm.covariance.correlations import CORRELATIONS
from polars_glmm.design.records import ResidualRows
from polars_glmm.errors import ModelError
from polars_glmm.likelihood.residual.arrangement import arrange
from polars_glmm.likelihood.residual.patterns import Patterns, SamePlaces
from polars_glmm.likelihood.residual.rows import correlated
from polars_glmm.likelihood.residual.whitening import whitenings
from polars_glmm.linalg.differences import jacobian

BY_NAME = pytest.mark.parametrize("name", CORRELATIONS)


def some_rows(name: str) -> ResidualRows:
    """Groups of one to five rows in no order, with gaps between their places."""
    rng, one = np.random.default_rng(4), CORRELATIONS[name]
    sizes = [5, 1, 3, 4, 3]
    codes = np.repeat(np.arange(5, dtype=np.int32), sizes)
    order = [np.sort(rng.choice(6, m, replace=False)) for m in sizes]
    if one.kind in ("order", "label"):
        places = np.concatenate(order)[:, None].astype(float)
    elif one.kind == "any":
        places = np.zeros((len(codes), 0))
    else:
        places = rng.uniform(0.0, 4.0, (len(codes), 1 if one.kind == "time" else 2))
    shuffled = rng.permutation(len(codes))
    size = 5 if one.kind == "any" else 6
    return ResidualRows(name, codes[shuffled], 5, places[shuffled], size, ("",) * one.count(size))


def dense(rows: ResidualRows, x: np.ndarray) -> np.ndarray:
    """C (n, n) of rows in the order of their groups and places."""
    arranged = arrange(rows)
    ends = np.append(arranged.starts, len(arranged.order))
    blocks = [
        rows.correlation.matrix(x, arranged.places[a:b], rows.size) for a, b in pairwise(ends)
    ]
    return np.asarray(block_diag(*blocks))


def some_x(rows: ResidualRows) -> np.ndarray:
    return np.random.default_rng(5).normal(0.2, 0.3, rows.correlation.count(rows.size))


@BY_NAME
def test_a_law_says_what_the_dense_matrix_says(name: str) -> None:
    rows = some_rows(name)
    x, arranged = some_x(rows), arrange(rows)
    law = whitenings(rows, arranged).at(x)
    assert law is not None
    c = dense(rows, x)
    q = np.random.default_rng(6).normal(size=(3, len(c)))
    inverse = np.linalg.inv(c)
    assert np.allclose(law.log_variances, 2.0 * np.log(np.diag(np.linalg.cholesky(c))), rtol=0, atol=1e-12)
    assert np.allclose(law.precisions, np.diag(inverse), rtol=0, atol=1e-11)
    assert np.allclose(law.solve(q), q @ inverse, rtol=0, atol=1e-11)
    assert np.allclose(law.whiten(q), np.linalg.solve(np.linalg.cholesky(c), q.T).T, rtol=0, atol=1e-11)
    root = law.colour(np.eye(len(c)))
    assert np.allclose(root.T @ root, c, rtol=0, atol=1e-12)


@BY_NAME
def test_derivatives_of_a_law_are_those_by_differences(name: str) -> None:
    rows = some_rows(name)
    x, made = some_x(rows), whitenings(rows, arrange(rows))
    law = made.at(x)
    assert law is not None
    q = np.random.default_rng(6).normal(size=(3, len(rows.codes)))
    steps = np.full(len(x), 1e-5)
    log_det = jacobian(lambda v: np.array([np.linalg.slogdet(dense(rows, v))[1]]), x, steps)[:, 0]
    assert np.allclose(law.log_determinant_slopes, log_det, rtol=0, atol=1e-8)
    forms = jacobian(lambda v: (q @ np.linalg.solve(dense(rows, v), q.T)).ravel(), x, steps).reshape(-1, 3, 3)
    assert np.allclose(law.forms(q), forms, rtol=0, atol=1e-6)
    assert np.allclose(law.form_traces(q), np.einsum("kaa->k", forms), rtol=0, atol=1e-6)
    c, slopes = dense(rows, x), jacobian(lambda v: dense(rows, v).ravel(), x, steps).reshape(len(x), *[len(q[0])] * 2)
    inner = np.linalg.solve(c, slopes)
    found = made.combination.at(x)
    assert found is not None
    assert np.allclose(found.information, 0.5 * np.einsum("aij,bji->ab", inner, inner), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["ar1", "car1", "cs"])
def test_closed_forms_agree_with_factors_by_pattern(name: str) -> None:
    rows = some_rows(name)
    arranged, x = arrange(rows), some_x(rows)
    quick = whitenings(rows, arranged)
    assert not isinstance(quick, Patterns)
    cut = np.append(arranged.starts, len(arranged.order))
    own = tuple(
        SamePlaces(arranged.places[a:b], np.arange(a, b)[:, None]) for a, b in pairwise(cut)
    )
    one, other = quick.at(x), Patterns(rows.correlation, arranged, rows.size, own).at(x)
    assert one is not None
    assert other is not None
    q = np.random.default_rng(6).normal(size=(2, len(rows.codes)))
    assert np.allclose(one.whiten(q), other.whiten(q), rtol=0, atol=1e-12)
    assert np.allclose(one.forms(q), other.forms(q), rtol=0, atol=1e-10)


@BY_NAME
def test_whitening_undoes_what_colours_by_the_same_root_up_to_a_rotation(name: str) -> None:
    rows = some_rows(name)
    natural = rows.correlation.natural(some_x(rows), rows.size)
    together = correlated(rows, natural)
    turned = together.whiten(together.colour(np.eye(len(rows.codes))))
    assert np.allclose(turned.T @ turned, np.eye(len(rows.codes)), rtol=0, atol=1e-11)


@pytest.mark.parametrize(("name", "edge"), [("ar1", 40.0), ("cs", 80.0), ("toep", 40.0)])
def test_a_law_at_the_end_of_its_range_is_none(name: str, edge: float) -> None:
    rows = some_rows(name)
    x = np.full(rows.correlation.count(rows.size), edge)
    with np.errstate(all="ignore"):
        assert whitenings(rows, arrange(rows)).at(x) is None


def test_a_correlation_at_its_limit_is_refused_with_a_remedy() -> None:
    """At ±1 rows are copies of each other: the message names the parameter and what to do."""
    places = np.array([[0.0], [1.0]])
    residual = ResidualRows("ar1", np.zeros(2, dtype=np.int32), 1, places, 2, ("rho(g)",))
    with pytest.raises(ModelError, match=r"rho\(g\) = 1 have no covariance matrix.*fixed=.*simpler residual="):
        correlated(residual, np.array([1.0]))


@BY_NAME
def test_inverses_are_sums_of_fixed_matrices(name: str) -> None:
    rows = some_rows(name)
    x, arranged = some_x(rows), arrange(rows)
    parts = whitenings(rows, arranged).combination
    found = parts.at(x)
    assert found is not None
    every = np.eye(len(rows.codes))
    terms = [0.5 * (f @ g.T + g @ f.T) for f, g, _ in parts.terms(every)]
    assert len(terms) == parts.count
    c = dense(rows, x)
    assert np.allclose(np.tensordot(found.values, terms, 1), np.linalg.inv(c), rtol=0, atol=1e-11)
    assert found.log_determinant == pytest.approx(np.linalg.slogdet(c)[1], abs=1e-12)
    law = whitenings(rows, arranged).at(x)
    assert law is not None
    assert np.allclose(found.log_determinant_slopes, law.log_determinant_slopes, rtol=0, atol=1e-11)
    q = np.random.default_rng(6).normal(size=(3, len(c)))
    slopes = np.tensordot(found.slopes, terms, 1)
    assert np.allclose(q @ slopes @ q.T, law.forms(q), rtol=0, atol=1e-10)


def test_sums_of_neighbours_keep_their_digits_where_a_series_hardly_moves() -> None:
    """(q_i − r q_(i−1))²/(1 − r²) with all q equal to 1 is (1 − r)/(1 + r), and the ends 1."""
    rows = ResidualRows("ar1", np.zeros(1000, dtype=np.int32), 1, np.arange(1000.0)[:, None], 1000, ("",))
    parts = whitenings(rows, arrange(rows)).combination
    x = np.arctanh(np.array([1.0 - 1e-9]))
    found, r = parts.at(x), np.tanh(x[0])
    assert found is not None
    sums = np.array([(f @ g.T).item() for f, g, _ in parts.terms(np.ones((1, 1000)))])
    assert found.values @ sums == pytest.approx(1.0 + 999 * (1.0 - r) / (1.0 + r), abs=1e-15)
