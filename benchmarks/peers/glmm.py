"""The `glmm` package: takes the Polars frame and a formula."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import glmm
import polars as pl

from benchmarks.peers import Answer
from benchmarks.problems import Problem

LEAN = {"wald_se": "rx", "anova_test": "Wald", "satterthwaite": False}


def refuses(problem: Problem) -> str:
    return ""


def prepare(frame: pl.DataFrame, problem: Problem, threads: int, *, lean: bool = False) -> Callable[[], Any]:
    trials = problem.trials is not None
    formula = problem.formula(f"cbind({problem.response}, failures)" if trials else None)
    arguments: dict[str, Any] = {"family": problem.family, "nagq": problem.nodes} | (LEAN if lean else {})
    if problem.family == "gaussian":
        arguments["reml"] = False
    return lambda: glmm.fit(frame, formula, **arguments)


def answer(fitted: Any) -> Answer:
    return Answer(float(fitted.loglik), [float(b) for b in fitted.beta])


def versions() -> dict[str, str]:
    return {"glmm": version("glmm"), "polars": pl.__version__}
