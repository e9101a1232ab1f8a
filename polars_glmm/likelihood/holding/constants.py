"""Constants beside other predictors where others are profiled, at a limit of their family too.

There the predictor of the constant is infinite. It is held where the family is its limit as near as rounding allows,
and has no path of its own.
"""

from __future__ import annotations

import numpy as np

from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.marginal.dispersion_range import size_cap
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.parameters.parts import Part

_FAR = 25.0
"""|log phi| that stands for an infinite one where the family does not say how far that is: phi of 1e11, or 1e-11."""


def constant_predictor(model: Model, part: Part, estimate: Estimate) -> tuple[float, bool]:
    """Where the predictor of a constant is held or begins, and whether it is at a limit."""
    at = part.predictor(estimate.constants[part.parameter])
    if np.isfinite(at):
        return at, False
    cap = size_cap(model) if part.parameter == "phi" else None
    far = next(one.far for one in model.family.parameters if one.name == part.parameter)
    return float(np.sign(at)) * (cap if cap is not None else min(far, _FAR)), True


def at_limit(model: Model, parameter: str, estimate: Estimate) -> bool:
    """Whether a parameter is a constant at a limit of the family."""
    part = next((one for one in model.parts if one.parameter == parameter and one.basis is None), None)
    return part is not None and parameter in estimate.constants and constant_predictor(model, part, estimate)[1]
