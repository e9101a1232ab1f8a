"""Log probabilities of categories between two thresholds, with derivatives in the predictors of a cumulative model.

With thresholds l < u, a latent distribution F and 1/σ = exp delta: log p = log[F((u − eta)/σ) − F((l − eta)/σ)]. The
first category has no l (−∞), the last no u (∞). The thresholds of a row are one predictor of two numbers, (2, n), u
first; derivatives in it have the same leading axis. It stands still: with it, and with delta, one derivative at most.
"""

from __future__ import annotations

import numpy as np

from polars_glmm.families.base import Density, Tensor
from polars_glmm.families.distributions import Distribution, Surface
from polars_glmm.typing import BoolVec, Vec

_FAR = 800.0
"""A logistic tail beyond is zero."""
_CLOSE = 0.05
"""Thresholds that are closer have a category of few digits, were 1 − exp(l − u) the difference that it is."""


def interval_density(dist: Distribution, eta: Vec, thresholds: Vec, delta: Vec | float | None, order: int) -> Density:
    """The density at eta (…, n), thresholds (2, n) and delta, None where σ is one."""
    upper, lower = thresholds
    top, bottom = upper == np.inf, lower == -np.inf
    s = 1.0 if delta is None else np.exp(delta)
    centre, width = 0.5 * (np.where(top, lower, upper) + np.where(bottom, upper, lower)), upper - lower
    c, d = (centre - eta) * s, np.where(top | bottom, 1.0, width) * s
    at = _surface(dist, c, d, (top, bottom), order)
    if order == 0:
        return Density(at[0, 0])
    # of z = centre − eta in u and l
    share = np.stack([np.where(top, 0.0, np.where(bottom, 1.0, 0.5)), np.where(bottom, 0.0, np.where(top, 1.0, 0.5))])
    if c.ndim > 1:
        share = share[:, None]
    sign = np.array([1.0, -1.0]).reshape(2, *(1,) * c.ndim)
    g = [-s * at[1, 0], s * (share * at[1, 0] + sign * at[0, 1])]
    w: Tensor = {}
    third: Tensor = {}
    if order > 1:
        square = s * s
        w = {(0, 0): -square * at[2, 0], (0, 1): square * (share * at[2, 0] + sign * at[1, 1])}
    if order > 2:
        cube = s**3
        third = {(0, 0, 0): cube * at[3, 0], (0, 0, 1): -cube * (share * at[3, 0] + sign * at[2, 1])}
    if delta is not None:
        g.append(c * at[1, 0] + d * at[0, 1])
        if order > 1:
            w[0, 2] = s * (at[1, 0] + c * at[2, 0] + d * at[1, 1])
        if order > 2:
            third[0, 0, 2] = -square * (2.0 * at[2, 0] + c * at[3, 0] + d * at[2, 1])
    return Density(at[0, 0], tuple(g), w, third)


def _surface(dist: Distribution, c: Vec, d: Vec, ends: tuple[BoolVec, BoolVec], order: int) -> Surface:
    """log p by centre and width; of categories open on one side by the other end, and a width that changes nothing."""
    top, bottom = ends
    inner = ~(top | bottom)
    out = {(i, j): np.zeros(c.shape) for i in range(order + 1) for j in range(order + 1 - i)}
    d = np.broadcast_to(d, c.shape)
    if inner.any():
        for key, part in dist.log_interval(c[..., inner], d[..., inner], order).items():
            out[key][..., inner] = part
    for mask, tail in ((top & ~bottom, dist.log_sf), (bottom & ~top, dist.log_cdf)):
        if mask.any():
            for i, part in enumerate(tail(c[..., mask], order)):
                out[i, 0][..., mask] = part
    return out


def logistic_density(eta: Vec, thresholds: Vec, order: int) -> Density:
    """The same of the logistic distribution with σ = 1: log F(u − eta) + log S(l − eta) + log(1 − exp(l − u)).

    Written for speed: three exponentials and one logarithm a row, arrays written in place.
    """
    upper, lower = thresholds
    zu, zl = np.minimum(upper - eta, _FAR), np.maximum(lower - eta, -_FAR)
    width = np.minimum(upper - lower, _FAR)
    empty = ~(width > 0.0)
    if empty.any():
        width[empty] = 1.0
    between = np.exp(-width)
    apart = 1.0 - between
    close = width < _CLOSE
    if close.any():
        apart[close] = -np.expm1(-width[close])
    eu, el = np.exp(-np.abs(zu)), np.exp(-np.abs(zl))
    both = eu * el
    both += eu
    both += el
    both += 1.0
    f = np.log(np.divide(apart, both, out=both))
    f += np.minimum(zu, 0.0)
    f -= np.maximum(zl, 0.0)
    if empty.any():
        f[..., empty] = -np.inf
    if order == 0:
        return Density(f)
    above, vu = _tail(zu > 0.0, eu)  # S(zu)
    not_below, vl = _tail(zl > 0.0, el)  # S(zl)
    below = np.subtract(1.0, not_below, out=not_below)
    eased = np.divide(between, apart, out=between)
    eased[empty] = 0.0
    slopes = np.empty((2, *eta.shape))
    np.add(above, eased, out=slopes[0])
    np.add(below, eased, out=slopes[1])
    np.negative(slopes[1], out=slopes[1])
    g = (below - above, slopes)
    if order == 1:
        return Density(f, g)
    crossed = np.empty((2, *eta.shape))
    np.negative(vu, out=crossed[0])
    np.negative(vl, out=crossed[1])
    w: Tensor = {(0, 0): vu + vl, (0, 1): crossed}
    if order == 2:
        return Density(f, g, w)
    bends = np.empty((2, *eta.shape))
    np.multiply(vu, 2.0 * above - 1.0, out=bends[0])
    np.multiply(vl, 1.0 - 2.0 * below, out=bends[1])
    return Density(f, g, w, {(0, 0, 0): -(bends[0] + bends[1]), (0, 0, 1): bends})


def _tail(positive: BoolVec, e: Vec) -> tuple[Vec, Vec]:
    """S(z) and S(z)F(z) of the logistic distribution from the sign of z and exp −|z|, which is overwritten."""
    large = 1.0 / (1.0 + e)
    small = np.multiply(e, large, out=e)
    return np.where(positive, small, large), small * large
