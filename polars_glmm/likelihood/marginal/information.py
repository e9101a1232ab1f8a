"""Approximate curvature of the marginal log-likelihood: that of the linear mixed model tangent at the modes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from polars_glmm.families.base import Density, Expected
from polars_glmm.likelihood.marginal.lifted import lifted
from polars_glmm.likelihood.marginal.modes import RowsAt, UnitAt, concatenate, to_levels
from polars_glmm.likelihood.rows.block_parts import BlockPart
from polars_glmm.likelihood.rows.blocks import Block
from polars_glmm.likelihood.rows.picked import Picked
from polars_glmm.linalg.elimination import Factorised
from polars_glmm.linalg.scaling import reduction
from polars_glmm.typing import Cube, IntVec, Mat, Vec


class Information(NamedTuple):
    """Approximate curvature: beta (P, P) of the profiled linear model at the mode, in predictors that stand still by
    outer products of scores;

    levels[f] (r_f, r_f, G_f): I − (H⁻¹)_ff, from which the curvature in any covariance parameter follows. Of many
    models beta has them last.
    """

    beta: Cube
    levels: list[Cube]


def tangent_information(here: UnitAt, state: RowsAt, h: Factorised) -> Information:
    """Curvature of the linear mixed model with weights W that is tangent at the mode (W floored at zero)."""
    unit, models, at = here.unit, here.unit.models, here.at
    curved = here.density.curved
    beta, cells = _outer_products(here, state), []
    places = _curved_places(unit.blocks[0], curved)
    for block, density in zip(unit.blocks, state.densities, strict=True):
        w = lifted(density.w, curved)
        weighted = {k: _weighted(block, w, k, curved) for k in curved}
        for k in curved:
            part = block.parts[k]
            beta[places, part.own] += models.xx_sums(weighted[k], part.columns)
        cells.append(block.z_sums(weighted))
    zwx = concatenate(cells)
    right = [models.transposed_times(lam, part) for lam, part in zip(at.factors, to_levels(unit, zwx), strict=True)]
    solved = h.solve(right)
    taken = sum(models.crossed(b, s, f) for f, (b, s) in enumerate(zip(right, solved, strict=True)))
    if isinstance(places, slice):
        beta[places, places] -= taken
    else:
        beta[np.ix_(places, places)] -= taken
    return Information(beta, [reduction(i) for i in h.inverse().diagonal])


def _curved_places(block: Block, curved: Sequence[int]) -> slice | IntVec:
    """The coefficients of the predictors whose curvature is known: mostly the first ones."""
    if tuple(curved) == tuple(range(len(curved))):
        return slice(0, block.parts[curved[-1]].own.stop)
    return np.concatenate([np.arange(block.parts[k].own.start, block.parts[k].own.stop) for k in curved])


def _weighted(block: Block, w: Mapping[tuple[int, ...], Vec], k: int, curved: Sequence[int]) -> Mat:
    """X_l∘w_kl of the curved predictors l, one after the other: (P, m)."""
    made = [_times(block.parts[other], w[min(k, other), max(k, other)]) for other in curved]
    return made[0] if len(made) == 1 else np.concatenate(made)


def _times(part: BlockPart, w: Vec) -> Mat:
    return part.scores(w)


def plain_information(here: UnitAt, state: RowsAt, curved: Sequence[Density | Expected]) -> Information:
    """The same without random effects, with the weights of `curved` per block."""
    models, beta = here.unit.models, _outer_products(here, state, by_scores=range(1, len(here.unit.blocks[0].parts)))
    for block, c in zip(here.unit.blocks, curved, strict=True):
        own = block.parts[0].own
        beta[own, own] += models.xx_sums(block.x * c.w[0, 0], block.x)
    return Information(beta, [])


def _outer_products(here: UnitAt, state: RowsAt, by_scores: Sequence[int] | None = None) -> Cube:
    """(P, P): outer products of the scores of the rows in the coefficients of some predictors, zero in the others.

    by_scores   those that stand still, where not given
    """
    models, parts = here.unit.models, here.unit.blocks[0].parts
    total = np.zeros((len(here.at.beta),) * 2 + here.at.beta.shape[1:])
    for k in range(len(parts)) if by_scores is None else by_scores:
        if by_scores is None and k in here.density.curved:
            continue
        for block, density in zip(here.unit.blocks, state.densities, strict=True):
            part, score = block.parts[k], density.g[k]
            assert score is not None  # asked for at an order that has it
            if isinstance(part.x, Picked):
                rows = part.scores(score)
                each = rows if block.frequency is None else rows / np.maximum(block.frequency, 1.0)
                total[part.own, part.own] += models.xx_sums(each, rows)
                continue
            square = score**2
            if block.frequency is not None:
                square = square / np.maximum(block.frequency, 1.0)
            total[part.own, part.own] += models.xx_sums(_times(part, square), part.columns)
    return total


def total(parts: list[Mat]) -> Mat:
    """The sum over units."""
    return parts[0] if len(parts) == 1 else np.asarray(np.sum(parts, axis=0))


def join(parts: list[Information]) -> Information:
    """Information of all units together."""
    levels = [np.concatenate([p.levels[f] for p in parts], axis=-1) for f in range(len(parts[0].levels))]
    return Information(total([p.beta for p in parts]), levels)
