"""gpboost with a convergence tolerance tight enough for its optimum to be one.

It gets the design matrix ready made. With more than one grouping factor its default log-likelihood is stochastic;
`inversion="cholesky"` is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import gpboost
import numpy as np
import polars as pl
from formulaic import model_matrix

from benchmarks.peers import Answer
from benchmarks.problems import Problem

CONVERGENCE = 1e-9  # its default 1e-6 is relative to the log-likelihood: too loose from 1e5 rows


def refuses(problem: Problem) -> str:
    if not problem.plain:
        return "it has no such family, further predictor or correlation of residuals"
    if problem.slopes:
        return "its random slopes are independent of the intercepts: another model"
    return "it has no quadrature" if problem.nodes > 1 else ""


def prepare(frame: pl.DataFrame, problem: Problem, threads: int, *, inversion: str = "default") -> Callable[[], Any]:
    X = np.asarray(model_matrix(problem.fixed, frame.to_pandas()), dtype=float)
    groups = np.column_stack([_codes(frame[name]) for name in problem.groups])
    y = frame[problem.response].to_numpy().astype(float)
    arguments: dict[str, Any] = {
        "likelihood": {"gaussian": "gaussian", "binomial": "bernoulli_logit", "poisson": "poisson"}[problem.family],
        "num_parallel_threads": threads,
        "matrix_inversion_method": inversion,
    }
    if problem.trials is not None:
        n = frame[problem.trials].to_numpy().astype(float)
        y = y / n
        arguments |= {"likelihood": "binomial_logit", "weights": n}

    def call() -> Any:
        model = gpboost.GPModel(group_data=groups, **arguments)
        model.fit(y=y, X=X, params={"delta_rel_conv": CONVERGENCE})
        return model, model.get_coef(std_err=True, format_pandas=False)

    return call


def answer(fitted: Any) -> Answer:
    model, coefficients = fitted
    return Answer(-float(model.get_current_neg_log_likelihood()), np.atleast_2d(coefficients)[0].tolist())


def versions() -> dict[str, str]:
    return {"gpboost": version("gpboost"), "numpy": np.__version__}


def _codes(column: pl.Series) -> np.ndarray:
    """Whole numbers for the levels."""
    return column.rank("dense").to_numpy() if column.dtype.is_numeric() else column.to_physical().to_numpy()
