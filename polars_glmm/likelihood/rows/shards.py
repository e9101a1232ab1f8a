"""Rows in shards, each all rows of some levels, that answer for themselves; where they are is their carrier's matter.

One question goes to all shards, and their answers become one in the order of the shards, so that the same shards give
the same bits. A level is in one shard. What an evaluation ended at stays with its shard under the question's number;
a shard that does not remember begins anew, which changes the work and not the value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, NamedTuple, Protocol

import numpy as np

from polars_glmm.likelihood.rows.blocks import RowBlocks
from polars_glmm.likelihood.rows.holder import A, Located, Pass, PerLevel, placed_levels
from polars_glmm.typing import Cube, IntVec

_REMEMBERED = 4
"""Evaluations whose ends a shard remembers: a search goes back by a step or two."""


class View(NamedTuple):
    """Which of a shard's rows are meant: with what couples them or without, and what share of them."""

    coupled: bool = True
    share: float = 1.0


WHOLE = View()


class Asking(NamedTuple):
    """A pass on its way to the shards, with a number of its own."""

    number: int
    view: View
    asked: Pass[Any, Any] | Located[Any, Any]


class Handle(NamedTuple):
    """What a question ended at, or the slopes that were asked for: what its shards remember."""

    number: int
    slopes: bool


class Carrier(Protocol):
    """What brings questions to the shards and their answers back, in the order of the shards."""

    def ask(self, question: Asking) -> list[Any]:
        """One answer a shard; raises what a shard raises, and ResourceError where one was lost."""


@dataclass(slots=True, eq=False)
class Remembered:
    """What a shard remembers of its last questions: where they ended, and the slopes of one."""

    kept: OrderedDict[Handle, Any] = field(default_factory=OrderedDict)

    def keep(self, number: int, found: Any) -> Handle:
        """Remember something, and forget what is old."""
        handle = Handle(number, isinstance(found, list))
        self.kept[handle] = found
        old = [other for other in self.kept if other.slopes == handle.slopes]
        for other in old[: -1 if handle.slopes else -_REMEMBERED]:
            del self.kept[other]
        return handle

    def recall(self, handle: Any) -> Any:
        """What a handle stands for, or None."""
        if handle in self.kept:
            self.kept.move_to_end(handle)  # what is used is not old
        return self.kept.get(handle)


@dataclass(frozen=True, slots=True, eq=False)
class ShardRows(RowBlocks):
    """The rows of a shard as a pass meets them, while one question is answered."""

    memory: Remembered
    number: int

    def keep(self, found: Any) -> Handle:
        """A handle under which the shard remembers."""
        return self.memory.keep(self.number, found)

    def recall(self, handle: Any) -> Any:
        """What the shard remembers, or None."""
        return self.memory.recall(handle)


class Shard:
    """All rows of some levels, numbered from 0, and what is remembered of them (`frames.staying.Remembering`)."""

    def __init__(self, rows: RowBlocks) -> None:
        self._views, self.memory = {WHOLE: rows}, Remembered()

    @property
    def n_rows(self) -> int:
        return self._views[WHOLE].n_rows

    def answer(self, question: Asking) -> Any:
        """The answer of these rows."""
        rows = self._view(question.view)
        memory = self.memory if question.view == WHOLE else Remembered()
        return question.asked.of(ShardRows(rows.units, rows.order, rows.n_rows, rows.levels, memory, question.number))

    def _view(self, view: View) -> RowBlocks:
        if view not in self._views:
            if view.share < 1.0:
                rows = self._view(view._replace(share=1.0))
                self._views[view] = rows.thinned(max(1, round(view.share * rows.n_rows)))
            else:
                self._views[view] = self._views[WHOLE].uncoupled()
        return self._views[view]


class Together(NamedTuple):
    """What the driver knows of rows in shards.

    n_rows   of all shards;  n_levels   of each factor
    places   per shard and factor the places of its levels among all, as a slice or one by one
    """

    n_rows: int
    n_levels: tuple[int, ...]
    places: tuple[tuple[slice | IntVec, ...], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Shards:
    """The holder of rows in shards."""

    carrier: Carrier
    whole: Together
    view: View = WHOLE
    numbers: count[int] = field(default_factory=lambda: count(1))

    @property
    def n_rows(self) -> int:
        return max(1, round(self.whole.n_rows * self.view.share))

    def ask(self, question: Pass[Any, A]) -> A:
        """The answer for all rows, one round."""
        return question.add(self._parts(question))

    def per_level(self, question: Pass[Any, PerLevel]) -> PerLevel:
        """Arrays over all levels of each factor, in the order of its levels."""
        parts = self._parts(question)
        return [
            [self._placed(f, own) for f, own in enumerate(zip(*kind, strict=True))]
            for kind in zip(*parts, strict=True)
        ]

    def located(self, question: Located[Any, A]) -> A:
        """An answer by the levels of all shards, one round."""
        return question.placed(self._parts(question), self.whole.n_levels, self.whole.places)

    def uncoupled(self) -> Shards:
        """The same rows for the model without random effects."""
        return replace(self, view=self.view._replace(coupled=False))

    def thinned(self, n_rows: int) -> Shards:
        """About n_rows rows, spread evenly."""
        return replace(self, view=self.view._replace(share=min(1.0, n_rows / self.whole.n_rows)))

    def _parts(self, question: Pass[Any, Any] | Located[Any, Any]) -> list[Any]:
        return self.carrier.ask(Asking(next(self.numbers), self.view, question))

    def _placed(self, f: int, parts: Sequence[Cube]) -> Cube:
        return placed_levels(parts, self.whole.n_levels[f], [places[f] for places in self.whole.places])


class AtHand:
    """Shards in this process."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = tuple(shards)

    def ask(self, question: Asking) -> list[Any]:
        """The answers one after the other."""
        return [shard.answer(question) for shard in self._shards]


def cut(rows: RowBlocks, parts: int) -> tuple[list[RowBlocks], Together]:
    """Rows of one factor or none in at most `parts` shards of about as many rows each, unit by unit."""
    ends = rows.row_ends()
    firsts = np.unique(np.searchsorted(ends, rows.n_rows * np.arange(parts) / parts, side="right"))
    shards, places = [], []
    for a, b in zip(firsts, [*firsts[1:], len(rows.units)], strict=True):
        own = rows.part(int(a), int(b))
        shards.append(own)
        both = zip(rows.levels[a], rows.levels[b - 1], strict=True)
        places.append(tuple(slice(first.start, last.stop) for first, last in both))
    n_levels = tuple(levels.stop for levels in rows.levels[-1])
    return shards, Together(rows.n_rows, n_levels, tuple(places))
