"""Approximate curvature of the marginal log-likelihood: that of the linear mixed model tangent at the modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polars_glmm.families.base import Density, Expected
from polars_glmm.likelihood.marginal.modes import RowsAt, UnitAt, concatenate, to_levels
from polars_glmm.linalg.elimination import Factorised
from polars_glmm.linalg.scaling import reduction
from polars_glmm.typing import Cube, Mat


class Information(NamedTuple):
    """Approximate curvature: beta (p, p) of the profiled linear model at the mode, gamma (s, s) by outer products,

    levels[f] (r_f, r_f, G_f): I − (H⁻¹)_ff, from which the curvature in any covariance parameter follows. Of many
    models beta and gamma have them last.
    """

    beta: Cube
    levels: list[Cube]
    gamma: Cube | None


def tangent_information(here: UnitAt, state: RowsAt, h: Factorised) -> Information:
    """Curvature of the linear mixed model with weights w that is tangent at the mode (w floored at zero)."""
    unit, models, at = here.unit, here.unit.models, here.at
    xwx: Cube | float = 0.0
    cells = []
    for block, density in zip(unit.blocks, state.densities, strict=True):
        xw = block.x * np.maximum(density.w, 0.0)
        xwx = xwx + models.xx_sums(xw, block.x)
        cells.append(block.z_sums(xw))
    zwx = concatenate(cells)
    right = [models.transposed_times(lam, part) for lam, part in zip(at.factors, to_levels(unit, zwx), strict=True)]
    solved = h.solve(right)
    beta = xwx - sum(models.crossed(b, s) for b, s in zip(right, solved, strict=True))
    inverse = h.inverse()
    return Information(np.asarray(beta), [reduction(i) for i in inverse.diagonal], _gamma_information(here, state))


def plain_information(here: UnitAt, state: RowsAt, curved: Sequence[Density | Expected]) -> Information:
    """The same without random effects, with the weights of `curved` per block."""
    models = here.unit.models
    beta = sum(models.xx_sums(b.x * c.w, b.x) for b, c in zip(here.unit.blocks, curved, strict=True))
    return Information(np.asarray(beta), [], _gamma_information(here, state))


def _gamma_information(here: UnitAt, state: RowsAt) -> Cube | None:
    """Outer products of the scores of the rows in gamma."""
    if here.at.gamma is None:
        return None
    models = here.unit.models
    total: Cube | float = 0.0
    for block, density in zip(here.unit.blocks, state.densities, strict=True):
        square = density.f_zeta**2
        if block.frequency is not None:
            square = square / np.maximum(block.frequency, 1.0)
        if block.x_phi is None:
            total = total + np.asarray(models.row_totals(square))[None, None]
        else:
            total = total + models.xx_sums(block.x_phi * square, block.x_phi)
    return np.asarray(total)


def total(parts: list[Mat]) -> Mat:
    """The sum over units."""
    return parts[0] if len(parts) == 1 else np.asarray(np.sum(parts, axis=0))


def join(parts: list[Information]) -> Information:
    """Information of all units together."""
    gamma = None if parts[0].gamma is None else total([p.gamma for p in parts if p.gamma is not None])
    levels = [np.concatenate([p.levels[f] for p in parts], axis=-1) for f in range(len(parts[0].levels))]
    return Information(total([p.beta for p in parts]), levels, gamma)
