"""What differences in the estimates of a fit are taken over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np


def moved(fit: Any, j: int, step: float) -> Any:
    """A fit with one number of its report moved."""
    e = fit.estimate
    p, s, constants = len(e.beta), len(e.gamma), len(e.report) - len(e.constants)
    if j < p:
        return replace(fit, estimate=replace(e, beta=e.beta + step * (np.arange(p) == j)))
    if j < p + s:
        return replace(fit, estimate=replace(e, gamma=e.gamma + step * (np.arange(s) == j - p)))
    if j >= constants:
        return replace(fit, estimate=replace(e, phi=e.phi + step))
    (factor,) = e.factors
    places = [(k, a, b) for k, one in enumerate(factor.covariances) for a in range(len(one)) for b in range(a + 1)]
    k, a, b = places[j - p - s]
    covariances = [one.copy() for one in factor.covariances]
    covariances[k][[a, b], [b, a]] = factor.covariances[k][a, b] + step
    return replace(fit, estimate=replace(e, factors=(replace(factor, covariances=tuple(covariances)),)))
