"""The studentized range: the largest difference of k independent normal variables over an independent s, s²ν ~ χ²_ν.

P(Q ≤ q) = ∫ W(qs) f(s) ds with W(w) = k ∫ φ(z) [Φ(z) − Φ(z − w)]^(k−1) dz, the range of k normal variables. Both
integrals by the trapezoidal rule, which is exact to rounding for integrands that are analytic and vanish at both ends
(Trefethen & Weideman 2014); W, which all statistics of a family share, is interpolated at Chebyshev points.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.polynomial import chebyshev
from scipy.special import gammaln, ndtr

from polars_glmm.inference.distributions import quantile
from polars_glmm.typing import Vec

_REACH, _Z_STEP = 8.7, 0.05
"""Standard deviations beyond which a normal density is rounding, and the step over it."""
_WIDEST = 26.0
"""Range that no set of normal variables exceeds but for rounding."""
_DEGREE = 160
_SURE = 1e5
"""Degrees of freedom from which s is 1."""
_NODES_IN_NU, _NODES_NEAR, _NEAR = 12, 5, 1.5
"""Points of an interpolation in 1/df, and where all of it is within so small a factor."""


def studentized_range_tail(q: Vec, k: int, df: Vec) -> Vec:
    """P(Q > q) for q, df (m,), inf for a known standard deviation; errors of 1e-13."""
    q = np.asarray(q, dtype=np.float64)
    out = np.where(q == np.inf, 0.0, np.nan)
    sure = ~(df < _SURE)
    out[sure] = 1.0 - _range(q[sure], k)
    rest = np.flatnonzero(~sure & np.isfinite(q))
    if len(rest):
        t, weights = _log_scales(df[rest], k)
        out[rest] = 1.0 - (weights * _range(q[rest, None] * np.exp(t), k)).sum(axis=1)
    return np.clip(out, 0.0, 1.0)


def studentized_range_quantile(level: float, k: int, df: Vec) -> Vec:
    """q with P(Q ≤ q) = level for df (m,): exactly for a few, else by interpolation in 1/df, in which it is smooth."""
    nu, place = np.unique(np.where(df < _SURE, df, np.inf), return_inverse=True)
    if len(nu) <= _NODES_IN_NU:
        return np.array([_root(level, k, one) for one in nu])[place]
    x = 1.0 / nu
    low, high = float(x.min()), float(x.max())
    n = _NODES_IN_NU if high > _NEAR * low else _NODES_NEAR
    at = low + 0.5 * (high - low) * (1.0 - np.cos(np.pi * (np.arange(n) + 0.5) / n))
    roots = np.log([_root(level, k, 1.0 / one) for one in at])
    fitted = chebyshev.Chebyshev.fit(at, roots, n - 1, domain=[low, high])
    return np.exp(np.asarray(fitted(x)))[place]


def _root(level: float, k: int, df: float) -> float:
    """The quantile for one df, between that of a single pair and Bonferroni's of all of them."""
    from scipy.optimize import brentq  # noqa: PLC0415  slow to import

    nu = np.array([df])

    def beyond(q: float) -> float:
        return float(studentized_range_tail(np.array([q]), k, nu)[0]) - (1.0 - level)

    ends = [np.sqrt(2.0) * float(quantile(one, nu)[0]) for one in (level, 1.0 - 2.0 * (1.0 - level) / (k * (k - 1)))]
    return float(ends[0]) if k == 2 else float(brentq(beyond, ends[0], ends[1], rtol=1e-12))


@lru_cache(maxsize=32)
def _interpolated(k: int) -> Vec:
    """Chebyshev coefficients of W over ranges from 0 to the widest."""
    z = np.arange(-_REACH, _REACH + _Z_STEP, _Z_STEP)
    density = k * _Z_STEP * np.exp(-0.5 * z * z) / np.sqrt(2.0 * np.pi)
    below = ndtr(z)

    def exact(x: Vec) -> Vec:
        w = 0.5 * _WIDEST * (x + 1.0)
        return np.asarray((below - ndtr(z - w[:, None])) ** (k - 1) @ density)

    nodes = chebyshev.chebpts1(_DEGREE + 1)
    found: Vec = np.asarray(chebyshev.chebfit(nodes, exact(nodes), _DEGREE))
    return found


def _range(w: Vec, k: int) -> Vec:
    """W(w), the distribution of the range of k normal variables."""
    x = np.clip(2.0 * w / _WIDEST - 1.0, -1.0, 1.0)
    return np.clip(np.asarray(chebyshev.chebval(x, _interpolated(k))), 0.0, 1.0)


def _log_scales(df: Vec, k: int) -> tuple[Vec, Vec]:
    """Nodes of log s and their weights, (m, nodes): s²ν ~ χ²_ν, density e^(νt − νe^(2t)/2) in t = log s."""
    sd = 1.0 / np.sqrt(2.0 * df)
    # e^(νt) falls slowly to the left, e^(−νe^(2t)/2) at once to the right
    low, high = -(8.0 * sd + 36.0 / (df + k - 1.0)), np.minimum(9.0 * sd, 0.5 * np.log1p(100.0 / df) + 0.1)
    step = np.minimum(0.35 * sd, 0.04).min()
    count = int(np.ceil(float((high - low).max()) / step)) + 1
    t = low[:, None] + (high - low)[:, None] * np.linspace(0.0, 1.0, count)
    nu = df[:, None]
    log_density = nu * (t - 0.5 * np.exp(2.0 * t)) + 0.5 * nu * np.log(0.5 * nu) + np.log(2.0) - gammaln(0.5 * nu)
    return t, np.exp(log_density) * ((high - low) / (count - 1))[:, None]
