"""Passes over the columns of a tall matrix, a stretch of rows at a time: no second array of its size is made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polars_glmm.typing import Mat, Vec

_STRETCH = 32_768
"""Rows that are worked on together: some columns of them fit in cache."""


def stretches(n: int, length: int = _STRETCH) -> Iterator[slice]:
    """0..n in slices of about `length`."""
    return (slice(start, min(start + length, n)) for start in range(0, n, length))


def cross_products_about(x: Mat, mean: Vec) -> Mat:
    """Σ (x − mean)(x − mean)' over the columns' n entries, for x (p, n) and mean (p,): (p, p)."""
    total = np.zeros((len(x), len(x)))
    for rows in stretches(x.shape[1]):
        away = x[:, rows] - mean[:, None]
        total += away @ away.T
    return total
