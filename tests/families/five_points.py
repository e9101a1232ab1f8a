"""Derivatives of a density against differences of the ones below, by five points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

STEPS = (-2, -1, 1, 2)
"""Where the densities of `near` are, in steps of h."""


class Compared(NamedTuple):
    """A derivative by its place and what it is the slope of, as the difference says and as the density does."""

    place: tuple[int, ...]
    below: Any
    slope: Any
    wanted: Any


def next_ones(here: Mapping[Any, Any], near: Sequence[Mapping[Any, Any]], k: int, h: float) -> Iterator[Compared]:
    """All derivatives in parameter k; the second ones of a density are of the negative sign."""
    for below, value in here.items():
        place = tuple(sorted((*below, k)))
        if place in here:
            far, close = near[3][below] - near[0][below], near[2][below] - near[1][below]
            sign = -1.0 if len(place) == 2 else 1.0
            yield Compared(place, value, (8.0 * close - far) / (12.0 * h), sign * here[place])
