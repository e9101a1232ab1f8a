"""statsmodels' MixedLM: gaussian models with one grouping factor."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pandas as pd
import polars as pl
from statsmodels.formula.api import mixedlm

from benchmarks.peers import Answer
from benchmarks.problems import Problem


def refuses(problem: Problem) -> str:
    if not problem.plain:
        return "it has no such family, further predictor or correlation of residuals"
    if problem.family != "gaussian":
        return "its generalized mixed models are variational, not maximum likelihood"
    return "one grouping factor only" if len(problem.random) > 1 else ""


def prepare(frame: pl.DataFrame, problem: Problem, threads: int) -> Callable[[], Any]:
    data = frame.to_pandas()
    (terms, group), formula = problem.random[0], f"{problem.response} ~ {problem.fixed}"

    def call() -> Any:
        fitted = mixedlm(formula, data, groups=data[group], re_formula=f"~{terms}").fit(reml=False)
        return fitted, fitted.bse_fe

    return call


def answer(fitted: Any) -> Answer:
    return Answer(float(fitted[0].llf), [float(b) for b in fitted[0].fe_params])


def versions() -> dict[str, str]:
    return {"statsmodels": version("statsmodels"), "pandas": pd.__version__}
