"""Things that stay where they are, one for each part of the rows, and answer: with workers, or here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import polars as pl

A = TypeVar("A")
Thing_co = TypeVar("Thing_co", covariant=True)


class Staying(Protocol[Thing_co]):
    """One thing for each part of the rows. What is asked and made can be pickled, and depends on the thing alone."""

    def ask(self, question: Callable[[Thing_co], A], /) -> list[A]:
        """One answer a thing, in their order; raises the first error, ResourceError where one was lost for good."""

    def made(self, make: Callable[[Thing_co], A], /) -> Staying[A]:
        """New things, each where the one is that it was made from."""

    def chosen(self, marks: Sequence[bool], /) -> Staying[Thing_co]:
        """Some of them."""

    def release(self) -> None:
        """Let them go: nothing is asked of them any more."""


@runtime_checkable
class Remembering(Protocol):
    """A thing that remembers what it was asked, which changes the work and not the answers.

    memory   can be pickled, and put into the same thing made anew: who keeps things as files keeps it beside them
    """

    memory: Any


class Holders(Protocol):
    """Who can hold the rows of a frame, in parts that no key is divided between.

    name     what they are called in messages
    memory   bytes that the smallest of them may use, None without a limit
    """

    @property
    def name(self) -> str: ...
    @property
    def memory(self) -> int | None: ...

    def spread(self, rows: Any, keys: Sequence[str], needed: int) -> Staying[pl.DataFrame]:
        """The rows of a lazy frame of narwhals, about `needed` bytes, in parts by keys: all rows of a key in one."""


@dataclass(frozen=True, slots=True, eq=False)
class AtOnce(Staying[Thing_co]):
    """Things in this process."""

    things: tuple[Thing_co, ...]

    def ask(self, question: Callable[[Thing_co], A]) -> list[A]:
        """The answers one after the other."""
        return [question(thing) for thing in self.things]

    def made(self, make: Callable[[Thing_co], A]) -> Staying[A]:
        """New things."""
        return AtOnce(tuple(map(make, self.things)))

    def chosen(self, marks: Sequence[bool]) -> Staying[Thing_co]:
        """Some of them."""
        return AtOnce(tuple(thing for thing, mark in zip(self.things, marks, strict=True) if mark))

    def release(self) -> None:
        """Nothing is to be done."""
