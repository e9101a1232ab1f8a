"""Queries that must not run twice: run once, into memory, or into files where that is too small.

A query with a Python step, a foreign source or a random choice may be dear, may give other rows each time, may be
readable once only, or by one reader at a time. What a fit then reads, however often, is what the query gave once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import polars as pl

from polars_glmm import progress
from polars_glmm.columns.named import columns
from polars_glmm.errors import DataChangedError
from polars_glmm.frames.batches import batches
from polars_glmm.memory import memory_limit
from polars_glmm.spill import FULL, Spill, spilling

T = TypeVar("T")
_SHARE = 8
"""Parts of the memory limit of which held rows may take one: designs made of them take several times their room."""
_FILE_BYTES = 1 << 26
_STEPS = re.compile(r"python|map_|udf|\.(shuffle|sample)\(|keep_strategy: Any\] BY (?!None)", re.IGNORECASE)
_NO_ORDER = re.compile(r"maintain_order: false|\bJOIN\b")
_QUOTED = re.compile(r'"[^"\n]*"')


def repeatable(query: pl.LazyFrame) -> bool:
    """Whether a query gives the same rows each time, to any number of readers at once, as far as its plan tells.

    Not so: steps and sources in Python, random choices, any of several rows, the first of rows without an order.
    """
    plan = query.explain(optimized=False)
    if any('"' in name for name in query.collect_schema()) or not _STEPS.search(plan):
        told = plan
    else:
        told = _QUOTED.sub("", plan)  # what columns are called, and text in expressions
    return not _STEPS.search(told) and not ("SLICE" in told and _NO_ORDER.search(told))


def taken(query: pl.LazyFrame) -> pl.DataFrame:
    """The rows of one run."""
    return query.collect()


def of_one_run(query: pl.LazyFrame) -> pl.LazyFrame:
    """A query that gives the same rows again: itself where it does, or the rows of a run."""
    return query if repeatable(query) else taken(query).lazy()


def in_memory(query: pl.LazyFrame) -> bool:
    """Whether a query is rows in memory and nothing else."""
    return query.explain(optimized=False).startswith("DF [")


@contextmanager
def read_once(
    query: pl.LazyFrame, used: Sequence[str], limit: int | None, folder: str | None, *, always: bool = False
) -> Iterator[pl.LazyFrame]:
    """The query itself where it can be run again; else its used columns as they came in one run, until the end.

    limit, folder   as in control.Memory: bytes that a fit may use, and where files go;  always: held in any case
    """
    names = query.collect_schema().names()
    if not set(used) <= set(names) or not used or (not always and repeatable(query)):
        yield query
        return
    with ExitStack() as stack:
        room = lambda: stack.enter_context(spilling(folder))
        with progress.stage("reading"):
            rows = _held(query.select(columns(used)), memory_limit(limit) // _SHARE, room)
        yield rows


def from_one_run(
    query: pl.LazyFrame, used: Sequence[str], limit: int | None, folder: str | None, work: Callable[[pl.LazyFrame], T]
) -> tuple[T, bool]:
    """What `work` makes of a query; where its readings differ, of the rows of one run, and True.

    Raises DataChangedError where even these change, as a file that is written while it is read.
    """
    with read_once(query, used, limit, folder) as rows:
        try:
            return work(rows), False
        except DataChangedError:
            if rows is not query:
                raise
    with read_once(query, used, limit, folder, always=True) as rows:
        return work(rows), True


def _held(query: pl.LazyFrame, allowed: int, room: Callable[[], Spill]) -> pl.LazyFrame:
    """The rows of one run, in memory up to `allowed` bytes, else in files of `room()`."""
    waiting: list[pl.DataFrame] = []
    paths: list[Path] = []
    spill: Spill | None = None
    size = 0
    for batch in batches(query, contiguous=False):
        progress.advance(batch.height)
        waiting.append(batch)
        size += int(batch.estimated_size())
        if size > (allowed if spill is None else _FILE_BYTES):
            spill = room() if spill is None else spill
            paths.append(_written(pl.concat(waiting), spill, len(paths)))
            waiting, size = [], 0
    if spill is None:
        return (pl.concat(waiting) if waiting else pl.DataFrame(schema=query.collect_schema())).lazy()
    if waiting:
        paths.append(_written(pl.concat(waiting), spill, len(paths)))
    return pl.scan_ipc(paths)


def _written(rows: pl.DataFrame, spill: Spill, k: int) -> Path:
    """A file of a spill with some rows. Raises ResourceError on a full disk."""
    path = spill.folder / f"rows-{k:06d}.arrow"
    try:
        rows.write_ipc(path)
    except OSError as error:
        if error.errno in FULL:
            raise spill.no_room() from error
        raise
    spill.written += path.stat().st_size
    return path
