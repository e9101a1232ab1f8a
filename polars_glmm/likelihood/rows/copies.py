"""Copies of one small unit side by side, as models of their own: one call of the kernel for several points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from polars_glmm.likelihood.rows.blocks import Unit
from polars_glmm.likelihood.rows.models import ManyModels
from polars_glmm.likelihood.rows.picked import Picked
from polars_glmm.linalg.elimination import OneFactor
from polars_glmm.linalg.side_by_side import LevelsOf, ManyOne
from polars_glmm.typing import Mat

LARGEST = 500
"""Rows of a unit up to which copies are worth making: five of 448 rows took 1.8 ms where one by one they took 3.0, of
1,008 rows both took 3."""


def repeatable(unit: Unit, m: int) -> bool:
    """Whether m copies of a unit are worth making: several, of few rows, of one factor whose levels are alone."""
    if m < 2 or len(unit.levels) != 1 or unit.n_rows > LARGEST or len(unit.blocks) != 1:
        return False
    plain = type(unit.eliminator) is OneFactor and unit.pattern is None and unit.models.alone
    return plain and not any(isinstance(part.x, Picked) for part in unit.blocks[0].parts)


def beside_itself(unit: Unit, m: int) -> Unit:
    """m copies of a repeatable unit, each a model."""
    block, n, n_levels = unit.blocks[0], unit.n_rows, unit.n_cells

    def tiled(v: Mat | None) -> Mat | None:
        return None if v is None else np.tile(v, m)

    first_row = n * np.arange(m)
    copies = replace(
        block,
        data=block.data.each(lambda v: np.tile(v, m)),
        frequency=tiled(block.frequency),
        parts=tuple(replace(part, x=tiled(part.columns), offset=tiled(part.offset)) for part in block.parts),
        z=tiled(block.z),
        starts=(first_row[:, None] + block.starts).reshape(-1),
        counts=np.tile(block.counts, m),
        repeats=None,
        cells=slice(0, m * n_levels),
        rows=slice(0, m * n),
    )
    levels = LevelsOf.of(np.full(m, n_levels))
    models = ManyModels(slice(0, m), (levels,), np.full(m, n), first_row)
    return Unit((copies,), m * n_levels, None, ManyOne(levels), (slice(0, m * n_levels),), models)
