"""Survival, hazards and quantiles of times at a linear predictor, with their slopes in it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from polars_glmm.families.base import Rows
from polars_glmm.families.location_scale import Tailed
from polars_glmm.typing import Vec

Quantity: TypeAlias = Literal["median", "survival", "hazard", "cumulative_hazard"]
_STEP = 1e-4


def event_quantity(
    family: Tailed, quantity: Quantity, eta: Vec, phi: Vec | None, times: Vec | None
) -> tuple[Vec, Vec]:
    """The quantity and its slope in eta, each (n,).

    times   above 0, of survival and hazards; at and before 0 nothing has happened yet
    """
    if quantity == "median":
        at = [family.quantile(0.5, family.mean(eta + k * _STEP), phi) for k in (-2.0, -1.0, 0.0, 1.0, 2.0)]
        return at[2], (8.0 * (at[3] - at[1]) - (at[4] - at[0])) / (12.0 * _STEP)
    assert times is not None
    begun = times > 0.0
    rows, where = Rows(np.where(begun, times, 1.0)), ((eta,) if phi is None else (eta, family.second(phi)))
    with np.errstate(all="ignore"):
        above = family.log_probability("above", rows, where, 1)
        log_s, slope = above.f, above.g[0]
        assert slope is not None
        if quantity == "survival":
            s = np.exp(log_s)
            return np.where(begun, s, 1.0), np.where(begun, s * slope, 0.0)
        if quantity == "cumulative_hazard":
            return np.where(begun, -log_s, 0.0), np.where(begun, -slope, 0.0)
        density = family.density(rows, where, 1)
        own = density.g[0]
        assert own is not None
        hazard = np.exp(density.f + family.constant(rows) - log_s)
        late = np.where(times >= 0.0, np.nan, 0.0)  # at 0 it may have no end
        return np.where(begun, hazard, late), np.where(begun, hazard * (own - slope), late)
