"""Standard distributions behind a threshold or an event time: log densities, tails and intervals, with derivatives.

An ordinal response tells between which thresholds a latent variable lies, a censored one between which times: both ask
for log F, log S and log[F(u) − F(l)] of the same few distributions on the line, far into both tails.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import ClassVar

import numpy as np

from polars_glmm.families.links import ETA_OVERFLOW, HAZARD_MOST, LINKS, Derivatives, Link, mirrored
from polars_glmm.typing import BoolVec, Vec

Surface = dict[tuple[int, int], Vec]
"""A function of two variables: its value at (0, 0) and its derivatives by (times in the first, times in the second)."""

NARROW = 0.2
"""Intervals up to this width (in units of the scale on which the density bends) are integrated by five nodes."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(5)


@dataclass(frozen=True)
class Distribution(ABC):
    """A distribution function F on the line, with density f; all methods are elementwise, derivatives up to `order`.

    link         F as a link: `link.inverse` is F, `link.forward` its quantiles
    log_concave  log f is concave, and with it log F, log S and the log of an interval's probability (Prékopa 1973)
    mean         and standard deviation `sd`; None where there is none
    """

    link: Link
    log_concave: ClassVar[bool] = True
    mean: ClassVar[float | None] = 0.0
    sd: ClassVar[float | None] = 1.0

    @abstractmethod
    def log_density(self, z: Vec, order: int) -> Derivatives:
        """log f(z)."""

    def log_cdf(self, z: Vec, order: int) -> Derivatives:
        """log F(z)."""
        return self.link.log(z, order)

    def log_sf(self, z: Vec, order: int) -> Derivatives:
        """log S(z) = log[1 − F(z)]."""
        return self.link.log_complement(z, order)

    def log_interval(self, centre: Vec, width: Vec, order: int) -> Surface:
        """log[F(c + d/2) − F(c − d/2)] by centre c and finite width d; −∞, with slopes of zero, where d ≤ 0.

        In the ends u and l: ∂/∂u = ½∂/∂c + ∂/∂d and ∂/∂l = ½∂/∂c − ∂/∂d.  Centre and width are the coordinates in
        which no digits cancel: a shift of both ends moves c alone, and 1/d stays out of its derivatives.
        """
        c, d = np.broadcast_arrays(np.asarray(centre, dtype=np.float64), np.asarray(width, dtype=np.float64))
        empty = ~(d > 0.0)
        none = bool(empty.any())
        with np.errstate(all="ignore"):
            found = self._interval(c, np.where(empty, 1.0, d) if none else d, order)
        if not none:
            return found
        return {key: np.where(empty, 0.0 if any(key) else -np.inf, part) for key, part in found.items()}

    def _interval(self, c: Vec, d: Vec, order: int) -> Surface:
        """Differences of tails, or the integral itself where they would cancel."""
        bend = np.abs(self.log_density(c, 1)[1])
        narrow = d * np.maximum(bend, 1.0) < NARROW
        if narrow.all():
            return self._integrated(c, d, order)
        if not narrow.any():
            return self._from_tails(c, d, order)
        found = self._from_tails(c, np.where(narrow, 1.0, d), order)
        inner = self._integrated(c[narrow], d[narrow], order)
        for key, part in found.items():
            part[narrow] = inner[key]
        return found

    def _from_tails(self, c: Vec, d: Vec, order: int) -> Surface:
        """log S(l) + log(1 − S(u)/S(l)), or the same of the lower tails, whichever are the smaller ones."""
        upper = c > 0.0
        low, high = c - 0.5 * d, c + 0.5 * d
        near, far = np.where(upper, low, high), np.where(upper, high, low)
        near_tail = self._chosen(near, upper, order)
        far_tail = self._chosen(far, upper, order)
        toward = np.where(upper, -0.5, 0.5)  # ∂near/∂d;  ∂far/∂d is its negative
        log_near = {(i, j): toward**j * near_tail[i + j] for i, j in _degrees(order)}
        gap = {(i, j): log_near[i, j] - (-toward) ** j * far_tail[i + j] for i, j in _degrees(order)}
        rest = through(gap, *log1mexp(gap[0, 0], order))
        return {key: part + rest[key] for key, part in log_near.items()}

    def _chosen(self, z: Vec, upper: BoolVec, order: int) -> Derivatives:
        """log S where `upper`, else log F, evaluated on the rows that want them."""
        if upper.all():
            return self.log_sf(z, order)
        if not upper.any():
            return self.log_cdf(z, order)
        out = tuple(np.empty_like(z) for _ in range(order + 1))
        for mask, tail in ((upper, self.log_sf), (~upper, self.log_cdf)):
            for part, found in zip(out, tail(z[mask], order), strict=True):
                part[mask] = found
        return out

    def _integrated(self, c: Vec, d: Vec, order: int) -> Surface:
        """log d + log ∫ exp log f(c + t·d) dt over |t| < ½ (Gauss & Legendre), the derivatives as its cumulants."""
        t = 0.5 * _NODES.reshape(-1, *(1,) * c.ndim)
        log_f = self.log_density(c + t * d, order)
        most = log_f[0].max(axis=0)
        share = 0.5 * _WEIGHTS.reshape(t.shape) * np.exp(log_f[0] - most)
        total = share.sum(axis=0)
        share /= total
        along = (np.ones_like(t), t)
        found: Surface = {(0, 0): np.log(d) + most + np.log(total)}
        slopes = [log_f[1] * x for x in along] if order else []
        means = [(share * slope).sum(axis=0) for slope in slopes]
        apart = [slope - mean for slope, mean in zip(slopes, means, strict=True)]
        for rank in range(1, order + 1):
            for axes in combinations_with_replacement((0, 1), rank):
                if rank == 1:
                    value = means[axes[0]]
                elif rank == 2:
                    a, b = axes
                    value = (share * (log_f[2] * along[a] * along[b] + apart[a] * apart[b])).sum(axis=0)
                else:
                    a, b, e = axes
                    inside = log_f[3] * along[a] * along[b] * along[e] + apart[a] * apart[b] * apart[e]
                    inside = inside + log_f[2] * (
                        along[a] * along[b] * apart[e] + along[a] * along[e] * apart[b] + along[b] * along[e] * apart[a]
                    )
                    value = (share * inside).sum(axis=0)
                found[rank - sum(axes), sum(axes)] = value
        for k, part in enumerate((1.0 / d, -1.0 / d**2, 2.0 / d**3)[:order], start=1):
            found[0, k] = found[0, k] + part
        return found


@dataclass(frozen=True)
class Logistic(Distribution):
    """F = 1/(1 + exp −z)."""

    link: Link = LINKS["logit"]
    sd: ClassVar[float | None] = float(np.pi / np.sqrt(3.0))

    def log_density(self, z: Vec, order: int) -> Derivatives:
        """log F + log S."""
        return tuple(a + b for a, b in zip(self.log_cdf(z, order), self.log_sf(z, order), strict=True))

    def _interval(self, c: Vec, d: Vec, order: int) -> Surface:
        """log F(u) + log S(l) + log(1 − exp −d), exactly."""
        below, above = self.log_cdf(c + 0.5 * d, order), self.log_sf(c - 0.5 * d, order)
        found = {(i, j): 0.5**j * below[i + j] + (-0.5) ** j * above[i + j] for i, j in _degrees(order)}
        for k, part in enumerate(log1mexp(d, order)):
            found[0, k] = found[0, k] + part
        return found


@dataclass(frozen=True)
class Normal(Distribution):
    """F = Φ(z)."""

    link: Link = LINKS["probit"]

    def log_density(self, z: Vec, order: int) -> Derivatives:
        return (-0.5 * (z * z + np.log(2.0 * np.pi)), -z, np.full_like(z, -1.0), np.zeros_like(z))[: order + 1]


@dataclass(frozen=True)
class GumbelLeast(Distribution):
    """F = 1 − exp(−exp z), the logarithm of an exponential time; skewed to the left."""

    link: Link = LINKS["cloglog"]
    mean: ClassVar[float | None] = -float(np.euler_gamma)
    sd: ClassVar[float | None] = float(np.pi / np.sqrt(6.0))

    def log_density(self, z: Vec, order: int) -> Derivatives:
        t = np.exp(np.minimum(z, ETA_OVERFLOW))
        return (z - t, 1.0 - t, -t, -t)[: order + 1]

    def _interval(self, c: Vec, d: Vec, order: int) -> Surface:
        """log S(l) + log(1 − exp −Δ) with Δ = exp(u) − exp(l), log Δ = c + d/2 + log(1 − exp −d)."""
        spread = log1mexp(d, order)
        log_t: Surface = {(0, 0): c + 0.5 * d + spread[0]}
        if order:
            log_t[1, 0], log_t[0, 1] = np.ones_like(c), 0.5 + spread[1]
        for k in range(2, order + 1):
            log_t[0, k] = spread[k]
        found = through(log_t, *self.log_cdf(log_t[0, 0], order))
        above = self.log_sf(c - 0.5 * d, order)
        return {(i, j): part + (-0.5) ** j * above[i + j] for (i, j), part in found.items()}


@dataclass(frozen=True)
class GumbelMost(Distribution):
    """F = exp(−exp −z): the mirror of `GumbelLeast`, skewed to the right."""

    link: Link = LINKS["loglog"]
    mean: ClassVar[float | None] = float(np.euler_gamma)
    sd: ClassVar[float | None] = float(np.pi / np.sqrt(6.0))

    def log_density(self, z: Vec, order: int) -> Derivatives:
        return mirrored(GumbelLeast().log_density(-z, order))

    def _interval(self, c: Vec, d: Vec, order: int) -> Surface:
        found = GumbelLeast().log_interval(-c, d, order)
        return {(i, j): -part if i % 2 else part for (i, j), part in found.items()}


@dataclass(frozen=True)
class Cauchy(Distribution):
    """F = ½ + arctan(z)/π."""

    link: Link = LINKS["cauchit"]
    log_concave: ClassVar[bool] = False
    mean: ClassVar[float | None] = None
    sd: ClassVar[float | None] = None

    def log_density(self, z: Vec, order: int) -> Derivatives:
        s, q = 1.0 / (1.0 + z * z), z * z
        return (
            -np.log(np.pi) - np.log1p(q),
            -2.0 * z * s,
            2.0 * (q - 1.0) * s**2,
            4.0 * z * (3.0 - q) * s**3,
        )[: order + 1]


DISTRIBUTIONS: dict[str, Distribution] = {
    found.link.name: found for found in (Logistic(), Normal(), GumbelLeast(), GumbelMost(), Cauchy())
}
"""By the link whose inverse is the distribution function: logit, probit, cloglog, loglog, cauchit."""


def log1mexp(d: Vec, order: int) -> Derivatives:
    """log(1 − exp −d) for d > 0, accurate where d is small and where it is large."""
    value = np.where(d < np.log(2.0), np.log(-np.expm1(-d)), np.log1p(-np.exp(-d)))
    if order == 0:
        return (value,)
    r = 1.0 / np.expm1(np.minimum(d, HAZARD_MOST * 0.7))
    return (value, r, -r * (1.0 + r), r * (1.0 + r) * (1.0 + 2.0 * r))[: order + 1]


def through(inner: Surface, *outer: Vec) -> Surface:
    """g(inner) from g and its derivatives there; `inner` may leave out derivatives that are zero."""
    out: Surface = {(0, 0): outer[0]}
    order = len(outer) - 1

    def of(*axes: int) -> Vec | float:
        return inner.get((len(axes) - sum(axes), sum(axes)), 0.0)

    for rank in range(1, order + 1):
        for axes in combinations_with_replacement((0, 1), rank):
            value = outer[1] * of(*axes)
            if rank == 2:
                a, b = axes
                value = value + outer[2] * (of(a) * of(b))
            elif rank == 3:
                a, b, e = axes
                value = value + outer[2] * (of(a, b) * of(e) + of(a, e) * of(b) + of(b, e) * of(a))
                value = value + outer[3] * (of(a) * of(b) * of(e))
            out[rank - sum(axes), sum(axes)] = value
    return out


def _degrees(order: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
