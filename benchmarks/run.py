"""Time packages on problems, one process for each pair.

python -m benchmarks.run --peers ours glmm lme4 --problems sleepstudy cbpp
Writes a JSON file after every measurement; `python -m benchmarks.compare` makes the report of it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine, process
from benchmarks.peers import PEERS, Peer
from benchmarks.problems import Problem, select

HERE = Path(__file__).resolve().parent
NOT_INSTALLED = 3


def main() -> None:
    """Parse the command line, measure, report progress line by line."""
    options = _options()
    runs: list[dict[str, Any]] = []
    absent: set[str] = set()
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "threads": options.threads,
        "pinned": options.pin, "rounds": options.rounds,
    }  # fmt: skip
    for problem in select(options.problems):
        if missing := _write_data(problem, options):
            print(f"{problem.name:18} skipped: {missing}", flush=True)
            continue
        best: dict[tuple[str, int], dict[str, Any]] = {}
        for peer, threads in _pairs(options) * options.rounds:
            if PEERS[peer].engine in absent:
                continue
            entry = {"problem": problem.name, "peer": peer, "threads": threads}
            entry |= _measure(peer, problem, threads, options)
            if entry.pop("absent", False):
                absent.add(PEERS[peer].engine)
            print(_line(entry), flush=True)
            best[peer, threads] = min(best.get((peer, threads), entry), entry, key=lambda e: e.get("seconds", math.inf))
            record["runs"] = [*runs, *best.values()]
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
        runs += best.values()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="Time packages on problems.")
    parser.add_argument("--problems", nargs="+", default=["small"], help="names, or small, medium, large")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="for ours; the others run on the first")
    parser.add_argument("--repeats", type=int, default=31, help="at most so many warm calls")
    parser.add_argument("--budget", type=float, default=20.0, help="a first call slower than this is not repeated (s)")
    parser.add_argument("--rounds", type=int, default=1, help="processes for each pair, in turn; the best one counts")
    parser.add_argument("--limit", type=float, default=300.0, help="stop a process after so many seconds")
    parser.add_argument(
        "--python",
        default=os.environ.get("POLARS_GLMM_PEERS", sys.executable),
        help="the Python that has the other packages (default: $POLARS_GLMM_PEERS, or this one)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(tempfile.gettempdir()) / "polars_glmm_benchmarks",
        help="folder for the data files; delete it when done",
    )
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="do not tie processes to cores")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "latest.json")
    return parser.parse_args()


def _pairs(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Peers with their numbers of threads: ours on all that were asked, the others on the first."""
    return [
        (peer, threads)
        for peer in options.peers
        for threads in (options.threads if peer == "ours" else options.threads[:1])
    ]


def _write_data(problem: Problem, options: argparse.Namespace) -> str:
    """Have the data written by a process of its own; why it could not, or ""."""
    command = [sys.executable, "-m", "benchmarks.data", problem.to_json(), str(options.data)]
    if any(PEERS[peer].language == "r" for peer in options.peers):
        command.append("--columns")
    ended = process.run(command, threads=1, limit=600, pin=False)
    return ended.stderr.strip().rpartition("\n")[2] if ended.status else ""


def _measure(peer: str, problem: Problem, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """What one process reported, with its own time and memory; or `skipped` or `failed` with the reason."""
    load = machine.load()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        try:
            command = _command(peer, PEERS[peer], problem, threads, options, out)
            ended = process.run(command, threads=threads, limit=options.limit, pin=options.pin)
        except FileNotFoundError as missing:
            return {"skipped": f"{missing.filename} is not installed", "absent": True}
        last = ended.stderr.strip().rpartition("\n")[2]
        if ended.status == NOT_INSTALLED:
            return {"skipped": last, "absent": True}
        if ended.status is None:
            return {"failed": f"stopped after {options.limit:g} s", "peak_mb": round(ended.peak_mb)}
        if ended.status or not out.exists():
            return {"failed": last[:200] or f"exit status {ended.status}"}
        found = json.loads(out.read_text(encoding="utf-8"))
    return found if "skipped" in found else _summarised(found, ended, load)


def _command(
    peer: str, adapter: Peer, problem: Problem, threads: int, options: argparse.Namespace, out: Path
) -> list[str]:
    if adapter.language == "python":
        python = sys.executable if peer == "ours" else options.python
        numbers = [str(threads), str(options.repeats), str(options.budget)]
        data = str(options.data / f"{problem.name}.parquet")
        return [python, "-m", "benchmarks.worker", peer, problem.to_json(), data, str(out), *numbers]
    response = f"cbind({problem.response}, failures)" if problem.trials else problem.response
    settings = {
        "formula": problem.formula(response), "response": problem.response, "family": problem.family,
        "nodes": problem.nodes, "trials": problem.trials or "", "by": problem.by or "", "threads": threads,
        "repeats": options.repeats, "budget": options.budget, "zeros": problem.zeros,
        "residual": problem.residual or "", "plain": int(problem.plain),
    }  # fmt: skip
    folder, peers = str(options.data / f"{problem.name}.columns"), HERE / "peers"
    return [
        "Rscript", str(peers / "time.R"), str(peers / f"{adapter.engine}.R"), folder, str(out),
        *(f"{key}={value}" for key, value in settings.items()),
    ]  # fmt: skip


def _summarised(found: dict[str, Any], ended: process.Ended, load: float) -> dict[str, Any]:
    """Median and least of the warm calls (of the first, if there is no other), and the process from outside."""
    warm = found.pop("times")
    times = warm or [found["first"]]
    return found | {
        "seconds": statistics.median(times),
        "least": min(times),
        "mean": statistics.fmean(times),
        "repeats": len(warm),
        "cpu": found["cpu"] / len(warm) if warm else None,  # per call; well below its time: it waited for a core
        "process_seconds": ended.seconds - sum(warm),  # start, imports, reading, one fit
        "peak_mb": round(ended.peak_mb, 1),
        "load": load,
    }


def _line(entry: dict[str, Any]) -> str:
    head = f"{entry['problem']:18} {entry['peer']:17} {entry['threads']}"
    for key in ("skipped", "failed"):
        if key in entry:
            return f"{head}  {key}: {entry[key]}"
    return (
        f"{head}  {1e3 * entry['seconds']:10.2f} ms  x{entry['repeats']:<3} loglik {entry['loglik']:.6f}  "
        f"process {entry['process_seconds']:.1f} s  {entry['peak_mb']:.0f} MB"
    )


if __name__ == "__main__":
    main()
