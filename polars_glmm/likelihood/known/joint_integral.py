"""The likelihood of levels that know each other, integrated over all of them at once: importance sampling at the mode.

Draws u come from Laplace's normal approximation N(û, H⁻¹), and each weighs exp{J(u) − J(û) + ½(u − û)'H(u − û)}: the
mean of the weights is the integral over its approximation. The share of the draws that count falls with the number of
levels (Kong 1992), and is reported.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.known.draws import curvature_noise
from polars_glmm.likelihood.known.joint import KnownModel
from polars_glmm.likelihood.marginal.modes import UnitAt, added, cell_effects, rows_state, unit_at
from polars_glmm.likelihood.marginal.unit import factorised
from polars_glmm.likelihood.rows.blocks import at_hand
from polars_glmm.linalg.coupled import prior_times
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.typing import Mat

_AT_ONCE = 64
"""Draws that are made together."""


class JointIntegral(NamedTuple):
    """ℓ by Laplace and by draws, with its Monte Carlo error and the effective number of draws."""

    laplace: float
    value: float
    mc_error: float
    effective: float


def joint_integral(known: KnownModel, n: int, rng: np.random.Generator) -> JointIntegral:
    """The integral over all random effects by n draws, of a model whose levels are one system."""
    marginal, modes = known.engine.marginal, known.conditional_modes()
    (unit,) = at_hand(marginal.rows).units
    with one_blas_thread(), np.errstate(all="ignore"):
        here = unit_at(marginal.density, unit, known.point)
        state = rows_state(here, modes, order=2)
        h = factorised(here, state.w)
        top, weights = _log_joint(here, modes), np.empty(n)
        for start in range(0, n, _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, n))
            noise = curvature_noise(here, state, [rng] * len(some))
            moved = h.solve(noise)
            for d, place in enumerate(some):
                u = [v + part[:, d] for v, part in zip(modes, moved, strict=True)]
                square = sum(float(np.vdot(a[:, d], b[:, d])) for a, b in zip(noise, moved, strict=True))
                weights[place] = _log_joint(here, u) - top + 0.5 * square
    weights = np.where(np.isnan(weights), -np.inf, weights)
    most = float(weights.max())
    share = np.exp(weights - most)
    effective = float(share.sum() ** 2 / np.square(share).sum())
    laplace = known.loglik()
    error = float(np.sqrt(max(1.0 / effective - 1.0 / n, 0.0)))
    return JointIntegral(laplace, laplace + most + float(np.log(share.mean())), error, effective)


def _log_joint(here: UnitAt, u: list[Mat]) -> float:
    """J(u) = Σ log p(y | η) − ½u'A⁻¹u, without its constants."""
    unit = here.unit
    b = cell_effects(unit, here.at.factors, u)
    assert b is not None  # there are random effects here
    total = -0.5 * sum(float(np.vdot(v, q)) for v, q in zip(u, prior_times(unit.eliminator, u), strict=True))
    for block, fixed in zip(unit.blocks, here.fixed, strict=True):
        total += float(here.density.rows(block, added(fixed, block.combine(b[:, block.cells])), 0).f.sum())
    return total
