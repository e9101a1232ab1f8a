"""From a frame to the rows of a model by the route that was chosen: in memory, counted, on disk, or with workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import polars as pl

from polars_glmm.cluster.connected import connected
from polars_glmm.design.disk.learn import Sizes, learn_stored
from polars_glmm.design.inquired import ApartLearned
from polars_glmm.design.learn import Learned, learn
from polars_glmm.design.spread.learn import learn_spread
from polars_glmm.errors import ResourceError
from polars_glmm.memory import memory_limit
from polars_glmm.spill import spilling

if TYPE_CHECKING:
    from polars_glmm.control import Control
    from polars_glmm.fitting.choose import Route
    from polars_glmm.spec.call import Call

AnyLearned: TypeAlias = Learned | ApartLearned

_PART = 1 / 16
"""Share of the memory limit that one part of stored rows may take: a dozen copies of some of its columns are made."""
_LARGEST_PART = 1 << 24
"""Bytes beyond which sorting a part leaves the cache of any machine."""

_LEAST = 1 << 28
"""Bytes that the libraries alone take, about: no limit below this says anything about a single group."""


@contextmanager
def learned_rows(
    frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control, route: Route
) -> Iterator[AnyLearned]:
    """Recipe and design of what `call` asks; rows on disk or with workers are there until the block is left.

    Raises ResourceError where rows that fit nowhere were chosen.
    """
    if route.refused is not None:
        raise route.refused
    if route.counted is not None:
        yield route.counted.learned
        return
    if route.engine is not None:
        opening = connected(route.engine)
        if opening is None:
            msg = "The cluster that held the rows is not there any more: connect to it, and fit again."
            raise ResourceError(msg)
        with opening() as holders:
            yield learn_spread(call.spec(), route.engine, holders, missing=call.missing)
        return
    if route.kind != "disk":
        yield learn(call.spec(), frame, missing=call.missing)
        return
    assert isinstance(frame, pl.LazyFrame)  # the rows of another are in memory already
    assert route.n_rows is not None
    limit = memory_limit(control.memory.limit)
    sizes = Sizes(route.n_rows, min(int(_PART * limit), _LARGEST_PART), max(limit, _LEAST))
    with spilling(control.memory.spill) as spill:
        yield learn_stored(call.spec(), frame, spill, sizes, missing=call.missing)
