"""A folder on disk that lives for one call: gone on return, error and interrupt.

Killed hard, a process leaves its folder behind; the next spill in the same place removes it. A folder is known to be
in use by the lock that its process holds on a file in it, which the system lets go when the process ends however it
ends; its name tells people the process and the time.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from time import time, time_ns
from typing import Any, BinaryIO, TypeAlias

from polars_glmm.errors import ResourceError
from polars_glmm.memory import readable

PREFIX = "polars-glmm-spill-"
_LOCK = "lock"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write says where a disk has no room."""
_NEWBORN = 60.0
"""Seconds in which a folder without a lock may be one that is just being made."""

_MOST_BUFFERS = 512

Buffers: TypeAlias = "Sequence[memoryview]"


class Spill:
    """The folder of one call; `needed` bytes are what its files will take together, for messages."""

    def __init__(self, folder: Path, needed: int = 0) -> None:
        self.folder, self.needed = folder, needed
        self.written = 0
        self._files: list[SpillFile] = []

    def require(self, needed: int) -> None:
        """Raise ResourceError at once where the disk cannot hold so many bytes."""
        self.needed = needed
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise ResourceError(_no_room(self.folder.parent, needed, free))

    def create(self, name: str) -> SpillFile:
        """A new file of the folder."""
        self._files.append(SpillFile(self, self.folder / name))
        return self._files[-1]

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()

    def no_room(self) -> ResourceError:
        """The error of a write that found the disk full."""
        return ResourceError(_no_room(self.folder.parent, max(self.needed, self.written), self.written))


class SpillFile:
    """A file written from front to back, and read anywhere by many threads."""

    def __init__(self, spill: Spill, path: Path) -> None:
        self.path, self._spill, self.size = path, spill, 0
        self._file: BinaryIO = path.open("w+b", buffering=0)
        self._seeking = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return ReadFile, (self.path,)

    def append(self, data: memoryview) -> int:
        """Write at the end; where the data begin. Raises ResourceError on a full disk."""
        start = self.size
        rest = data.cast("B")
        try:
            while len(rest):
                n = self._file.write(rest)
                rest = rest[n:]
        except OSError as error:
            if error.errno in FULL:
                raise self._spill.no_room() from error
            raise
        self.size += data.nbytes
        self._spill.written += data.nbytes
        return start

    def read_into(self, buffers: Buffers, start: int) -> None:
        """Fill buffers, one after the other, from what lies at `start`."""
        left = [b.cast("B") for b in buffers]
        while left:
            n = self._read_some(left, start)
            if n == 0:
                msg = f"The spill file {self.path} was cut short by something else."
                raise OSError(msg)
            start += n
            while left and n >= len(left[0]):
                n -= len(left.pop(0))
            if n:
                left[0] = left[0][n:]

    def _read_some(self, buffers: Buffers, start: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), buffers[:_MOST_BUFFERS], start)
        with self._seeking:  # pragma: no cover  # a system without preadv
            self._file.seek(start)
            return self._file.readinto(buffers[0]) or 0  # type: ignore[attr-defined]

    def expect(self, start: int, length: int) -> None:
        """Tell the system that this will be read soon."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file.fileno(), start, length, os.POSIX_FADV_WILLNEED)

    def remove(self) -> None:
        """Close and delete, before the whole folder goes."""
        self._file.close()
        self._spill.written -= self.size
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close, and leave deleting to the folder's end."""
        self._file.close()


class ReadFile(SpillFile):
    """A file of another process's spill, to be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("rb", buffering=0)
        self._seeking = Lock()


@contextmanager
def spilling(folder: str | None) -> Iterator[Spill]:
    """A spill in `folder` (None: the system's place for temporary files); removes what dead processes left there.

    Raises ResourceError where nothing can be written.
    """
    home = Path(folder if folder is not None else tempfile.gettempdir())
    sweep(home)
    try:
        home.mkdir(parents=True, exist_ok=True)
        own = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-{time_ns()}-", dir=home))
        lock = (own / _LOCK).open("wb")
    except OSError as error:
        msg = (
            f"No temporary files can be written to {home}: {error.strerror}. Name another folder in "
            "control=Control(memory=Memory(spill=…))."
        )
        raise ResourceError(msg) from error
    spill = Spill(own)
    try:
        _hold(lock)
        yield spill
    finally:
        spill.close()
        lock.close()
        shutil.rmtree(own, ignore_errors=True)


def sweep(home: Path) -> None:
    """Remove the spills in a folder that no living process holds."""
    for path in home.glob(f"{PREFIX}*"):
        if _abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _abandoned(path: Path) -> bool:
    try:
        lock = (path / _LOCK).open("r+b")
    except FileNotFoundError:
        try:
            return time() - path.stat().st_mtime > _NEWBORN
        except OSError:  # gone meanwhile
            return False
    except OSError:  # another user's
        return False
    with lock:
        return _hold(lock)


def _hold(lock: BinaryIO) -> bool:
    """Lock a file for as long as it is open; False if another process holds it."""
    try:
        import fcntl  # noqa: PLC0415  # not on every system
    except ImportError:  # pragma: no cover  # there, an open file cannot be deleted: rmtree leaves living folders alone
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _no_room(home: Path, needed: int, had: int) -> str:
    return (
        f"The disk of {home} is full: this fit needs {readable(needed)} there for its rows, and has room for "
        f"{readable(had)}. Name another folder in control=Control(memory=Memory(spill=…)), free some space, or let "
        "more rows stay in memory with Memory(limit=…)."
    )
