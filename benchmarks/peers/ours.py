"""polars_glmm."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import polars as pl
import scipy

import polars_glmm
from benchmarks.peers import Answer
from benchmarks.problems import Problem
from polars_glmm.control import Control, Rows

BY = True


def refuses(problem: Problem) -> str:
    return ""


def prepare(frame: pl.DataFrame | pl.LazyFrame, problem: Problem, threads: int) -> Callable[[], Any]:
    arguments: dict[str, Any] = {"family": problem.family, "control": Control(rows=Rows(threads=threads))}
    if problem.family == "gaussian":
        arguments["method"] = "ml"
    if problem.residual is not None:
        arguments["residual"] = problem.residual
    if problem.nodes > 1:
        arguments["method"] = polars_glmm.AGQ(nodes=problem.nodes)
    if problem.trials is not None:
        arguments["trials"] = problem.trials
    if problem.by is not None:
        arguments["by"] = problem.by
    fit = polars_glmm.fit  # loads what the lazy front door leaves out: memory "with the data read" includes it
    return lambda: fit(frame, problem.formula(), *problem.further, **arguments)


def answer(fitted: Any) -> Answer:
    if isinstance(fitted, polars_glmm.Fit):
        return Answer(fitted.loglik, fitted.estimate.beta.tolist())
    return Answer(fitted.glance()["loglik"].sum(), [])


def versions() -> dict[str, str]:
    found = {"numpy": np.__version__, "scipy": scipy.__version__, "polars": pl.__version__}
    return {"polars_glmm": version("polars-glmm") if _installed() else "source tree"} | found


def _installed() -> bool:
    try:
        return bool(version("polars-glmm"))
    except ModuleNotFoundError:
        return False
