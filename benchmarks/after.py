"""What users ask of a fit afterwards, beside lme4, lmerTest with pbkrtest, and emmeans.

python -m benchmarks.after [--only profile_sleepstudy …] [--rscript Rscript] [--rounds 3]
Every question in a process of its own, one thread each, of a fresh fit that is not timed; medians of the calls after
the first, or the first where one takes seconds. A ratio is formed only where both find the same number. 10⁷ rows take
0.3 GB on disk for as long as they are asked.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from benchmarks import machine, process
from benchmarks.compare import duration

HERE = Path(__file__).resolve().parent
AGREE = 2e-3
"""Relative difference of two numbers that are the same: R's profiles interpolate, its optima stop early."""
_LONG = 1.0


class Question(NamedTuple):
    """A model of some rows, what is asked of its fit, and the number that others must find.

    ask    gets the fit, the file of its rows and a folder;  call  how a user writes it
    fit_r, ask_r   the same in R with the rows as `data`;  share  which part of the work ask_r does
    """

    frame: Callable[[], pl.DataFrame]
    formula: str
    arguments: dict[str, Any]
    call: str
    ask: Callable[[Any, Path, Path], float]
    aim: str
    peer: str = ""
    fit_r: str = ""
    ask_r: str = ""
    share: float = 1.0


def _dataset(name: str) -> Callable[[], pl.DataFrame]:
    def load() -> pl.DataFrame:
        from polars_glmm import datasets

        return datasets.load(name)

    return load


def _slopes(rows: int, levels: int) -> Callable[[], pl.DataFrame]:
    def made() -> pl.DataFrame:
        rng = np.random.default_rng(11)
        g, x = rng.integers(levels, size=rows).astype(np.int32), rng.standard_normal(rows)
        u, v = 0.7 * rng.standard_normal(levels), 0.4 * rng.standard_normal(levels)
        return pl.DataFrame({"y": 1.0 + 0.5 * x + u[g] + v[g] * x + rng.standard_normal(rows), "x": x, "g": g})

    return made


def _counts(rows: int, levels: int, digits: int = 17) -> Callable[[], pl.DataFrame]:
    def made() -> pl.DataFrame:
        rng = np.random.default_rng(5)
        g, x = rng.integers(levels, size=rows).astype(np.int32), rng.standard_normal(rows).round(digits)
        eta = 0.5 + 0.3 * x + 0.5 * rng.standard_normal(levels)[g]
        return pl.DataFrame({"y": rng.poisson(np.exp(eta)).astype(np.int32), "x": x, "g": g})

    return made


def _treatments() -> pl.DataFrame:
    rng = np.random.default_rng(7)
    f, g = np.arange(2000) % 50, rng.integers(40, size=2000)
    y = 0.05 * f + rng.standard_normal(40)[g] + rng.standard_normal(2000)
    return pl.DataFrame({"y": y, "f": [f"t{i:02}" for i in f], "g": [f"g{i}" for i in g]})


def _row(frame: pl.DataFrame, column: str, **where: str) -> float:
    return float(frame.filter(**where)[column][0])


def _file(fit: Any, rows: Path, folder: Path) -> float:
    from polars_glmm import read_fit

    fit.write(folder / "fit.zip")
    read_fit(folder / "fit.zip")
    return (folder / "fit.zip").stat().st_size / 1e6


def _residuals(fit: Any, rows: Path, folder: Path) -> float:
    told = fit.augment(pl.scan_parquet(rows), quantile=True, rng=1)
    told.sink_parquet(folder / "told.parquet")
    return float(pl.scan_parquet(folder / "told.parquet").select(pl.len()).collect().item())


_SLEEP = "Reaction ~ Days + (Days | Subject)"
_CBPP = {"family": "binomial", "trials": "size"}
QUESTIONS = {
    "kr_sleepstudy": Question(
        _dataset("sleepstudy"), _SLEEP, {}, 'fixef(df="kenward_roger")',
        lambda fit, *_: _row(fit.fixef(df="kenward_roger"), "std_error", term="Days"), "",
        "lmerTest", f"lmerTest::lmer({_SLEEP}, data)",
        'coef(summary(fit, ddf = "Kenward-Roger"))["Days", "Std. Error"]',
    ),
    "kr_5000": Question(
        _slopes(5000, 250), "y ~ x + (x | g)", {}, 'fixef(df="kenward_roger")',
        lambda fit, *_: _row(fit.fixef(df="kenward_roger"), "std_error", term="x"), "",
        "lmerTest", "lmerTest::lmer(y ~ x + (x | g), data)",
        'coef(summary(fit, ddf = "Kenward-Roger"))["x", "Std. Error"]',
    ),
    "kr_1e6": Question(
        _slopes(10**6, 10**4), "y ~ x + (x | g)", {}, 'fixef(df="kenward_roger")',
        lambda fit, *_: _row(fit.fixef(df="kenward_roger"), "std_error", term="x"), "seconds",
    ),
    "terms_cake": Question(
        _dataset("cake"), "angle ~ recipe * temperature + (1 | recipe:replicate)", {}, "test_terms(type=3)",
        lambda fit, *_: _row(fit.test_terms(type=3), "statistic", term="recipe:temperature"), "",
        "lmerTest", "lmerTest::lmer(angle ~ recipe * temperature + (1 | recipe:replicate), data)",
        'anova(fit, type = 3)["recipe:temperature", "F value"]',
    ),
    "profile_sleepstudy": Question(
        _dataset("sleepstudy"), _SLEEP, {"method": "ml"}, 'confint("profile")',
        lambda fit, *_: _row(fit.confint("profile"), "conf_low", term="Days"), "< 150 ms",
        "lme4", f"lme4::lmer({_SLEEP}, data, REML = FALSE)", 'confint(fit, quiet = TRUE)["Days", 1]',
    ),
    "bootstrap_cbpp": Question(
        _dataset("cbpp"), "incidence ~ period + (1 | herd)", _CBPP, "bootstrap(n=1000, rng=1)",
        lambda fit, *_: fit.bootstrap(n=1000, rng=1).height and fit.loglik, "1.5 s",
        "lme4", "lme4::glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), data, binomial)",
        "{lme4::bootMer(fit, lme4::fixef, nsim = 50); as.numeric(logLik(fit))}", 0.05,
    ),
    "bootstrap_5000": Question(
        _counts(5000, 100), "y ~ x + (1 | g)", {"family": "poisson"}, "bootstrap(n=1000, rng=1)",
        lambda fit, *_: fit.bootstrap(n=1000, rng=1).height and fit.loglik, "≤ 0.1 ×",
        "lme4", "lme4::glmer(y ~ x + (1 | g), data, poisson)",
        "{lme4::bootMer(fit, lme4::fixef, nsim = 10); as.numeric(logLik(fit))}", 0.01,
    ),
    "pairs_50": Question(
        _treatments, "y ~ f + (1 | g)", {}, 'marginal_means("f", contrast="pairwise", df="normal")',
        lambda fit, *_: float(fit.marginal_means("f", contrast="pairwise", df="normal", adjust="none")["std_error"][0]),
        "50 ms", "emmeans", "lme4::lmer(y ~ f + (1 | g), data)",
        'summary(pairs(emmeans::emmeans(fit, "f", lmer.df = "asymptotic"), adjust = "none"))$SE[1]',
    ),
    "influence_sleepstudy": Question(
        _dataset("sleepstudy"), _SLEEP, {}, 'influence("Subject")',
        lambda fit, *_: float(fit.influence("Subject")["cooks_distance"].max()), "",
        "lme4", f"lme4::lmer({_SLEEP}, data)", 'max(cooks.distance(influence(fit, "Subject"))) * 18 / 16',
    ),
    "quantile_1e7": Question(
        _counts(10**7, 10**4, 2), "y ~ x + (1 | g)", {"family": "poisson"},
        "augment(scan, quantile=True).sink_parquet(…)", _residuals, "streaming",
    ),
    "slopes_1e7": Question(
        _counts(10**7, 10**4, 2), "y ~ x + (1 | g)", {"family": "poisson"}, 'slopes(scan, "x")',
        lambda fit, rows, _: float(fit.slopes(pl.scan_parquet(rows), "x")["estimate"][0]), "no n × p matrix",
    ),
    "file_1e6_levels": Question(
        _slopes(3 * 10**6, 10**6), "y ~ x + (1 | g)", {}, "write(path), read_fit(path); MB", _file, "1 s, 25 MB",
    ),
}  # fmt: skip


def main() -> None:
    """Ask each question in a process of its own, and R; write JSON and a Markdown page."""
    options = _options()
    if options.ask:
        Path(options.out).write_text(json.dumps(_asked(options)), encoding="utf-8")
        return
    out = HERE / "results" / "after" / "after.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    runs = []
    for name in options.only:
        runs.append(_measured(name, options))
        print("| " + " | ".join(_cells(runs[-1])) + " |", flush=True)
        record = {"date": time.strftime("%Y-%m-%d"), "machine": machine.describe(), "runs": runs}
        out.write_text(json.dumps(record, indent=1), encoding="utf-8")
        out.with_suffix(".md").write_text("\n".join(report(record)) + "\n", encoding="utf-8")


def _measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    question, folder = QUESTIONS[name], Path(tempfile.mkdtemp(prefix="polars_glmm_after_"))
    try:
        rows = folder / "rows.parquet"
        frame = question.frame()
        frame.write_parquet(rows)
        run = {"question": name, "call": question.call, "rows": frame.height, "aim": question.aim}
        command = [sys.executable, "-m", "benchmarks.after", "--ask", name, "--folder", str(folder)]
        commands = {"ours": command}
        if question.peer:
            frame.write_csv(folder / "rows.csv")
            labels = ", ".join(json.dumps(name) for name, dtype in frame.schema.items() if not dtype.is_numeric())
            script = folder / "ask.R"
            script.write_text(_R.format(labels=labels, **question._asdict()), encoding="utf-8")
            commands[question.peer] = [options.rscript, str(script), str(folder)]
        del frame
        rounds: dict[str, list[dict[str, Any]]] = {who: [] for who in commands}
        for _ in range(options.rounds):
            for who, own in commands.items():
                rounds[who].append(_once(who, own, folder))
        return run | {"load": machine.load(), **{who: _middle(found) for who, found in rounds.items()}}
    finally:
        shutil.rmtree(folder)


def _once(who: str, command: list[str], folder: Path) -> dict[str, Any]:
    out = folder / "answer.json"
    out.unlink(missing_ok=True)
    ended = process.run([*command, *(["--out", str(out)] if who == "ours" else [])], threads=1, limit=1800.0)
    if ended.status != 0 or not out.exists():
        return {"failed": ended.stderr.strip().rpartition("\n")[2][:200] or "stopped after 1,800 s"}
    return {**json.loads(out.read_text(encoding="utf-8")), "peak_mb": ended.peak_mb}


def _middle(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The round of the median time."""
    right = sorted((one for one in found if "seconds" in one), key=lambda one: float(one["seconds"]))
    return right[(len(right) - 1) // 2] if right else found[0]


def _asked(options: argparse.Namespace) -> dict[str, float]:
    import polars_glmm
    from polars_glmm.errors import FitWarning

    warnings.simplefilter("ignore", FitWarning)
    question, rows = QUESTIONS[options.ask], options.folder / "rows.parquet"
    many = pl.scan_parquet(rows).select(pl.len()).collect().item() >= 10**7
    frame: Any = pl.scan_parquet(rows) if many else pl.read_parquet(rows)
    times: list[float] = []
    answer, began = 0.0, time.perf_counter()
    while len(times) < 12 and sum(times) < _LONG and time.perf_counter() - began < 20 * _LONG:
        fit = polars_glmm.fit(frame, question.formula, **question.arguments)  # anew: a fit keeps what it was asked
        begin = time.perf_counter()
        answer = question.ask(fit, rows, options.folder)
        times.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(times[1:] or times), "answer": answer}


_R = """
for (package in c("lme4", "{peer}"))
  if (!requireNamespace(package, quietly = TRUE)) stop(package, " is not installed")
folder <- commandArgs(TRUE)[1]
data <- read.csv(file.path(folder, "rows.csv"))
for (name in c({labels})) data[[name]] <- factor(data[[name]])
options(warn = -1)
fit <- suppressMessages({fit_r})
times <- numeric()
while (length(times) < 12 && sum(times) < 1) {{
  begin <- as.numeric(Sys.time())
  answer <- suppressMessages({ask_r})
  times <- c(times, as.numeric(Sys.time()) - begin)
}}
seconds <- median(if (length(times) > 1) times[-1] else times) / {share}
cat(sprintf('{{"seconds": %.6g, "answer": %.15g}}', seconds, answer), file = file.path(folder, "answer.json"))
"""


def report(record: dict[str, Any]) -> list[str]:
    """A table with one line per question."""
    host = record["machine"]
    return [
        "# After the fit",
        "",
        (
            f"Generated by `python -m benchmarks.after`, {record['date']}; {host['processor']}, {host['cores']} cores, "
            f"{host['memory_gib']} GiB, one thread each. Time: the call, the fit made before. A ratio only where both "
            f"give the same number to {AGREE:g}. R's bootstraps are a part of the draws, times what is missing."
        ),
        "",
        "| question | rows | call | ours | peak | peer | its time | ratio | number | aim |",
        "| --- | ---: | --- | ---: | ---: | --- | ---: | ---: | --- | --- |",
        *("| " + " | ".join(_cells(run)) + " |" for run in record["runs"]),
    ]


def _cells(run: dict[str, Any]) -> list[str]:
    question, ours = QUESTIONS[run["question"]], run["ours"]
    head = [run["question"], f"{run['rows']:,}", f"`{run['call']}`"]
    if "failed" in ours:
        return [*head, ours["failed"], *[""] * 5, run["aim"]]
    own = [duration(ours["seconds"]), f"{ours['peak_mb']:,.0f} MB"]
    number = f"{ours['answer']:.6g}"
    if not question.peer:
        return [*head, *own, "–", "", "", number, run["aim"]]
    other = run[question.peer]
    if "failed" in other:
        return [*head, *own, question.peer, other["failed"], "", number, run["aim"]]
    same = abs(ours["answer"] - other["answer"]) <= AGREE * abs(other["answer"])
    ratio = f"**{ours['seconds'] / other['seconds']:.3f}**" if same else "–"
    both = number if same else f"{number} / {other['answer']:.6g}"
    return [*head, *own, question.peer, duration(other["seconds"]), ratio, both, run["aim"]]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.after", description="Questions to a fit, timed.")
    parser.add_argument("--only", nargs="+", default=list(QUESTIONS), choices=list(QUESTIONS))
    parser.add_argument("--rscript", default="Rscript", help="R, with the packages named")
    parser.add_argument("--rounds", type=int, default=3, help="processes in turn; the median counts")
    parser.add_argument("--ask", choices=list(QUESTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
