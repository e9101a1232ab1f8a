"""Special functions with their delicate differences taken on paper, so that no digits cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
from scipy import special

from polars_glmm.typing import Vec

STIRLING_FROM = 16.0
"""From here the six-term Stirling series is exact to rounding (the next term is below 1e-17)."""

RATIO_SERIES_BELOW = 0.05
"""Below this x the series of `log1p_rest` is used: its sixth term is 1e-19 of the first."""

COTH_SERIES_BELOW = 0.25
"""Below this t the Bernoulli series of `coth_rest` is used: its sixth term is 4e-17."""

FRACTION_FROM = 4.5
"""From here the continued fraction of Mills' ratio converges in `FRACTION_DEPTH` steps: λ'' to 1e-12, λ' to 1e-14."""

FRACTION_DEPTH = 22

_BERNOULLI = (1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160)
"""B₂ₖ/(2k)!."""


_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760)
_DIGAMMA_ONCE = tuple(-(2 * k + 1) * c for k, c in enumerate(_DIGAMMA))
_DIGAMMA_TWICE = tuple((2 * k + 1) ** 2 * c for k, c in enumerate(_DIGAMMA))


def stirling_rest(a: Vec | float) -> Vec | float:
    """log Γ(a) − [(a − ½) log a − a + ½ log 2π], the rest of Stirling's formula (Abramowitz & Stegun 6.1.41)."""
    return _series_or(_stirling_direct, _STIRLING, a)


def digamma_rest(a: Vec | float) -> Vec | float:
    """a·[log a − 1/(2a) − ψ(a)], the rest of digamma's expansion times a (Abramowitz & Stegun 6.3.18)."""
    return _series_or(_digamma_direct, _DIGAMMA, a)


def digamma_rest_bend(a: Vec | float) -> tuple[Vec | float, Vec | float]:
    """a·D'(a) and a·(a·D'(a))' of D = digamma_rest: its first and second derivatives in log a."""
    return _series_or(_digamma_once, _DIGAMMA_ONCE, a), _series_or(_digamma_twice, _DIGAMMA_TWICE, a)


def _series_or(direct: Callable[[Any], Any], coefficients: tuple[float, ...], a: Vec | float) -> Vec | float:
    if np.ndim(a) == 0:
        number = float(a)
        return _odd_series(number, coefficients) if number >= STIRLING_FROM else float(direct(number))
    small = a < STIRLING_FROM
    if not np.any(small):
        return cast("Vec", _odd_series(a, coefficients))
    series = _odd_series(np.maximum(a, STIRLING_FROM), coefficients)
    return cast("Vec", np.where(small, direct(np.minimum(a, STIRLING_FROM)), series))


def _odd_series(a: Any, coefficients: tuple[float, ...]) -> Any:
    """c₀/a + c₁/a³ + c₂/a⁵ + …"""
    q = 1.0 / a
    r = q * q
    total = coefficients[-1] * r
    for coefficient in coefficients[-2:0:-1]:
        total += coefficient
        total *= r
    return (total + coefficients[0]) * q


def _stirling_direct(a: Any) -> Any:
    return special.gammaln(a) - (a - 0.5) * np.log(a) + a - 0.5 * np.log(2.0 * np.pi)


def _digamma_direct(a: Any) -> Any:
    return a * (np.log(a) - special.digamma(a)) - 0.5


def _digamma_once(a: Any) -> Any:
    first, second, _ = _scaled_polygamma(a)
    return a * np.log(a) - first + a - second


def _digamma_twice(a: Any) -> Any:
    first, second, third = _scaled_polygamma(a)
    return a * np.log(a) - first + 2.0 * a - 3.0 * second - third


def _scaled_polygamma(a: Any) -> tuple[Any, Any, Any]:
    """aψ(a), a²ψ'(a) and a³ψ''(a), by the recurrence in a + 1, so that nothing overflows near zero."""
    above = a + 1.0
    return (
        a * special.digamma(above) - 1.0,
        a * a * special.polygamma(1, above) + 1.0,
        a * a * a * special.polygamma(2, above) - 2.0,
    )


def log1p_rest(x: Vec, log1p_x: Vec, share: Vec) -> Vec:
    """log(1 + x) − x/(1 + x) for x ≥ 0, without the cancellation at small x.

    With z = x/(2 + x), log(1 + x) = 2 artanh z and 2z − x/(1+x) = z·x/(1+x).

    log1p_x, share    log(1 + x) and x/(1 + x), which the caller has
    """
    rest = log1p_x - share
    small = x < RATIO_SERIES_BELOW
    if not np.any(small):
        return rest
    z = np.minimum(x, RATIO_SERIES_BELOW)
    z /= z + 2.0
    q = z * z
    total = (2 / 11) * q
    for k in (9, 7, 5, 3):
        total += 2 / k
        total *= q
    total += share
    total *= z
    return np.where(small, total, rest)


def log1p_ratio(x: Vec | float) -> Vec:
    """log(1 + x)/x for x ≥ 0, one at zero."""
    x = np.asarray(x, dtype=np.float64)
    safe = np.where(x > 0.0, x, 1.0)
    return np.where(x > 0.0, np.log1p(safe) / safe, 1.0)


def rising(y: Vec, phi: Vec | float, *, slope: bool = True) -> tuple[Vec, Vec | None]:
    """Σ_{k<y} log(1 + k/φ) = log Γ(y+φ) − log Γ(φ) − y log φ, and its derivative in log φ, −Σ_{k<y} k/(k+φ).

    Both vanish as φ grows; differences of log Γ would leave noise of the size of φ·log φ·1e-16 instead.
    Sums where φ is one number and the counts are small, otherwise Stirling's formula with its leading terms cancelled.
    """
    if np.ndim(phi) == 0 and y.size:
        top = float(y.max())
        if top <= 64.0 + 4.0 * y.size:
            k = np.arange(max(top, 1.0))
            at = y.astype(np.intp)
            value = np.empty(k.size + 1)
            value[0] = 0.0
            np.cumsum(np.log1p(k / phi), out=value[1:])
            if not slope:
                return value.take(at), None
            derivative = np.empty(k.size + 1)
            derivative[0] = 0.0
            np.cumsum(-k / (k + phi), out=derivative[1:])
            return value.take(at), derivative.take(at)
    phi = np.asarray(phi, dtype=np.float64)
    x, total = y / phi, y + phi
    share, log1p_x = y / total, np.log1p(x)
    rest = log1p_rest(x, log1p_x, share)
    value = total * rest - 0.5 * log1p_x + (stirling_rest(total) - stirling_rest(phi))
    if not slope:
        return value, None
    # φ[ψ(y+φ) − ψ(φ)] − y with ψ(a) = log a − 1/(2a) − digamma_rest(a)/a
    return value, phi * rest - y * share + 0.5 * share - (digamma_rest(total) * (phi / total) - digamma_rest(phi))


def rising_bend(y: Vec, phi: Vec | float) -> tuple[Vec, Vec]:
    """Second and third derivative in log φ of `rising`: Σ_{k<y} kφ/(k+φ)² and Σ kφ(k − φ)/(k+φ)³; they vanish too."""
    if np.ndim(phi) == 0 and y.size:
        top = float(y.max())
        if top <= 64.0 + 4.0 * y.size:
            k, at = np.arange(max(top, 1.0)), y.astype(np.intp)
            first = k * phi / (k + phi) ** 2
            both = np.zeros((2, k.size + 1))
            np.cumsum(first, out=both[0, 1:])
            np.cumsum(first * (k - phi) / (k + phi), out=both[1, 1:])
            return both[0].take(at), both[1].take(at)
    phi = np.asarray(phi, dtype=np.float64)
    x, total = y / phi, y + phi
    h, q = y / total, phi / total
    rest, hq = log1p_rest(x, np.log1p(x), h), h * q
    once_total, twice_total = digamma_rest_bend(total)
    once, twice = digamma_rest_bend(phi)
    away = digamma_rest(total)
    first = phi * rest - 0.5 * hq - (once_total * q * q + away * hq - once)
    second = phi * (rest - h * h) - 0.5 * hq * (h - q)
    return first, second - (twice_total * q**3 + 3.0 * once_total * q * hq + away * hq * (h - q) - twice)


class NormalTail(NamedTuple):
    """log Q(x) of the upper normal tail Q and its derivatives in x, with the minus signs left out where they alternate.

    log = log Q;  hazard = λ = −∂log Q;  slope = ∂λ/∂x = λ(λ − x);  bend = ∂²λ/∂x².
    """

    log: Vec
    hazard: Vec | None = None
    slope: Vec | None = None
    bend: Vec | None = None


def normal_tail(x: Vec, order: int) -> NormalTail:
    """log Q(x) and the hazard of the standard normal with its derivatives, each to full relative precision.

    Mills' ratio from erfcx; its derivatives cancel beyond x = 4.5, where the continued fraction
    λ − x = 1/(x + 2/(x + 3/(x + …))) gives the differences themselves (Abramowitz & Stegun 26.2.14).
    """
    x = np.asarray(x, dtype=np.float64)
    a = np.abs(x)
    mills = special.erfcx(a * np.sqrt(0.5))
    kernel = np.exp(-0.5 * a * a)
    tail = 0.5 * kernel * mills  # Q(|x|)
    upper = x > 0.0
    log = np.where(upper, np.log(0.5 * mills) - 0.5 * a * a, np.log1p(-tail))
    if order == 0:
        return NormalTail(log)
    root = np.sqrt(2.0 / np.pi)
    hazard = np.where(upper, root / mills, (0.5 * root) * kernel / (1.0 - tail))
    if order == 1:
        return NormalTail(log, hazard)
    excess = hazard - x  # λ − x
    slope = hazard * excess
    bend = hazard * (excess * excess + slope - 1.0) if order > 2 else None
    far = x > FRACTION_FROM
    if np.any(far):
        k1, k2, k3 = mills_fraction(x[far])
        slope[far] = hazard[far] * k1
        if bend is not None:
            bend[far] = hazard[far] * k1 * k1 * k2 * (k3 - k2)
    return NormalTail(log, hazard, slope, bend)


def mills_fraction(x: Vec) -> tuple[Vec, Vec, Vec]:
    """K₁, K₂, K₃ with Kⱼ = j/(x + Kⱼ₊₁), for x > `FRACTION_FROM`: λ = x + K₁, λ' = λK₁, λ'' = λK₁²K₂(K₃ − K₂)."""
    k = 0.5 * (np.sqrt(x * x + (4.0 * FRACTION_DEPTH + 2.0)) - x)  # where the fraction would stand still
    for j in range(FRACTION_DEPTH, 3, -1):
        k += x
        np.divide(j, k, out=k)
    k3 = 3.0 / (x + k)
    k2 = 2.0 / (x + k3)
    return 1.0 / (x + k2), k2, k3


def coth_rest(t: Vec, h: Vec) -> Vec:
    """h − 1 + t/2 for h = t/(exp t − 1), t ≥ 0: t²/12 − t⁴/720 + … (Abramowitz & Stegun 23.1.1); ½t·coth ½t − 1."""
    rest = h - 1.0
    rest += 0.5 * t
    small = t < COTH_SERIES_BELOW
    if not np.any(small):
        return rest
    q = np.minimum(t, COTH_SERIES_BELOW)
    q *= q
    total = _BERNOULLI[-1] * q
    for coefficient in _BERNOULLI[-2::-1]:
        total += coefficient
        total *= q
    return np.where(small, total, rest)
