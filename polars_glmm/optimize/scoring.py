"""Scoring steps along a curve, from a rough start to where a quadratic model holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from polars_glmm.optimize.search import Evaluation, Objective, newton_step
from polars_glmm.typing import Vec

_MOST = 8
_NEAR = 0.5
"""Newton decrement at which the approach is over."""


class Approached(NamedTuple):
    """Where an approach ended, and what it took."""

    x: Vec
    evaluation: Evaluation
    evaluations: int


def approach(objective: Objective, x: Vec, curve: Callable[[Vec, Vec], Vec]) -> Approached:
    """Scoring steps x ← curve(x, −B⁻¹g) while each lowers the value; B is the curvature that the objective offers.

    curve(x, s) agrees with x + s to first order. Whatever globalises the search comes after: this ends at the best
    point seen.
    """
    with np.errstate(all="ignore"):
        return _approach(objective, x, curve)


def _approach(objective: Objective, x: Vec, curve: Callable[[Vec, Vec], Vec]) -> Approached:
    now = objective(x, None, curvature=True)
    count = 1
    while now.curvature is not None and count < _MOST:
        step, decrement = newton_step(now.curvature, now.gradient)
        if not decrement > _NEAR:
            break
        there = curve(x, step)
        trial = objective(there, now.state, curvature=True)
        count += 1
        if not trial.value < now.value:
            break
        x, now = there, trial
    return Approached(x, now, count)
