"""Rows in several levels: sparse sums are products with the dense matrix of shares, and levels of one factor meet."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.linalg.coupled import CoupledLevels, between_levels, coupled
from polars_glmm.linalg.crossed_lead import CrossedLead
from polars_glmm.linalg.membership import Membership, level_sums, meetings, whole
from polars_glmm.linalg.pattern import find_pattern, gather_blocks, times
from polars_glmm.linalg.scaling import scaled_plus_identity, trace_blocks

LEVELS, ROWS, SLOTS = 6, 25, 3


def slots(seed=0):
    """Codes and weights (m, n): some slots are not used, some rows have a level twice, one row has none."""
    rng = np.random.default_rng(seed)
    codes, weights = rng.integers(0, LEVELS, (SLOTS, ROWS)), rng.normal(size=(SLOTS, ROWS))
    weights[2, ::2] = 0.0
    codes[1, :5] = codes[0, :5]
    weights[:, 7] = 0.0
    return codes, weights


def dense(codes, weights, n_levels=LEVELS):
    out = np.zeros((codes.shape[1], n_levels))
    for own, w in zip(codes, weights, strict=True):
        out[np.arange(len(own)), own] += w
    return out


def test_sums_and_values_of_rows_are_products_with_the_matrix_of_shares():
    codes, weights = slots()
    found, z = Membership.of_slots(codes, weights, LEVELS), dense(codes, weights)
    rng = np.random.default_rng(1)
    rows, levels = rng.normal(size=(2, 3, ROWS)), rng.normal(size=(2, LEVELS))
    assert_allclose(found.sums(rows), rows @ z, atol=1e-14)
    assert_allclose(found.spread(levels), levels @ z.T, atol=1e-14)
    assert_allclose(found.squared.sums(rows), rows @ z**2, atol=1e-14)
    assert_allclose(found.sizes, (z**2).sum(1), atol=1e-14)
    assert_allclose(found.counts(np.ones(ROWS)), (z != 0).sum(0))
    assert not found.single


def test_equal_rows_are_one_set():
    codes, weights = slots()
    codes, weights = np.tile(codes, 2), np.tile(weights, 2)
    every = Membership.of_slots(codes, weights, LEVELS)
    sets, of_row = every.distinct()
    assert sets.n_sets <= ROWS
    assert_allclose(sets.at(of_row).shares.toarray(), dense(codes, weights), atol=1e-14)
    values = np.arange(2.0 * ROWS)
    assert_allclose(level_sums(of_row, sets, values, LEVELS), values @ dense(codes, weights))


def test_slots_in_another_order_are_the_same_set():
    codes, weights = slots()
    one, other = (Membership.of_slots(codes[order], weights[order], LEVELS) for order in ([0, 1, 2], [2, 0, 1]))
    assert_allclose(one.shares.toarray(), other.shares.toarray(), atol=1e-14)


@pytest.mark.parametrize("own", [True, False])
def test_levels_meet_where_the_product_of_their_columns_is_not_zero(own):
    codes, weights = slots()
    a, x = Membership.of_slots(codes, weights, LEVELS), dense(codes, weights)
    b, y = (a, x) if own else (whole(codes[0], LEVELS), dense(codes[:1], np.ones((1, ROWS))))
    left, right, shares = meetings(a, b, own=own)
    assert_allclose(shares.shares.toarray(), x[:, left] * y[:, right], atol=1e-14)
    met = {(i, k) for i in range(LEVELS) for k in range(LEVELS) if (x[:, i] * y[:, k]).any() and (i < k or not own)}
    assert met == set(zip(left.tolist(), right.tolist(), strict=True))


@pytest.mark.parametrize("lead", [False, True])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_blocks_products_and_the_elimination_are_those_of_the_dense_matrix(order, lead):
    """Two effects on levels that share rows, and one on those of an ordinary factor, in both orders.

    An ordinary factor that leads is eliminated before the others.
    """
    codes, weights = slots()
    rng = np.random.default_rng(2)
    plain = rng.integers(0, 4, ROWS)
    every = Membership.of_slots(codes, weights, LEVELS)
    parts = [(np.arange(ROWS), LEVELS, 2, every, dense(codes, weights)),
             (plain, 4, 1, None, dense(plain[None], np.ones((1, ROWS)), 4))]  # fmt: skip
    own, levels, sizes, sets, z = zip(*(parts[k] for k in order), strict=True)
    pattern = find_pattern(own, levels, sizes, sets)
    root = rng.normal(size=(2, 2, ROWS))
    cells = np.einsum("abC,cbC->acC", root, root)
    factors = [rng.normal(size=(2, r)) for r in sizes]
    a = gather_blocks(pattern, cells)
    wide = [np.einsum("dr,ng->ndrg", lam, m).reshape(ROWS, 2, -1) for lam, m in zip(factors, z, strict=True)]
    rows = np.concatenate(wide, axis=2)
    whole_h = np.einsum("nda,den,neb->ab", rows, cells, rows) + np.eye(rows.shape[2])
    solver = coupled(pattern, (None, None)) if lead else CoupledLevels(pattern, (None, None))
    assert isinstance(solver, CrossedLead if lead and order == (1, 0) else CoupledLevels)
    found = solver.factorise(scaled_plus_identity(a, factors))
    assert found is not None
    assert found.log_determinant == pytest.approx(np.linalg.slogdet(whole_h)[1], rel=1e-12)
    b = [rng.normal(size=(r, 3, g)) for r, g in zip(sizes, levels, strict=True)]
    flat = lambda v: np.concatenate([one.transpose(0, 2, 1).reshape(-1, 3) for one in v])
    assert_allclose(flat(found.solve(b)), np.linalg.solve(whole_h, flat(b)), atol=1e-10)
    inverse, blocks, start = np.linalg.inv(whole_h), found.inverse(), 0
    between = between_levels(found)
    for f, (r, g) in enumerate(zip(sizes, levels, strict=True)):
        own = inverse[start : start + r * g, start : start + r * g].reshape(r, g, r, g)
        assert_allclose(blocks.diagonal[f], np.einsum("igjg->ijg", own), atol=1e-12)
        if sets[f] is None:
            assert not between[f].size
        else:
            assert_allclose(between[f], own, atol=1e-12)
        start += r * g
    for one, other in zip(found.inverse_diagonal(), blocks.diagonal, strict=True):
        assert_allclose(one, other, atol=1e-12)
    x = [rng.normal(size=(2, 3, g)) for g in levels]
    base = np.concatenate([np.einsum("de,ng->ndeg", np.eye(2), m).reshape(ROWS, 2, -1) for m in z], axis=2)
    assert_allclose(flat(times(a, pattern, x)), np.einsum("nda,den,neb,bw->aw", base, cells, base, flat(x)), atol=1e-10)
    # Σ over levels of the blocks of AΛH⁻¹ is half of ∂log|H|/∂Λ
    for f, trace in enumerate(trace_blocks(a, factors, found.inverse())):
        for d, r in np.ndindex(trace.shape):
            h, values = 1e-6, []
            for sign in (1.0, -1.0):
                moved = [lam.copy() for lam in factors]
                moved[f][d, r] += sign * h
                values.append(solver.factorise(scaled_plus_identity(a, moved)).log_determinant)
            assert 2.0 * trace[d, r] == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6, abs=1e-8)
    for f in range(2):
        levels_of = rng.normal(size=(2, levels[f]))
        assert_allclose(pattern.to_cells(f, levels_of), levels_of @ z[f].T, atol=1e-14)
        assert_allclose(pattern.to_levels(f, root[0]), root[0] @ z[f], atol=1e-14)
