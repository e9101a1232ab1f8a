"""What `explain` says a fit will take, beside what the fit then takes: seconds on one core, and memory.

python -m benchmarks.estimates [--problems small medium ratings_2e6 …] [--limit 900]
python -m benchmarks.estimates --recorded
Every problem is a process of its own on one thread; the time is that of its processor, so that other work on the
machine does not count. A span that holds is marked `in`; in the end stands how often it held. --recorded compares with
the times that benchmarks.scaling has measured, and fits nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import machine, process
from benchmarks.problems import PROBLEMS, Problem, select

HERE = Path(__file__).resolve().parent
_MARGIN = 1.05
"""A time this part outside of its span still counts as inside: two digits are printed."""
_SHORT = 0.1
"""Seconds that `explain` calls "less than 0.1 s"; nothing is said below."""
_LEAST_MB = 50.0
"""Growth of a process below which it says nothing of the fit: libraries and allocators take as much."""


def _crossed(name: str, family: str, settings: str) -> Problem:
    return Problem(
        name, "crossed", "medium", f"generated:crossed:{settings}", f"y{family[0]}", "x1",
        (("1", "user"), ("1", "item")), family,  # type: ignore[arg-type]
    )  # fmt: skip


def _one_factor(name: str, family: str, settings: str, columns: int) -> Problem:
    fixed = " + ".join(f"x{j}" for j in range(1, columns + 1))
    return Problem(
        name, "one factor", "medium", f"generated:one_factor:{settings}", f"y{family[0]}", fixed, (("1", "g"),),
        family,  # type: ignore[arg-type]
    )  # fmt: skip


def _ratings(name: str, rows: int, users: int, items: int, *, scan: bool) -> Problem:
    return Problem(
        name, "crossed, uneven", "medium", f"generated:ratings:rows={rows},users={users},items={items}", "y", "1",
        (("1", "user"), ("1", "item")), scan=scan,
    )  # fmt: skip


MORE = (
    _ratings("ratings_5e5", 500_000, 5000, 1000, scan=True),
    _ratings("ratings_2e6", 2_000_000, 20_000, 2000, scan=True),
    _ratings("ratings_eager", 1_000_000, 10_000, 3000, scan=False),
    _ratings("ratings_3e7", 32_000_000, 200_000, 16_000, scan=True),
    _crossed("crossed_binomial", "binomial", "rows=100000,users=5000,items=500"),
    _crossed("crossed_poisson", "poisson", "rows=200000,users=5000,items=2000"),
    _crossed("crossed_gaussian", "gaussian", "rows=300000,users=10000,items=3000"),
    _one_factor("wide_gaussian", "gaussian", "rows=200000,levels=2000,columns=32", 32),
    _one_factor("wide_binomial", "binomial", "rows=100000,levels=2000,columns=32", 32),
    _one_factor("long_binomial", "binomial", "rows=1000000,levels=5000,columns=4", 4),
    _one_factor("long_poisson", "poisson", "rows=500000,levels=5000,columns=4", 4),
    _one_factor("many_levels", "poisson", "rows=300000,levels=100000,columns=2", 2),
)
KNOWN = {problem.name: problem for problem in MORE}
USUAL = [
    *(name for name, problem in PROBLEMS.items() if problem.size != "large" and problem.by is None),
    *(name for name in KNOWN if name != "ratings_3e7"),
]


def main() -> None:
    """Measure the problems that were asked for, print each, and write JSON and a Markdown page."""
    options = _options()
    if options.one is not None:
        print(json.dumps(measure(Problem.from_json(options.one), options.data)))
        return
    if options.recorded:
        compared = list(recorded(HERE / "results" / "scaling" / "scaling.json"))
        print("\n".join([*map(_line, compared), *summary(compared)]))
        return
    found = []
    for problem in [p for name in options.problems for p in ((KNOWN[name],) if name in KNOWN else select([name]))]:
        one = {"problem": problem.name} | _run(problem, options)
        found.append(one)
        print(_line(one), flush=True)
    record = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "problems": found}
    print("\n".join(summary(found)))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
    options.out.with_suffix(".md").write_text("\n".join(report(record)) + "\n", encoding="utf-8")


def measure(problem: Problem, folder: Path) -> dict[str, Any]:
    """The fit, then the explanation, in this process: the peak of the first must not be that of the second."""
    import polars as pl

    from benchmarks.peers import ours

    path = folder / f"{problem.name}.parquet"
    frame: Any = pl.scan_parquet(path) if problem.scan else pl.read_parquet(path)
    call = ours.prepare(frame, problem, 1)
    loaded = _peak()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began, cpu = time.perf_counter(), time.process_time()
        fit: Any = call()
        taken = {"wall": time.perf_counter() - began, "seconds": time.process_time() - cpu, "mb": _peak() - loaded}
        if taken["seconds"] < 1.0:  # the first call also loads and warms what the libraries put off
            cpu = time.process_time()
            call()
            taken["seconds"] = time.process_time() - cpu
        said = explained(problem, frame)
    certificate = fit.estimate.certificate
    return said | {
        "taken": taken["seconds"],
        "wall": taken["wall"],
        "taken_mb": taken["mb"],
        "evaluations": certificate.evaluations,
        "row_passes": certificate.row_passes,
        "stages": certificate.seconds,
    }


def explained(problem: Problem, frame: Any) -> dict[str, Any]:
    """What is said of a problem: route, seconds, passes, memory."""
    import polars_glmm

    arguments: dict[str, Any] = {"family": problem.family, "trials": problem.trials}
    arguments["method"] = polars_glmm.AGQ(nodes=problem.nodes) if problem.nodes > 1 else None
    plan = polars_glmm.explain(frame, problem.formula(), **arguments).plan
    cost = plan.cost
    return {
        "route": plan.route, "said": list(cost.seconds), "said_mb": cost.memory / 2**20, "passes": list(cost.passes)
    }  # fmt: skip


def recorded(path: Path) -> Iterator[dict[str, Any]]:
    """What is said of the problems of benchmarks.scaling, beside what was measured there."""
    from benchmarks import data
    from benchmarks.scaling import LAWS

    for name, runs in json.loads(path.read_text(encoding="utf-8"))["laws"].items():
        known = {problem.source: problem for _, problem in LAWS[name].problems(1)}
        for run in runs:
            if (problem := known.get(run["source"])) is not None and "seconds" in run:
                taken = {"taken": run["seconds"], "taken_mb": run["grown_mb"]}
                yield {"problem": f"{name} {run['size']}"} | explained(problem, data.load(problem)) | taken


def holds(one: dict[str, Any]) -> bool:
    """Whether the span of seconds has the time taken in it."""
    low, high = one["said"]
    return (low / _MARGIN <= one["taken"] <= high * _MARGIN) or max(high, one["taken"]) < _SHORT


def summary(found: list[dict[str, Any]]) -> list[str]:
    """How often the span held, and how memory compared."""
    done = [one for one in found if "taken" in one]
    if not done:
        return ["nothing was measured"]
    inside = sum(map(holds, done))
    wide = statistics.median(one["said"][1] / max(one["said"][0], 1e-9) for one in done)
    lines = [f"The span of seconds holds the time taken in {inside} of {len(done)} problems (width ×{wide:.1f})."]
    large = [one for one in done if one["taken_mb"] > _LEAST_MB]
    if large:
        shares = sorted(one["said_mb"] / one["taken_mb"] for one in large)
        lines.append(
            f"Memory said over memory taken, {len(large)} problems of {_LEAST_MB:g} MB and more: "
            f"{shares[0]:.2f} to {shares[-1]:.2f}, median {statistics.median(shares):.2f}."
        )
    return lines


def report(record: dict[str, Any]) -> list[str]:
    """A Markdown page: one line per problem."""
    rows = [
        f"| {one['problem']} | {one['route']} | {one['said'][0]:.2g} to {one['said'][1]:.2g} | {one['taken']:.2g} | "
        f"{'in' if holds(one) else 'out'} | {one['said_mb']:.0f} | {one['taken_mb']:.0f} |"
        for one in record["problems"]
        if "taken" in one
    ]
    return [
        "# What `explain` says, and what a fit takes",
        "",
        (
            f"Generated by `python -m benchmarks.estimates`, {record['date']}; {record['machine']['processor']}, "
            "one thread, seconds of the processor; memory: growth of the process's peak during the fit."
        ),
        "",
        *summary(record["problems"]),
        "",
        "| problem | route | seconds said | taken | | MB said | taken |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]


def _line(one: dict[str, Any]) -> str:
    if "failed" in one:
        return f"{one['problem']:20} {one['failed']}"
    low, high = one["said"]
    return (
        f"{one['problem']:32} {one['route']:9} {low:8.2g} to {high:8.2g} s, {one['taken']:8.2g} "
        f"{'in ' if holds(one) else 'OUT'}  {one['said_mb']:7.0f} MB, {one['taken_mb']:7.0f}"
    )


def _run(problem: Problem, options: argparse.Namespace) -> dict[str, Any]:
    """The measurement in a process of its own, or `failed` with the reason."""
    text = problem.to_json()
    written = process.run(
        [sys.executable, "-m", "benchmarks.data", text, str(options.data)], threads=1, limit=600, pin=False
    )
    if written.status:
        return {"failed": written.stderr.strip().rpartition("\n")[2]}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        code = f"import sys; sys.stdout = open({str(out)!r}, 'w'); from benchmarks.estimates import main; main()"
        command = [sys.executable, "-c", code, "--one", text, "--data", str(options.data)]
        ended = process.run(command, threads=1, limit=options.limit, pin=False)
        if ended.status is None:
            return {"failed": f"stopped after {options.limit:g} s"}
        if ended.status:
            return {"failed": ended.stderr.strip().rpartition("\n")[2][:200]}
        return dict(json.loads(out.read_text(encoding="utf-8")))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / process.MB


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimates", description="explain beside fit.")
    parser.add_argument("--problems", nargs="+", default=USUAL)
    parser.add_argument("--limit", type=float, default=900.0, help="stop a process after so many seconds")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "polars_glmm_benchmarks")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "estimates" / "estimates.json")
    parser.add_argument("--recorded", action="store_true", help="compare with results/scaling, fit nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
