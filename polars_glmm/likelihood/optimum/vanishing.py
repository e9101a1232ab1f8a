"""Rows that a model with a formula of phi reproduces exactly: their phi runs to zero, the likelihood has no bound."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.errors import IdentifiabilityError, brief, counted
from polars_glmm.typing import IntVec, Mat, Vec

MOST_VALUES = 64
"""Different values of log phi up to which each is watched."""
_LOOK = 10_000
_MOST_NAMES = 6
INTERCEPT = "Intercept"


class Distinct(NamedTuple):
    """The first place of each distinct column, and the number of each column's."""

    places: IntVec
    codes: IntVec


def distinct_columns(values: Mat) -> Distinct | None:
    """The distinct columns of (k, n), or None where they are many."""
    n = values.shape[1]
    if n > 2 * _LOOK and _distinct(values[:, :: n // _LOOK]) is None:
        return None
    return _distinct(values)


def _distinct(values: Mat) -> Distinct | None:
    direction = np.random.default_rng(0).normal(size=len(values))  # tells columns apart, but for a chance of nothing
    keys = np.asarray(sum(d * row for d, row in zip(direction.tolist(), values, strict=True)))  # the same for the same
    _, places, codes = np.unique(keys, return_index=True, return_inverse=True)
    if len(places) > MOST_VALUES or not np.array_equal(values[:, places][:, codes], values):
        return None
    return Distinct(places, codes)


class Floor(NamedTuple):
    """Values of log phi, x (K, s) γ + offset (K,), that a model has (or some of many): below `least` none is left.

    names, values (s, K)   the columns of phi as the user named them;  counts (K,) rows of each, None where some of many
    own   where γ stands among the coefficients of all predictors
    """

    x: Mat
    offset: Vec
    least: float
    names: tuple[str, ...]
    values: Mat
    counts: IntVec | None
    spread: str
    own: slice

    def refuse(self, gamma: Vec) -> None:
        """Raise IdentifiabilityError where nothing is left of one of them."""
        log_phi = self.x @ gamma + self.offset
        k = int(np.argmin(log_phi))
        if log_phi[k] < self.least:
            msg = (
                f"The model reproduces {self._rows(k)} exactly, so their {self.spread} is zero and the likelihood has "
                f"no bound. Look for a constant response or a copy of it there, leave these rows out, or take from "
                f"the formula of phi what gives them a {self.spread} of their own."
            )
            raise IdentifiabilityError(msg)

    def _rows(self, k: int) -> str:
        """Which rows have a value, and how many they are."""
        told = [(name, v) for name, v in zip(self.names, self.values[:, k].tolist(), strict=True) if name != INTERCEPT]
        there = [f"{brief(name)} = {v:g}" for name, v in told if v != 0.0] or [f"{brief(name)} = 0" for name, _ in told]
        where = f" with {', '.join(there[:_MOST_NAMES])}" if there else ""
        return (
            f"rows such as those{where}" if self.counts is None else f"the {counted(int(self.counts[k]), 'row')}{where}"
        )
