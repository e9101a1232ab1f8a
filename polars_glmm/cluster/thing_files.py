"""Things of parts kept as files on a worker's disk, made from each other and asked there.

A file is written whole under another name and then renamed, so that tasks that run twice, at once or again, leave one
that is right. Arrays are read as views of their file: what a question does not look at is not read.
"""

from __future__ import annotations

import os
import pickle
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from tempfile import gettempdir
from typing import Any, BinaryIO, NamedTuple
from uuid import uuid4

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError, ResourceError
from polars_glmm.frames.staying import Remembering
from polars_glmm.memory import readable
from polars_glmm.spill import FULL

NAMES = ("polars_glmm", "polars", "numpy", "scipy")
"""Packages of which workers have the versions that this process has."""
_FOLDER = "polars-glmm-"
_ALIGN = 64
_SIZE = 8


class Step(NamedTuple):
    """How a thing is made from the one before it: a number of its own, and the function, pickled."""

    number: int
    make: bytes


class Digest(NamedTuple):
    """What tells the rows of a part from others, in whatever order they come: how many, and the sum of their hashes."""

    n_rows: int
    total: int

    @classmethod
    def of(cls, rows: pl.DataFrame) -> Digest:
        """The digest of rows."""
        return cls(rows.height, int(np.add.reduce(rows.hash_rows().to_numpy(), dtype=np.uint64)) if rows.width else 0)


class Answered(NamedTuple):
    """What a part answers: whether it could, the answer or the error, and the digest of its rows where it read them.

    kind   "answer", "error", or "absent": the part is not on this disk, and there are no rows to make it from
    body   pickled
    """

    part: int
    kind: str
    body: bytes = b""
    digest: Digest | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of parts, with all that a worker has to know.

    run        the fit's name, which its folders have;  versions: of the packages where it was asked
    steps      how the thing is made from the rows of its part
    question   pickled, or None where the thing is only to be made
    released   numbers of steps whose things nobody asks any more
    ended      names of fits that are over
    """

    run: str
    versions: tuple[tuple[str, str], ...]
    steps: tuple[Step, ...]
    question: bytes | None
    released: frozenset[int] = frozenset()
    ended: frozenset[str] = frozenset()

    def done(self, part: int, rows: Callable[[], pl.DataFrame] | None = None) -> Answered:
        """The answer of a part, from its file, or from its rows where it has none."""
        files, digest = _Files(folders(self.run)[part % len(homes())], part), list[Digest]()

        def read() -> pl.DataFrame:
            if rows is None:
                raise _AbsentError
            found = rows()
            digest.append(Digest.of(found))
            return found

        try:
            self._require_same_versions()
            thing = self._thing(files, len(self.steps), read)
            body = pickle.dumps(None if self.question is None else _asked(files, self, thing), protocol=5)
            kind = "answer"
        except _AbsentError:
            return Answered(part, "absent")
        except Exception as error:  # noqa: BLE001  # raised again where it was asked
            body, kind = pickle.dumps(_worded(error, files.folder), protocol=5), "error"
        for number in self.released:
            files.remove(number)
        for name in self.ended:
            clear(name)
        return Answered(part, kind, body, digest[0] if digest else None)

    def _thing(self, files: _Files, n_steps: int, rows: Callable[[], pl.DataFrame]) -> Any:
        """The thing after some steps."""
        if not n_steps:
            return rows()
        step = self.steps[n_steps - 1]
        path = files.thing(step.number)
        try:
            return read_file(path)
        except FileNotFoundError:
            before = self._thing(files, n_steps - 1, rows)
        thing = pickle.loads(step.make)(before)  # noqa: S301  # written by this package
        if step.number not in self.released:
            write_file(path, thing)
        return thing

    def _require_same_versions(self) -> None:
        here = tuple((name, str(import_module(name).__version__)) for name, _ in self.versions)
        if here != self.versions:
            raise ModelError(other_versions(socket.gethostname(), dict(here), dict(self.versions)))


class _AbsentError(Exception):
    """A part is not on this disk."""


class _Files(NamedTuple):
    """The files of a part in its folder."""

    folder: Path
    part: int

    def thing(self, number: int) -> Path:
        """Of the thing that a step made."""
        return self.folder / f"{self.part}-{number}.thing"

    def memory(self, number: int) -> Path:
        """Of what that thing remembers."""
        return self.folder / f"{self.part}-{number}.memory"

    def remove(self, number: int) -> None:
        """Remove both."""
        self.thing(number).unlink(missing_ok=True)
        self.memory(number).unlink(missing_ok=True)


def _asked(files: _Files, work: Work, thing: Any) -> Any:
    """The answer of a thing, which remembers what it did last time and will remember this time."""
    assert work.question is not None
    question = pickle.loads(work.question)  # noqa: S301  # written by this package
    if not isinstance(thing, Remembering):
        return question(thing)
    path, before = files.memory(work.steps[-1].number), b""
    try:
        before = path.read_bytes()
        thing.memory = pickle.loads(before)  # noqa: S301  # written by this package
    except FileNotFoundError:
        pass
    answer = question(thing)
    after = pickle.dumps(thing.memory, protocol=5)
    if after != before:
        _whole(path, lambda file: file.write(after))
    return answer


def _worded(error: Exception, folder: Path) -> Exception:
    """A full disk in words, any other error as it is."""
    if isinstance(error, OSError) and error.errno in FULL:
        free = readable(shutil.disk_usage(folder.parent).free)
        return ResourceError(
            f"The disk of {folder.parent} on {socket.gethostname()} is full: rows that stay are kept there "
            f"({free} are free). Free some space, give the cluster another folder for local files, or let the rows be "
            "read out with control=Control(rows=Rows(stay=False))."
        )
    return error


def other_versions(place: str, there: dict[str, str], here: dict[str, str]) -> str:
    """That a worker's packages are not those of this process."""
    other = [name for name in here if there[name] != here[name]]
    have = ", ".join(f"{name} {there[name]}" for name in other)
    want = ", ".join(f"{name} {here[name]}" for name in other)
    return f"The worker {place} has {have}, this process {want}: install the same for rows to stay."


def homes() -> list[Path]:
    """The folders for local files that an executor was given, else the system's place for temporary files.

    Spark removes those of an executor with it, whatever is in them.
    """
    return [Path(name) for name in os.environ.get("SPARK_LOCAL_DIRS", "").split(",") if name] or [Path(gettempdir())]


def folders(run: str) -> list[Path]:
    """Where a fit keeps its things, one folder a disk."""
    return [home / f"{_FOLDER}{run}" for home in homes()]


def clear(run: str) -> None:
    """Remove what a fit kept here."""
    for folder in folders(run):
        shutil.rmtree(folder, ignore_errors=True)


def write_file(path: Path, thing: Any) -> None:
    """Keep a thing as a file: sizes, the pickle, and the memory of arrays, each at a multiple of 64 bytes."""
    buffers: list[pickle.PickleBuffer] = []
    parts: list[Any] = [_pickled(thing, buffers.append)]
    parts += [buffer.raw() for buffer in buffers]
    sizes = np.array([len(parts), *(memoryview(part).nbytes for part in parts)], dtype=np.int64)

    def write(file: BinaryIO) -> None:
        file.write(sizes.tobytes())
        for part in parts:
            file.write(bytes(-file.tell() % _ALIGN))
            file.write(part)

    _whole(path, write)


def read_file(path: Path) -> Any:
    """The thing of a file; its arrays are private views of it."""
    with path.open("rb") as file:
        whole = memoryview(mmap(file.fileno(), 0, access=ACCESS_COPY))
    n = int(np.frombuffer(whole[:_SIZE], np.int64)[0])
    at, parts = _SIZE * (1 + n), []
    for size in np.frombuffer(whole[_SIZE:at], np.int64).tolist():
        at += -at % _ALIGN
        parts.append(whole[at : at + size])
        at += size
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  # written by this package


def size_of(thing: Any) -> int:
    """Bytes of a thing, the memory of its arrays among them."""
    buffers: list[pickle.PickleBuffer] = []
    return len(_pickled(thing, buffers.append)) + sum(buffer.raw().nbytes for buffer in buffers)


class _Pickler(pickle.Pickler):
    """Arrays that are parts of others are written as arrays of their own, so that they can be views of the file."""

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is np.ndarray and not thing.flags.forc and not thing.dtype.hasobject:
            return np.ascontiguousarray(thing).__reduce_ex__(5)
        return NotImplemented


def _pickled(thing: Any, keep: Callable[[pickle.PickleBuffer], None]) -> memoryview:
    out = BytesIO()
    _Pickler(out, protocol=5, buffer_callback=keep).dump(thing)
    return out.getbuffer()


def _whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """A file that is there whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{uuid4().hex}")
    try:
        with unfinished.open("wb") as file:
            write(file)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def in_order(found: Sequence[Answered], parts: Sequence[int]) -> list[Answered]:
    """Answers by part, in the order of the parts."""
    by_part = {one.part: one for one in found}
    return [by_part[part] for part in parts]
