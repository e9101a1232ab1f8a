"""Tests of several parameters at once over imputations: D1, D2 and D3 of Li, Meng, Raghunathan and Rubin.

All compare D with F(k, ν): ν = 4 + (t − 4)(1 + (1 − 2/t)/r)² for t = k(m − 1) > 4, else t(1 + 1/k)(1 + 1/r)²/2, r the
relative increase of variance from what is missing (Li, Raghunathan & Rubin 1991, eq. 1.17).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
from scipy.special import chdtrc, fdtrc

from polars_glmm.errors import ModelError
from polars_glmm.fitting.again import design_of
from polars_glmm.inference.covariance import coefficient_covariance
from polars_glmm.inference.hypotheses import HypothesesLike, read_hypotheses
from polars_glmm.inference.hypothesis_tests import covariance_for, distances
from polars_glmm.inference.schemas import POOL_TEST, table
from polars_glmm.likelihood.model import prepare
from polars_glmm.likelihood.objective import NaturalObjective
from polars_glmm.likelihood.refits.refit import natural_values
from polars_glmm.typing import Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


_NOTHING = 1e-12
"""Relative increase of variance that is rounding error."""


class Pooled(NamedTuple):
    """D with its degrees of freedom, and r."""

    statistic: float
    num_df: int
    den_df: float
    riv: float


def pooled_wald(fits: Sequence[Answer], hypotheses: HypothesesLike, method: str) -> pl.DataFrame:
    """D1, or D2 from the single χ² of each fit, of hypotheses about the parameters."""
    q, u = [], []
    for fit in fits:
        asked = read_hypotheses(fit, hypotheses)
        covariance = covariance_for(fit, asked, coefficient_covariance(fit, None, "normal"))
        q.append(distances(asked))
        u.append(covariance.of(asked.rows))
    labels = read_hypotheses(fits[0], hypotheses).labels
    if not (np.isfinite(q).all() and np.isfinite(u).all()):
        msg = "Some imputation has no standard error for what is tested: look at the fits of each."
        raise ModelError(msg)
    if method == "D1":
        found = d1(np.array(q), np.array(u))
    else:
        found = d2(np.array([x @ np.linalg.solve(v, x) for x, v in zip(q, u, strict=True)]), len(q[0]))
    return _table(", ".join(labels), method, found, len(fits))


def pooled_likelihood_ratio(larger: Sequence[Answer], smaller: Sequence[Answer], method: str) -> pl.DataFrame:
    """D3, or D2 from the likelihood ratio of each imputation, of fits by maximum likelihood."""
    k = larger[0].estimate.df_model - smaller[0].estimate.df_model
    if len(larger) != len(smaller) or k < 1:
        msg = "pool_test() takes a larger and a smaller model of each imputation: as many fits, more parameters first."
        raise ModelError(msg)
    own = np.array([2.0 * (one.loglik - other.loglik) for one, other in zip(larger, smaller, strict=True)])
    if method == "D2":
        found = d2(np.maximum(own, 0.0), k)
    else:
        at_mean = np.array(_at_mean(larger)) - np.array(_at_mean(smaller))
        found = d3(own, 2.0 * at_mean, k)
    return _table(smaller[0].formula, method, found, len(larger))


def d1(q: Mat, u: Mat) -> Pooled:
    """From estimates (m, k) and their covariances (m, k, k) (Li, Raghunathan & Rubin 1991)."""
    m, k = q.shape
    mean, within = q.mean(0), u.mean(0)
    away = q - mean
    between = away.T @ away / (m - 1.0)
    r = (1.0 + 1.0 / m) * float(np.trace(np.linalg.solve(within, between))) / k
    return Pooled(float(mean @ np.linalg.solve(within, mean)) / (k * (1.0 + r)), k, _freedom(k, m, r), r)


def d2(chi2: Vec, k: int) -> Pooled:
    """From a χ² of each imputation (Li, Meng, Raghunathan & Rubin 1991)."""
    m = len(chi2)
    r = (1.0 + 1.0 / m) * float(np.var(np.sqrt(chi2), ddof=1))
    statistic = (float(chi2.mean()) / k - (m + 1.0) / (m - 1.0) * r) / (1.0 + r)
    df = np.inf if r <= _NOTHING else k ** (-3.0 / m) * (m - 1.0) * (1.0 + 1.0 / r) ** 2
    return Pooled(max(statistic, 0.0), k, df, r)


def d3(own: Vec, at_mean: Vec, k: int) -> Pooled:
    """From likelihood ratios at the estimates of each imputation, and at their mean (Meng & Rubin 1992)."""
    m = len(own)
    r = max((m + 1.0) / (k * (m - 1.0)) * float(own.mean() - at_mean.mean()), 0.0)
    return Pooled(max(float(at_mean.mean()), 0.0) / (k * (1.0 + r)), k, _freedom(k, m, r), r)


def _freedom(k: int, m: int, r: float) -> float:
    if r <= _NOTHING:
        return np.inf
    t = k * (m - 1.0)
    if t > 4.0:
        return float(4.0 + (t - 4.0) * (1.0 + (1.0 - 2.0 / t) / r) ** 2)
    return float(t * (1.0 + 1.0 / k) * (1.0 + 1.0 / r) ** 2 / 2.0)


def _at_mean(fits: Sequence[Answer]) -> list[float]:
    """ℓ of each imputation at the mean of the natural parameters of all."""
    mean = np.mean([natural_values(fit.estimate) for fit in fits], axis=0)
    if not np.isfinite(mean).all():
        msg = "D3 needs finite estimates of every imputation; some run to an end of their range. Use method='D2'."
        raise ModelError(msg)
    found = []
    for fit in fits:
        design = design_of(fit, "pool_test(method='D3')").design
        found.append(NaturalObjective(prepare(design, fit.spec.family, fit.spec.method, fit.control)).loglik(mean))
    return found


def _table(hypothesis: str, method: str, found: Pooled, m: int) -> pl.DataFrame:
    d, k, df, r = found
    finite = df if np.isfinite(df) else None
    p = float(chdtrc(k, k * d)) if np.isinf(df) else float(fdtrc(k, df, d))
    return table(
        POOL_TEST,
        {
            "hypothesis": [hypothesis], "method": [method], "num_df": [k], "den_df": [finite], "statistic": [d],
            "p_value": [p], "riv": [r], "n_imputations": [m],
        },
    )  # fmt: skip
