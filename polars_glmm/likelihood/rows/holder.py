"""Who has the rows: a question goes to all of them, and one answer comes back.

A *pass* is a small record that can be sent to where rows are: what it asks of some rows, and how the answers for
several sets of whole levels become one. A *holder* has the rows, in memory, on disk or as shards elsewhere, and answers
passes. What the next evaluation may start from (modes) stays with the holder, behind a handle that nobody else reads:
it changes the work, not the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np

from polars_glmm.typing import Cube, IntVec, Mat

A = TypeVar("A")
Where_contra = TypeVar("Where_contra", contravariant=True)
PerLevel = list[list[Cube]]
"""Arrays with the levels of a factor last, by kind and factor."""
Places = Sequence[Sequence[slice | IntVec]]
"""Per set of rows and factor the places of its levels among all, as a slice or one by one."""


class Pass(Protocol[Where_contra, A]):
    """A question to all rows of a model: it can be pickled, and its answer depends on the rows alone."""

    def of(self, rows: Where_contra, /) -> A:
        """The answer for some rows, all rows of each of their levels."""

    def add(self, parts: Sequence[A], /) -> A:
        """The answer for several sets of rows together, from their own in the order of the sets."""


class Located(Protocol[Where_contra, A]):
    """A question whose answers know levels by their numbers: it can be pickled."""

    def of(self, rows: Where_contra, /) -> A:
        """The answer for some rows, all rows of each of their levels, which are numbered from 0."""

    def placed(self, parts: Sequence[A], n_levels: Sequence[int], places: Places, /) -> A:
        """The answer for several sets of rows: by factor how many levels there are, and by set and factor where."""


class Holder(Protocol):
    """Who has the rows of a model and answers for them; n_rows of them."""

    @property
    def n_rows(self) -> int: ...

    def ask(self, question: Pass[Any, A], /) -> A:
        """The answer for all rows."""

    def per_level(self, question: Pass[Any, PerLevel], /) -> PerLevel:
        """Arrays over all levels of each factor, in the order of its levels."""

    def located(self, question: Located[Any, A], /) -> A:
        """An answer by the levels of each factor, in their order."""

    def uncoupled(self) -> Holder:
        """The same rows for the model without random effects."""

    def thinned(self, n_rows: int) -> Holder:
        """About n_rows rows, spread evenly; for rows that nothing couples."""


@dataclass(frozen=True, slots=True, eq=False)
class OverBlocks(Generic[A]):
    """A pass over the blocks of rows by a function of them, known by its name, and how its answers are joined."""

    function: Callable[..., A]
    arguments: tuple[Any, ...]
    join: Callable[[Sequence[A]], A]

    def of(self, rows: Any) -> A:
        return self.function(rows.blocks(), *self.arguments)

    def add(self, parts: Sequence[A]) -> A:
        return self.join(parts)


@dataclass(frozen=True, slots=True, eq=False)
class OverLevels:
    """A pass whose function of blocks, known by its name, tells something of every level."""

    function: Callable[..., PerLevel]
    arguments: tuple[Any, ...] = ()

    def of(self, rows: Any) -> PerLevel:
        return self.function(rows.blocks(), *self.arguments)

    def add(self, parts: Sequence[PerLevel]) -> PerLevel:
        return side_by_side(parts)


def side_by_side(parts: Sequence[PerLevel]) -> PerLevel:
    """Arrays of several sets of levels, by kind and factor, as one of all levels."""
    if len(parts) == 1:
        return parts[0]
    return [[np.concatenate(own, axis=-1) for own in zip(*kind, strict=True)] for kind in zip(*parts, strict=True)]


def placed_levels(parts: Sequence[Cube], n_levels: int, places: Sequence[slice | IntVec]) -> Cube:
    """Arrays over the levels of one factor in several sets, at the places of these among all."""
    out = np.empty((*parts[0].shape[:-1], n_levels))
    for where, part in zip(places, parts, strict=True):
        out[..., where] = part
    return out


def numbered(places: Places, n_levels: Sequence[int]) -> list[list[IntVec]]:
    """Places one by one."""
    every = [np.arange(n) for n in n_levels]
    return [[own[where] for own, where in zip(every, of_set, strict=True)] for of_set in places]


def added(parts: Sequence[A]) -> A:
    """The sums of numbers, of arrays, or of tuples and lists of them."""
    return cast("A", _added(parts))


def _added(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if first is None or len(parts) == 1:
        return first
    if isinstance(first, list | tuple):
        sums = [_added(own) for own in zip(*parts, strict=True)]
        return type(first)(*sums) if hasattr(first, "_fields") else type(first)(sums)
    return sum(parts[1:], first)


def furthest(parts: Sequence[float]) -> float:
    """The largest."""
    return max(parts)


def stacked(parts: Sequence[Mat]) -> Mat:
    """Distinct rows of arrays (m, k) of rows."""
    return np.unique(np.concatenate(parts), axis=0)
