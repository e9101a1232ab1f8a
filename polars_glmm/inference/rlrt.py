"""The exact null distribution of the restricted likelihood-ratio statistic of one variance.

With μ_s the eigenvalues of Z'P₀Z, P₀ = I − X(X'X)⁻¹X', w_s independent standard normal, K of them with μ_s,

    RLRT = sup_{λ ≥ 0} (n − p) log(1 + N(λ)/D(λ)) − Σ log(1 + λμ_s)
    N = Σ λμ_s w_s²/(1 + λμ_s),   D = Σ w_s²/(1 + λμ_s) + Σ_{s > K} w_s²

(Crainiceanu & Ruppert 2004, theorem 2). It is exact where the variance tested is the only one; beside others it is the
pseudo-test of Greven et al. (2008), which takes them as known.
"""

from __future__ import annotations

import numpy as np

from polars_glmm.typing import Mat, Vec

_GRID = 200
_AT_ONCE = 2_000_000
_SAME = 1e-9
"""Eigenvalues that agree so far, as a share of the largest, share a χ²."""


def eigenvalues(x: Mat, z: Mat) -> Vec:
    """Those of Z'P₀Z that are not zero, (K,), for rows x (p, n) and z (K', n), weights taken in."""
    q = np.linalg.qr(x.T)[0] if len(x) else np.empty((z.shape[1], 0))
    inside = z - (z @ q) @ q.T
    values = np.linalg.eigvalsh(inside @ inside.T)[::-1]
    return np.asarray(values[values > 1e-10 * max(float(values[0]), 1e-300)])


def null_draws(values: Vec, n_minus_p: int, n: int, rng: np.random.Generator) -> Vec:
    """n draws of the statistic under the null hypothesis."""
    distinct, counts = _gathered(values)
    grid = np.concatenate([[0.0], np.exp(np.linspace(np.log(1e-4), np.log(1e6), _GRID - 1)) / values.mean()])
    loaded = grid[:, None] * distinct
    log_part = np.log1p(loaded) @ counts
    share = 1.0 / (1.0 + loaded)
    out = np.empty(n)
    size = max(_AT_ONCE // _GRID, 1)
    for start in range(0, n, size):
        m = min(size, n - start)
        squares = rng.chisquare(counts, size=(m, len(counts)))
        rest = rng.chisquare(n_minus_p - len(values), size=m) if n_minus_p > len(values) else np.zeros(m)
        d = squares @ share.T + rest[:, None]
        total = squares.sum(1) + rest
        value = n_minus_p * np.log(total[:, None] / d) - log_part
        out[start : start + m] = _peaks(value)
    return np.maximum(out, 0.0)


def _gathered(values: Vec) -> tuple[Vec, Vec]:
    """Distinct eigenvalues and how often each stands."""
    breaks = np.flatnonzero(np.diff(values) < -_SAME * values[0]) + 1
    groups = np.split(values, breaks)
    return np.array([group.mean() for group in groups]), np.array([len(group) for group in groups], dtype=np.float64)


def _peaks(value: Mat) -> Vec:
    """The largest value of each row on an even grid in log λ, by a parabola where it lies inside."""
    top = value.argmax(1)
    rows = np.arange(len(value))
    best = value[rows, top]
    inside = (top > 1) & (top < value.shape[1] - 1)
    before, here, after = (value[rows[inside], top[inside] + k] for k in (-1, 0, 1))
    bend = before - 2.0 * here + after
    rise = np.where(bend < 0.0, (after - before) ** 2 / (-8.0 * np.where(bend < 0.0, bend, -1.0)), 0.0)
    best[inside] = here + rise
    return np.asarray(best)
