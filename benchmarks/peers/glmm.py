"""The `glmm` package: takes the Polars frame and a formula."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import glmm
import numpy as np
import polars as pl
from scipy.special import gammaln

from benchmarks.peers import Answer
from benchmarks.problems import Problem

LEAN = {"wald_se": "rx", "anova_test": "Wald", "satterthwaite": False}


def refuses(problem: Problem) -> str:
    if not problem.plain:
        return "it has no such family, further predictor or correlation of residuals"
    return ""


def prepare(
    frame: pl.DataFrame, problem: Problem, threads: int, *, lean: bool = False, aggregate: bool = False
) -> Callable[[], Any]:
    if aggregate:
        return _by_hand(frame, problem)
    trials = problem.trials is not None
    formula = problem.formula(f"cbind({problem.response}, failures)" if trials else None)
    arguments: dict[str, Any] = {"family": problem.family, "nagq": problem.nodes} | (LEAN if lean else {})
    if problem.family == "gaussian":
        arguments["reml"] = False
    return lambda: (glmm.fit(frame, formula, **arguments), 0.0)


def answer(fitted: Any) -> Answer:
    fit, constant = fitted
    return Answer(float(fit.loglik) + constant, [float(b) for b in fit.beta])


def _by_hand(frame: pl.DataFrame, problem: Problem) -> Callable[[], Any]:
    """What a careful user does: add counts of equal covariates and group, with the log of their number as offset.

    The sum S of n counts with mean mu is Poisson with mean n mu. The log-likelihood of the counts is that of the sums
    plus Σ log S! - Σ S log n - Σ log y!, which no parameter changes and which is computed outside of the time.
    """
    if problem.family != "poisson":
        raise ValueError("only Poisson counts can be added up")
    cells = [name for name in frame.columns if name != problem.response]

    def summed() -> pl.DataFrame:
        return frame.group_by(cells).agg(pl.col(problem.response).sum(), n=pl.len())

    def fit() -> Any:
        counts = summed()
        return glmm.fit(counts, problem.formula(), family=problem.family, offset=counts["n"].log().to_numpy())

    counts = summed()
    sums, sizes = (counts[name].to_numpy().astype(float) for name in (problem.response, "n"))
    constant = float(gammaln(sums + 1).sum() - sums @ np.log(sizes))
    constant -= float(gammaln(frame[problem.response].to_numpy() + 1.0).sum())
    return lambda: (fit(), constant)


def versions() -> dict[str, str]:
    return {"glmm": version("glmm"), "polars": pl.__version__}
