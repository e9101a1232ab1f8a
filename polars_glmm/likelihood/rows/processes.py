"""Shards in processes of this machine, the first in this one: a pass over rows then uses as many cores.

A child is a fresh interpreter that imports this package and nothing of the user's, so that a script needs no guard of
its main module. It reads at all times and ends with the stream, so it outlives nobody, however this process ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from polars_glmm.errors import ResourceError
from polars_glmm.likelihood.rows import wire
from polars_glmm.likelihood.rows.blocks import RowBlocks
from polars_glmm.likelihood.rows.shards import Asking, Shard

_MARK = "POLARS_GLMM_WORKER"
"""Set in children, which start none of their own."""
_CODE = (
    "import json, signal, sys, types; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "sys.path[:], name, places = json.loads(sys.stdin.buffer.readline()); "
    "package = sys.modules[name] = types.ModuleType(name); package.__path__ = places; "
    "from polars_glmm.likelihood.rows.worker import serve; serve()"
)
"""The rooms of the package without its front door (which brings Polars): 1.4 s and 89 MB instead of 3.1 and 116."""
_PACKAGE = sys.modules[__name__.partition(".")[0]]
_PATIENCE = 5.0
"""Seconds that a child is given to end by itself."""


class Child:
    """A process that holds a shard."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # this interpreter
            [sys.executable or "python", "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, _MARK: str(os.getpid())},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to: Any = self._process.stdin
        self._from: Any = self._process.stdout
        try:
            self._to.write(json.dumps([sys.path, _PACKAGE.__name__, list(_PACKAGE.__path__)]).encode() + b"\n")
            self._to.flush()
        except OSError:  # ended already, which whoever waits for it will see
            return

    def send(self, thing: Any) -> None:
        """Say something; raises ResourceError where the process is gone."""
        try:
            wire.send(self._to, thing)
        except OSError as error:
            raise self._lost() from error

    def receive(self) -> Any:
        """What it says next; raises ResourceError where the process is gone."""
        try:
            return wire.opened(wire.receive(self._from))
        except (EOFError, OSError) as error:
            raise self._lost() from error

    def close(self) -> None:
        """End the process."""
        for stream in (self._to, self._from):
            try:
                stream.close()
            except OSError:  # what could not be said to a process that is gone
                continue
        try:
            self._process.wait(0.05)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _lost(self) -> ResourceError:
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            code = 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        why = " (often for want of memory)" if code == -9 else ""  # SIGKILL
        msg = (
            f"A process that held a part of the rows {how}{why} while the fit was running. Fit again, or in one "
            "process with control=Control(rows=Rows(processes=1))."
        )
        return ResourceError(msg)


class Processes:
    """The carrier of shards in this process and its children."""

    def __init__(self, own: RowBlocks, children: Sequence[Child]) -> None:
        self._own, self._children = Shard(own), tuple(children)

    def ask(self, question: Asking) -> list[Any]:
        """All at the same time; the first error in the order of the shards is raised."""
        for child in self._children:
            child.send(question)
        answers = [_own_answer(self._own, question), *(child.receive() for child in self._children)]
        for fine, answer in answers:
            if not fine:
                raise answer
        return [answer for _, answer in answers]


def _own_answer(shard: Shard, question: Asking) -> tuple[bool, Any]:
    try:
        return True, shard.answer(question)
    except Exception as error:  # noqa: BLE001  # raised again when the others have answered
        return False, error


@contextmanager
def children(count: int) -> Iterator[list[Child]]:
    """Processes that are there until the block is left, however that is. Raises ResourceError where none can start."""
    made: list[Child] = []
    try:
        try:
            for _ in range(count):
                made.append(Child())  # noqa: PERF401  # those that did start must end
        except (OSError, ValueError) as error:
            msg = (
                f"No process can be started to hold a part of the rows ({error}). Fit in this one with "
                "control=Control(rows=Rows(processes=1))."
            )
            raise ResourceError(msg) from error
        yield made
    finally:
        for child in made:
            child.close()


def can_start() -> bool:
    """Whether this process may start children unasked: a plain interpreter that is nobody's worker."""
    name = os.path.basename(sys.executable or "").lower()  # noqa: PTH119  # empty where Python is embedded
    multiprocessing = sys.modules.get("multiprocessing.process")
    worker = _MARK in os.environ or (multiprocessing is not None and multiprocessing.parent_process() is not None)
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False) and not worker
