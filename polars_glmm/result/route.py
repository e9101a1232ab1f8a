"""From a frame to the rows of a model: in memory, counted, or on disk where they would not fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import polars as pl

from polars_glmm.design.compress import compress
from polars_glmm.design.learn import Learned, learn
from polars_glmm.design.size import room_for
from polars_glmm.design.stored_learn import Sizes, StoredLearned, learn_stored
from polars_glmm.errors import GlmmError, ResourceError, enumerate_names
from polars_glmm.memory import memory_limit, readable
from polars_glmm.spill import spilling

if TYPE_CHECKING:
    from polars_glmm.control import Control
    from polars_glmm.result.call import Call
    from polars_glmm.spec.model import ModelSpec

AnyLearned: TypeAlias = Learned | StoredLearned

_PART = 1 / 16
"""Share of the memory limit that one part of stored rows may take: a dozen copies of some of its columns are made."""
_LARGEST_PART = 1 << 24
"""Bytes beyond which sorting a part leaves the cache of any machine."""

_LEAST = 1 << 28
"""Bytes that the libraries alone take, about: no limit below this says anything about a single group."""


@contextmanager
def learned_rows(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control) -> Iterator[AnyLearned]:
    """Recipe and design of what `call` asks; rows that go to disk are there until the block is left."""
    spec = call.spec()
    counted = _counted(spec, frame, call) if control.rows.compress else None
    if counted is not None:
        yield counted
        return
    n_rows = _rows_beyond(spec, frame, control) if isinstance(frame, pl.LazyFrame) else None
    if n_rows is None or not isinstance(frame, pl.LazyFrame):
        yield learn(spec, frame, missing=call.missing)
        return
    limit = memory_limit(control.memory.limit)
    sizes = Sizes(n_rows, min(int(_PART * limit), _LARGEST_PART), max(limit, _LEAST))
    with spilling(control.memory.spill) as spill:
        yield learn_stored(spec, frame, spill, sizes, missing=call.missing)


def _counted(spec: ModelSpec, frame: pl.DataFrame | pl.LazyFrame, call: Call) -> Learned | None:
    """Equal rows counted first, where that saves rows; None too where something is to be said of single rows."""
    if _products_suffice(spec):
        return None
    found = compress(frame, spec, missing=call.missing)
    if found is None:
        return None
    try:
        learned = learn(found.spec, found.frame, missing=call.missing)
    except GlmmError:  # to be raised again from the rows that the user knows
        return None
    if any(note.code == "rows_without_trials" for note in learned.notes):
        return None
    asked = replace(learned.recipe.spec, frequency=spec.frequency)
    return learned._replace(
        recipe=replace(learned.recipe, spec=asked),
        notes=(*found.notes, *learned.notes),
        n_dropped=found.n_dropped,
        kept=None,
    )


def _rows_beyond(spec: ModelSpec, frame: pl.LazyFrame, control: Control) -> int | None:
    """The number of rows of a frame whose fit would need more memory than allowed; None where it would not.

    Raises ResourceError where such a fit has to be in memory.
    """
    if _products_suffice(spec):
        return None
    spec = spec.resolve(frozenset(frame.collect_schema().names()))
    limit = memory_limit(control.memory.limit)
    n_rows, needed = room_for(spec, frame, limit)
    if needed <= limit:
        return None
    factors = {frozenset(term.keys): term.group for term in spec.mu.random}
    if len(factors) > 1:
        names = enumerate_names(list(factors.values()))
        msg = (
            f"{n_rows:,} rows with {len(factors)} grouping factors ({names}) need about {readable(needed)} of memory, "
            f"more than the {readable(limit)} that may be used; only models of one factor can be fitted from disk. "
            f"Allow more with control=Control(memory=Memory(limit={_rounded(needed)})), use fewer columns or rows, or "
            "keep one factor."
        )
        raise ResourceError(msg)
    return n_rows


def _products_suffice(spec: ModelSpec) -> bool:
    """A gaussian identity-link model with one residual variance: cross-products hold all there is to know."""
    return spec.family.name == "gaussian" and spec.family.link.name == "identity" and len(spec.predictors) == 1


def _rounded(size: int) -> int:
    """A size a little above, with two digits, to be typed."""
    unit = int(10 ** max(len(str(size)) - 2, 0))
    return -(-size // unit) * unit
