"""One pass over the rows: a function of every unit, on threads, its results in the order of the units."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from polars_glmm import progress
from polars_glmm.likelihood.rows.blocks import RowBlocks, Unit

Answer = TypeVar("Answer")


def over_units(rows: RowBlocks, one: Callable[[Unit], Answer], threads: int) -> list[Answer]:
    """one(unit) for all units; the thread that works on a unit loads it, so that a few are in memory at a time."""
    units, found = rows.units, []
    if len(units) == 1:
        return [one(units[0])]
    places = range(len(units))
    with progress.stage("pass", len(units)):
        if threads == 1:
            for i in places:
                found.append(one(units[i]))
                progress.advance()
            return found
        with ThreadPoolExecutor(threads) as pool:
            try:
                for answer in pool.map(lambda i: one(units[i]), places):
                    found.append(answer)
                    progress.advance()
            except BaseException:  # an interrupt does not wait for the units that are still to come
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return found
