"""Whether Laplace's approximation has peaks to stand on: where a mode is about to vanish it rises without bound.

With random effects u ~ N(0, I) and a log density that is concave, rows only add to the prior's curvature: H ≥ I. Others
(zero-inflated counts, Cauchy's tails) may take from it, and where they take all in some direction of some level,
−½ log|H| has no bound: a search follows it, to estimates that say nothing. The integral there is finite, and by
quadrature the same model is often an ordinary one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polars_glmm.errors import ConvergenceError
from polars_glmm.likelihood.marginal.engine import RowEngine
from polars_glmm.likelihood.marginal.modes import Point
from polars_glmm.likelihood.marginal.searching import StepBounds, search_free
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.optimum.notes import INTEGRATE, LOST_PEAK
from polars_glmm.optimize.search import Found
from polars_glmm.typing import Cube

TEXT = f"{LOST_PEAK} {INTEGRATE}"
WIDE = 10.0
"""Variance of a level's effects given its rows, in units of their variance without them, from which a peak is lost."""

_LOOK = 40
"""Evaluations after which a search that goes on is looked at again."""


def widest(covariance: Sequence[Cube]) -> float:
    """The largest variance of any combination of a level's u given the rows, from Var(u | y) (r, r, G) per factor."""
    if not all(np.isfinite(c).all() for c in covariance):
        return np.inf
    return max((float(np.linalg.eigvalsh(np.moveaxis(c, -1, 0)).max(initial=0.0)) for c in covariance), default=0.0)


def may_vanish(engine: RowEngine) -> bool:
    """Whether modes can: the approximation is Laplace's, with the observed curvature, of a density not concave."""
    marginal = engine.marginal
    return marginal.nodes == 1 and not marginal.expected and not marginal.density.concave and not marginal.reml


def lost(engine: RowEngine, found: Found, p: int) -> bool:
    """Whether a search of p coefficients ended, or was stopped, where a peak is lost."""
    if found.settled or not may_vanish(engine):
        return False
    at = Point(found.x[:p], engine.effects.effective(engine.effects.lambdas(found.x[p:])))
    try:
        covariance = engine.marginal.conditional(at, found.evaluation.state).covariance
    except ConvergenceError:
        return True
    return not widest(covariance) < WIDE


def search_on(model: Model, engine: RowEngine, found: Found, bounds: StepBounds, tolerance: float) -> Found:
    """The search goes on from where it was stopped, to its end or to where a peak is lost, which is looked for."""
    most = model.control.search.max_evaluations
    often = _LOOK if may_vanish(engine) else most
    while found.evaluations < most and not lost(engine, found, model.n_coefficients):
        few = min(often, most - found.evaluations)
        longer = search_free(model, engine, found.x, bounds._replace(most=few), tolerance, found.curvature)
        found = longer._replace(evaluations=found.evaluations + longer.evaluations)
        if longer.settled or longer.evaluations < few:
            break
    return found
