"""Which coefficients the user holds: they are known, and what depends on others too is as uncertain as these."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polars_glmm.typing import BoolVec, Mat

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def held_coefficients(fit: Answer) -> BoolVec:
    """Which of the kept coefficients (beta, gamma) stand in fixed=, (k,)."""
    values = fit.call.fixed or {}
    if not values:
        return np.zeros(len(fit.estimate.beta) + len(fit.estimate.gamma), dtype=np.bool_)
    out = []
    for predictor in fit.recipe.predictors:
        before = "" if predictor.parameter == "mu" else f"{predictor.parameter}: "
        named = fit.recipe.coefficients(predictor.parameter)
        whole = predictor.parameter in values  # a parameter of a curve by its name
        out += [whole or f"{before}{name}" in values for name, keep in named if keep]
    return np.array(out, dtype=np.bool_)


def with_held_known(fit: Answer, vcov: Mat) -> Mat:
    """A covariance matrix of the kept coefficients with zeros where one of them is held."""
    held = held_coefficients(fit)
    if not held.any():
        return vcov
    out = vcov.copy()
    out[held] = out[:, held] = 0.0
    return out
