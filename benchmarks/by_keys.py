"""Models of several grouping factors by key: side by side, beside the same models one by one in the same run.

python -m benchmarks.by_keys [--keys 500] [--singly 25] [--rounds 3] [--cases pastes …]
Milliseconds of processor time a model, on one thread, medians of alternating rounds; so other work on the machine does
not count. `room` is the entries of the dense arrays of a model's crossed factors. The last columns say how many of the
models were made side by side, and the largest difference of log-likelihoods from the fits one by one.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import polars as pl

import polars_glmm
from polars_glmm import datasets
from polars_glmm.control import Control, Rows
from polars_glmm.errors import FitWarning
from polars_glmm.fitting import by_key
from polars_glmm.result.collection import FitCollection
from polars_glmm.typing import Vec

ONE = Control(rows=Rows(threads=1))


class Case(NamedTuple):
    """Models that are timed: the data of some keys by their number, and the entries of dense arrays of one."""

    frame: Callable[[int], pl.DataFrame]
    formula: str
    arguments: dict[str, Any]
    room: int


def _redrawn(name: str, groups: dict[str, float], mean: float, sigma: float) -> Callable[[int], pl.DataFrame]:
    """A data set whose response is drawn anew for every key; groups: standard deviations by the columns of a factor."""

    def frame(keys: int) -> pl.DataFrame:
        rng, rows = np.random.default_rng(7), datasets.load(name)
        parts = []
        for key in range(keys):
            y: Vec = mean + sigma * rng.standard_normal(rows.height)
            for columns, deviation in groups.items():
                codes = rows.select(pl.struct(columns.split()).rank("dense") - 1).to_series().to_numpy()
                y = y + deviation * rng.standard_normal(int(codes.max()) + 1)[codes]
            parts.append(rows.with_columns(key=pl.lit(key), y=pl.Series(y)))
        return pl.concat(parts)

    return frame


def _crossed(rows: int, a: int, b: int) -> Callable[[int], pl.DataFrame]:
    """Rows of random levels of two factors, with a gaussian response and counts."""

    def frame(keys: int) -> pl.DataFrame:
        rng, parts = np.random.default_rng(rows), []
        for key in range(keys):
            i, j, x = rng.integers(a, size=rows), rng.integers(b, size=rows), rng.standard_normal(rows)
            eta = 0.5 + 0.3 * x + 0.5 * rng.standard_normal(a)[i] + 0.4 * rng.standard_normal(b)[j]
            own = {"a": i, "b": j, "x": x, "count": rng.poisson(np.exp(eta)), "y": eta + rng.standard_normal(rows)}
            parts.append(pl.DataFrame({"key": np.full(rows, key), **own}))
        return pl.concat(parts)

    return frame


def _two(rows: int, a: int, b: int, response: str) -> Case:
    family = {"family": "poisson"} if response == "count" else {}
    return Case(_crossed(rows, a, b), f"{response} ~ x + (1 | a) + (1 | b)", family, b * (a + b))


PASTES = _redrawn("pastes", {"batch": 1.3, "batch cask": 2.9}, 60.0, 0.8)
PENICILLIN = _redrawn("penicillin", {"plate": 0.85, "sample": 1.9}, 23.0, 0.55)
CASES = {
    "pastes": Case(PASTES, "y ~ 1 + (1 | batch/cask)", {}, 0),
    "penicillin": Case(PENICILLIN, "y ~ 1 + (1 | plate) + (1 | sample)", {}, 6 * 30),
    "counts, 20 × 10": _two(200, 20, 10, "count"),
    "counts, 60 × 30": _two(600, 60, 30, "count"),
    "counts, 150 × 80": _two(1500, 150, 80, "count"),
    "counts, 250 × 150": _two(2500, 250, 150, "count"),
    "counts, 300 × 190": _two(3000, 300, 190, "count"),
    "gaussian, 60 × 30": _two(600, 60, 30, "y"),
    "gaussian, 150 × 80": _two(1500, 150, 80, "y"),
    "gaussian, 250 × 150": _two(2500, 250, 150, "y"),
    "gaussian, 300 × 190": _two(3000, 300, 190, "y"),
}


def main() -> None:
    """Print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--keys", type=int, default=500)
    options.add_argument("--singly", type=int, default=25)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    asked = options.parse_args()
    warnings.simplefilter("ignore", FitWarning)
    print("| data | room | side by side, ms | one by one, ms | ratio | side by side | difference in ℓ |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in asked.cases:
        print(_row(name, CASES[name], asked), flush=True)


def _row(name: str, case: Case, asked: argparse.Namespace) -> str:
    frame = case.frame(asked.keys)
    few = frame.filter(pl.col("key") < asked.singly)
    together, singly, apart, share = [], [], 0.0, 0.0
    for _ in range(asked.rounds):
        took, found = _timed(frame, case)
        together.append(took / asked.keys)
        with mock.patch.object(by_key, "batchable", return_value=False):
            took, other = _timed(few, case)
        singly.append(took / asked.singly)
        own = found.glance()["loglik"].to_numpy()[: asked.singly]
        apart = max(apart, float(np.abs(own - other.glance()["loglik"].to_numpy()).max()))
        share = float((found.outcomes.batch_of >= 0).mean())
    a, b = statistics.median(together), statistics.median(singly)
    return f"| {name} | {case.room} | {a:.2f} | {b:.1f} | {b / a:.1f} | {share:.0%} | {apart:.0e} |"


def _timed(frame: pl.DataFrame, case: Case) -> tuple[float, FitCollection]:
    """Milliseconds of processor time, and the models."""
    began = time.process_time()
    found = polars_glmm.fit(frame, case.formula, by="key", control=ONE, **case.arguments)
    return 1e3 * (time.process_time() - began), found


if __name__ == "__main__":
    main()
