"""A frame read once, batch by batch, into parts on disk: its rows by level, and the sums a model begins with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl

from polars_glmm import progress
from polars_glmm.columns.nodes import ONE, Node
from polars_glmm.design.disk.parts import ONES, ColumnMoments, Parts, RecordLayout, StoredDesign, Tally, head_of
from polars_glmm.design.reader import Reader, terms_of
from polars_glmm.design.recipe import Recipe, cuts_of
from polars_glmm.design.records import Design, Factor, Predictor
from polars_glmm.errors import DataChangedError
from polars_glmm.frames.batches import batches
from polars_glmm.notes import Note
from polars_glmm.spill import Spill
from polars_glmm.typing import BoolVec, IntVec, Mat


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


def partition(recipe: Recipe, query: pl.LazyFrame, room: DiskRoom, *, refuse_missing: bool = False) -> Partitioned:
    """The rows of a query on disk, at most one factor; the recipe's levels are those of the rows in use.

    Raises what `Reader` raises, DataChangedError where the source does not hold the levels it had, ResourceError on a
    full disk.
    """
    reader = Reader(recipe, refuse_missing=refuse_missing)
    columns = _Columns(recipe)
    parts: Parts | None = None
    layout: RecordLayout | None = None
    tally: Tally | None = None
    moments: ColumnMoments | None = None
    with progress.stage("reading", room.n_rows):
        for design in _designs(reader, query):
            head = head_of(design)
            if layout is None or parts is None:
                layout = columns.layout(tuple(head))
                room.spill.require(8 * room.n_rows * layout.widest)
                parts = Parts(room.spill, layout, room.n_rows, room.level_rows, room.part_bytes)
            distinct = columns.of(design)
            parts.append(_records(design, list(head.values()), distinct))
            own, now = Tally.of(design), ColumnMoments.of(distinct)
            tally = own if tally is None else tally + own
            moments = now if moments is None else moments + now
    notes = reader.notes()
    if layout is None or parts is None or tally is None or moments is None:
        msg = "The source changed while it was read: it gave no rows."
        raise DataChangedError(msg)
    if len(tally.level_rows) and not np.array_equal(tally.level_rows, room.level_rows):
        msg = "The source changed while it was read: some groups have other rows than they had."
        raise DataChangedError(msg)
    return Partitioned(StoredDesign(_shape(recipe), layout, tally, moments, parts, room.spill), notes, reader.n_dropped)


def keep_columns(stored: StoredDesign, kept: Sequence[BoolVec]) -> StoredDesign:
    """The design with the marked columns of its formulas only, by predictor."""

    def predictor(old: Predictor, keep: BoolVec) -> Predictor:
        names = tuple(name for name, k in zip(old.names, keep, strict=True) if k)
        return replace(old, x=np.empty((len(names), 0)), names=names)

    mu, *further = (predictor(old, keep) for old, keep in zip(stored.shape.predictors, kept, strict=True))
    x = tuple(
        tuple(place for place, k in zip(old, keep, strict=True) if k)
        for old, keep in zip(stored.layout.x, kept, strict=True)
    )
    shape = replace(stored.shape, mu=mu, further=tuple(further))
    return replace(stored, shape=shape, layout=replace(stored.layout, x=x))


def _designs(reader: Reader, query: pl.LazyFrame) -> Iterator[Design]:
    for batch in batches(query):
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


_RANDOM = -1
"""Where columns are of the random effects, and not of the predictor of that number."""


class _Columns:
    """The distinct columns of a recipe: terms often share them, and one of ones need not be stored."""

    def __init__(self, recipe: Recipe) -> None:
        self._place: dict[Node, int] = {}
        self._first: list[tuple[int, int]] = []
        self._x = tuple(
            self._places(k, [column.node for column in part.columns]) for k, part in enumerate(recipe.predictors)
        )
        terms = recipe.factors[0].terms if recipe.factors else ()
        self._z = self._places(_RANDOM, [column.node for term in terms for column in term.columns])

    def _places(self, kind: int, nodes: list[Node]) -> tuple[int, ...]:
        found = []
        for k, node in enumerate(nodes):
            if node == ONE:
                found.append(ONES)
                continue
            if node not in self._place:
                self._place[node] = len(self._place)
                self._first.append((kind, k))
            found.append(self._place[node])
        return tuple(found)

    def layout(self, head: tuple[str, ...]) -> RecordLayout:
        return RecordLayout(head, len(self._place), self._x, self._z)

    def of(self, design: Design) -> Mat:
        """The distinct columns (k, m) of a batch."""
        x = dict(enumerate(one.x for one in design.predictors))
        if design.factors:
            x[_RANDOM] = design.factors[0].z
        out = np.empty((len(self._first), design.n_rows))
        for row, (kind, k) in zip(out, self._first, strict=True):
            row[:] = x[kind][k]
        return out


def _shape(recipe: Recipe) -> Design:
    """The design of a recipe without rows."""
    cuts = cuts_of(recipe.spec, recipe.response)
    made = [
        Predictor(
            np.empty((len(part.columns), 0)),
            tuple(column.name for column in part.columns),
            parameter=part.parameter,
            cuts=cuts.get(part.parameter),
        )
        for part in recipe.predictors
    ]
    factors = tuple(
        Factor(
            factor.name,
            terms_of(factor.terms),
            np.empty((sum(len(term.columns) for term in factor.terms), 0)),
            np.empty(0, dtype=np.int32),
            factor.levels.height,
        )
        for factor in recipe.factors
    )
    return Design(np.empty(0), None, None, None, made[0], tuple(made[1:]), factors)
