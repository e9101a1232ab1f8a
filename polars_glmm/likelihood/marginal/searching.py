"""A search over the coordinates of a model by rows that are not held, within the range of its dispersion."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.marginal.dispersion_range import confined
from polars_glmm.likelihood.marginal.engine import RowEngine
from polars_glmm.likelihood.model import Model
from polars_glmm.optimize.search import Begin, Found, minimise, restrict
from polars_glmm.typing import BoolVec, Mat, Vec

PERFECT, LOST = float(np.log(1e-15)), float(np.log(1e-11))
"""log of the relative dispersion that counts as none, and beside random effects.

Sums over rows have gradients that are rounded by ε/phi.
"""


class Searched(NamedTuple):
    """A finished search and the engine it ran on."""

    engine: RowEngine
    found: Found


class StepBounds(NamedTuple):
    """Per coordinate of a search: the longest step it takes, and whether it stays where it is; the most evaluations."""

    limit: Vec
    held: BoolVec
    most: int | None = None


def search_free(
    model: Model, engine: RowEngine, x: Vec, bounds: StepBounds, tolerance: float, curvature: Mat | None = None
) -> Found:
    """A search over the coordinates that are not held; x, curvature and gradient come back whole."""
    limit, held, few = bounds
    share = LOST if engine.effects.factors else PERFECT
    objective = engine.objective(model.n_coefficients, confined(model, share), rough=True)
    most = model.control.search.max_evaluations if few is None else min(few, model.control.search.max_evaluations)
    if not held.any():
        begin = Begin(curvature)
        return minimise(objective, x, tolerance=tolerance, max_evaluations=most, limit=limit, begin=begin, quick=True)
    free = ~held
    found = minimise(
        restrict(objective, x, free), x[free], tolerance=tolerance, max_evaluations=most, limit=limit[free], quick=True
    )
    whole = x.copy()
    whole[free] = found.x
    curvature = np.eye(len(x))
    curvature[np.ix_(free, free)] = found.curvature
    return found._replace(x=whole, curvature=curvature)
