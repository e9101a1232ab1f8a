"""How the effects of levels that know each other go together, given the response."""

from __future__ import annotations

import numpy as np

from polars_glmm.likelihood.known.joint import KnownModel
from polars_glmm.likelihood.marginal.modes import rows_state, unit_at
from polars_glmm.likelihood.marginal.unit import factorised
from polars_glmm.likelihood.rows.blocks import at_hand
from polars_glmm.linalg.coupled import CoupledFactorised
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.typing import Cube


def covariances_between(known: KnownModel) -> tuple[Cube, ...]:
    """Var(b | y) (r, G, r, G) per factor in the order of the design, of a model in which some levels are related."""
    marginal, at = known.engine.marginal, known.point
    modes = known.conditional_modes()
    (unit,) = at_hand(marginal.rows).units  # all levels are one system
    with one_blas_thread(), np.errstate(all="ignore"):
        here = unit_at(marginal.density, unit, at)
        h = factorised(here, rows_state(here, modes, order=2).w)
        assert isinstance(h, CoupledFactorised)
        found = {}
        for k, f in enumerate(known.model.effects.factors):
            root = f.size * known.held.roots[f.place]
            found[f.place] = np.einsum("ik,kgmh,jm->igjh", root, h.between(k), root)
    return tuple(found[place] for place in sorted(found))
