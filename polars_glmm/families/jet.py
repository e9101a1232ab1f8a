"""Jets: numbers that carry their derivatives in the linear predictors of a family, the only chain rule in the house.

A family is defined by its log density; evaluated on jets instead of floats that one line also yields every derivative
the likelihood asks for.  A jet of order k is a Taylor polynomial in η_0 … η_{K−1} truncated at total degree k and, in
those that stand still, at one derivative in all: nobody needs a second derivative in them then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement
from math import comb, factorial

import numpy as np
from scipy import special

from polars_glmm.families import special as delicate
from polars_glmm.families.links import ETA_OVERFLOW, LINKS, logistic
from polars_glmm.typing import BoolVec, Vec

Degree = tuple[int, ...]
"""The predictors that are differentiated in, in rising order: () the value, (0, 0, 1) twice in η_0 and once in η_1."""


@dataclass(frozen=True, slots=True, eq=False)
class Jet:
    """Partial derivatives by degree, each (…, n); a degree that is missing is zero, or above `order`.

    still   predictors in which there is one derivative at most, in all of them together
    """

    parts: dict[Degree, Vec]
    order: int
    still: frozenset[int] = frozenset()

    __array_ufunc__ = None  # so that  array * jet  asks the jet

    @property
    def f(self) -> Vec:
        return self.parts[()]

    def __add__(self, other: Jet | Vec | float) -> Jet:
        if not isinstance(other, Jet):
            return self._with({**self.parts, (): self.f + other})
        parts = dict(self.parts)
        for degree, part in other.parts.items():
            parts[degree] = parts[degree] + part if degree in parts else part
        return self._with(parts, other)

    def __mul__(self, other: Jet | Vec | float) -> Jet:
        """Leibniz's rule."""
        if not isinstance(other, Jet):
            return self._with({degree: part * other for degree, part in self.parts.items()})
        parts: dict[Degree, Vec] = {}
        still = self.still | other.still
        for left, a in self.parts.items():
            for right, b in other.parts.items():
                degree, times, n_still = _merged(left, right, still)
                if len(degree) <= self.order and n_still <= 1:
                    term = times * (a * b)
                    parts[degree] = parts[degree] + term if degree in parts else term
        return self._with(parts, other)

    def _with(self, parts: dict[Degree, Vec], other: Jet | None = None) -> Jet:
        return Jet(parts, self.order, self.still if other is None else self.still | other.still)

    def __neg__(self) -> Jet:
        return self * -1.0

    def __sub__(self, other: Jet | Vec | float) -> Jet:
        return self + -other

    def __rsub__(self, other: Vec | float) -> Jet:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__

    def through(self, *outer: Vec) -> Jet:
        """g(self), given g and its derivatives g', g'' … at `self.f` up to the order (Faà di Bruno's formula)."""
        inner = {degree: part for degree, part in self.parts.items() if degree}
        if not inner:
            return self._with({(): outer[0]})
        rest = self._with(inner)  # self without its value: nilpotent, so that g(self) = Σ g⁽ᵏ⁾ restᵏ / k!
        result, power, factorial = self._with({(): outer[0]}), rest, 1.0
        for k, derivative in enumerate(outer[1:], start=1):
            factorial *= k
            result = result + power * (derivative / factorial)
            power = power * rest
        return result


def through_both(surface: Mapping[tuple[int, int], Vec], a: Jet, b: Jet | Vec) -> Jet:
    """g(a, b), given g and its derivatives at both values by how often in a and in b."""
    rest_a, rest_b = a - a.f, b - b.f if isinstance(b, Jet) else None
    result = a * 0.0 + surface[0, 0]
    for (i, j), derivative in surface.items():
        if i + j == 0 or (j and rest_b is None):
            continue
        term: Jet | None = None
        for _ in range(i):
            term = rest_a if term is None else term * rest_a
        for _ in range(j):
            assert rest_b is not None
            term = rest_b if term is None else term * rest_b
        assert term is not None
        result = result + term * (derivative / (factorial(i) * factorial(j)))
    return result


@cache
def _merged(left: Degree, right: Degree, still: frozenset[int]) -> tuple[Degree, int, int]:
    """Both degrees together, how often their product occurs (binomials), and how many are in still predictors."""
    times = 1
    for k in set(left) & set(right):
        times *= comb(left.count(k) + right.count(k), left.count(k))
    degree = tuple(sorted(left + right))
    return degree, times, sum(k in still for k in degree)


def function_of(derivatives: Sequence[Vec], place: int = 0) -> Jet:
    """A function of one predictor as a jet, from its value and derivatives; their number sets the order."""
    return Jet({(place,) * i: part for i, part in enumerate(derivatives)}, len(derivatives) - 1)


def variable(value: Vec | float, place: int, order: int, most: int) -> Jet:
    """A predictor itself as a jet with at most so many derivatives in it: none makes it a constant, one still."""
    at = np.asarray(value, dtype=np.float64)
    if not (most and order):
        return Jet({(): at}, order)
    return Jet({(): at, (place,): np.ones_like(at)}, order, frozenset() if most >= order else frozenset({place}))


def constant(value: float, like: Jet) -> Jet:
    """A number on the rows of another jet."""
    return Jet({(): np.full_like(like.f, value)}, like.order, like.still)


def where(mask: BoolVec, a: Jet, b: Jet) -> Jet:
    """One jet in some rows, the other elsewhere."""
    zero = np.zeros(())
    parts = {key: np.where(mask, a.parts.get(key, zero), b.parts.get(key, zero)) for key in a.parts | b.parts}
    return Jet(parts, a.order, a.still | b.still)


@cache
def degrees(n: int, rank: int, most: tuple[int, ...], still: tuple[int, ...]) -> tuple[Degree, ...]:
    """The derivatives of a rank in n predictors: no more in each than asked for, one at most in those still."""
    return tuple(
        degree
        for degree in combinations_with_replacement(range(n), rank)
        if all(degree.count(k) <= most[k] for k in degree) and sum(k in still for k in degree) <= 1
    )


def exp(a: Jet) -> Jet:
    """exp a."""
    value = np.exp(a.f)
    return a.through(*(value,) * (a.order + 1))


def log(a: Jet) -> Jet:
    """log a, for a > 0."""
    q = 1.0 / a.f
    return a.through(*(np.log(a.f), q, -q * q, 2.0 * q**3)[: a.order + 1])


def log1p(a: Jet) -> Jet:
    """log(1 + a), for a ≥ 0."""
    q = 1.0 / (1.0 + a.f)
    return a.through(*(np.log1p(a.f), q, -q * q, 2.0 * q**3)[: a.order + 1])


def square(a: Jet) -> Jet:
    """a²."""
    return a * a


def softplus(a: Jet) -> Jet:
    """log(1 + exp a)."""
    rest, s, c = logistic(a.f)
    value = np.maximum(a.f, 0.0) + rest
    if a.order < 2:
        return a.through(*(value, s)[: a.order + 1])
    sc = s * c
    return a.through(*(value, s, sc, sc * (c - s))[: a.order + 1])


def log_sum(a: Jet, b: Jet) -> Jet:
    """log(exp a + exp b): its value from the larger one, its slope a mean of both, so that no digits cancel."""
    d = a - b
    rest, s, c = logistic(d.f)
    value = np.maximum(a.f, b.f) + rest
    linear = a * s + b * c
    if a.order > 1:
        sc = s * c
        linear = linear + d.through(*(value, np.zeros_like(value), sc, sc * (c - s))[: a.order + 1])
    return Jet({**linear.parts, (): value}, linear.order, linear.still)


def lgamma(a: Jet) -> Jet:
    """log Γ(a), for a > 0."""
    derivatives = [special.gammaln(a.f)]
    if len(a.parts) == 1:  # a constant
        return a.through(*derivatives)
    if a.order:
        derivatives.append(special.digamma(a.f))
    derivatives += [special.polygamma(k, a.f) for k in range(1, a.order)]
    return a.through(*derivatives)


def rising(y: Vec, log_a: Jet) -> Jet:
    """log Γ(a + y) − log Γ(a) − y log a, which vanishes as a grows; see families.special."""
    at, beyond = _inside(log_a)
    a, order = np.exp(at), _order_of(log_a)
    value, slope = delicate.rising(y, a, slope=order > 0 or beyond is not None)
    if beyond is not None and slope is not None:
        value = value + slope * beyond
    outer = [value] if slope is None else [value, slope]
    if order > 1:
        outer += delicate.rising_bend(y, a)
    return log_a.through(*outer[: order + 1])


def stirling(log_a: Jet) -> Jet:
    """log Γ(a) − [(a − ½) log a − a + ½ log 2π], which vanishes as a grows."""
    at, beyond = _inside(log_a)
    a, order = np.exp(at), _order_of(log_a)
    slope = -np.asarray(delicate.digamma_rest(a))
    value = np.asarray(delicate.stirling_rest(a))
    outer = [value if beyond is None else value + slope * beyond, slope]
    if order > 1:
        outer += [-np.asarray(bend) for bend in delicate.digamma_rest_bend(a)]
    return log_a.through(*outer[: order + 1])


def log1mexp(log_t: Jet) -> Jet:
    """log(1 − exp(−t)) from log t: the log of the probability of a count above zero where −t is that of zero."""
    return log_t.through(*LINKS["cloglog"].log(log_t.f, _order_of(log_t)))


def log_softplus(a: Jet) -> Jet:
    """log log(1 + exp a), which is a itself far below zero."""
    rest, s, c = logistic(np.minimum(a.f, ETA_OVERFLOW))
    plus, low = np.maximum(a.f, 0.0) + rest, a.f < -LOW
    some = bool(low.any())
    plus = np.where(low, 1.0, plus) if some else plus
    value = np.where(low, a.f, np.log(plus)) if some else np.log(plus)
    if not a.order:
        return a.through(value)
    r = np.where(low, 1.0, s / plus) if some else s / plus
    rest = np.where(low, 0.0, c - r) if some else c - r
    first = r * rest
    return a.through(*(value, r, first, first * rest - r * (s * c + first))[: a.order + 1])


LOW = 40.0
"""exp(−LOW) is nothing beside 1."""


def _inside(log_a: Jet) -> tuple[Vec, Vec | None]:
    """log a where a is a number, and how far beyond it is, where functions of a are lines in log a; None: nowhere."""
    at = np.clip(log_a.f, -ETA_OVERFLOW, ETA_OVERFLOW)
    beyond = log_a.f - at
    return at, beyond if np.any(beyond) else None


def _order_of(a: Jet) -> int:
    """Derivatives that are of use: a constant has none."""
    return a.order if len(a.parts) > 1 else 0
