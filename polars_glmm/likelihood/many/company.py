"""Which models go through the engine together: all that are usual; with crossed factors, those of about one size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polars_glmm.likelihood.many.model import BatchModel
from polars_glmm.linalg.side_by_side import crossed_in
from polars_glmm.typing import BoolVec, IntVec

ROOM_OF_FIT, ROOM, ROOM_AT_ONCE = 70_000, 100_000, 10_000_000
"""Entries of the dense arrays of one model with crossed factors up to which a fit, and a refit, gains by company: with
60,000 a fit takes 0.5 to 0.8 of the time alone, with 93,000 1.2 (`python -m benchmarks.by_keys`); of all together."""
_PADDED, _SMALL = 2.0, 200_000
"""Entries of the dense arrays of all together, each as large as the largest one's, in those that they need; entries up
to which the sizes of models do not matter."""


def companies(model: BatchModel, most: int) -> Iterator[BoolVec]:
    """Marks (M,) of the models that are fitted together; models that are in none want a fit of their own.

    most   entries of the dense arrays of a model up to which it gains by company
    """
    usual = model.regular
    if not model.rows.others:
        if usual.any():
            yield usual
        return
    pattern = model.rows.pattern(model.rows.cells)
    assert pattern is not None  # there are several factors
    first, room = crossed_in(pattern, model.rows.levels)
    for f in np.unique(first[usual]).tolist():
        alike = np.flatnonzero(usual & (first == f) & (room <= most))
        for some in of_one_size(room[alike]):
            together = np.zeros(len(usual), dtype=bool)
            together[alike[some]] = True
            yield together


def of_one_size(room: IntVec) -> Iterator[IntVec]:
    """Places of models by the entries that each needs, in rising order of these."""
    order = np.argsort(room, kind="stable")
    needed, start = np.cumsum(room[order]), 0
    for k, place in enumerate(order.tolist()):
        padded = (k + 1 - start) * int(room[place])
        own = needed[k] - (needed[start - 1] if start else 0)
        if k > start and padded > min(max(_PADDED * own, _SMALL), ROOM_AT_ONCE):
            yield order[start:k]
            start = k
    if len(order):
        yield order[start:]
