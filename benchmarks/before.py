"""Times this tree beside another commit: the same problems, alternately, with the ratios of times and memory.

python -m benchmarks.before REVISION --problems small medium w7
Both are run by this Python, one process for each, A B, B A, A B, …; a ratio is the median over the rounds of that of
the two medians of a round. It counts only where both reach the same log-likelihood.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine, process
from benchmarks.problems import Problem, select

SAME_LOGLIK = 1e-6


class Round(NamedTuple):
    """What one process reported: median seconds of a warm call (of the first, if alone), peak in MB, ℓ."""

    seconds: float
    peak_mb: float
    loglik: float


def main() -> None:
    """Measure, and print a table in Markdown with a row for each problem as soon as it is done."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        before.mkdir()
        packed = Path(folder) / "before.tar"
        archive = ["git", "archive", "-o", str(packed), options.revision]
        subprocess.run(archive, cwd=process.ROOT, check=True)
        with tarfile.open(packed) as tar:
            tar.extractall(before, filter="data")
        where = machine.describe()
        print(
            f"{time.strftime('%Y-%m-%d')}, {where['processor']}, {where['cores']} cores; {options.revision} and now\n"
        )
        print("| problem | before (ms) | now (ms) | ratio | least and most | peak memory | log-likelihood |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for problem in select(options.problems):
            rounds = _rounds(problem, before, Path(folder), options)
            print(_row(problem, rounds), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before", description="Time this tree beside a commit.")
    parser.add_argument("revision", help="the commit to compare with")
    parser.add_argument("--problems", nargs="+", default=["small"], help="names, or small, medium, large")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of processes for each problem")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=31, help="at most so many warm calls in a process")
    parser.add_argument("--limit", type=float, default=300.0, help="stop a process after so many seconds")
    return parser.parse_args()


def _rounds(problem: Problem, before: Path, folder: Path, options: argparse.Namespace) -> list[tuple[Round, Round]]:
    """Pairs (before, now)."""
    written = process.run(
        [sys.executable, "-m", "benchmarks.data", problem.to_json(), str(folder)], threads=1, limit=600, pin=False
    )
    if written.status:
        return []
    pairs = []
    for number in range(options.rounds):
        trees = [before, process.ROOT]
        found = {tree: _measure(problem, tree, folder, options) for tree in (trees[::-1] if number % 2 else trees)}
        pairs.append((found[before], found[process.ROOT]))
    return pairs


def _measure(problem: Problem, tree: Path, folder: Path, options: argparse.Namespace) -> Round:
    out = folder / "out.json"
    command = [
        sys.executable, "-m", "benchmarks.worker", "ours", problem.to_json(brief=True),
        str(folder / f"{problem.name}.parquet"), str(out), str(options.threads), str(options.repeats), "20",
    ]  # fmt: skip
    ended = process.run(command, threads=options.threads, limit=options.limit, tree=tree)
    if ended.status:
        msg = f"{problem.name} in {tree}: {ended.stderr.strip().rpartition(chr(10))[2]}"
        raise SystemExit(msg)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return Round(statistics.median(found["times"] or [found["first"]]), ended.peak_mb, found["loglik"])


def _row(problem: Problem, rounds: list[tuple[Round, Round]]) -> str:
    if not rounds:
        return f"| {problem.name} | | | skipped: no data | | | |"
    ratios = [now.seconds / before.seconds for before, now in rounds]
    peak = statistics.median(now.peak_mb / before.peak_mb for before, now in rounds)
    was, now = (1e3 * statistics.median(pair[i].seconds for pair in rounds) for i in (0, 1))
    change = max(abs(a.loglik - b.loglik) for a, b in rounds)
    same = change <= SAME_LOGLIK * (1.0 + abs(rounds[0][0].loglik))
    return (
        f"| {problem.name} | {was:.2f} | {now:.2f} | {statistics.median(ratios):.3f} | "
        f"{min(ratios):.3f} to {max(ratios):.3f} | {peak:.3f} | {'same' if same else f'differs by {change:.2g}'} |"
    )


if __name__ == "__main__":
    main()
