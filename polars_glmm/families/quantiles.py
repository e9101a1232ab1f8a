"""Quantiles of a response with its random effects integrated out: the distributions of families.averages, inverted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

from polars_glmm.families.averages import averaged_cdf, part_of, take_rows
from polars_glmm.families.base import Family, Rows
from polars_glmm.typing import IntVec, Vec

_MOST = 1e15
"""Counts beyond which no quantile is looked for."""
_WIDEST = 60
"""Doublings of an interval that is to hold a quantile."""
_ROUNDS = 60
_SHARP = 1e-12
"""Width of the last interval, in units of the first."""

Excess = Callable[[Vec, IntVec], Vec]
"""Normal score of P(Y ≤ y) above the one that is looked for, of some of the rows: it grows with y."""


def averaged_quantile(
    family: Family, sizes: Rows, eta: Vec, variance: Vec, phi: Vec | float | None, probability: float
) -> Vec:
    """The smallest y with P(Y ≤ y) ≥ probability for a linear predictor N(eta, v), (n,); NaN where eta or v is.

    sizes   trials and precision of the rows; its y is not read
    """
    v = np.asarray(variance, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(eta) & np.isfinite(v))
    out = np.full(len(eta), np.nan)
    if not len(known):
        return out

    def excess(y: Vec, own: IntVec) -> Vec:
        if not len(own):
            return np.empty(0)
        places = known[own]
        rows = take_rows(sizes._replace(y=np.zeros(len(eta))), places)._replace(y=y)
        p = averaged_cdf(family, rows, eta[places], v[places], part_of(phi, places))
        return np.asarray(special.ndtri(p) - special.ndtri(probability))

    with np.errstate(all="ignore"):
        middle = family.mean(eta[known])
        if family.discrete:
            out[known] = _whole_root(excess, middle)
        elif family.mean_range == "positive":
            out[known] = np.exp(_real_root(lambda log_y, own: excess(np.exp(log_y), own), np.log(middle)))
        else:
            out[known] = _real_root(excess, middle)
    return out


def _whole_root(excess: Excess, middle: Vec) -> Vec:
    """The first whole number ≥ 0 without a negative excess: an interval grown, then halved."""
    low, high = np.full(len(middle), -1.0), np.ceil(2.0 * np.minimum(np.nan_to_num(middle), _MOST)) + 4.0
    places = np.arange(len(middle))
    while len(places):
        short = excess(high[places], places) < 0.0
        places = places[short & (high[places] < _MOST)]
        low[places] = high[places]
        high[places] *= 4.0
    while len(places := np.flatnonzero(high - low > 1.0)):
        half = np.floor(0.5 * (low[places] + high[places]))
        short = excess(half, places) < 0.0
        low[places] = np.where(short, half, low[places])
        high[places] = np.where(short, high[places], half)
    return high


def _real_root(excess: Excess, middle: Vec) -> Vec:
    """The root of an increasing function that is nearly a line, by Ridders' method (1979) from an interval grown."""
    everywhere, size = np.arange(len(middle)), 1.0 + np.abs(middle)
    a, b = middle - size, middle + size
    fa, fb = excess(a, everywhere), excess(b, everywhere)
    for _ in range(_WIDEST):
        below, above = np.flatnonzero(fa > 0.0), np.flatnonzero(fb < 0.0)
        if not len(below) + len(above):
            break
        size = 2.0 * size
        a[below] -= size[below]
        b[above] += size[above]
        fa[below], fb[above] = excess(a[below], below), excess(b[above], above)
    for _ in range(_ROUNDS):
        own = np.flatnonzero((b - a > _SHARP * size) & (fa < 0.0) & (fb > 0.0))
        if not len(own):
            break
        middle = 0.5 * (a[own] + b[own])
        fm = excess(middle, own)
        pull = fm / np.sqrt(fm * fm - fa[own] * fb[own])
        better = np.where(np.isfinite(pull), middle - (middle - a[own]) * pull, middle)
        for at, f in ((middle, fm), (better, excess(better, own))):
            left, right = (f <= 0.0) & (at > a[own]), (f >= 0.0) & (at < b[own])
            a[own[left]], fa[own[left]] = at[left], f[left]
            b[own[right]], fb[own[right]] = at[right], f[right]
    return np.where(np.abs(fa) <= np.abs(fb), a, b)
