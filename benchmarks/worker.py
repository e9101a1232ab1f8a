"""One Python adapter on one problem, in a process of its own: read the data, fit, fit again, write what happened.

python -m benchmarks.worker PEER PROBLEM_JSON PARQUET OUT THREADS REPEATS BUDGET
Exit status 3: the package is not installed.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl

from benchmarks.peers import PEERS
from benchmarks.problems import Problem

MB = 1024 if sys.platform != "darwin" else 1024**2  # units of ru_maxrss in a megabyte
NOT_INSTALLED = 3


def measure(peer: str, problem: Problem, path: Path, *, threads: int, repeats: int, budget: float) -> dict[str, Any]:
    """First call, warm calls, log-likelihood and memory; or the reason why the package does not fit this model."""
    adapter = import_module(f"benchmarks.peers.{PEERS[peer].engine}")
    if reason := adapter.refuses(problem):
        return {"skipped": reason}
    call, answers = _prepared(adapter, PEERS[peer].options, problem, path, threads)
    loaded = _peak()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first, fitted = _timed(call)
        cpu, times = time.process_time(), []
        if (count := warm_calls(first, repeats, budget)) > 0:
            times.append(_timed(call)[0])
            count = warm_calls(times[0], repeats, budget)
            times += [_timed(call)[0] for _ in range(count - 1)]
        cpu = time.process_time() - cpu
    found = answers(fitted)
    return {
        "first": first,
        "times": times,
        "cpu": cpu,
        "loaded_mb": loaded,
        "loglik": sum(one.loglik for one in found),
        "beta": found[0].beta if len(found) == 1 else [],
        "remarks": list(dict.fromkeys(str(warning.message) for warning in caught))[:3],
        "versions": {"Python": sys.version.split()[0]} | adapter.versions(),
    }


def warm_calls(seconds: float, repeats: int, budget: float) -> int:
    """As many calls as the time of one allows, at most `repeats`; none beyond the budget in seconds."""
    if seconds > budget:
        return 0
    allowed = next((n for limit, n in ((0.03, 31), (0.3, 15), (2, 5), (6, 3)) if seconds < limit), 1)
    return min(allowed, repeats)


def _prepared(
    adapter: ModuleType, options: dict[str, Any], problem: Problem, path: Path, threads: int
) -> tuple[Callable[[], Any], Callable[[Any], list[Any]]]:
    """The call to time, and what turns its result into a list of answers."""
    ours = hasattr(adapter, "BY")
    if problem.scan and ours:
        frame: Any = pl.scan_parquet(path)
    else:
        frame = pl.read_parquet(path)
    if problem.by is None or ours:
        call = adapter.prepare(frame, problem, threads, **options)
        return call, lambda fitted: [adapter.answer(fitted)]
    one = replace(problem, by=None)
    frames = [piece.drop(problem.by) for piece in frame.partition_by(problem.by, maintain_order=True)]
    calls = [adapter.prepare(piece, one, threads, **options) for piece in frames]
    return lambda: [call() for call in calls], lambda fitted: [adapter.answer(each) for each in fitted]


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    fitted = call()
    return time.perf_counter() - begin, fitted


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MB


def _main(peer: str, problem: str, path: str, out: str, *numbers: str) -> None:
    threads, repeats, budget = int(numbers[0]), int(numbers[1]), float(numbers[2])
    try:
        found = measure(
            peer, Problem.from_json(problem), Path(path), threads=threads, repeats=repeats, budget=budget
        )  # fmt: skip
    except ModuleNotFoundError as missing:
        sys.stderr.write(f"{missing.name} is not installed\n")
        sys.exit(NOT_INSTALLED)
    Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
