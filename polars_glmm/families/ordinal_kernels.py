"""Log probabilities of categories between two thresholds, with derivatives in the predictors of a cumulative model.

With thresholds l < u, a latent distribution F and 1/σ = exp delta: log p = log[F((u − eta)/σ) − F((l − eta)/σ)]. The
first category has no l (−∞), the last no u (∞). The thresholds of a row are one predictor of two numbers, (2, n), u
first; derivatives in it have the same leading axis. It stands still: with it, and with delta, one derivative at most.
"""

from __future__ import annotations

import numpy as np

from polars_glmm.families.base import Density, Tensor
from polars_glmm.families.distributions import Distribution, Surface, log1mexp
from polars_glmm.typing import BoolVec, Vec

_FAR = 800.0
"""A logistic tail beyond is zero."""


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
    """The same of the logistic distribution with σ = 1: log F(u − eta) + log S(l − eta) + log(1 − exp(l − u))."""
    upper, lower = thresholds
    zu, zl = np.minimum(upper - eta, _FAR), np.maximum(lower - eta, -_FAR)
    width = np.minimum(upper - lower, _FAR)
    empty = ~(width > 0.0)
    if empty.any():
        width = np.where(empty, 1.0, width)
    between = log1mexp(width, 1 if order else 0)
    eu, el = np.exp(-np.abs(zu)), np.exp(-np.abs(zl))
    f = np.minimum(zu, 0.0) - np.log1p(eu)
    f -= np.maximum(zl, 0.0)
    f -= np.log1p(el)
    f += between[0]
    if empty.any():
        f = np.where(empty, -np.inf, f)
    if order == 0:
        return Density(f)
    large_u, large_l = 1.0 / (1.0 + eu), 1.0 / (1.0 + el)
    small_u, small_l = eu * large_u, el * large_l
    above = np.where(zu > 0.0, small_u, large_u)  # S(zu)
    below = np.where(zl > 0.0, large_l, small_l)  # F(zl)
    eased = np.where(empty, 0.0, between[1])
    g = (below - above, np.stack([above + eased, -below - eased]))
    if order == 1:
        return Density(f, g)
    vu, vl = small_u * large_u, small_l * large_l
    w: Tensor = {(0, 0): vu + vl, (0, 1): -np.stack([vu, vl])}
    if order == 2:
        return Density(f, g, w)
    bu, bl = vu * (2.0 * above - 1.0), vl * (1.0 - 2.0 * below)
    return Density(f, g, w, {(0, 0, 0): -(bu + bl), (0, 0, 1): np.stack([bu, bl])})
