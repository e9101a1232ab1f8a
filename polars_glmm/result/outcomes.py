"""Outcomes of many fits: some made together and kept in arrays, some made singly; a Fit is made when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np

from polars_glmm.design.pairing import about
from polars_glmm.errors import GlmmError
from polars_glmm.result.data import Fingerprint, GroupSize
from polars_glmm.result.fitted import Fit

if TYPE_CHECKING:
    import polars as pl

    from polars_glmm.control import Control
    from polars_glmm.design.by_key.learn import Dropped, Paired
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.likelihood.many.estimate import BatchEstimate
    from polars_glmm.notes import Note
    from polars_glmm.result.call import Call
    from polars_glmm.typing import BoolVec, IntVec, Mat

Outcome: TypeAlias = Fit | GlmmError


@dataclass(frozen=True, eq=False)
class KeyedRows:
    """The rows of a frame by key: order[starts[k] : starts[k + 1]] are those of key k; no frame after pickling."""

    frame: pl.DataFrame | None
    order: IntVec
    starts: IntVec

    @classmethod
    def of(cls, frame: pl.DataFrame, code: IntVec, n_keys: int) -> KeyedRows:
        """code (n,) numbers the key of every row."""
        sorted_already = bool((code[1:] >= code[:-1]).all())
        order = np.arange(len(code)) if sorted_already else np.argsort(code, kind="stable")
        return cls(frame, order, np.concatenate([[0], np.cumsum(np.bincount(code, minlength=n_keys))]))

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
        return {"frame": None, "order": np.empty(0, np.intp), "starts": np.empty(0, np.intp)}


@dataclass(frozen=True, eq=False)
class Batch:
    """Models that were fitted together; every one of them is an answer.

    keys (M,)            their numbers in the collection
    recipe               common to all, with the levels of all models one after the other
    estimate             the numbers
    notes                common to all; dropped: those of each
    moments (M, 5), paired   of the fingerprints;  level_sizes (G,) observations per level
    kept (n,)            rows of the frame that the models use, or None for all of them
    """

    keys: IntVec
    recipe: Recipe
    estimate: BatchEstimate
    common: tuple[Note, ...]
    dropped: Dropped
    moments: Mat
    paired: Paired
    level_sizes: IntVec
    kept: BoolVec | None
    rows: KeyedRows
    control: Control
    call: Call
    seconds: float

    def __len__(self) -> int:
        return len(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"kept": None}

    def levels(self, k: int) -> slice:
        """The levels of model k among those of all."""
        stop = int(self.estimate.model_levels[: k + 1].sum())
        return slice(stop - int(self.estimate.model_levels[k]), stop)

    def notes(self, k: int) -> tuple[Note, ...]:
        """All notes of model k: from the data, then from the estimation."""
        return (*self.dropped.notes(k), *self.common, *self.estimate.notes_of(k))

    def fit(self, k: int) -> Fit:
        """Model k as a fit of its own."""
        from polars_glmm.result.flow import kept_rows

        own = self.levels(k)
        recipe = self.recipe
        factors, groups = [], []
        for factor in recipe.factors:
            factors.append(replace(factor, levels=factor.levels[own]))
            sizes = self.level_sizes[own]
            groups.append(GroupSize(factor.name, len(sizes), int(sizes.min()), float(sizes.mean()), int(sizes.max())))
        rows = source = kept = None
        if self.rows.frame is not None and self.control.keep != "none":
            key = int(self.keys[k])
            rows, source = kept_rows(self.rows.part(key), self.control)
            if rows is not None and self.kept is not None:
                kept = self.kept[self.rows.places(key)]
                kept = None if kept.all() else kept
        return Fit(
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
        return self.singles[k] if i < 0 else self.batches[i].fit(int(self.place_of[k]))

    def __iter__(self) -> Iterator[Outcome]:
        return (self[k] for k in range(self.n))

    def single_fits(self) -> dict[int, Fit]:
        """Fits that were made singly, by the number of their key."""
        return {k: outcome for k, outcome in sorted(self.singles.items()) if not isinstance(outcome, GlmmError)}

    @property
    def fitted(self) -> BoolVec:
        """Keys that have a model, (K,)."""
        marks = self.batch_of >= 0
        marks[list(self.single_fits())] = True
        return marks
