"""Derivatives by differences of exact gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from polars_glmm.typing import Mat, Vec


def jacobian(gradient: Callable[[Vec], Vec], x: Vec, steps: Vec, at_x: Vec | None = None) -> Mat:
    """∂gradient/∂x, (len(x), len(gradient)): central differences, or forward ones where the value at x is given."""
    rows = []
    for i, h in enumerate(steps):
        up = x.copy()
        up[i] += h
        if at_x is None:
            down = x.copy()
            down[i] -= h
            rows.append((gradient(up) - gradient(down)) / (up[i] - down[i]))
        else:
            rows.append((gradient(up) - at_x) / (up[i] - x[i]))
    return np.array(rows)


def symmetric(a: Mat) -> Mat:
    """½(a + a')."""
    return 0.5 * (a + a.T)
