"""Fused kernels of the binomial: the density and its derivatives without jets, one line of algebra per array.

`y` may be any number from 0 to n, so that rows collapsed to their mean response go through the same lines.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from polars_glmm.families.base import Degrees, Density, Predictors, Rows
from polars_glmm.families.links import ETA_OVERFLOW, HAZARD_MOST
from polars_glmm.families.special import FRACTION_FROM, coth_rest, mills_fraction

ROOT_TWO_OVER_PI = float(np.sqrt(2.0 / np.pi))
ROOT_HALF = float(np.sqrt(0.5))


def logit_kernel(rows: Rows, at: Predictors, order: int, degrees: Degrees) -> Density:  # noqa: ARG001
    """Binomial, logit link: f = y·eta − n·log(1 + exp eta).

    One exp and one log per row; mu = e/(1+e) and 1 − mu = 1/(1+e) come from the same exp, so that the weight keeps its
    digits in both tails.
    """
    y, n, eta = rows.y, rows.trials, np.asarray(at[0])
    e = np.exp(np.minimum(eta, ETA_OVERFLOW))
    d = e + 1.0
    f = np.log(d)
    if eta.size and eta.max() > ETA_OVERFLOW:
        f += np.maximum(eta - ETA_OVERFLOW, 0.0)
    if n is not None:
        f *= n
    np.subtract(y * eta, f, out=f)
    if order == 0:
        return Density(f)
    c = np.divide(1.0, d, out=d)
    mu = np.multiply(e, c, out=e)
    m = mu if n is None else n * mu
    g = y - m
    if order == 1:
        return Density(f, (g,))
    w = m * c
    if order == 2:
        return Density(f, (g,), {(0, 0): w})
    dw = np.subtract(c, mu, out=c)
    dw *= w
    return Density(f, (g,), {(0, 0): w}, {(0, 0, 0): dw})


def probit_kernel(  # noqa: PLR0915 one statement is one pass over the rows
    rows: Rows,
    at: Predictors,
    order: int,
    degrees: Degrees,  # noqa: ARG001
) -> Density:
    """Binomial, probit link, folded at zero: `t` outcomes lie in the tail beyond a = |eta|, `b` in the body.

    f = t·log Q(a) + b·log(1 − Q(a)) with Q(a) = ½ exp(−a²/2) erfcx(a/√2): one erfcx serves both sides.
    """
    y, n, eta = rows.y, rows.trials, np.asarray(at[0])
    a = np.abs(eta)
    below = eta < 0.0
    other = (1.0 if n is None else n) - y
    t, b = np.where(below, y, other), np.where(below, other, y)
    mills = special.erfcx(a * ROOT_HALF)
    kernel = 0.5 * a
    kernel *= a
    f = np.log(0.5 * mills)
    f -= kernel
    f *= t
    np.negative(kernel, out=kernel)
    np.exp(kernel, out=kernel)
    kernel *= 0.5
    tail = kernel * mills
    log_body = np.log1p(-tail)
    log_body *= b
    f += log_body
    if order == 0:
        return Density(f)
    hazard = ROOT_TWO_OVER_PI / mills  # of the tail, −∂log Q/∂a
    inward = kernel  # of the body, ∂log(1 − Q)/∂a
    inward *= ROOT_TWO_OVER_PI
    inward /= np.subtract(1.0, tail, out=tail)
    sign = np.where(below, -1.0, 1.0)
    body, outer = b * inward, t * hazard
    g = (body - outer) * sign
    if order == 1:
        return Density(f, (g,))
    excess = hazard - a
    v = a + inward
    slope = outer * excess
    far = a > FRACTION_FROM
    some_far = bool(far.any())
    if some_far:
        far &= t > 0.0
        some_far = bool(far.any())
    if some_far:
        k1, k2, k3 = mills_fraction(a[far])
        slope[far] = outer[far] * k1
    w = body * v
    w += slope
    if order == 2:
        return Density(f, (g,), {(0, 0): w})
    bend = excess * (excess + hazard)
    bend -= 1.0
    bend *= outer
    if some_far:
        bend[far] = outer[far] * k1 * k1 * k2 * (k3 - k2)
    dw = 1.0 - v * (v + inward)
    dw *= body
    dw += bend
    dw *= sign
    return Density(f, (g,), {(0, 0): w}, {(0, 0, 0): dw})


def cloglog_kernel(rows: Rows, at: Predictors, order: int, degrees: Degrees) -> Density:  # noqa: ARG001
    """Binomial, complementary log-log link: f = y·log(1 − exp −t) − (n − y)·t with t = exp eta.

    With h = ∂log mu = t·exp(−t)/mu and a = 1 − t − h: ∂h = h·a, ∂²h = h(a² − t − h·a).
    """
    y, n, eta = rows.y, rows.trials, np.asarray(at[0])
    other = (1.0 if n is None else n) - y
    t = np.exp(np.maximum(np.minimum(eta, ETA_OVERFLOW), -ETA_OVERFLOW))
    misses = other * t
    u = np.minimum(t, HAZARD_MOST)
    mu = -np.expm1(-u)
    f = np.log(mu)
    f *= y
    f -= misses
    if order == 0:
        return Density(f)
    h = np.exp(-u)
    h *= u
    h /= mu
    yh = y * h
    g = yh - misses
    if order == 1:
        return Density(f, (g,))
    a = coth_rest(u, h)
    a += 0.5 * u
    np.negative(a, out=a)
    yha = yh * a
    w = misses - yha
    if order == 2:
        return Density(f, (g,), {(0, 0): w})
    bend = a * (a - h)
    bend -= u
    bend *= yh
    return Density(f, (g,), {(0, 0): w}, {(0, 0, 0): misses - bend})
