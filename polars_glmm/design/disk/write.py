"""A frame read once, batch by batch, into parts on disk: its rows by level, and the sums a model begins with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from polars_glmm import progress
from polars_glmm.design.apart import ColumnMoments, Lined, RecordLayout, Tally, head_of, weighted
from polars_glmm.design.disk.parts import Parts, StoredDesign
from polars_glmm.design.distinct import DistinctColumns, shape_of
from polars_glmm.design.reader import Reader
from polars_glmm.design.recipe import Recipe
from polars_glmm.design.records import Design
from polars_glmm.errors import DataChangedError
from polars_glmm.frames.batches import batches
from polars_glmm.frames.source import Recount, Source
from polars_glmm.notes import Note
from polars_glmm.spill import Spill
from polars_glmm.typing import IntVec, Mat


@dataclass(frozen=True, slots=True)
class DiskRoom:
    """Where parts go, how many bytes one may have, and about how many rows there are, in all and per level."""

    spill: Spill
    part_bytes: int
    n_rows: int
    level_rows: IntVec


class Partitioned(NamedTuple):
    """The stored rows with all columns of the formulas, and what was left out."""

    design: StoredDesign
    notes: tuple[Note, ...]
    n_dropped: int


def partition(
    recipe: Recipe, query: pl.LazyFrame, room: DiskRoom, source: Source, *, refuse_missing: bool = False
) -> Partitioned:
    """The rows of a query on disk, at most one factor; the recipe's levels are those of the rows in use.

    source   whose facts are found again on the way
    Raises what `Reader` raises, DataChangedError where the source does not hold the levels or facts it had,
    ResourceError on a full disk.
    """
    reader, facts = Reader(recipe, refuse_missing=refuse_missing), Recount(source)
    columns = DistinctColumns(recipe)
    parts: Parts | None = None
    layout: RecordLayout | None = None
    tally: Tally | None = None
    moments: ColumnMoments | None = None
    lined: Lined | None = None
    with progress.stage("reading", room.n_rows):
        for design in _designs(reader, query, facts):
            head = head_of(design)
            if layout is None or parts is None:
                layout = columns.layout(tuple(head))
                room.spill.require(8 * room.n_rows * layout.widest)
                parts = Parts(room.spill, layout, room.n_rows, room.level_rows, room.part_bytes)
            distinct = columns.of(design)
            parts.append(_records(design, list(head.values()), distinct))
            own, here = Tally.of(design), Lined.of(design, distinct)
            now = here.columns if weighted(design)[0] is None else ColumnMoments.of(distinct)
            tally = own if tally is None else tally + own
            moments = now if moments is None else moments + now
            lined = here if lined is None else lined + here
    facts.refuse_changed()
    notes = reader.notes()
    if layout is None or parts is None or tally is None or moments is None:
        msg = "The source changed while it was read: it gave no rows."
        raise DataChangedError(msg)
    if len(tally.level_rows) and not np.array_equal(tally.level_rows, room.level_rows):
        msg = "The source changed while it was read: some groups have other rows than they had."
        raise DataChangedError(msg)
    stored = StoredDesign(shape_of(recipe), layout, tally, moments, parts, room.spill, lined=lined)
    return Partitioned(stored, notes, reader.n_dropped)


def _designs(reader: Reader, query: pl.LazyFrame, facts: Recount) -> Iterator[Design]:
    for batch in batches(query):
        facts.add(batch)
        design = reader.read(batch)
        progress.advance(batch.height)
        if design is not None:
            yield design


def _records(design: Design, head: list[Mat], distinct: Mat) -> Mat:
    records = np.empty((design.n_rows, 1 + len(head) + len(distinct)))
    records[:, 0] = design.factors[0].codes if design.factors else 0.0
    for k, values in enumerate((*head, *distinct), start=1):
        records[:, k] = values
    return records
