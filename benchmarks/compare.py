"""Make the report of result files: ratios where log-likelihoods agree.

python -m benchmarks.compare [RESULTS.json …] [--base OLD.json] [--out REPORT.md]
Ratios are formed within one file, that is within one run. With --base, our own times are also set beside older ones.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS
from benchmarks.problems import PROBLEMS, Problem

HERE = Path(__file__).resolve().parent
ABSOLUTE = 1e-3  # a log-likelihood may be this far from the best
RELATIVE, MANY_ROWS = 1e-6, 10**6  # … or, from so many rows on, this part of it
CONTENDED = 0.85  # processor time of the calls over their mean time: below, the process waited for its core

Entry = dict[str, Any]


def main() -> None:
    """Write the report of the files named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description="Make the report of result files."
    )
    parser.add_argument("files", nargs="*", type=Path, default=sorted((HERE / "results").glob("*.json")))
    parser.add_argument("--base", type=Path, help="an older result file, to compare our times with")
    parser.add_argument("--out", type=Path, default=HERE / "REPORT.md")
    options = parser.parse_args()
    lines = ["# Times beside other packages", "", *_legend()]
    for path in options.files:
        lines += ["", *section(path.stem, json.loads(path.read_text(encoding="utf-8")))]
    if options.base is not None:
        base = json.loads(options.base.read_text(encoding="utf-8"))
        for path in options.files:
            lines += ["", *changes(path.stem, json.loads(path.read_text(encoding="utf-8")), base)]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def section(name: str, record: dict[str, Any]) -> list[str]:
    """Header, ratio table and all measurements of one run."""
    problems = [PROBLEMS[key] for key in dict.fromkeys(entry["problem"] for entry in record["runs"]) if key in PROBLEMS]
    by_problem = {p.name: [entry for entry in record["runs"] if entry["problem"] == p.name] for p in problems}
    best = {p.name: best_loglik(p, by_problem[p.name]) for p in problems}
    head = ["problem", "ours", *(f"{t} threads" for t in record["threads"][1:]), "fastest right peer", "its time",
            "ratio", "ratio of processor time", "other peers: time (× ours)", "aim"]  # fmt: skip
    rows = [ratio_row(p, by_problem[p.name], best[p.name], record["threads"]) for p in problems]
    return [
        f"## {name}", "", *_header(record), "", *_table(head, rows), "",
        "<details><summary>All measurements</summary>", "",
        *_table(
            ["problem", "peer", "threads", "median", "least", "calls", "first", "loglik", "from the best", "process",
             "peak MB (data read)", "remark"],
            [_detail(p, entry, best[p.name]) for p in problems for entry in by_problem[p.name]],
        ), "", "</details>",
    ]  # fmt: skip


def best_loglik(problem: Problem, entries: Iterable[Entry]) -> float:
    """The highest log-likelihood that two engines, or one and the reference corpus, agree on; else the highest exact.

    One engine alone is not believed: loose inner iterations and stochastic determinants can overstate it.
    """
    values = [("reference", problem.loglik)] if problem.loglik is not None else []
    values += [
        (PEERS[entry["peer"]].engine, entry["loglik"])
        for entry in entries
        if "loglik" in entry and _exact(problem, entry)
    ]
    confirmed = [
        value
        for engine, value in values
        if any(other != engine and abs(value - v) <= tolerance(problem, value) for other, v in values)
    ]
    return max(confirmed or [value for _, value in values], default=math.nan)


def tolerance(problem: Problem, loglik: float) -> float:
    """How far from the best a log-likelihood may be for its time to count."""
    return max(ABSOLUTE, RELATIVE * abs(loglik)) if _rows(problem) >= MANY_ROWS else ABSOLUTE


def is_right(problem: Problem, entry: Entry, best: float) -> bool:
    """The run ended, at the best log-likelihood."""
    return "loglik" in entry and abs(entry["loglik"] - best) <= tolerance(problem, best)


def ratio_row(problem: Problem, entries: list[Entry], best: float, threads: list[int]) -> list[str]:
    """Our time, the fastest right peer's, their ratio, and every other peer's."""
    mine = [_find(entries, "ours", t) for t in threads]
    peers = [entry for entry in entries if entry["peer"] != "ours" and "seconds" in entry]
    counted = [e for e in peers if is_right(problem, e, best) and PEERS[e["peer"]].alike]
    fastest = min(counted, key=lambda entry: entry["seconds"], default=None)
    own = mine[0]["seconds"] if mine[0] and is_right(problem, mine[0], best) else None
    others = [
        f"{_label(problem, e, best)} {duration(e['seconds'])}" + (f" ({e['seconds'] / own:.3g} ×)" if own else "")
        for e in sorted(peers, key=lambda e: e["seconds"])
        if e is not fastest
    ]
    return [
        problem.name,
        *(_own_cell(problem, entry, best) for entry in mine),
        fastest["peer"] if fastest else "–",
        duration(fastest["seconds"]) if fastest else "–",
        f"**{own / fastest['seconds']:.2f}**" if own and fastest else "–",
        _processor_ratio(mine[0], fastest) if own else "–",
        ", ".join(others),
        _aim(problem),
    ]


def _processor_ratio(mine: Entry | None, fastest: Entry | None) -> str:
    """As the ratio of times, but of processor time per call, which a busy machine disturbs less."""
    if not (mine and fastest and mine["cpu"] and fastest["cpu"]):
        return "–"
    return f"{mine['cpu'] / fastest['cpu']:.2f}"


def changes(name: str, head: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Our own times of two runs side by side."""
    rows = []
    for entry in head["runs"]:
        old = _find(base["runs"], "ours", entry["threads"], entry["problem"])
        if entry["peer"] == "ours" and "seconds" in entry and old and "seconds" in old:
            ratio, gained = entry["seconds"] / old["seconds"], entry["loglik"] - old["loglik"]
            times = [duration(old["seconds"]), duration(entry["seconds"])]
            rows.append([entry["problem"], str(entry["threads"]), *times, f"{ratio:.2f}", f"{gained:+.1e}"])
    return [f"## {name} beside the base", "", *_table(["problem", "threads", "then", "now", "ratio", "Δ loglik"], rows)]


def duration(seconds: float) -> str:
    """Three digits with a unit."""
    if seconds < 0.9995e-3:
        return f"{1e6 * seconds:.3g} µs"
    return f"{1e3 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _legend() -> list[str]:
    return [
        "Generated by `python -m benchmarks.compare`; how it is measured is in [README.md](README.md).",
        "",
        (
            "- A time is the median of the calls after the first, in one process: from the data frame in memory to the "
            "fit with its default standard errors. Maximum likelihood everywhere, so that log-likelihoods compare."
        ),
        (
            "- **ratio** = our time on one thread / that of the fastest right peer; below 1 we are faster. A peer is "
            f"right if its log-likelihood is within {ABSOLUTE:g} (relative {RELATIVE:g} from 10⁶ rows) of the best one "
            "that two engines agree on, and a denominator if it also got the rows and its default standard errors."
        ),
        "- The ratio of processor time is the same of processor seconds per call: a busy machine disturbs it less.",
        "- ✗ = not right. † = other work: see its line. ≈ = stochastic likelihood, never the best.",
        *(f"- {name}: {peer.remark}." for name, peer in PEERS.items() if peer.remark),
    ]  # fmt: skip


def _header(record: dict[str, Any]) -> list[str]:
    machine = record["machine"]
    versions: dict[str, str] = {}
    for entry in record["runs"]:
        versions |= {k: v for k, v in entry.get("versions", {}).items() if k not in versions}
    loads = [entry["load"] for entry in record["runs"] if "load" in entry]
    return [
        (
            f"{record['date']}; {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
            f"{machine['system']}. Threads: {', '.join(map(str, record['threads']))} for ours, "
            f"{record['threads'][0]} for the others{', tied to as many cores' if record['pinned'] else ''}; "
            f"best of {record['rounds']} processes each. "
            f"Load of the machine while measuring: {min(loads, default=0):g} to {max(loads, default=0):g}."
        ),
        "",
        ", ".join(f"{name} {number}" for name, number in versions.items()) + ".",
    ]


def _own_cell(problem: Problem, entry: Entry | None, best: float) -> str:
    if entry is None:
        return "–"
    if "seconds" not in entry:
        return str(entry.get("failed") or entry.get("skipped"))
    wrong = "" if is_right(problem, entry, best) else f" ✗ ({entry['loglik'] - best:+.2g})"
    return duration(entry["seconds"]) + wrong


def _label(problem: Problem, entry: Entry, best: float) -> str:
    marks = [
        mark
        for mark, holds in (
            ("✗", not is_right(problem, entry, best)),
            ("†", not PEERS[entry["peer"]].alike),
            ("≈", not _exact(problem, entry)),
        )
        if holds
    ]
    return "".join((str(entry["peer"]), *marks))


def _exact(problem: Problem, entry: Entry) -> bool:
    """The peer computes this log-likelihood; a stochastic one does with a single factor."""
    return PEERS[entry["peer"]].exact or len(problem.groups) == 1


def _detail(problem: Problem, entry: Entry, best: float) -> list[str]:
    head = [entry["problem"], entry["peer"], str(entry["threads"])]
    if "seconds" not in entry:
        reason = entry.get("failed") or f"not run: {entry['skipped']}"
        return [*head, *[""] * 8, reason.replace("|", "/")]
    remarks = [text.replace("|", "/").replace("\n", " ")[:120] for text in entry.get("remarks", [])]
    if entry["cpu"] is not None and (share := entry["cpu"] / entry["mean"]) < CONTENDED:
        remarks.insert(0, f"contended core: cpu/wall {share:.2f}")
    loaded = f" ({entry['loaded_mb']:.0f})" if entry["loaded_mb"] is not None else ""
    return [
        *head, duration(entry["seconds"]), duration(entry["least"]), str(entry["repeats"]), duration(entry["first"]),
        f"{entry['loglik']:.4f}", f"{entry['loglik'] - best:+.1e}" + ("" if is_right(problem, entry, best) else " ✗"),
        duration(entry["process_seconds"]), f"{entry['peak_mb']:.0f}{loaded}", "; ".join(remarks),
    ]  # fmt: skip


def _aim(problem: Problem) -> str:
    parts = [f"≤ {duration(problem.seconds)}"] if problem.seconds is not None else []
    return ", ".join(parts + ([f"≤ {problem.ratio:g} ×"] if problem.ratio is not None else []))


def _rows(problem: Problem) -> int:
    """Rows of a generated problem; the others are all below the limit where it matters."""
    _, _, settings = problem.source.rpartition(":")
    return next((int(pair[5:]) for pair in settings.split(",") if pair.startswith("rows=")), 0)


def _find(entries: Iterable[Entry], peer: str, threads: int, problem: str | None = None) -> Entry | None:
    return next(
        (e for e in entries if (e["peer"], e["threads"]) == (peer, threads) and problem in (None, e["problem"])), None
    )


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    for cells in (head, ["---"] * len(head), *rows):
        yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
