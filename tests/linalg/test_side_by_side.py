"""The elimination of many models at once is that of each alone, and one that fails spoils no other."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.linalg.elimination import eliminator
from polars_glmm.linalg.pattern import Blocks, Pairs, Pattern, find_pattern
from polars_glmm.linalg.side_by_side import (
    LevelsOf,
    ManyCrossed,
    ManyNested,
    ManyOne,
    crossed_in,
    eliminator_of_many,
    some_of_many,
)
from tests.linalg.test_elimination import dense_case, designs

KINDS = {"one": ManyOne, "nested": ManyNested, "nested three deep": ManyNested, "crossed": ManyCrossed,
         "crossed vectors": ManyCrossed, "row level over crossed": ManyNested}  # fmt: skip
ROWS = (240, 130, 200)
"""Rows of the models: they have levels and pairs of their own."""


def alone(name):
    """Patterns and blocks of three models."""
    codes, sizes, _ = designs()[name]
    made = []
    for seed, n in enumerate(ROWS):
        own = [np.unique(c[:n], return_inverse=True)[1] for c in codes]
        pattern, blocks, _, _ = dense_case(own, sizes, seed)
        made.append((pattern, blocks))
    return made


def joined(models):
    """The same as one pattern, with the levels of each factor, and blocks."""
    patterns, blocks = zip(*models, strict=True)
    n = len(patterns[0].n_levels)
    levels = tuple(LevelsOf.of(np.array([p.n_levels[f] for p in patterns])) for f in range(n))
    starts = [own.first for own in levels]
    pairs, cross = {}, {}
    for f, g in patterns[0].pairs:
        left = np.concatenate([p.pairs[f, g].left + starts[f][m] for m, p in enumerate(patterns)])
        right = np.concatenate([p.pairs[f, g].right + starts[g][m] for m, p in enumerate(patterns)])
        pairs[f, g] = Pairs(left, right, None)
        cross[f, g] = np.concatenate([b.cross[f, g] for b in blocks], axis=-1)
    diagonal = [np.concatenate([b.diagonal[f] for b in blocks], axis=-1) for f in range(n)]
    n_levels = tuple(own.n_levels for own in levels)
    codes = tuple(np.empty(0, np.intp) for _ in range(n))
    return Pattern(n_levels, patterns[0].sizes, codes, pairs), levels, Blocks(diagonal, cross)


def compare(models, pattern, levels, blocks):
    """All of a factorisation of many models beside those of each."""
    solver = eliminator_of_many(pattern, levels)
    done = solver.factorise(blocks)
    rng = np.random.default_rng(4)
    b = [rng.normal(size=(r, 2, g)) for r, g in zip(pattern.sizes, pattern.n_levels, strict=True)]
    solved, inverse = done.solve(b), done.inverse()
    at = dict.fromkeys(pattern.pairs, 0)
    for m, (own_pattern, own_blocks) in enumerate(models):
        own = eliminator(own_pattern).factorise(own_blocks)
        mine = [level.model == m for level in levels]
        assert_allclose(done.log_determinant[m], own.log_determinant, rtol=1e-12)
        each = own.solve([v[..., k] for v, k in zip(b, mine, strict=True)])
        for part, expected, k in zip(solved, each, mine, strict=True):
            assert_allclose(part[..., k], expected, atol=1e-11)
        expected = own.inverse()
        for block, other, k in zip(inverse.diagonal, expected.diagonal, mine, strict=True):
            assert_allclose(block[..., k], other, atol=1e-11)
        for pair, other in expected.cross.items():
            stop = at[pair] + other.shape[-1]
            assert_allclose(inverse.cross[pair][..., at[pair] : stop], other, atol=1e-11)
            at[pair] = stop
    return solver


@pytest.mark.parametrize("name", KINDS)
def test_many_models_are_eliminated_as_each_alone(name):
    models = alone(name)
    assert isinstance(compare(models, *joined(models)), KINDS[name])


@pytest.mark.parametrize("name", KINDS)
def test_some_of_the_models_have_the_pattern_of_those(name):
    models = alone(name)
    pattern, levels, _ = joined(models)
    keep = np.array([True, False, True])
    some = some_of_many(pattern, [keep[own.model] for own in levels])
    expected, own_levels, blocks = joined([models[0], models[2]])
    assert some.n_levels == expected.n_levels
    for pair, own in some.pairs.items():
        assert (own.left == expected.pairs[pair].left).all()
        assert (own.right == expected.pairs[pair].right).all()
    compare([models[0], models[2]], some, own_levels, blocks)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("value", [-1e6, np.nan])
@pytest.mark.parametrize("factor", [0, -1])
def test_a_model_that_is_not_definite_spoils_no_other(name, value, factor):
    models = alone(name)
    pattern, levels, blocks = joined(models)
    expected = eliminator_of_many(pattern, levels).factorise(blocks)
    b = [np.ones((r, 1, g)) for r, g in zip(pattern.sizes, pattern.n_levels, strict=True)]
    before, inverse = expected.solve(b), expected.inverse()
    blocks.diagonal[factor][0, 0, int(levels[factor].first[1])] = value
    done = eliminator_of_many(pattern, levels).factorise(blocks)
    assert np.isnan(done.log_determinant[1])
    assert_allclose(done.log_determinant[[0, 2]], expected.log_determinant[[0, 2]], rtol=1e-13)
    for after, own, level in zip(done.solve(b), before, levels, strict=True):
        assert_allclose(after[..., level.model != 1], own[..., level.model != 1], rtol=1e-9)
    for after, own, level in zip(done.inverse().diagonal, inverse.diagonal, levels, strict=True):
        assert_allclose(after[..., level.model != 1], own[..., level.model != 1], rtol=1e-9, atol=1e-12)


def test_room_is_asked_for_where_a_lead_is_crossed():
    pattern = alone("crossed vectors")[0][0]
    lead, others = pattern.n_levels[0] * 2, pattern.n_levels[1] + 2 * pattern.n_levels[2]
    assert room(pattern) == others * (lead + others)
    assert room(alone("nested three deep")[0][0]) == 0


def room(pattern):
    return crossed_in(pattern, tuple(LevelsOf.of(np.array([n])) for n in pattern.n_levels)).room[0]


def test_the_room_of_each_model_is_that_of_its_own_pattern():
    """Nested: none; a by b crossed: b (a + b); crossed above a nested lead: what is left of it."""
    rng = np.random.default_rng(1)
    codes, counts = [], []
    for kind in ("nested", "crossed", "lead"):
        a = np.sort(rng.permutation(np.arange(60) % 12))
        b = a // 2 if kind != "crossed" else rng.permutation(np.arange(60) % 6)
        c = b // 2 if kind == "nested" else a % 3 if kind == "lead" else rng.permutation(np.arange(60) % 3)
        codes.append(np.array([a, b, c]))
        counts.append((12, 6, 3))
    levels = tuple(LevelsOf.of(np.array(own)) for own in zip(*counts, strict=True))
    starts = [at.first for at in levels]
    joined = [np.concatenate([codes[m][f] + starts[f][m] for m in range(3)]) for f in range(3)]
    found = crossed_in(find_pattern(tuple(joined), (36, 18, 9), (1, 1, 1)), levels)
    assert found.first.tolist() == [2, 0, 1]
    assert found.room.tolist() == [0, 9 * (12 + 9), 3 * (6 + 3)]
