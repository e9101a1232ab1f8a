"""How conditional modes move with the parameters."""

from __future__ import annotations

import numpy as np

from polars_glmm.likelihood.marginal.modes import (
    Point,
    cell_effects,
    concatenate,
    curvature,
    rows_state,
    to_levels,
    unit_at,
)
from polars_glmm.likelihood.marginal.value import Marginal
from polars_glmm.likelihood.rows.blocks import Unit
from polars_glmm.likelihood.rows.passes import over_units
from polars_glmm.typing import Mat


def mode_slopes(marginal: Marginal, at: Point, modes: list[Mat], directions: list[Point]) -> list[list[Mat]]:
    """dû/dt along directions (dβ, dΛ, dγ), per direction and factor (r_f, G_f).

    From Λ'Z'g(û) = û:  H dû = dΛ'Z'g + Λ'Z'(g_ζ dζ − w∘(x dβ + z dΛ û)).
    """

    def one(unit: Unit) -> list[list[Mat]]:
        u = [m[:, s] for m, s in zip(modes, unit.levels, strict=True)]
        with np.errstate(all="ignore"):
            state = rows_state(unit_at(marginal.density, unit, at), u, order=3)
            h = unit.eliminator.factorise(curvature(unit, state.w, at.factors))
        if h is None:
            return []
        g_levels = to_levels(unit, state.g)
        found = []
        for d in directions:
            moved = cell_effects(unit, d.factors, u)
            assert moved is not None  # there are random effects here
            sums = []
            for block, density in zip(unit.blocks, state.densities, strict=True):
                change = -density.w * (d.beta @ block.x + block.combine(moved[:, block.cells]))
                if d.gamma is not None and density.g_zeta is not None:
                    zeta = d.gamma[0] if block.x_phi is None else d.gamma @ block.x_phi
                    change = change + density.g_zeta * zeta
                sums.append(block.z_sums(change))
            pulled = to_levels(unit, concatenate(sums))
            right = [
                lam.T @ c + dlam.T @ g for lam, dlam, c, g in zip(at.factors, d.factors, pulled, g_levels, strict=True)
            ]
            found.append(h.solve(right))
        return found

    out = [[np.zeros_like(m) for m in modes] for _ in directions]
    parts = over_units(marginal.rows, one, marginal.threads)
    for levels, part in zip(marginal.rows.levels, parts, strict=True):
        for whole, own in zip(out, part, strict=False):
            for slope, value, s in zip(whole, own, levels, strict=True):
                slope[:, s] = value
    return out
