"""How a query is read for a fit: itself, where every reading gives the same; else the rows that it gave in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.fitting.sums import Obstacle, collected_note, obstacle
from polars_glmm.frames.held import from_one_run, read_once, taken
from polars_glmm.frames.size import may_fit
from polars_glmm.memory import memory_limit

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.control import Control
    from polars_glmm.spec.call import Call

FitRows: TypeAlias = "Callable[[pl.DataFrame | pl.LazyFrame, Call, Control], Answer]"


def fit_readings(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control, fit: FitRows) -> Answer:
    """`fit` of a frame, every number of it from one run of a query or from runs that gave the same."""
    if isinstance(frame, pl.DataFrame):
        return fit(frame, call, control)
    if control.keep == "rows":  # the one reading serves for both
        rows = taken(frame)
        return fit(rows if obstacle(call.spec(), call) is None else rows.lazy(), call, control)
    made, again = from_one_run(
        frame, used_columns(frame, call), control.memory.limit, control.memory.spill,
        lambda rows: fit(collected(rows, call, control), call, control),
    )  # fmt: skip
    notes = collected_note(Obstacle("the source gave other rows when it was read again")) if again else ()
    return replace(made, notes=(*made.notes, *notes), source=None if control.keep == "none" else frame)


@contextmanager
def rows_to_read(query: pl.LazyFrame, call: Call, control: Control) -> Iterator[pl.LazyFrame]:
    """What is read of a query: itself, or the rows of the one run that it is good for."""
    with read_once(query, used_columns(query, call), control.memory.limit, control.memory.spill) as rows:
        yield rows


def collected(query: pl.LazyFrame, call: Call, control: Control) -> pl.LazyFrame:
    """The columns in use in memory, for a model that needs its rows and may have room for them; else the query."""
    if not is_collected(query, call, control):
        return query
    return taken(query.select(columns(used_columns(query, call)))).lazy()


def is_collected(query: pl.LazyFrame, call: Call, control: Control) -> bool:
    """Whether the rows of a query are collected before anything is asked of them; counts them."""
    names = query.collect_schema().names()
    spec = call.spec().resolve(frozenset(names))
    if obstacle(spec, call) is None or not set(spec.columns()) <= set(names):
        return False
    return may_fit(spec, query, memory_limit(control.memory.limit))


def used_columns(query: pl.LazyFrame, call: Call) -> tuple[str, ...]:
    """The columns that a model uses of a query."""
    return tuple(call.spec().resolve(frozenset(query.collect_schema().names())).columns())
