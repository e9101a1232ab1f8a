"""Answers of many models: some made together and kept in arrays, some made singly; one is taken out when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
import polars as pl

from polars_glmm.answer.copies import KeptWhole
from polars_glmm.answer.record import Answer
from polars_glmm.answer.tally import Fingerprint, GroupSize
from polars_glmm.columns.named import column
from polars_glmm.design.pairing import about
from polars_glmm.errors import GlmmError, counted, enumerate_names
from polars_glmm.frames.kept import kept_rows
from polars_glmm.linalg.side_by_side import of_model
from polars_glmm.notes import Note

if TYPE_CHECKING:
    from polars_glmm.control import Control
    from polars_glmm.design.by_key.learn import Dropped, Paired
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.likelihood.many.estimate import BatchEstimate
    from polars_glmm.spec.call import Call
    from polars_glmm.typing import BoolVec, IntVec, Mat, Scalar

Outcome: TypeAlias = Answer | GlmmError

MOST_NAMED = 3
"""Keys named in a warning; the others are counted."""


@dataclass(frozen=True, eq=False)
class KeyedRows(KeptWhole):
    """The rows of a frame by key: order[starts[k] : starts[k + 1]] are those of key k; no frame after pickling.

    lazy, keys   where the rows are read instead, and the keys that tell them apart; None where they are in `frame`
    """

    frame: pl.DataFrame | None
    order: IntVec
    starts: IntVec
    lazy: pl.LazyFrame | None = None
    keys: pl.DataFrame | None = None

    @classmethod
    def of(cls, frame: pl.DataFrame, code: IntVec, n_keys: int) -> KeyedRows:
        """code (n,) numbers the key of every row."""
        sorted_already = bool((code[1:] >= code[:-1]).all())
        order = np.arange(len(code)) if sorted_already else np.argsort(code, kind="stable")
        return cls(frame, order, np.concatenate([[0], np.cumsum(np.bincount(code, minlength=n_keys))]))

    @classmethod
    def elsewhere(cls, lazy: pl.LazyFrame, keys: pl.DataFrame) -> KeyedRows:
        """The rows of a frame that is read when they are asked for."""
        return cls(None, np.empty(0, np.intp), np.empty(0, np.intp), lazy, keys)

    def source(self, k: int) -> pl.LazyFrame:
        """The rows of key k, where they are read."""
        assert self.lazy is not None
        assert self.keys is not None
        return self.lazy.filter(column(name) == value for name, value in self.keys.row(k, named=True).items())

    def places(self, k: int) -> IntVec:
        """Places in the frame of the rows of key k, in its order."""
        return self.order[self.starts[k] : self.starts[k + 1]]

    def part(self, k: int) -> pl.DataFrame:
        """The rows of key k."""
        assert self.frame is not None
        places = self.places(k)
        if len(places) and places[-1] - places[0] == len(places) - 1:
            return self.frame.slice(int(places[0]), len(places))
        return self.frame[places]

    def __getstate__(self) -> dict[str, Any]:
        nothing = np.empty(0, np.intp)
        return {"frame": None, "order": nothing, "starts": nothing, "lazy": None, "keys": None}


@dataclass(frozen=True, eq=False)
class Batch(KeptWhole):
    """Models that were fitted together; every one of them is an answer.

    keys (M,)            their numbers in the collection
    recipe               common to all, with the levels of all models one after the other
    estimate             the numbers
    notes                common to all; dropped: those of each
    moments (M, 5), paired   of the fingerprints;  level_sizes: per factor the observations of each level (G,)
    kept (n,)            rows of the frame that the models use, or None for all of them
    """

    keys: IntVec
    recipe: Recipe
    estimate: BatchEstimate
    common: tuple[Note, ...]
    dropped: Dropped
    moments: Mat
    paired: Paired
    level_sizes: tuple[IntVec, ...]
    kept: BoolVec | None
    rows: KeyedRows
    control: Control
    call: Call
    seconds: float

    def __len__(self) -> int:
        return len(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"kept": None}

    def notes(self, k: int) -> tuple[Note, ...]:
        """All notes of model k: from the data, then from the estimation."""
        return (*self.dropped.notes(k), *self.common, *self.estimate.notes_of(k))

    def one(self, k: int) -> Answer:
        """Model k as an answer of its own."""
        recipe = self.recipe
        factors, groups = [], []
        for factor, counts, of_all in zip(recipe.factors, self.estimate.model_levels, self.level_sizes, strict=True):
            own = of_model(counts, k)
            factors.append(replace(factor, levels=factor.levels[own]))
            sizes = of_all[own]
            groups.append(GroupSize(factor.name, len(sizes), int(sizes.min()), float(sizes.mean()), int(sizes.max())))
        rows = source = kept = None
        if self.rows.lazy is not None and self.control.keep != "none":
            source = self.rows.source(int(self.keys[k]))
        if self.rows.frame is not None and self.control.keep != "none":
            key = int(self.keys[k])
            rows, source = kept_rows(self.rows.part(key), self.control)
            if rows is not None and self.kept is not None:
                kept = self.kept[self.rows.places(key)]
                kept = None if kept.all() else kept
        return Answer(
            recipe=replace(recipe, factors=tuple(factors)),
            estimate=self.estimate.one(k),
            notes=self.notes(k),
            n_dropped=int(self.dropped.missing[k]),
            seconds=self.seconds,
            control=self.control,
            call=self.call,
            groups=tuple(groups),
            fingerprint=Fingerprint(tuple(self.moments[k].tolist()), self.paired.of(k), about(recipe)),
            rows=rows,
            source=source,
            kept=kept,
        )


@dataclass(frozen=True, eq=False)
class Outcomes(Sequence["Outcome"]):
    """One outcome per key: of a batch where one answers for it, else of its own.

    batch_of (K,), place_of (K,): which batch (−1: none) and which of its models
    """

    n: int
    batches: tuple[Batch, ...]
    singles: dict[int, Outcome]
    batch_of: IntVec = field(init=False)
    place_of: IntVec = field(init=False)

    def __post_init__(self) -> None:
        batch_of, place_of = np.full(self.n, -1), np.zeros(self.n, dtype=np.intp)
        for i, batch in enumerate(self.batches):
            batch_of[batch.keys] = i
            place_of[batch.keys] = np.arange(len(batch))
        object.__setattr__(self, "batch_of", batch_of)
        object.__setattr__(self, "place_of", place_of)

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, k: int) -> Outcome: ...
    @overload
    def __getitem__(self, k: slice) -> Sequence[Outcome]: ...
    def __getitem__(self, k: int | slice) -> Outcome | Sequence[Outcome]:
        if isinstance(k, slice):
            return [self[i] for i in range(*k.indices(self.n))]
        k = range(self.n)[k]
        i = int(self.batch_of[k])
        return self.singles[k] if i < 0 else self.batches[i].one(int(self.place_of[k]))

    def __iter__(self) -> Iterator[Outcome]:
        return (self[k] for k in range(self.n))

    def single_answers(self) -> dict[int, Answer]:
        """Answers that were made singly, by the number of their key."""
        return {k: outcome for k, outcome in sorted(self.singles.items()) if not isinstance(outcome, GlmmError)}

    @property
    def fitted(self) -> BoolVec:
        """Keys that have a model, (K,)."""
        marks = self.batch_of >= 0
        marks[list(self.single_answers())] = True
        return marks


@dataclass(frozen=True, eq=False, repr=False)
class Answers:
    """One model for the rows of each key.

    keys       key columns under their own names and dtypes, one row per model, sorted
    outcomes   per key the answer, or the error that kept it from being made; answers that were made together are kept
               in arrays, and one is built when it is asked for
    n_unkeyed  rows in no model, because a key is null
    """

    keys: pl.DataFrame
    outcomes: Outcomes
    n_unkeyed: int = 0

    def __len__(self) -> int:
        return len(self.outcomes)

    def numbered(self) -> Iterator[tuple[int, Answer]]:
        """The answers with the numbers of their keys."""
        for k in range(len(self.outcomes)):
            if not isinstance(self.outcomes.singles.get(k), GlmmError):
                outcome = self.outcomes[k]
                assert not isinstance(outcome, GlmmError)
                yield k, outcome


def collected_notes(answers: Answers) -> list[Note]:
    """Per code one note that names the first keys it concerns."""
    found: dict[str, list[int]] = {}
    for k, outcome in answers.outcomes.singles.items():
        if isinstance(outcome, GlmmError):
            codes = {f"failed ({type(outcome).__name__})"}
        else:
            codes = {note.code for note in outcome.notes if not note.quiet}
        for code in codes:
            found.setdefault(code, []).append(k)
    for batch in answers.outcomes.batches:
        codes = {note.code for note in (*batch.common, *batch.estimate.notes) if not note.quiet} | (
            {"singular"} if batch.estimate.singular else set()
        )
        for code in codes:
            found.setdefault(code, []).extend(batch.keys.tolist())

    def named(places: list[int]) -> str:
        rows = [answers.keys.row(k) for k in sorted(places)[: MOST_NAMED + 1]]
        names = [str(scalar(row)) for row in rows]
        return enumerate_names(names + ["…"] * (len(places) - len(names)), limit=MOST_NAMED)

    notes = [
        Note(code, f"{code}: {len(places)} ({named(places)}).")
        for code, places in sorted(found.items(), key=lambda item: min(item[1]))
    ]
    if answers.n_unkeyed:
        belongs = "belongs" if answers.n_unkeyed == 1 else "belong"
        rows = counted(answers.n_unkeyed, "row")
        notes.append(Note("null_key", f"{rows} with a null key {belongs} to no model."))
    return notes


def scalar(row: tuple[Scalar, ...]) -> Scalar:
    """A key of one column is its value, of several a tuple."""
    return row[0] if len(row) == 1 else row
