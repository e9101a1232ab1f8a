"""Draws of all random effects given the response, around their modes: N(0, H⁻¹) with H the curvature there.

Levels of one factor are independent, and each is drawn by its own root. Several factors, or levels that know each
other, are drawn together without a matrix of all of them: H = Λ'Z'WZΛ + I is the covariance of Λ'Z'W^½ε₁ + ε₂, so that
of H⁻¹(Λ'Z'W^½ε₁ + ε₂) is H⁻¹ (Papandreou & Yuille 2010); with A⁻¹ in the place of I it is the covariance of ε₂.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polars_glmm.families.base import Density
from polars_glmm.likelihood.known.joint import KnownModel, block_root
from polars_glmm.likelihood.marginal.modes import RowsAt, UnitAt, concatenate, rows_state, to_levels, unit_at
from polars_glmm.likelihood.marginal.unit import factorised
from polars_glmm.likelihood.rows.blocks import at_hand
from polars_glmm.linalg.coupled import prior_noise
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.typing import Cube

_AT_ONCE = 4e6
"""Numbers of an array over rows and draws."""


def effect_deviations(known: KnownModel, streams: Sequence[np.random.Generator]) -> tuple[Cube, ...]:
    """b − b̂ (D, r, G) per factor in the order of the design, a draw from each stream."""
    with one_blas_thread(), np.errstate(all="ignore"):
        if len(known.model.effects.factors) == 1 and not known.model.effects.coupled:
            return (_by_level(known, streams),)
        return _together(known, streams)


def _by_level(known: KnownModel, streams: Sequence[np.random.Generator]) -> Cube:
    (found,) = known.modes()
    values, vectors = np.linalg.eigh(found.covariance.transpose(2, 0, 1))
    roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]  # (G, r, r)
    return np.array([np.einsum("gij,jg->ig", roots, rng.standard_normal(found.modes.shape)) for rng in streams])


def _together(known: KnownModel, streams: Sequence[np.random.Generator]) -> tuple[Cube, ...]:
    marginal, at = known.engine.marginal, known.point
    modes = known.conditional_modes()
    rows = at_hand(marginal.rows)
    out = [np.empty((len(streams), *m.shape)) for m in modes]
    step = max(1, int(_AT_ONCE / max(rows.n_rows, 1)))
    for unit, levels in zip(rows.units, rows.levels, strict=True):
        here = unit_at(marginal.density, unit, at)
        u = [m[:, s] for m, s in zip(modes, levels, strict=True)]
        state = rows_state(here, u, order=2)
        h = factorised(here, state.w)
        for start in range(0, len(streams), step):
            some = streams[start : start + step]
            solved = h.solve(curvature_noise(here, state, some))
            for whole, part, s in zip(out, solved, levels, strict=True):
                whole[start : start + step, :, s] = part.transpose(1, 0, 2)
    found = {}
    for number, f in enumerate(known.model.effects.factors):
        found[f.place] = np.einsum("ij,djg->dig", f.size * known.held.roots[f.place], out[number])
    return tuple(found[place] for place in sorted(found))


def _half(density: Density, curved: Sequence[int]) -> Cube:
    """A root of the curvature of each row in the predictors that bend (k, k, m), negative directions at zero."""
    if len(curved) == 1:
        return np.sqrt(np.maximum(density.w[curved[0], curved[0]], 0.0))[None, None]
    w = np.array([[density.w[min(a, b), max(a, b)] for b in curved] for a in curved])
    values, vectors = np.linalg.eigh(w.transpose(2, 0, 1))
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]).transpose(1, 2, 0))


def curvature_noise(here: UnitAt, state: RowsAt, streams: Sequence[np.random.Generator]) -> list[Cube]:
    """Λ'Z'W^½ε₁ + ε₂ per factor (r, D, G), whose covariance is H, at densities that have their curvature."""
    unit, models, curved = here.unit, here.unit.models, here.density.curved
    sums = []
    for block, density in zip(unit.blocks, state.densities, strict=True):
        w = _half(density, curved)
        drawn = np.array([rng.standard_normal(w.shape[1:]) for rng in streams])  # (D, k, m)
        own = np.einsum("abm,dbm->adm", w, drawn)
        sums.append(block.z_sums({k: own[i] for i, k in enumerate(curved)}))
    pulled = to_levels(unit, concatenate(sums))
    right = [models.transposed_times(lam, part) for lam, part in zip(here.at.factors, pulled, strict=True)]
    prior = [
        np.array([rng.standard_normal((part.shape[0], part.shape[2])) for rng in streams]).transpose(1, 0, 2)
        for part in right
    ]
    return [part + one for part, one in zip(right, prior_noise(unit.eliminator, prior), strict=True)]


def roots_of(covariances: Sequence[Cube]) -> Cube:
    """Lower triangular roots (D, r, r) of block diagonal covariance matrices, per term (D, r_t, r_t)."""
    return np.array([block_root(tuple(part[k] for part in covariances)) for k in range(len(covariances[0]))])
