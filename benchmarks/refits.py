"""Bootstrap refits side by side, beside the same refits one by one in the same run.

python -m benchmarks.refits [--draws 300] [--singly 20] [--rounds 3]
Milliseconds of processor time a refit, drawing its response included, on one thread, medians of alternating rounds; so
other work on the machine does not count. The last columns say how many of the draws were answered side by side (those
out of the ordinary are looked at alone), and the largest difference of log-likelihoods from the refits one by one.
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
from polars_glmm.design.learn import learn
from polars_glmm.errors import FitWarning
from polars_glmm.inference.resampling import question_of
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.given import Given
from polars_glmm.likelihood.refits import refit
from polars_glmm.likelihood.refits.law import Law
from polars_glmm.likelihood.refits.responses import NewResponses
from polars_glmm.typing import Vec

ONE = Control(rows=Rows(threads=1))


class Case(NamedTuple):
    """A model whose refits are timed."""

    structure: str
    frame: Callable[[], pl.DataFrame]
    formula: str
    arguments: dict[str, Any]


def _counts(n: int = 5000, groups: int = 100) -> pl.DataFrame:
    rng = np.random.default_rng(5)
    g, x = rng.integers(groups, size=n), rng.standard_normal(n)
    eta = 0.5 + 0.3 * x + 0.5 * rng.standard_normal(groups)[g]
    return pl.DataFrame({"y": rng.poisson(np.exp(eta)), "x": x, "g": g})


def _dataset(name: str) -> Callable[[], pl.DataFrame]:
    return lambda: datasets.load(name)


CASES = {
    "sleepstudy": Case("slopes", _dataset("sleepstudy"), "Reaction ~ Days + (Days | Subject)", {}),
    "pastes": Case("nested", _dataset("pastes"), "strength ~ 1 + (1 | batch/cask)", {}),
    "penicillin": Case("crossed", _dataset("penicillin"), "diameter ~ 1 + (1 | plate) + (1 | sample)", {}),
    "cbpp": Case(
        "one factor, trials", _dataset("cbpp"), "incidence ~ period + (1 | herd)",
        {"family": "binomial", "trials": "size"},
    ),
    "grouseticks": Case(
        "three factors, one a row", _dataset("grouseticks"),
        "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)", {"family": "poisson"},
    ),
    "5000 counts": Case("one factor", _counts, "y ~ x + (1 | g)", {"family": "poisson"}),
}  # fmt: skip


def main() -> None:
    """Print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--draws", type=int, default=300)
    options.add_argument("--singly", type=int, default=20)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    asked = options.parse_args()
    warnings.simplefilter("ignore", FitWarning)
    print("| data | structure | side by side, ms | one by one, ms | side by side | difference in ℓ |")
    print("|---|---|---:|---:|---:|---:|")
    for name in asked.cases:
        print(_row(name, CASES[name], asked), flush=True)


def _row(name: str, case: Case, asked: argparse.Namespace) -> str:
    fit = polars_glmm.fit(case.frame(), case.formula, control=ONE, **case.arguments)
    design = learn(fit.call.spec(), case.frame()).design
    law, question = Law.of(design, fit.spec.family, fit.estimate), question_of(fit)
    alone: list[Vec] = []

    def refits(n: int) -> tuple[float, refit.Refitted]:
        began = time.process_time()
        found = refit.refit_responses(question, design, law, 1, range(n))
        return 1e3 * (time.process_time() - began) / n, found

    def counted(self: NewResponses, y: Vec, given: Given) -> Estimate:
        alone.append(y)
        return estimate(self, y, given)

    estimate = NewResponses.estimate
    together, singly, apart = [], [], 0.0
    for _ in range(asked.rounds):
        alone.clear()
        with mock.patch.object(NewResponses, "estimate", counted):
            took, found = refits(asked.draws)
        together.append(took)
        with mock.patch.object(refit, "fits_together", return_value=False):
            took, other = refits(asked.singly)
        singly.append(took)
        n = min(asked.draws, asked.singly)
        apart = max(apart, float(np.abs(found.loglik[:n] - other.loglik[:n]).max()))
    share = 1.0 - len(alone) / asked.draws
    times = f"{statistics.median(together):.2f} | {statistics.median(singly):.1f}"
    return f"| {name} | {case.structure} | {times} | {share:.0%} | {apart:.0e} |"


if __name__ == "__main__":
    main()
