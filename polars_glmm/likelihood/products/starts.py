"""Sizes of random effects that searches over cross-products start from, relative to the residual."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from polars_glmm.likelihood.parameters.effects import Effects
from polars_glmm.likelihood.products.engine import ProductEngine
from polars_glmm.linalg.elimination import OneFactor
from polars_glmm.linalg.pattern import Blocks
from polars_glmm.optimize.search import minimise
from polars_glmm.typing import Vec

_ROUGH, _ROUGH_MOST = 1.0, 20
"""Decrement, and evaluations, at which the search for one factor alone ends."""
FAR_START = 1e3
"""Relative standard deviation of the second start, where there is one, at least."""
SMALL_START = 1e-2
"""Relative standard deviation of a second start where there are few rows: they may leave a hill near no effects."""
_FEW_ROWS = 10
"""Rows per parameter of the covariances up to which a second search begins near no effects."""


def alone(engine: ProductEngine) -> Vec:
    """Standard deviations of every factor in a model with no other: that costs little beside one with all."""
    effects, stats = engine.effects, engine.stats
    theta = effects.start()
    for f, zz, zw in zip(effects.factors, stats.zz.diagonal, stats.zw, strict=True):
        first = f.terms[0].theta.start
        own = slice(first, f.terms[-1].theta.stop)
        terms = tuple(replace(t, theta=slice(t.theta.start - first, t.theta.stop - first)) for t in f.terms)
        one = Effects((replace(f, terms=terms),), effects.columns, own.stop - own.start)
        products = replace(stats, pattern=None, eliminator=OneFactor(), zz=Blocks([zz], {}), zw=[zw])
        objective = ProductEngine(one, products, engine.reml, engine.p).objective(scoring=True)
        found = minimise(objective, one.start(), tolerance=_ROUGH, max_evaluations=_ROUGH_MOST)
        if np.isfinite(found.evaluation.value):
            theta[own] = one.apart(found.x)
    return theta


def first_size(engine: ProductEngine) -> float:
    """Relative standard deviation to start from: 1, or the ratio of spreads between and within levels if larger."""
    within = engine.stats.within
    if within is None or engine.effects.factors[0].n_levels >= engine.stats.n:  # nothing is within levels of one row
        return 1.0
    inside, all_of_it = float(within.rr[-1, -1]), float(engine.stats.ww[-1, -1])
    return max(1.0, float(np.sqrt((all_of_it - inside) / max(inside, 1e-300))))


def has_few_rows(n: Any, n_theta: int) -> Any:
    """Whether so few rows (of each model) speak of several variances that their likelihood may have several hills."""
    return (n <= _FEW_ROWS * n_theta) & (n_theta > 1)
