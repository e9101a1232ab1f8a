"""Fields over points: correlations that fade with distance, and a root of their matrix by one angle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from polars_glmm.typing import BoolVec, Mat, Vec

from .correlations import Decaying, distances
from .roots import Bent

Points = tuple[tuple[float, ...], ...]
"""Coordinates of each point."""

FIELDS = {
    "exp": "equal variances, correlation exp(−distance/range) of points",
    "gau": "equal variances, correlation exp(−(distance/range)²) of points",
    "mat": "equal variances, Matérn correlation of points (of smoothness nu, in distance/range)",
}
"""Structures over points: what they are."""
MOST_SMOOTH = 50.0
"""The largest smoothness of a Matérn correlation; beyond it is the gaussian one."""
_HALF_PI = 0.5 * np.pi
_BEYOND = 1.0 + 1e-9
"""Correlations up to here are 1 and rounding."""
_ROUNDING = float(np.finfo(np.float64).eps)


class Fading(Protocol):
    """A correlation R(distance/range) that falls from 1 to 0; 1 − R is of the order (distance/range)^power at 0."""

    @property
    def power(self) -> float: ...

    def lag(self, x: Vec, apart: Vec) -> tuple[Vec, Vec]:
        """R at distances, and ∂R/∂(log range), each of the shape of `apart`; x = (log range)."""


@dataclass(frozen=True, slots=True)
class Matern:
    """R(t) = 2^(1−ν)/Γ(ν) · t^ν K_ν(t), t = distance/range (Matérn 1960; Stein 1999, §2.10): ν = ½ is exp(−t).

    nu   the smoothness: a field has as many derivatives as there are whole numbers below ν
    """

    nu: float

    @property
    def power(self) -> float:
        return min(2.0 * self.nu, 2.0)

    def lag(self, x: Vec, apart: Vec) -> tuple[Vec, Vec]:
        from scipy.special import gammaln, kv  # noqa: PLC0415  what reads formulas needs no scipy

        with np.errstate(all="ignore"):
            t = apart * np.exp(-x[0])
            scale = np.exp((1.0 - self.nu) * np.log(2.0) - gammaln(self.nu))
            r = scale * t**self.nu * kv(self.nu, t)
            slope = scale * t ** (self.nu + 1.0) * kv(self.nu - 1.0, t)  # d/dt t^ν K_ν = −t^ν K_(ν−1)
        near = np.asarray(t < 1e-150)
        far = np.asarray(~np.isfinite(t) | (t > 700.0))  # K is no number there, or nothing
        return np.where(near, 1.0, np.where(far, 0.0, r)), np.where(near | far, 0.0, slope)


class PointDistances(NamedTuple):
    """Where points are: distances (r, r), the least of two points and the largest, the usual one of nearest neighbours.

    pair   the two points i > j whose distance is nearest to the usual one
    """

    apart: Mat
    near: float
    far: float
    usual: float
    pair: tuple[int, int]


@lru_cache(maxsize=32)
def layout(points: Points) -> PointDistances:
    """Distances between at least two points."""
    apart = distances(np.array(points, dtype=np.float64))
    others = apart + np.where(np.eye(len(apart)) > 0.0, np.inf, 0.0)
    usual = float(np.median(others.min(1)))
    rows, columns = np.tril_indices(len(apart), -1)
    own = apart[rows, columns]
    k = int(np.argmin(np.abs(own - usual)))
    apart.setflags(write=False)
    return PointDistances(apart, float(own.min()), float(own.max()), usual, (int(rows[k]), int(columns[k])))


@dataclass(frozen=True, slots=True)
class Field:
    """R(distance/range) over points, by an angle a from range 0 (no correlation) to π/2 (all effects the same).

    With p the power of the correlation and q that of its tail, tan²a = exp(−(near/range)^q) (range/usual)^p: between
    the limits a stands for the logarithm of the range, at the upper one 1 − R falls as cos²a does, at the lower one R
    of the nearest two points about as sin²a, so that R is even about both. The root is the symmetric one, V√λV' of
    R = VλV', which there is where smooth fields leave no rank to a triangular one.

    points   none: 0, 1, 2 … on a line
    """

    fading: Fading
    points: Points = ()

    ends = (0.0, _HALF_PI)

    def count(self, r: int) -> int:  # noqa: ARG002  the same for all sizes
        return 1

    def layout(self, r: int) -> PointDistances:
        """Distances of the points."""
        return layout(self.points or tuple((float(k),) for k in range(r)))

    @property
    def powers(self) -> tuple[float, float]:
        """Of distance/range at 0, where 1 − R goes as it does, and far away, where −log R does."""
        return self.fading.power, 1.0 if isinstance(self.fading, Matern) else self.fading.power

    @property
    def smoothness(self) -> float | None:
        """nu of a Matérn correlation that was given it."""
        return self.fading.nu if isinstance(self.fading, Matern) else None

    def at(self, angles: Vec, r: int) -> Bent:
        return _root(self, float(angles[0]), r)

    def across(self, angles: Vec, apart: Mat) -> Mat:
        """Correlations with the effects of others at distances apart (m, r)."""
        x = self.log_range(float(angles[0]), apart.shape[1])[0]
        return np.where(apart == 0.0, 1.0, self.fading.lag(np.array([x]), apart)[0] if np.isfinite(x) else 0.0)

    def pairs(self, r: int) -> tuple[tuple[int, int], ...]:
        return (self.layout(r).pair,)

    def of(self, correlations: Vec, r: int) -> Vec:
        """The angle of the correlation of the pair; NaN beyond what it can be."""
        rho, at = float(correlations[0]), self.layout(r)
        if not -1e-9 <= rho <= _BEYOND:
            return np.array([np.nan])
        return self.of_range(self._range_where(rho, float(at.apart[at.pair])), r)

    def range_of(self, matrix: Mat) -> float:
        """The range of a matrix of the family (r, r), by two points whose correlation is neither 0 nor 1."""
        apart = self.layout(len(matrix)).apart
        away = np.abs(matrix - 0.5) + np.eye(len(matrix))
        k = np.unravel_index(int(np.argmin(away)), away.shape)
        rho = float(matrix[k])  # that of the root is known but for the rounding of sums
        return self._range_where(1.0 if 1.0 - rho <= 4.0 * _ROUNDING * len(matrix) else rho, float(apart[k]))

    def range_slope(self, length: float, r: int) -> float:
        """∂range/∂(correlation of the pair) at a range; NaN at the limits."""
        at = self.layout(r)
        if not 0.0 < length < np.inf:
            return np.nan
        slope = self._pair(float(np.log(length)), float(at.apart[at.pair]))[1]
        return length / slope if slope > 0.0 else np.nan

    def of_range(self, length: float, r: int) -> Vec:
        """The angle of a range, 0 and infinity among them; NaN below zero."""
        at, (p, q) = self.layout(r), self.powers
        if not 0.0 < length < np.inf:
            return np.array([0.0 if length == 0.0 else _HALF_PI if length > 0.0 else np.nan])
        half = 0.5 * (p * np.log(length / at.usual) - np.exp(min(q * np.log(at.near / length), 700.0)))
        return np.array([np.arctan(np.exp(min(half, 700.0)))])

    def log_range(self, angle: float, r: int) -> tuple[float, float]:
        """log range at an angle, and its slope: ±infinity, without one, at the limits."""
        at, (p, q) = self.layout(r), self.powers
        sine, cosine = abs(np.sin(angle)), abs(np.cos(angle))
        if sine <= 1e-150:
            return -np.inf, 0.0
        height = p * np.log(at.near / at.usual) + 2.0 * (np.log(max(cosine, 1e-150)) - np.log(sine))
        w = _lambert(np.log(q / p) + q / p * height)  # q/p (near/range)^q
        slope = 2.0 / (p * (1.0 + w) * np.sin(angle) * (np.cos(angle) if cosine > 1e-150 else 1e-150))
        return float(np.log(at.near) - np.log(w * p / q) / q), float(slope)

    def _range_where(self, rho: float, apart: float) -> float:
        """The range at which points so far apart have a correlation: 0 and infinity at the limits."""
        if not 0.0 < rho < 1.0:
            return 0.0 if rho <= 0.0 else np.inf
        low, high = np.log(apart) - 1.0, np.log(apart) + 1.0
        while self._pair(low, apart)[0] > rho:
            low -= high - low
        while self._pair(high, apart)[0] < rho and high < 700.0:
            high += high - low
        x = 0.5 * (low + high)
        for _ in range(200):  # Newton's steps, halving where they leave the bracket
            value, slope = self._pair(x, apart)
            low, high = (x, high) if value < rho else (low, x)
            step = (rho - value) / slope if slope > 0.0 else np.inf
            new = x + step if low < x + step < high else 0.5 * (low + high)
            if abs(new - x) <= 4.0 * _ROUNDING * max(abs(x), 1.0):
                break
            x = new
        return float(np.exp(x))

    def _pair(self, x: float, apart: float) -> tuple[float, float]:
        value, slope = self.fading.lag(np.array([x]), np.array([apart]))
        return float(value[0]), float(slope[0])

    def start(self, r: int) -> Vec:  # noqa: ARG002
        return np.array([0.25 * np.pi])

    def settled(self, angles: Vec, r: int, share: float) -> tuple[Vec, BoolVec]:
        """At a limit is where no two points have a correlation, or the farthest two have no other than 1."""
        at = self.layout(r)
        own = np.arctan2(np.abs(np.sin(angles)), np.abs(np.cos(angles)))
        x = np.array([self.log_range(float(own[0]), r)[0]])
        if not np.isfinite(x[0]):
            return np.zeros(1), np.ones(1, dtype=bool)
        (near, far), _ = self.fading.lag(x, np.array([at.near, at.far]))
        end = 0.0 if near <= share else _HALF_PI if 1.0 - far <= share else None
        return (own, np.zeros(1, dtype=bool)) if end is None else (np.array([end]), np.ones(1, dtype=bool))


def _lambert(log_z: float) -> float:
    """W(z) of a positive z by its logarithm: w + log w = log z (Corless et al. 1996), by Newton's steps in log w."""
    v = log_z if log_z < 1.0 else np.log(max(log_z - np.log(max(log_z, 1.0)), 0.5))
    for _ in range(60):
        w = np.exp(v)
        step = (w + v - log_z) / (w + 1.0)
        v -= step
        if abs(step) <= 4.0 * _ROUNDING * max(abs(v), 1.0):
            break
    return float(np.exp(v))


@lru_cache(maxsize=8)
def _root(field: Field, angle: float, r: int) -> Bent:
    """The symmetric root at an angle and its slope."""
    at = field.layout(r)
    x, slope = field.log_range(angle, r)
    if not np.isfinite(x):
        return Bent(np.eye(r), np.zeros((1, r, r)))
    matrix, change = field.fading.lag(np.array([x]), at.apart)
    values, vectors = np.linalg.eigh(matrix)
    sizes = np.sqrt(np.where(values > r * _ROUNDING * values[-1], values, 0.0))
    pairs = sizes[:, None] + sizes
    inner = (vectors.T @ (slope * change) @ vectors) / np.where(pairs > 0.0, pairs, 1.0) * (pairs > 0.0)
    found = Bent((vectors * sizes) @ vectors.T, (vectors @ inner @ vectors.T)[None])
    for one in found:
        one.setflags(write=False)
    return found


def coordinates(label: str) -> str:
    """Of the name of an effect at a point, "(x, y)[0.0, 1.0]", what its coordinates are: "x, y"; on phi "phi x, y"."""
    where = label.rpartition("[")[0]
    before, opened, inside = where.rpartition("(")
    return before + inside.removesuffix(")") if opened and where.endswith(")") else where


def spelled(name: str, nu: float | None = None, points: Points = ()) -> str:
    """A structure over points as text: "exp(0.0 0.0, 1.0 0.5)", "mat(1.5; 0.0, 1.0)", of unknown points "mat(1.5)"."""
    where = ", ".join(" ".join(repr(float(number)) for number in point) for point in points)
    return f"{name}({'; '.join(part for part in ('' if nu is None else repr(float(nu)), where) if part)})"


def read_field(name: str, inside: str) -> Field:
    """A field of what stands between the parentheses of its spelling. Raises KeyError where it is none."""
    nu, _, where = inside.partition(";") if name == "mat" else ("", "", inside)
    try:
        points = tuple(tuple(map(float, one.split())) for one in where.split(",")) if where.strip() else ()
        smooth = float(nu) if name == "mat" else 0.5
    except ValueError:
        raise KeyError(inside) from None
    if not 0.0 < smooth <= MOST_SMOOTH or (points and not distinct(points)):
        raise KeyError(inside)
    return Field(Matern(smooth) if name == "mat" else Decaying(name, "coordinates", 2 if name == "gau" else 1), points)


def distinct(points: Sequence[tuple[float, ...]]) -> bool:
    """Whether points are several and their distances numbers that tell them apart."""
    if len(points) < 2 or len({len(point) for point in points}) > 1:
        return False
    with np.errstate(all="ignore"):
        apart = distances(np.array(points, dtype=np.float64))
    return bool(np.isfinite(apart).all() and (apart + np.eye(len(apart)) > 0.0).all())

