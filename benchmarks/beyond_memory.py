"""Fits of Parquet files with up to 10⁸ rows: a gaussian slope beside its bare query, Bernoulli rows through a spill.

python -m benchmarks.beyond_memory [--rows 100000000] [--only gaussian_1e5 …] [--limit 2]
Files are generated part by part and deleted when their fits are done; 10⁸ rows take 2 GB on disk, a spill 3 GB more.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks import machine, process
from benchmarks.compare import duration

HERE = Path(__file__).resolve().parent
PART = 5_000_000
"""Rows of one file."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows in files, and what is done with them; one level of g for `rows_each` rows, in no order."""

    family: str
    rows_each: int
    tasks: tuple[str, ...]


WORKLOADS = {
    "gaussian_1e5": Workload("gaussian", 1000, ("fit", "query")),
    "gaussian_1e6": Workload("gaussian", 100, ("fit", "query")),
    "binomial_1e6": Workload("binomial", 100, ("fit",)),
}
"""Named by their levels at 10⁸ rows."""


def main() -> None:
    """Generate, measure each task in a process of its own, delete, write JSON and a Markdown page."""
    options = _options()
    if options.task:
        options.out.write_text(json.dumps(TASKS[options.task](options)), encoding="utf-8")
        return
    runs: list[dict[str, Any]] = []
    for name in options.only:
        runs += _measured(name, options)
        record = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "runs": runs}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
        options.out.with_suffix(".md").write_text("\n".join(report(record)) + "\n", encoding="utf-8")


def _measured(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    workload, found = WORKLOADS[name], []
    folder = Path(tempfile.mkdtemp(prefix="polars_glmm_rows_", dir=options.data))
    try:
        write(workload, options.rows, folder)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
        for task in workload.tasks:
            out = folder / "answer.json"
            arguments = ["--task", f"{workload.family}_{task}", "--folder", str(folder), "--out", str(out)]
            command = [sys.executable, "-m", "benchmarks.beyond_memory", *arguments, "--limit", str(options.limit)]
            ended = process.run(command, threads=options.threads, limit=options.seconds, pin=False)
            own = {"workload": name, "task": task, "rows": options.rows, "levels": options.rows // workload.rows_each,
                   "disk_gb": size, "threads": options.threads, "load": machine.load()}  # fmt: skip
            if ended.status == 0:
                own |= json.loads(out.read_text(encoding="utf-8")) | {"peak_gib": ended.peak_mb / 1024}
            else:
                stopped = f"stopped after {options.seconds:g} s"
                own["failed"] = stopped if ended.status is None else ended.stderr.strip().rpartition("\n")[2][:200]
            print(_told(own), flush=True)
            found.append(own)
    finally:
        shutil.rmtree(folder)
    return found


def write(workload: Workload, rows: int, folder: Path) -> None:
    """The rows in files of five million."""
    rng = np.random.default_rng(909)
    levels = rows // workload.rows_each
    u, v = 0.7 * rng.standard_normal(levels), 0.4 * rng.standard_normal(levels)
    for i, start in enumerate(range(0, rows, PART)):
        n = min(PART, rows - start)
        g = rng.integers(0, levels, n).astype(np.int32)
        x = rng.standard_normal(n)
        columns = {"g": g, "x": x}
        if workload.family == "gaussian":
            columns["y"] = 1.0 + 0.5 * x + u[g] + v[g] * x + rng.standard_normal(n)
        else:
            columns["z"] = z = rng.standard_normal(n)
            eta = -0.5 + 0.6 * x - 0.4 * z + u[g]
            columns["y"] = (rng.random(n) < 1.0 / (1.0 + np.exp(-eta))).astype(np.int8)
        pl.DataFrame(columns).write_parquet(folder / f"{i:03}.parquet")


def _gaussian_fit(options: argparse.Namespace) -> dict[str, Any]:
    return _timed(lambda glmm: glmm.fit(pl.scan_parquet(options.folder / "*.parquet"), "y ~ x + (x | g)", method="ml"))


def _binomial_fit(options: argparse.Namespace) -> dict[str, Any]:
    def call(glmm: Any) -> Any:
        memory = glmm.Memory(limit=int(options.limit * 2**30), spill=str(options.folder))
        frame = pl.scan_parquet(options.folder / "*.parquet")
        return glmm.fit(frame, "y ~ x + z + (1 | g)", family="binomial", control=glmm.Control(memory=memory))

    return _timed(call)


def _timed(call: Callable[[Any], Any]) -> dict[str, Any]:
    """Seconds of one fit, all imports done, and what it says."""
    import polars_glmm  # here: the bare query does without

    few = pl.DataFrame({"y": [0.0, 1.0, 2.5, 1.0, 3.0, 2.0] * 5, "g": [0, 0, 1, 1, 2, 2] * 5})
    polars_glmm.fit(few.lazy(), "y ~ 1 + (1 | g)")
    begin = time.perf_counter()
    fit = call(polars_glmm)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "loglik": fit.loglik, "beta": fit.fixef()["estimate"].to_list()}


def _gaussian_query(options: argparse.Namespace) -> dict[str, Any]:
    """The sums of the gaussian fit by one aggregation, as a Polars user would write it."""
    x, y = pl.col("x"), pl.col("y")
    sums = [pl.len().alias("n"), *((a * b).sum().alias(f"s{i}") for i, (a, b) in enumerate([(x, x), (x, y), (y, y)]))]
    begin = time.perf_counter()
    query = pl.scan_parquet(options.folder / "*.parquet").group_by("g")
    found = query.agg(*sums, x.sum().alias("x"), y.sum().alias("y")).collect(engine="streaming")
    return {"seconds": time.perf_counter() - begin, "groups": found.height}


TASKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "gaussian_fit": _gaussian_fit,
    "gaussian_query": _gaussian_query,
    "binomial_fit": _binomial_fit,
}


def report(record: dict[str, Any]) -> list[str]:
    """A table with one line per measurement."""
    host = record["machine"]
    lines = [
        "# Larger than memory",
        "",
        (
            f"Generated by `python -m benchmarks.beyond_memory`, {record['date']}; {host['processor']}, "
            f"{host['cores']} cores, {host['memory_gib']} GiB. Time: the call, all imports done, from Parquet to a "
            "fit with standard errors (query: to the sums by level). Peak: of the process, as the operating system "
            "counted it."
        ),
        "",
        "| workload | rows | levels | on disk | task | time | peak | log-likelihood |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in record["runs"]:
        told = run.get("failed") or duration(run["seconds"])
        peak = f"{run['peak_gib']:.2f} GiB" if "peak_gib" in run else "–"
        loglik = f"{run['loglik']:.3f}" if "loglik" in run else ""
        cells = [run["workload"], f"{run['rows']:,}", f"{run['levels']:,}", f"{run['disk_gb']:.1f} GB", run["task"]]
        lines.append("| " + " | ".join([*cells, told, peak, loglik]) + " |")
    return lines


def _told(run: dict[str, Any]) -> str:
    name = f"{run['workload']:14} {run['task']:6}"
    return f"{name} {run['failed']}" if "failed" in run else (
        f"{name} {duration(run['seconds']):>9}  peak {run['peak_gib']:.2f} GiB"
    )  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beyond_memory", description="Fits beyond memory.")
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--only", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--limit", type=float, default=2.0, help="GiB that a fit may use for rows before it spills")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1800.0, help="stop a process after so many")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()), help="where the files go meanwhile")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "beyond_memory" / "beyond_memory.json")
    parser.add_argument("--task", choices=list(TASKS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
