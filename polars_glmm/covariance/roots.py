"""Factors Q of correlation matrices R = QQ' by angles: smooth on the whole line, also where R loses a rank.

A correlation of ±1 is reached at a finite angle, about which R is even: like a standard deviation of zero it is a
stationary point and no end of the road, so that a search needs no bounds (Pinheiro & Bates 1996, §2.3, for the
spherical parametrisation of unstructured matrices).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from polars_glmm.typing import BoolVec, Cube, Mat, Vec

_HALF_PI = 0.5 * np.pi
_BEYOND = 1.0 + 1e-9
"""Correlations up to here are ±1 and rounding."""


class Bent(NamedTuple):
    """Q (r, r) at some angles, and ∂Q/∂angles (k, r, r)."""

    root: Mat
    slopes: Cube


class CorrelationRoot(Protocol):
    """A family of correlation matrices of r effects, by angles (k,).

    pairs    places (i, j), i > j, of the correlations that determine R, one for each angle
    ends     of the first angle, between which its correlation takes every value once
    """

    @property
    def ends(self) -> tuple[float, float]: ...

    def count(self, r: int) -> int:
        """Number of angles k."""

    def at(self, angles: Vec, r: int) -> Bent: ...

    def pairs(self, r: int) -> tuple[tuple[int, int], ...]: ...

    def of(self, correlations: Vec, r: int) -> Vec:
        """Principal angles of the correlations at `pairs`; NaN where these make no correlation matrix."""

    def start(self, r: int) -> Vec:
        """Angles from which the likelihood has a slope to leave by."""

    def settled(self, angles: Vec, r: int, share: float) -> tuple[Vec, BoolVec]:
        """Principal angles with those on the boundary that are within a share of it, and marks of these."""


@dataclass(frozen=True, slots=True)
class Uncorrelated:
    """R = I: no angle."""

    ends = (0.0, 0.0)

    def count(self, r: int) -> int:  # noqa: ARG002  the same for all sizes
        return 0

    def at(self, angles: Vec, r: int) -> Bent:  # noqa: ARG002
        return Bent(np.eye(r), np.empty((0, r, r)))

    def pairs(self, r: int) -> tuple[tuple[int, int], ...]:  # noqa: ARG002
        return ()

    def of(self, correlations: Vec, r: int) -> Vec:  # noqa: ARG002
        return np.empty(0)

    def start(self, r: int) -> Vec:  # noqa: ARG002
        return np.empty(0)

    def settled(self, angles: Vec, r: int, share: float) -> tuple[Vec, BoolVec]:  # noqa: ARG002
        return angles, np.zeros(0, dtype=bool)


@dataclass(frozen=True, slots=True)
class Alike:
    """One correlation ρ between any two of r effects, −1/(r − 1) ≤ ρ ≤ 1.

    Q = √(r/(r−1)) sin φ (I − J/r) + √r cos φ J/r has squares that sum to r, so its rows are of length 1:
    ρ = cos²φ − sin²φ/(r − 1), 1 at φ = 0 and −1/(r − 1) at π/2.
    """

    ends = (0.0, _HALF_PI)

    def count(self, r: int) -> int:  # noqa: ARG002
        return 1

    def at(self, angles: Vec, r: int) -> Bent:
        within = np.sqrt(r / (r - 1.0)) * (np.eye(r) - 1.0 / r)
        between = np.full((r, r), 1.0 / np.sqrt(r))
        sine, cosine = np.sin(angles[0]), np.cos(angles[0])
        return Bent(sine * within + cosine * between, (cosine * within - sine * between)[None])

    def pairs(self, r: int) -> tuple[tuple[int, int], ...]:  # noqa: ARG002
        return ((1, 0),)

    def of(self, correlations: Vec, r: int) -> Vec:
        square = (correlations[:1] * (r - 1.0) + 1.0) / r  # cos²φ
        with np.errstate(invalid="ignore"):
            return np.where(
                (square >= 1.0 - _BEYOND) & (square <= _BEYOND), np.arccos(np.sqrt(np.clip(square, 0.0, 1.0))), np.nan
            )

    def start(self, r: int) -> Vec:
        return self.of(np.zeros(1), r)

    def settled(self, angles: Vec, r: int, share: float) -> tuple[Vec, BoolVec]:  # noqa: ARG002
        own = np.arccos(np.abs(np.cos(angles)))
        low, high = np.sin(own) ** 2 <= share, np.cos(own) ** 2 <= share
        return np.where(low, 0.0, np.where(high, _HALF_PI, own)), np.asarray(low | high)


@dataclass(frozen=True, slots=True)
class MarkovChain:
    """A chain: neighbours at distance d have the correlation ρ^(d), and the past tells no more than the last before.

    places   of the effects, ascending; none: 0, 1, 2 …
    power    of sin a in the correlation of places at distance 1: 1 for whole distances (ρ = sin a of either sign),
             2 for any distances (ρ = sin²a from 0 to 1; `unit` is the shortest distance, to which ρ belongs)
    """

    places: tuple[float, ...] = ()
    power: int = 1
    unit: float = 1.0

    @property
    def ends(self) -> tuple[float, float]:
        return (-_HALF_PI if self.power == 1 else 0.0), _HALF_PI

    def count(self, r: int) -> int:  # noqa: ARG002
        return 1

    def _steps(self, r: int) -> Vec:
        """Exponents of sin a between neighbours (r − 1,)."""
        return np.asarray(self.power * np.diff(np.array(self.places or range(r))) / self.unit)

    def at(self, angles: Vec, r: int) -> Bent:
        a = float(angles[0])
        sine, cosine = np.sin(a), np.cos(a)
        root, slope = np.zeros((r, r)), np.zeros((r, r))
        root[0, 0] = 1.0
        for i, step in enumerate(self._steps(r).tolist(), 1):
            if self.power == 1:  # whole distances
                rho, d_rho = sine**step, step * sine ** (step - 1.0) * cosine
            else:
                rho, d_rho = np.abs(sine) ** step, step * np.abs(sine) ** (step - 1.0) * np.sign(sine) * cosine
            rest, d_rest = _rest(sine, cosine, step)
            root[i] = rho * root[i - 1]
            slope[i] = rho * slope[i - 1] + d_rho * root[i - 1]
            root[i, i], slope[i, i] = rest, d_rest
        return Bent(root, slope[None])

    def across(self, angles: Vec, apart: Mat) -> Mat:
        """Correlations with the effects of others at distances apart (m, r), also between two of the places.

        NaN where distances are to be whole and are not.
        """
        sine = float(np.sin(angles[0]))
        if self.power > 1:
            return np.asarray(np.abs(sine) ** (self.power * apart / self.unit))
        whole = np.rint(apart)
        return np.where(np.abs(apart - whole) <= 1e-9 * np.maximum(whole, 1.0), sine**whole, np.nan)

    def pairs(self, r: int) -> tuple[tuple[int, int], ...]:
        nearest = int(np.argmin(self._steps(r)))
        return ((nearest + 1, nearest),)

    def of(self, correlations: Vec, r: int) -> Vec:
        rho, step = float(correlations[0]), float(self._steps(r).min())
        whole = self.power == 1
        if abs(rho) > _BEYOND or (rho < 0.0 and not (whole and step % 2.0 == 1.0)):
            return np.array([np.nan])
        return np.array([np.arcsin(np.sign(rho) * min(abs(rho), 1.0) ** (1.0 / step))])

    def start(self, r: int) -> Vec:  # noqa: ARG002
        return np.array([0.0 if self.power == 1 else 0.25 * np.pi])

    def settled(self, angles: Vec, r: int, share: float) -> tuple[Vec, BoolVec]:  # noqa: ARG002
        sine = np.sin(angles) if self.power == 1 else np.abs(np.sin(angles))
        ends: BoolVec = np.asarray(1.0 - sine**2 <= share)
        none: BoolVec = np.asarray((sine**2 <= share) & (self.power > 1))
        own = np.where(ends, np.sign(sine) * _HALF_PI, np.where(none, 0.0, np.arcsin(np.clip(sine, -1.0, 1.0))))
        return own, np.asarray(ends | none)


def _rest(sine: float, cosine: float, step: float) -> tuple[float, float]:
    """√(1 − s^2n) with the sign of cos a, and its slope: cos a · √h, h = (1 − s^2n)/(1 − s²), analytic at s² = 1."""
    square, n = sine * sine, step
    gap = cosine * cosine
    if gap < 1e-4:  # 1 − (1 − g)ⁿ by its series in g
        h = n * (1.0 - (n - 1.0) / 2.0 * gap * (1.0 - (n - 2.0) / 3.0 * gap))
        dh = n * (-(n - 1.0) / 2.0 + (n - 1.0) * (n - 2.0) / 3.0 * gap)  # in the gap
    else:
        left = 1.0 - square**n
        h = left / gap
        dh = (n * square ** (n - 1.0) - h) / gap if square > 0.0 or n > 1.0 else (1.0 - h) / gap
    root = np.sqrt(h)
    d_gap = -2.0 * sine * cosine
    return float(cosine * root), float(-sine * root + cosine * 0.5 * dh * d_gap / root)


@dataclass(frozen=True, slots=True)
class Stationary:
    """Toeplitz: a correlation for every distance in the order of the effects, by partial autocorrelations sin a_k.

    Row t of Q comes from the ones before by rotations: with e_t(t) the new direction and b_k(t − 1) what the past
    leaves, e_{k−1}(t) = cos a_k e_k(t) + sin a_k b_{k−1}(t − 1), b_k(t) = cos a_k b_{k−1}(t − 1) − sin a_k e_k(t)
    (the normalised lattice of the Durbin–Levinson recursion; Barndorff-Nielsen & Schou 1973).
    """

    ends = (-_HALF_PI, _HALF_PI)

    def count(self, r: int) -> int:
        return r - 1

    def at(self, angles: Vec, r: int) -> Bent:
        k_all = r - 1
        sine, cosine = np.sin(angles), np.cos(angles)
        root, slopes = np.empty((r, r)), np.empty((k_all, r, r))
        behind: list[tuple[Mat, Mat]] = []  # b_k(t − 1) (r,) with its slopes (k, r)
        for t in range(r):
            ahead, d_ahead = np.eye(r)[t], np.zeros((k_all, r))
            now: list[tuple[Mat, Mat]] = []
            for k in range(t, 0, -1):
                s, c = sine[k - 1], cosine[k - 1]
                past, d_past = behind[k - 1]
                left = c * past - s * ahead
                d_left = c * d_past - s * d_ahead
                new = c * ahead + s * past
                d_new = c * d_ahead + s * d_past
                d_left[k - 1] -= new
                d_new[k - 1] += left
                now.append((left, d_left))
                ahead, d_ahead = new, d_new
            now.append((ahead, d_ahead))
            behind = now[::-1]
            root[t], slopes[:, t] = ahead, d_ahead
        return Bent(root, slopes)

    def pairs(self, r: int) -> tuple[tuple[int, int], ...]:
        return tuple((k, 0) for k in range(1, r))

    def of(self, correlations: Vec, r: int) -> Vec:
        """By the Durbin–Levinson recursion; where a partial autocorrelation is ±1 those behind it are 0."""
        angles, weights, left = np.zeros(r - 1), np.empty(0), 1.0
        for k in range(r - 1):
            rest = float(correlations[k] - weights @ correlations[:k][::-1])
            if left < 1e-12:
                if abs(rest) > 1e-6:
                    return np.full(r - 1, np.nan)
                break
            partial = rest / left
            if not abs(partial) <= 1.0 + 1e-7:
                return np.full(r - 1, np.nan)
            partial = float(np.clip(partial, -1.0, 1.0))
            angles[k] = np.arcsin(partial)
            weights = np.append(weights - partial * weights[::-1], partial)
            left *= 1.0 - partial**2
        return angles

    def start(self, r: int) -> Vec:
        return np.zeros(r - 1)

    def settled(self, angles: Vec, r: int, share: float) -> tuple[Vec, BoolVec]:
        """Behind a partial autocorrelation of ±1 nothing is left to be correlated: those angles are 0."""
        sine = np.sin(angles)
        ends: BoolVec = np.asarray(1.0 - sine**2 <= share)
        own = np.where(ends, np.sign(sine) * _HALF_PI, np.arcsin(np.clip(sine, -1.0, 1.0)))
        if ends.any():
            first = int(np.argmax(ends))
            own[first + 1 :] = 0.0
            ends = np.asarray(np.arange(r - 1) >= first)
        return own, ends
