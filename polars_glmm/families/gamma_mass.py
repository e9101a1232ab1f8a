"""The logarithm of a gamma distribution's mass between two values, with derivatives in its shape too.

U = log X of X ~ Gamma(k, 1) has the density exp(k u − eᵘ)/Γ(k), so that of A = ∫ exp(k u − eᵘ) du between w_0 and w_1

    ∂_k log A = E[U | w_0 < U < w_1], and further derivatives are its variance and third central moment;
    ∂_w log A = R = p_1 − p_0 of both ends moved together, p_i = exp(k w_i − exp w_i)/A, and
    ∂_w p_i = p_i D_i with D_i = k − exp w_i − R = E[exp U − exp w_i],  ∂_k p_i = p_i (w_i − E U)

give all others (D_i by parts, so that it keeps its digits far out). The integrand is log-concave: nodes lie where it is
within exp(−40) of its highest, counted from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import special

from polars_glmm.families.distributions import Surface
from polars_glmm.families.special import stirling_rest
from polars_glmm.typing import BoolVec, Vec

_DEPTH = 40.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_BEND = 6.0
"""Beyond so far from the highest place the integrand is e^(ku), or falls with the exponential of an exponential."""


class MassMoments(NamedTuple):
    """log ∫ exp(h − h_0) dv, and of v = u − u_0 inside: E[eᵛ − 1], mean, variance, third central moment."""

    log_mass: Vec
    growth: Vec
    mean: Vec
    variance: Vec
    third: Vec


def log_mass(low: Vec, high: Vec, k: Vec, order: int) -> Surface:
    """log P(low < U < high) by (times both ends moved, times in k); ends may be infinite, low < high."""
    low, high, k = (np.asarray(one, dtype=np.float64) for one in np.broadcast_arrays(low, high, k))
    mode = np.log(k)
    u = np.clip(mode, low, high)  # the highest place inside
    x = np.exp(u)
    m = _moments(low - u, high - u, k, x)
    away = u - mode
    height = k * (away - np.expm1(away)) + 0.5 * mode - 0.5 * np.log(2.0 * np.pi) - stirling_rest(k)
    found: Surface = {(0, 0): np.minimum(height + m.log_mass, 0.0)}
    if not order:
        return found
    ends = [_end(sign, w - u, k, x, m) for sign, w in ((1.0, high), (-1.0, low))]
    r = _sum(end.p for end in ends)
    found[1, 0], found[0, 1] = r, away + m.mean + (mode - special.digamma(k))
    if order < 2:
        return found
    r_w, r_k = _sum(end.p * end.d for end in ends), _sum(end.p * end.beyond for end in ends)
    found[2, 0], found[1, 1], found[0, 2] = r_w, r_k, m.variance - special.polygamma(1, k)
    if order < 3:
        return found
    found[3, 0] = _sum(end.p * (end.d**2 - end.t - r_w) for end in ends)
    found[2, 1] = _sum(end.p * (end.beyond * end.d + 1.0 - r_k) for end in ends)
    found[1, 2] = _sum(end.p * (end.beyond**2 - m.variance) for end in ends)
    found[0, 3] = m.third - special.polygamma(2, k)
    return found


class End(NamedTuple):
    """±p, D, exp w and w − E U of an end; p is 0 of one that is infinite."""

    p: Vec
    d: Vec
    t: Vec
    beyond: Vec


def _end(sign: float, v: Vec, k: Vec, x: Vec, m: MassMoments) -> End:
    inside = np.isfinite(v)
    v = np.where(inside, v, 0.0)
    p = np.where(inside, np.exp(k * v - x * np.expm1(v) - m.log_mass), 0.0)
    return End(sign * p, x * (m.growth - np.expm1(v)), x * np.exp(v), v - m.mean)


def _sum(parts: Iterable[Vec]) -> Vec:
    first, second = parts
    return first + second


def _moments(low: Vec, high: Vec, k: Vec, x: Vec) -> MassMoments:
    """Of the density exp(k v − x(eᵛ − 1)) between low ≤ 0 and high ≥ 0, where it is highest at 0."""
    left, right = np.maximum(low, -_reach(k, x, -1.0)), np.minimum(high, _reach(k, x, 1.0))
    bend = np.maximum(left, -_BEND)
    cuts = (left, np.minimum(0.3 * left, bend), bend, np.zeros_like(left), np.minimum(right, _BEND), right)
    nodes, weights = [], []
    for a, b in pairwise(cuts):
        half = 0.5 * (b - a)
        nodes.append(a + half * (1.0 + _NODES.reshape(-1, *(1,) * a.ndim)))
        weights.append(half * _WEIGHTS.reshape(-1, *(1,) * a.ndim))
    v, w = np.concatenate(nodes), np.concatenate(weights)
    w = w * np.exp(k * v - x * np.expm1(v))
    total = w.sum(0)
    share = w / total
    mean = (share * v).sum(0)
    apart = v - mean
    growth, variance, third = ((share * one).sum(0) for one in (np.expm1(v), apart**2, apart**3))
    return MassMoments(np.log(total), growth, mean, variance, third)


def _reach(k: Vec, x: Vec, side: float) -> Vec:
    """How far on a side the log density falls by _DEPTH: between doublings of a first guess, by halving."""

    def fallen(v: Vec) -> BoolVec:
        with np.errstate(over="ignore"):
            return np.asarray(k * side * v - x * np.expm1(side * v) < -_DEPTH)

    high = np.minimum(np.sqrt(2.0 * _DEPTH / x), _DEPTH / np.maximum(np.abs(k - x), 1e-300)) + 1e-300
    high = np.where(np.isfinite(high), high, 1.0)
    for _ in range(60):
        short = ~fallen(high)
        if not short.any():
            break
        high = np.where(short, 2.0 * high, high)
    low = np.zeros_like(high)
    for _ in range(12):  # it need not be known better than to a few thousandths
        middle = 0.5 * (low + high)
        deep = fallen(middle)
        low, high = np.where(deep, low, middle), np.where(deep, middle, high)
    return high
