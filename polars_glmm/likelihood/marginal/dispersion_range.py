"""The range of a constant dispersion: from rounding error of the response up to the Poisson limit."""

from __future__ import annotations

import numpy as np

from polars_glmm.families.base import towards_limit
from polars_glmm.likelihood.marginal import dispersion_limit as limits
from polars_glmm.likelihood.marginal.engine import Confined
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.rows import sums as rowsums
from polars_glmm.typing import Vec

_ROUNDED = 1e-4
"""Of the square of a mean, that counts as size of y beside its variance: rounding reaches that far."""
_STEPS = (0.0, 1.5, 3.0, 4.5)
"""Of log phi towards its limit, from where a model without random effects has it."""


def size_cap(model: Model) -> float | None:
    """|log phi| beyond which a family is its limit to 1e-8 in ℓ; a negative binomial: ℓ_P − ℓ ≈ Σ((y − μ)² − y)/2φ."""
    if model.family.limit is None or model.models_phi:
        return None
    return limits.log_size_of_limit(model.family, model.rows)


def confined(model: Model, least: float) -> Confined | None:
    """Range of a constant log phi: to the Poisson limit, or to where a share of the size of y (its log) is left."""
    part = model.phi_part
    if part is None or not part.constant:
        return None
    place = part.own.start
    if model.family.limit is not None:
        cap = size_cap(model) or np.inf
        grows = towards_limit(model.family) > 0.0
        return Confined(place, -np.inf, cap, endless=0) if grows else Confined(place, -cap, np.inf, endless=0)
    smallest = least_of(model, least)
    if smallest is not None and model.family.precise:
        return Confined(place, -np.inf, smallest, endless=1)
    return Confined(place, -np.inf if smallest is None else smallest, np.inf)


def least_of(model: Model, log_share: float) -> float | None:
    """The log phi that is this share of the size of y; None: the family has none.

    A phi in units of y is that of y − ȳ, and no less than rounding of y itself allows: y + c has the phi of y.
    """
    mean, variance = rowsums.response_moments(model.rows)
    least = model.family.least_log_phi
    zero, one = least(0.0, 0.0), least(0.0, 1.0)
    of_mean = _ROUNDED if zero is not None and one is not None and one > zero else 1.0
    return least(log_share, float(np.log(max(variance, of_mean * mean**2, 1e-300))))


def with_phi(model: Model, at_limit: Vec, base: Vec) -> list[Vec]:
    """Vectors of a search that ended at the limit of phi with finite ones instead.

    base   the vector of the model without random effects

    Random effects explain some of the spread that it leaves to phi: what is left lies towards the limit.
    """
    place, sign = model.parts[1].own.start, towards_limit(model.family)
    cap = size_cap(model) or np.inf
    out: list[Vec] = []
    for step in _STEPS:
        size = sign * float(base[place]) + step
        if not out or size < 0.5 * cap:
            x = at_limit.copy()
            x[place] = sign * size
            out.append(x)
    return out
