"""A process that holds one shard: it answers what it is asked, and ends when nobody can ask any more."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from queue import SimpleQueue
from threading import Thread
from typing import Any, BinaryIO

import numpy as np

from polars_glmm.likelihood.rows import wire
from polars_glmm.likelihood.rows.shards import Shard
from polars_glmm.linalg.threads import one_blas_thread

_FREED = (1 << 22) - (1 << 12)
"""Numbers of an array that is made and let go: the C library then keeps memory of that size for what comes next instead
of giving it back and asking again for every block (measured: a tenth of the page faults, a fifth of system time)."""


def serve() -> None:
    """Answer over the standard streams; what else is written to the standard output goes to the standard error."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")  # the process that asks has said what there is to say
    np.empty(_FREED)
    waiting: SimpleQueue[Any] = SimpleQueue()
    Thread(target=_listen, args=(sys.stdin.buffer, waiting), daemon=True).start()
    wire.send(out, None)
    with one_blas_thread():
        shard = Shard(wire.opened(waiting.get()))
        while True:
            wire.send(out, _answer(shard, waiting.get()))


def _listen(stream: BinaryIO, waiting: SimpleQueue[Any]) -> None:
    """Read at all times: the end of the stream is the end of whoever asks, whatever is being computed."""
    try:
        while True:
            waiting.put(wire.receive(stream))
    except (EOFError, OSError):
        os._exit(0)


def _answer(shard: Shard, parts: list[Any]) -> tuple[bool, Any]:
    """Whether there is an answer, and the answer or the error."""
    try:
        return True, shard.answer(wire.opened(parts))
    except Exception as error:  # noqa: BLE001  # raised again where it was asked
        error.add_note(traceback.format_exc())
        return False, error
