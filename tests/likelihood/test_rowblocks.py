"""Sums over cells."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.likelihood.parameters.basis import plain
from polars_glmm.likelihood.parameters.effects import map_effects
from polars_glmm.likelihood.parameters.parts import mean_alone
from polars_glmm.likelihood.rows.blocks import counted_order, cut_rows
from tests.likelihood.models import draw, factor


def mean_of(design):
    return mean_alone(design.mu.names, plain(design.mu.x))


@pytest.mark.parametrize("levels", [4, 60, 4000], ids=["many rows a cell", "few repeats", "one row a cell"])
def test_sums_over_cells_are_those_of_their_rows(levels):
    """Whichever way they are taken."""
    rng = np.random.default_rng(5)
    design, _ = draw("poisson", n=400)
    crossed = replace(design, factors=tuple(factor(n, rng.integers(0, levels, 400), [np.ones(400)]) for n in "gh"))
    blocks = cut_rows(crossed, mean_of(crossed), map_effects(crossed.factors, 400), 150)
    ways = set()
    for block in blocks.units[0].blocks:
        ways.add((block.single, block.repeats is None))
        v = rng.normal(size=(2, 3, int(block.counts.sum())))
        expected = np.add.reduceat(v, block.starts, axis=-1)
        assert_allclose(block.sums(v), expected, rtol=1e-14)
        assert_allclose(block.sums(v[0, 0]), expected[0, 0], rtol=1e-14)
    assert ways <= {4: {(False, True)}, 60: {(False, True), (False, False)}, 4000: {(True, True)}}[levels]
    assert levels != 60 or (False, False) in ways


def test_counting_is_the_stable_order():
    codes = np.random.default_rng(1).integers(0, 40, 1000)
    assert (counted_order(codes, 45) == np.argsort(codes, kind="stable")).all()
    assert len(counted_order(codes[:0], 45)) == 0


@pytest.mark.parametrize("others", [(), ((6, 1, False),)], ids=["one factor", "crossed"])
def test_uncoupled_rows_are_the_same_rows(others):
    """The model without random effects sees each row once, whatever order the others sorted them in."""
    design, _ = draw("poisson", n=300, others=others, frequency=True)
    blocks = cut_rows(design, mean_of(design), map_effects(design.factors, 300), 64)
    parts = [block for unit in blocks.uncoupled().units for block in unit.blocks]
    seen = np.concatenate([np.vstack([b.data.y, b.frequency, b.x]) for b in parts], axis=1)
    whole = np.vstack([design.y, design.frequency, design.mu.x])
    assert (seen[:, np.lexsort(seen)] == whole[:, np.lexsort(whole)]).all()
