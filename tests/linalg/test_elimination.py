"""Elimination of grouping factors against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.linalg import crossed_lead, passing_rows, row_pairs, row_products, stages, wide_rows
from polars_glmm.linalg.crossed_lead import CrossedLead
from polars_glmm.linalg.elimination import NestedLead, OneFactor, eliminator
from polars_glmm.linalg.pattern import Blocks, find_pattern, sum_by, times


def dense_case(codes, sizes, seed=3):
    """H = D'D + I with one row per row of codes, dense and in blocks, with the place of every block."""
    rng = np.random.default_rng(seed)
    n = len(codes[0])
    levels = [int(c.max()) + 1 for c in codes]
    order = np.lexsort(codes[::-1])
    codes = [c[order].astype(np.intp) for c in codes]
    z = [rng.normal(size=(r, n)) for r in sizes]
    pattern = find_pattern(tuple(codes), tuple(levels), tuple(sizes))
    starts = np.concatenate([[0], np.cumsum([g * r for g, r in zip(levels, sizes, strict=True)])])
    rows = np.zeros((n, starts[-1]))
    diagonal, cross = [], {}
    for f, c in enumerate(codes):
        for a in range(sizes[f]):
            rows[np.arange(n), starts[f] + a * levels[f] + c] = z[f][a]
        diagonal.append(sum_by(c, z[f][:, None] * z[f], levels[f]) + np.eye(sizes[f])[:, :, None])
        for g in range(f + 1, len(codes)):
            pair = pattern.pairs[f, g]
            of_cell = np.arange(n) if pair.of_cell is None else pair.of_cell
            cross[f, g] = sum_by(of_cell, z[f][:, None] * z[g], len(pair.left))
    return pattern, Blocks(diagonal, cross), rows.T @ rows + np.eye(starts[-1]), starts


def designs():
    rng = np.random.default_rng(8)
    n = 240
    a = np.unique(rng.integers(0, 50, n), return_inverse=True)[1]
    b = np.unique(rng.integers(0, 9, n), return_inverse=True)[1]
    row, a_in_site = np.arange(n), np.unique(a * 3 + b % 3, return_inverse=True)[1]
    return {
        "one": ([a], [2], OneFactor),
        "nested": ([a, a // 4], [2, 1], NestedLead),
        "nested three deep": ([row, a, a // 6], [1, 2, 1], NestedLead),
        "crossed": ([a, b], [1, 1], CrossedLead),
        "crossed vectors": ([a, b, b % 3], [2, 1, 2], CrossedLead),
        "crossed in three sites": ([a_in_site, b], [1, 1], CrossedLead),
        "crossed vectors in three sites": ([a_in_site, b, b % 3], [1, 2, 1], CrossedLead),
        "row level over crossed": ([row, a, b], [1, 1, 2], NestedLead),
    }


WAYS = {
    "pairs kept": {(row_products, "_SQUARE_NS"): 1e9},
    "pairs in slabs": {(row_products, "_SQUARE_NS"): 1e9, (row_pairs, "_PAIR_CHUNK"): 500, (row_pairs, "_SLAB"): 40},
    "pairs in passing": {
        (row_products, "_SQUARE_NS"): 1e9, (row_products, "PAIRS_KEPT"): 0, (passing_rows, "_CHUNK"): 40,
        (passing_rows, "_STRIPE"): 3,
    },
    "wide rows": {(row_products, "_SQUARE_NS"): 0.0, (wide_rows, "_SLAB"): 40},
    "wide and narrow rows": {(row_products, "_SQUARE_NS"): 2.0},
    "wide rows and pairs in passing": {(row_products, "_SQUARE_NS"): 2.0, (row_products, "PAIRS_KEPT"): 0},
    "stages": {
        (crossed_lead, "_WORTH"): np.inf, (stages, "PAIR_NS"): 1.0, (stages, "_STAGE_NS"): 0.0,
        (row_pairs, "_PAIR_CHUNK"): 500,
    },
}  # fmt: skip


@pytest.mark.parametrize("how", list(WAYS))
@pytest.mark.parametrize("name", list(designs()))
def test_elimination_is_dense_algebra(name, how, monkeypatch):
    """log|H|, H⁻¹b and the selected inverse, whichever way the Schur complement is formed."""
    codes, sizes, kind = designs()[name]
    for (module, name_of), value in WAYS[how].items():
        monkeypatch.setattr(module, name_of, value)
    pattern, blocks, h, starts = dense_case(codes, sizes)
    solver = eliminator(pattern)
    assert isinstance(solver, kind)
    done = solver.factorise(blocks)
    assert_allclose(done.log_determinant, np.linalg.slogdet(h)[1], rtol=1e-12)
    rng = np.random.default_rng(1)
    b = [rng.normal(size=(r, 3, g)) for r, g in zip(pattern.sizes, pattern.n_levels, strict=True)]
    flat = np.concatenate([v.transpose(0, 2, 1).reshape(-1, 3) for v in b])
    got = np.concatenate([v.transpose(0, 2, 1).reshape(-1, 3) for v in done.solve(b)])
    assert_allclose(got, np.linalg.solve(h, flat), atol=1e-11)
    inverse, expected = done.inverse(), np.linalg.inv(h)

    def part(f, g, left, right):
        i = starts[f] + np.arange(pattern.sizes[f])[:, None, None] * pattern.n_levels[f] + left
        j = starts[g] + np.arange(pattern.sizes[g])[None, :, None] * pattern.n_levels[g] + right
        return expected[i, j]

    for f, block in enumerate(inverse.diagonal):
        every = np.arange(pattern.n_levels[f])
        assert_allclose(block, part(f, f, every, every), atol=1e-11)
    for block, alone in zip(inverse.diagonal, done.inverse_diagonal(), strict=True):
        assert_allclose(alone, block, atol=1e-11)
    for (f, g), block in inverse.cross.items():
        assert_allclose(block, part(f, g, pattern.pairs[f, g].left, pattern.pairs[f, g].right), atol=1e-11)


@pytest.mark.parametrize("name", list(designs()))
def test_an_indefinite_matrix_is_reported_not_factorised(name):
    codes, sizes, _ = designs()[name]
    pattern, blocks, _, _ = dense_case(codes, sizes)
    last = blocks.diagonal[-1].copy()
    last[0, 0, 0] = -1e6
    assert eliminator(pattern).factorise(Blocks([*blocks.diagonal[:-1], last], blocks.cross)) is None


@pytest.mark.parametrize("name", ["one", "crossed"])  # A has the same columns in every factor
def test_a_product_in_blocks_is_the_dense_product(name):
    codes, sizes, _ = designs()[name]
    pattern, blocks, h, _ = dense_case(codes, sizes)
    rng = np.random.default_rng(2)
    x = [rng.normal(size=(r, 2, g)) for r, g in zip(pattern.sizes, pattern.n_levels, strict=True)]

    def flat(parts):
        return np.concatenate([v.transpose(0, 2, 1).reshape(-1, 2) for v in parts])

    assert_allclose(flat(times(blocks, pattern, x)), h @ flat(x), atol=1e-11)
