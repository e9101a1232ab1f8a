"""p-values and intervals of several tests at once: pure functions of statistics, degrees of freedom and correlations.

The distribution of the largest of several correlated t statistics is an integral over directions in which the radius
is integrated exactly (Deák 1980; Genz & Bretz 2009, §4.1): T = R·Λu with ΛΛ' the correlation matrix of rank r, u
uniform on the sphere and R²/r ~ F(r, df), so P(max|T| > c) is the mean over u of P(F > c²/(r·max|Λu|²)). Any rank, any
df; scipy's multivariate_t is far off where the correlation matrix is singular, as that of all pairs is.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from scipy.special import chdtrc, chdtri, fdtrc, fdtri, ndtri

from polars_glmm.errors import ModelError, suggest
from polars_glmm.inference.distributions import check_level, one_sided_quantile, quantile
from polars_glmm.inference.studentized_range import studentized_range_quantile, studentized_range_tail
from polars_glmm.typing import BoolVec, Mat, Vec

Adjustment: TypeAlias = Literal[
    "none", "bonferroni", "holm", "hochberg", "bh", "by", "sidak", "tukey", "dunnett", "scheffe", "mvt"
]
METHODS = ("none", "bonferroni", "holm", "hochberg", "bh", "by", "sidak", "tukey", "dunnett", "scheffe", "mvt")
_DRAWS, _REPEATS = 12, 8
"""Directions are 2^_DRAWS points of a Sobol sequence, randomised so many times."""
_SEED = 20240101
_RANK = 1e-9
"""Share of the largest eigenvalue of a correlation matrix below which one is zero."""


class Tests(NamedTuple):
    """What is adjusted: statistics, df (inf: normal) and p-values (m,), NaN where there is no test.

    correlation (m, m)   of the estimates;  upward: one-sided tests, in the direction of large statistics
    """

    statistic: Vec
    df: Vec
    p_value: Vec
    correlation: Mat
    one_sided: bool = False


class Adjusted(NamedTuple):
    """Adjusted p-values (m,), half-widths of intervals in standard errors (m,), and what there is to say."""

    p_value: Vec
    width: Vec
    note: str = ""


def adjust(method: str | None, tests: Tests, *, conf_level: float = 0.95, means: int | None = None) -> Adjusted:
    """The tests as one family.

    means   the number of means whose pairs these are all of, for "tukey"
    Raises ModelError for a method that is not known, or does not suit the tests.
    """
    check_level(conf_level)
    if method is not None and method not in METHODS:
        msg = f"adjust={method!r} is not known.{suggest(str(method), METHODS)} Use one of {', '.join(METHODS)}."
        raise ModelError(msg)
    plain = one_sided_quantile(conf_level, tests.df) if tests.one_sided else quantile(conf_level, tests.df)
    real = np.isfinite(tests.p_value)
    if method in (None, "none") or real.sum() < 2:
        return Adjusted(tests.p_value, plain)
    own = Tests(
        tests.statistic[real], tests.df[real], tests.p_value[real], tests.correlation[np.ix_(real, real)],
        tests.one_sided,
    )  # fmt: skip
    found = _family(str(method), own, conf_level, means, plain[real])
    return Adjusted(_spread(found.p_value, real), _spread(found.width, real, plain), found.note)


def _family(method: str, tests: Tests, conf_level: float, means: int | None, plain: Vec) -> Adjusted:
    p, m = tests.p_value, len(tests.p_value)
    if method in ("bonferroni", "holm", "hochberg"):
        width = _plain_width(tests, 1.0 - (1.0 - conf_level) / m)
        if method == "bonferroni":
            return Adjusted(np.minimum(m * p, 1.0), width)
        note = f"intervals_bonferroni: {method} has no intervals of its own, these are Bonferroni's."
        own = step_down(p) if method == "holm" else step_up(p, np.arange(m, 0.0, -1.0))
        return Adjusted(own, width, note)
    if method in ("bh", "by"):
        factor = m / np.arange(m, 0, -1.0)  # from the largest p-value to the smallest
        if method == "by":
            factor = factor * (1.0 / np.arange(1, m + 1)).sum()
        note = f"intervals_unadjusted: {method} has no intervals, these are those of single tests."
        return Adjusted(step_up(p, factor[::-1]), plain, note)
    if method == "sidak":
        return Adjusted(-np.expm1(m * np.log1p(-np.minimum(p, 1.0))), _plain_width(tests, conf_level ** (1.0 / m)))
    if method == "scheffe":
        return _scheffe(tests, conf_level)
    if method == "tukey":
        return _tukey(tests, conf_level, means)
    if method == "dunnett" and rank(tests.correlation) < m:
        msg = "adjust='dunnett' compares each mean with one control; these hypotheses depend on one another. Use 'mvt'."
        raise ModelError(msg)
    return _largest(tests, conf_level)


def step_down(p: Vec) -> Vec:
    """Holm (1979): the k-th smallest p-value times the number that are not smaller, never falling."""
    order = np.argsort(p, kind="stable")
    out = np.empty_like(p)
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return out


def step_up(p: Vec, factor: Vec) -> Vec:
    """From the largest p-value down, each times `factor` for its place (m,), never rising (Hochberg 1988; BH 1995)."""
    order = np.argsort(p, kind="stable")
    out = np.empty_like(p)
    out[order] = np.minimum(np.minimum.accumulate((p[order] * factor)[::-1])[::-1], 1.0)
    return out


def rank(correlation: Mat) -> int:
    """How many of the estimates vary independently."""
    values = np.linalg.eigvalsh(correlation)
    return int((values > _RANK * values[-1]).sum())


def _plain_width(tests: Tests, level: float) -> Vec:
    return one_sided_quantile(level, tests.df) if tests.one_sided else quantile(level, tests.df)


def _scheffe(tests: Tests, conf_level: float) -> Adjusted:
    """All linear combinations of what the tests span (Scheffé 1953)."""
    _two_sided("scheffe", tests)
    r = rank(tests.correlation)
    normal = ~np.isfinite(tests.df)
    df = np.where(normal, 1.0, tests.df)
    f = tests.statistic**2 / r
    p = np.where(normal, chdtrc(r, r * f), fdtrc(r, df, f))
    critical = np.where(normal, chdtri(r, 1.0 - conf_level), r * fdtri(r, df, conf_level))
    return Adjusted(np.asarray(p), np.sqrt(critical))


def _tukey(tests: Tests, conf_level: float, means: int | None) -> Adjusted:
    """All pairs of `means` means: the studentized range (Tukey 1953; Kramer 1956 for unequal variances)."""
    _two_sided("tukey", tests)
    if means is None or len(tests.p_value) != means * (means - 1) // 2:
        msg = "adjust='tukey' is for all pairs of one family of means, which these are not. Use 'sidak' or 'mvt'."
        raise ModelError(msg)
    df = np.where(np.isfinite(tests.df), tests.df, np.inf)
    p = studentized_range_tail(np.sqrt(2.0) * np.abs(tests.statistic), means, df)
    # far out the integral is rounding, and the pairs as good as exclude one another
    p = np.clip(p, tests.p_value, np.minimum(len(p) * tests.p_value, 1.0))
    return Adjusted(p, studentized_range_quantile(conf_level, means, df) / np.sqrt(2.0))


def _two_sided(method: str, tests: Tests) -> None:
    if tests.one_sided:
        msg = f"adjust={method!r} is for two-sided tests. Use 'sidak', 'mvt' or 'bonferroni'."
        raise ModelError(msg)


class _Directions(NamedTuple):
    """The largest of Λu (repeats, draws), and the rank of Λ."""

    largest: Mat
    rank: int

    def beyond(self, bound: float, df: float) -> Vec:
        """P(max T > bound) by each repeat: radii beyond it, or, below zero where all of Λu is negative, short of it."""
        if bound == 0.0:
            return np.asarray((self.largest > 0.0).mean(axis=1))
        along = np.where(np.sign(self.largest) == np.sign(bound), np.abs(self.largest), 1.0)
        f = np.minimum((bound / np.maximum(along, 1e-100)) ** 2, 1e300)
        tail = chdtrc(self.rank, f) if not np.isfinite(df) else fdtrc(self.rank, df, f / self.rank)
        if bound > 0.0:
            return np.asarray(np.where(self.largest > 0.0, tail, 0.0).mean(axis=1))
        return np.asarray(np.where(self.largest >= 0.0, 1.0, 1.0 - tail).mean(axis=1))


def _directions(correlation: Mat, *, one_sided: bool) -> _Directions:
    from scipy.stats import qmc  # noqa: PLC0415  slow to import

    values, vectors = np.linalg.eigh(correlation)
    told = values > _RANK * values[-1]
    root = vectors[:, told] * np.sqrt(values[told])
    r = int(told.sum())
    largest = []
    for k in range(_REPEATS):
        points = qmc.Sobol(r, seed=_SEED + k).random_base2(_DRAWS)
        z = ndtri(np.clip(points, 1e-12, 1.0 - 1e-12))
        u = z / np.linalg.norm(z, axis=1, keepdims=True)
        t = u @ root.T
        largest.append((t if one_sided else np.abs(t)).max(axis=1))
    return _Directions(np.array(largest), r)


def _largest(tests: Tests, conf_level: float) -> Adjusted:
    """The exact joint distribution: multivariate t, one df for each row (Hothorn, Bretz & Westfall 2008, §3)."""
    from scipy.optimize import brentq  # noqa: PLC0415  slow to import

    at = _directions(tests.correlation, one_sided=tests.one_sided)
    bounds = tests.statistic if tests.one_sided else np.abs(tests.statistic)
    each = np.array([at.beyond(float(t), float(df)) for t, df in zip(bounds, tests.df, strict=True)])
    error = float(each.std(axis=1, ddof=1).max() / np.sqrt(_REPEATS))
    # a single test bounds its own adjusted p-value from below, rounding of the integral or not
    p = np.clip(np.maximum(each.mean(axis=1), tests.p_value), 0.0, 1.0)
    df = np.where(np.isfinite(tests.df), tests.df, np.inf)
    unique, place = np.unique(np.round(df, 6), return_inverse=True)
    level = 1.0 - conf_level
    most = _plain_width(Tests(*tests[:4], tests.one_sided), 1.0 - level / (2 * len(p)))
    width = []
    for k, one in enumerate(unique):
        high = float(most[place == k].max()) + 1.0
        width.append(brentq(lambda c, one=one: float(at.beyond(c, one).mean()) - level, 0.0, high, xtol=1e-10))
    return Adjusted(p, np.array(width)[place], f"simulated_p: the largest standard error of a p-value is {error:.0e}.")


def _spread(values: Vec, real: BoolVec, otherwise: Vec | None = None) -> Vec:
    out = np.full(len(real), np.nan) if otherwise is None else otherwise.copy()
    out[real] = values
    return out
