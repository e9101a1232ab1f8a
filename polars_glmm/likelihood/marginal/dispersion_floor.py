"""How small the values of a formula of phi may become before nothing is left of a dispersion."""

from __future__ import annotations

import numpy as np

from polars_glmm.families.base import spread_name
from polars_glmm.likelihood.marginal.dispersion_range import least_of
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.optimum.vanishing import Floor, distinct_columns

_PERFECT, _LOST = float(np.log(1e-15)), float(np.log(1e-11))
"""log of the relative dispersion that counts as none; beside random effects."""
_WATCHED = 10_000
"""Rows of many different values of log phi that are watched."""


def floor_of(model: Model) -> Floor | None:
    """For log phi without random effects, in memory: each value, or some of many, must stay above rounding error."""
    part = model.phi_part
    if part is None or part.basis is None or model.stored is not None:
        return None
    if 1 in model.effects.moving:
        return None
    least = least_of(model, _LOST if model.effects.factors else _PERFECT)
    design = model.held_in_memory()
    if least is None or design.phi is None:
        return None
    offset = np.zeros(design.n_rows) if design.phi.offset is None else design.phi.offset
    found = distinct_columns(np.vstack([design.phi.x, offset]))
    if found is None:
        counts, places = None, np.linspace(0, design.n_rows - 1, min(_WATCHED, design.n_rows)).astype(np.intp)
    else:
        counts, places = np.bincount(found.codes, minlength=len(found.places)), found.places
    x, sign = np.ascontiguousarray(part.basis.columns(places).T), -1.0 if model.family.precise else 1.0
    name, values = spread_name(model.family), design.phi.x[:, places]
    return Floor(sign * x, sign * offset[places], sign * least, design.phi.names, values, counts, name, part.own)
