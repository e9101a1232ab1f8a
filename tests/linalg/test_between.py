"""H⁻¹ between the levels of different factors is that of the dense matrix: of all pairs, or of those that met."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.linalg import between
from polars_glmm.linalg.coupled import CoupledLevels
from polars_glmm.linalg.elimination import eliminator
from polars_glmm.linalg.side_by_side import LevelsOf, eliminator_of_many
from tests.linalg.test_elimination import dense_case, designs
from tests.linalg.test_side_by_side import KINDS, alone, joined

CODES = {name: (codes, sizes) for name, (codes, sizes, _) in designs().items() if name != "one"}


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("kept", [between.PAIRS_KEPT, 0])
@pytest.mark.parametrize("coupled", [False, True])
def test_it_is_the_dense_inverse(monkeypatch, name, kept, coupled):
    monkeypatch.setattr(between, "PAIRS_KEPT", kept)
    pattern, blocks, dense, starts = dense_case(*CODES[name])
    solver = CoupledLevels(pattern, (None,) * pattern.n_factors) if coupled else eliminator(pattern)
    found = between.between_factors(solver.factorise(blocks))
    assert found.every is (kept > 0)
    assert found.pairs.keys() == pattern.pairs.keys()
    for (f, g), pairs in found.pairs.items():
        n = pattern.n_levels[f] * pattern.n_levels[g] if kept else len(pattern.pairs[f, g].left)
        assert len(pairs.left) == n
        assert (np.diff(pairs.left * pattern.n_levels[g] + pairs.right) > 0).all()
        rows, columns = (
            starts[k] + np.arange(pattern.sizes[k])[:, None] * pattern.n_levels[k] + own
            for k, own in ((f, pairs.left), (g, pairs.right))
        )
        assert_allclose(pairs.values, np.linalg.inv(dense)[rows[:, None], columns[None]], atol=1e-11)


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"one"}))
@pytest.mark.parametrize("kept", [between.PAIRS_KEPT, 0])
def test_of_many_models_it_is_that_of_each(monkeypatch, name, kept):
    monkeypatch.setattr(between, "PAIRS_KEPT", kept)
    models = alone(name)
    pattern, levels, blocks = joined(models)
    together = between.between_factors(eliminator_of_many(pattern, levels).factorise(blocks), levels)
    parts = [between.between_factors(eliminator(own).factorise(some)) for own, some in models]
    places = [[own.first[m] + np.arange(own.counts[m]) for own in levels] for m in range(len(models))]
    expected = between.renumbered(parts, places)
    for at, pairs in together.pairs.items():
        assert (pairs.left == expected.pairs[at].left).all()
        assert (pairs.right == expected.pairs[at].right).all()
        assert_allclose(pairs.values, expected.pairs[at].values, atol=1e-11)


def test_pairs_of_models_are_those_of_each():
    left, right = between.pairs_of_models(LevelsOf.of(np.array([2, 1])), LevelsOf.of(np.array([1, 3])))
    assert left.tolist() == [0, 1, 2, 2, 2]
    assert right.tolist() == [0, 0, 1, 2, 3]
