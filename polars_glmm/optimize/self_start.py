"""Where the parameters of a self-starting curve may begin: a rough reading of the data, then least squares.

The readings are in the manner of Bates & Watts (1988, §3.3) and Pinheiro & Bates (2000, appendix C): a plateau from the
extremes, rates from a straight line of what is left on a logarithmic scale. `scipy.optimize` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from polars_glmm.typing import Mat, Vec

Reading: TypeAlias = Callable[[Vec, Vec], list[float]]
"""From inputs x, rising, and the mean response at each, to the parameters."""

_MARGIN = 0.05
"""Share of the range by which a plateau lies beyond the extreme responses."""
_SPREAD = (0.3, 3.0)
"""Multiples of a parameter's reading from which least squares begins as well."""


def _line(x: Vec, z: Vec) -> tuple[float, float]:
    """Intercept and slope of a straight line through the finite points."""
    fine = np.isfinite(z) & np.isfinite(x)
    if fine.sum() < 2 or np.ptp(x[fine]) == 0.0:
        return 0.0, 0.0
    slope, intercept = np.polyfit(x[fine], z[fine], 1)
    return float(intercept), float(slope)


def _plateaus(y: Vec) -> tuple[float, float]:
    """The lower and the upper plateau, a little beyond the extremes."""
    margin = _MARGIN * max(float(np.ptp(y)), 1e-12)
    return float(y.min()) - margin, float(y.max()) + margin


def _rising(y: Vec) -> bool:
    return bool(y[len(y) // 2 :].mean() >= y[: max(len(y) // 2, 1)].mean())


def _rate(x: Vec, left: Vec) -> tuple[float, float]:
    """log of the size and log of the rate of an exponential decay |left| = exp(a)·exp(−exp(lrc)·x)."""
    with np.errstate(all="ignore"):
        level, slope = _line(x, np.log(np.abs(left)))
    return level, float(np.log(max(-slope, 1e-3 / max(float(np.ptp(x)), 1e-12))))


def _logistic(x: Vec, y: Vec, low: float, high: float) -> tuple[float, float]:
    """xmid and scal of a curve between two plateaus."""
    with np.errstate(all="ignore"):
        intercept, slope = _line(x, np.log((y - low) / (high - y)))
    slope = slope or 4.0 / max(float(np.ptp(x)), 1e-12)
    return -intercept / slope, 1.0 / slope


def _logis(x: Vec, y: Vec) -> list[float]:
    asym = _plateaus(y)[1] if y.max() > 0 else _plateaus(y)[0]
    return [asym, *_logistic(x, y, 0.0, asym)]


def _fpl(x: Vec, y: Vec) -> list[float]:
    low, high = _plateaus(y)
    mid, scale = _logistic(x, y, low, high)
    return [low, high, mid, scale] if scale > 0 else [high, low, mid, -scale]


def _asymp(x: Vec, y: Vec) -> list[float]:
    low, high = _plateaus(y)
    asym = high if _rising(y) else low
    level, lrc = _rate(x, y - asym)
    return [asym, asym - float(np.exp(level)) if _rising(y) else asym + float(np.exp(level)), lrc]


def _asymp_off(x: Vec, y: Vec) -> list[float]:
    asym, r0, lrc = _asymp(x, y)
    with np.errstate(all="ignore"):
        c0 = np.log(1.0 - r0 / asym) / np.exp(lrc)
    return [asym, lrc, float(c0) if np.isfinite(c0) else float(x.min())]


def _asymp_origin(x: Vec, y: Vec) -> list[float]:
    asym = _plateaus(y)[1] if abs(y.max()) >= abs(y.min()) else _plateaus(y)[0]
    return [asym, _rate(x, y - asym)[1]]


def _biexp(x: Vec, y: Vec) -> list[float]:
    late = x >= np.median(x)
    level, lrc2 = _rate(x[late], y[late])
    rest = y - np.exp(level - np.exp(lrc2) * x)
    first, lrc1 = _rate(x[~late], rest[~late])
    return [float(np.exp(first)), max(lrc1, lrc2 + 0.5), float(np.exp(level)), lrc2]


def _fol(x: Vec, y: Vec) -> list[float]:
    """y is the response to a dose of one: the elimination from the tail, absorption at a time to the peak."""
    peak = int(np.argmax(y))
    late = slice(min(peak, len(x) - 2), None)
    level, lke = _rate(x[late], np.maximum(y[late], 1e-300))
    lka = lke + 1.5 if x[peak] <= 0 else max(lke + 0.7, float(np.log(3.0 / x[peak])))
    return [lke, lka, lke - level]


def _gompertz(x: Vec, y: Vec) -> list[float]:
    asym = _plateaus(y)[1]
    with np.errstate(all="ignore"):
        level, slope = _line(x, np.log(-np.log(y / asym)))
    return [asym, float(np.exp(level)), float(np.exp(min(slope, -1e-3)))]


def _micmen(x: Vec, y: Vec) -> list[float]:
    with np.errstate(all="ignore"):
        intercept, slope = _line(1.0 / x, 1.0 / y)
    vm = 1.0 / intercept if intercept > 0 else _plateaus(y)[1]
    return [vm, slope * vm if slope * vm > 0 else float(np.median(x))]


def _weibull(x: Vec, y: Vec) -> list[float]:
    low, high = _plateaus(y)
    asym, drop = (high, high - low) if _rising(y) else (low, low - high)
    with np.errstate(all="ignore"):
        lrc, pwr = _line(np.log(x), np.log(-np.log((asym - y) / drop)))
    return [asym, drop, lrc, pwr or 1.0]


READINGS: dict[str, Reading] = {
    "SSasymp": _asymp, "SSasympOff": _asymp_off, "SSasympOrig": _asymp_origin, "SSbiexp": _biexp, "SSfol": _fol,
    "SSfpl": _fpl, "SSgompertz": _gompertz, "SSlogis": _logis, "SSmicmen": _micmen, "SSweibull": _weibull,
}  # fmt: skip
_DOSED = frozenset({"SSfol"})
"""Forms whose first input multiplies the response."""


def self_start(form: str, y: Vec, inputs: Sequence[Vec], curve: Callable[[Vec], Vec]) -> Vec | None:
    """Parameters of a form at which least squares of all rows ends, or None where there is no such place.

    y, inputs   (n,);  curve   the response at the parameters, in the order of the form
    """
    x = np.asarray(inputs[-1], dtype=np.float64)
    if form in _DOSED:
        with np.errstate(all="ignore"):
            y_read = y / inputs[0]
    else:
        y_read = y
    points, place = np.unique(x, return_inverse=True)
    means = np.bincount(place, y_read) / np.bincount(place)
    if len(points) < 2 or not np.isfinite(means).all():
        return None
    first = np.array(READINGS[form](points, means))
    found = [one for one in (_least_squares(start, y, curve) for start in _around(first)) if one is not None]
    return min(found, key=lambda one: one[0])[1] if found else None


def _around(first: Vec) -> Mat:
    """A reading, and others with one of its parameters moved."""
    starts = [first]
    for k in range(len(first)):
        for by in _SPREAD:
            other = first.copy()
            other[k] = other[k] * by if other[k] else by
            starts.append(other)
    fine = np.array(starts)
    return fine[np.isfinite(fine).all(1)]


def _least_squares(start: Vec, y: Vec, curve: Callable[[Vec], Vec]) -> tuple[float, Vec] | None:
    """Where least squares ends from a start, and the sum of squares there."""
    from scipy.optimize import least_squares  # noqa: PLC0415  slow to import, and few models are curves

    def residuals(at: Vec) -> Vec:
        with np.errstate(all="ignore"):
            r = curve(at) - y
        return np.where(np.isfinite(r), r, 1e10)

    try:
        found = least_squares(residuals, start, x_scale=np.maximum(np.abs(start), 1e-3), max_nfev=200)
    except (ValueError, np.linalg.LinAlgError):
        return None
    return (float(found.cost), found.x) if np.isfinite(found.cost) else None
