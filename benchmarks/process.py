"""A command in a process of its own, with its threads pinned, its wall time and its peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent  # of the source tree
THREADS = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip
MB = 1024 if sys.platform != "darwin" else 1024**2  # units of ru_maxrss in a megabyte


class Ended(NamedTuple):
    """How a process ended; status None: stopped at the time limit."""

    status: int | None
    seconds: float
    peak_mb: float
    stderr: str


def run(command: list[str], *, threads: int, limit: float, pin: bool = True, tree: Path = ROOT) -> Ended:
    """Run the command on `threads` threads and, where the system can, as many cores, in a source tree.

    Peak memory is the child's own, as the kernel counted it. (It starts at what this process holds: keep it small.)
    """
    environment = os.environ | dict.fromkeys(THREADS, str(threads))
    with tempfile.TemporaryFile("w+") as stderr:
        begin = time.perf_counter()
        child = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=stderr,
            preexec_fn=(lambda: _pin(threads)) if pin and hasattr(os, "sched_setaffinity") else None,  # noqa: PLW1509
        )  # fmt: skip
        try:
            status, usage = _wait(child.pid, begin + limit)
        except BaseException:
            child.kill()
            raise
        seconds = time.perf_counter() - begin
        if status is None:
            child.kill()
            _, _, usage = os.wait4(child.pid, 0)
        child.returncode = -1 if status is None else status  # it is collected already
        stderr.seek(0)
        return Ended(status, seconds, usage.ru_maxrss / MB, stderr.read())


def _wait(pid: int, until: float) -> tuple[int | None, os.struct_rusage]:  # type: ignore[name-defined]
    """Exit status and resources; None when the time is over."""
    pause = 0.001
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), usage
        if time.perf_counter() > until:
            return None, usage
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _pin(threads: int) -> None:
    """Let this process use the last `threads` cores only."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-threads:])
