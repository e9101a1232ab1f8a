"""How far long work has come: stages report to whoever listens, a line on the terminal or nobody.

Work announces itself with `stage` and `advance`; `listening` decides for one call who hears it. Threads that a stage
starts do not report: their caller does, as their results come in.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Protocol, TextIO

from polars_glmm.logs import tell

PATIENCE = 2.0
"""Seconds of work before anything is shown."""
_REFRESH = 0.1
_WIDTH = 24


class Progress(Protocol):
    """Who hears of the work."""

    def begin(self, stage: str, total: float | None) -> None:
        """A stage of `total` steps begins, or of unknown length; stages may nest."""

    def advance(self, steps: float) -> None:
        """So many more steps of the innermost stage are done."""

    def end(self) -> None:
        """The innermost stage is over."""


class Silent:
    """Nobody listens."""

    def begin(self, stage: str, total: float | None) -> None:
        """Nothing."""

    def advance(self, steps: float) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class Line:
    """One line of a terminal, rewritten as the work goes on and wiped at the end.

    patience   seconds before it first appears
    """

    def __init__(self, stream: TextIO, patience: float, clock: Callable[[], float] = monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._began = clock()
        self._next = self._began + patience
        self._stages: list[tuple[str, float | None]] = []
        self._done: list[float] = []
        self._shown = False

    def begin(self, stage: str, total: float | None) -> None:
        """Show the stage behind those it is part of."""
        self._stages.append((stage, total))
        self._done.append(0.0)
        self._draw()

    def advance(self, steps: float) -> None:
        """Move the innermost stage on."""
        if self._done:
            self._done[-1] += steps
        self._draw()

    def end(self) -> None:
        """Forget the innermost stage."""
        self._stages.pop()
        self._done.pop()

    def wipe(self) -> None:
        """Leave the terminal as it was."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _draw(self) -> None:
        now = self._clock()
        if now < self._next or not self._stages:
            return
        self._next = now + _REFRESH
        parts = [_text(*stage, done) for stage, done in zip(self._stages, self._done, strict=True)]
        self._shown = True
        self._write(f"\r\x1b[K{' · '.join(parts)}  {_duration(now - self._began)}")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal has gone: the work goes on
            self._next = float("inf")


_SILENT = Silent()
_listener: ContextVar[Progress] = ContextVar("polars_glmm_progress", default=_SILENT)


@contextmanager
def listening(asked: bool | None) -> Iterator[None]:  # noqa: FBT001  # the value of control.progress
    """Within, stages are shown: always (True), never (False), or for long work at a terminal (None).

    A call within a call reports to the outer one.
    """
    stream = sys.stderr
    wanted = asked if asked is not None else bool(stream is not None and stream.isatty())
    if not wanted or stream is None or not isinstance(_listener.get(), Silent):
        yield
        return
    line = Line(stream, 0.0 if asked else PATIENCE)
    token = _listener.set(line)
    try:
        yield
    finally:
        _listener.reset(token)
        line.wipe()


@contextmanager
def stage(name: str, total: float | None = None) -> Iterator[None]:
    """A stretch of work with a name, of `total` steps where that is known."""
    listener, began = _listener.get(), monotonic()
    listener.begin(name, total)
    try:
        yield
    finally:
        listener.end()
        tell("stage", name, logging.DEBUG, stage=name, seconds=monotonic() - began)


def advance(steps: float = 1.0) -> None:
    """Report steps of the innermost stage."""
    _listener.get().advance(steps)


def _text(name: str, total: float | None, done: float) -> str:
    if total is None or total <= 0:
        return f"{name} {done:,.0f}" if done else name
    share = min(done / total, 1.0)
    filled = round(share * _WIDTH)
    return f"{name} [{'#' * filled}{'.' * (_WIDTH - filled)}] {100 * share:3.0f}%"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
