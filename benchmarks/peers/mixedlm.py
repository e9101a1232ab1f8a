"""The `mixedlm` package: takes pandas; proportions and weights for trials."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import mixedlm
import pandas as pd
import polars as pl

from benchmarks.peers import Answer
from benchmarks.problems import Problem

FAMILIES = {"binomial": mixedlm.families.Binomial, "poisson": mixedlm.families.Poisson}


def refuses(problem: Problem) -> str:
    if not problem.plain:
        return "it has no such family, further predictor or correlation of residuals"
    return ""


def prepare(frame: pl.DataFrame, problem: Problem, threads: int) -> Callable[[], Any]:
    data = frame.to_pandas()
    for name in problem.groups:
        data[name] = pd.Categorical(data[name])
    if problem.family == "gaussian":
        return lambda: _with_errors(mixedlm.lmer(problem.formula(), data, REML=False))
    arguments: dict[str, Any] = {"family": FAMILIES[problem.family](), "nAGQ": problem.nodes}
    response = problem.response
    if problem.trials is not None:
        data["proportion"] = data[response] / data[problem.trials]
        data[problem.trials] = data[problem.trials].astype(float)
        arguments["weights"], response = problem.trials, "proportion"
    return lambda: _with_errors(mixedlm.glmer(problem.formula(response), data, **arguments))


def answer(fitted: Any) -> Answer:
    value = fitted.logLik()
    return Answer(float(getattr(value, "value", value)), [float(b) for b in fitted.fixef().values()])


def versions() -> dict[str, str]:
    return {"mixedlm": version("mixedlm"), "pandas": pd.__version__}


def _with_errors(fitted: Any) -> Any:
    """The fit after its covariance matrix was asked for, which it computes on demand."""
    fitted.vcov()
    return fitted
