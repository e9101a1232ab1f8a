"""Nodes over normal linear predictors, several at once: means of any function of them, and its slopes and bends.

With eta ~ N(e, V) the mean of h is E h(e + Rz), RR' = V, z standard normal, by the trapezoidal rule in every direction
(Trefethen & Weideman 2014, SIAM Review 56, theorem 5.1). Derivatives come from ∂E h/∂e = E ∂h and ∂E h/∂V = ½ E ∂²h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from polars_glmm.typing import Cube, Mat, Vec

MOST = 3
"""Predictors with random effects that a mean is taken over."""
AT_ONCE = 1 << 18
"""Rows times nodes at a time."""
_REACH = {1: 8.5, 2: 7.5, 3: 6.75}
"""Standard deviations that the nodes reach: 2e-17, 6e-14 and 1e-11 of a normal variable lie beyond."""
_STEP = 0.75
_DIGITS = 32.0
_STRIP = 0.5 * np.pi
"""How far singularities in a predictor are from the real line: those of 1 − exp(−exp eta), or of sums of exp(eta_k)."""
_SLOPE, _BEND = 1e-3, 1e-2
_TURNS, _FAR = 8, 20.0

Moved: TypeAlias = "Callable[[Mapping[int, Mat]], Mat]"
"""A function of rows with predictors moved, by their places: (…, n) to (…, n)."""


@dataclass(frozen=True, slots=True, eq=False)
class Nodes:
    """moves (m, n) of each predictor, and weights (m, n)."""

    moves: Mapping[int, Mat]
    weights: Mat

    def mean(self, values: Mat) -> Mat:
        """Of values (…, m, n) at the nodes: (…, n)."""
        return np.asarray((self.weights * values).sum(-2))

    def averaged(self, of: Moved) -> Moved:
        """The mean of a function, as a function of how far rows are moved (n,)."""

        def average(moved: Mapping[int, Mat]) -> Mat:
            return self.mean(of({**moved, **{k: moved.get(k, 0.0) + move for k, move in self.moves.items()}}))

        return average


def nodes_of(places: Sequence[int], covariance: Cube, of: Moved | None = None) -> Nodes:
    """Nodes for the predictors at `places` with covariance (d, d, n); around the peak of `of` times the density.

    Around a peak at Rδ the mean is E h(e + R(z + δ)) exp(−δ'z − ½δ'δ), of h = exp(c eta) without any error.
    """
    d, n = covariance.shape[1:]
    if d == 0:
        return Nodes({}, np.ones((1, n)))
    root = _root(covariance)
    z, weights = _lattice(d, float(np.nanmax(np.abs(root), initial=0.0)))
    peak = np.zeros((d, n)) if of is None else _peak(places, root, of)
    moves = np.einsum("kjn,jmn->kmn", root, z[:, :, None] + peak[:, None, :])
    tilt = np.exp(-np.einsum("jm,jn->mn", z, peak) - 0.5 * np.square(peak).sum(0))
    return Nodes(dict(zip(places, moves, strict=True)), weights[:, None] * tilt)


def count_of(d: int, most: float) -> int:
    """How many nodes d predictors have whose standard deviations are at most `most`."""
    return 1 if d == 0 else len(_lattice(d, most)[1])


def slope_at(of: Moved, k: int, n: int) -> Vec:
    """∂/∂eta_k (n,): a difference whose error is of the fourth order."""
    at = {step: of({k: np.full(n, step * _SLOPE)}) for step in (-2.0, -1.0, 1.0, 2.0)}
    return np.asarray((8.0 * (at[1.0] - at[-1.0]) - (at[2.0] - at[-2.0])) / (12.0 * _SLOPE))


def bend_at(of: Moved, k: int, other: int, n: int) -> Vec:
    """∂²/∂eta_k ∂eta_other (n,), as exactly."""

    def at(a: float, b: float) -> Vec:
        moved = {k: np.full(n, a * _BEND)}
        moved[other] = moved.get(other, 0.0) + np.full(n, b * _BEND)
        return of(moved)

    def crossed(step: float) -> Vec:
        return at(step, step) - at(step, -step) - at(-step, step) + at(-step, -step)

    return np.asarray((16.0 * crossed(0.5) - crossed(1.0)) / (12.0 * _BEND * _BEND))


def _root(covariance: Cube) -> Cube:
    """R (d, d, n), lower triangular with RR' = V; V may be singular."""
    root = np.zeros_like(covariance)
    for j in range(len(root)):
        own = np.sqrt(np.maximum(covariance[j, j] - np.square(root[j, :j]).sum(0), 0.0))
        root[j, j] = own
        for i in range(j + 1, len(root)):
            left = covariance[i, j] - (root[i, :j] * root[j, :j]).sum(0)
            root[i, j] = np.divide(left, own, out=np.zeros_like(own), where=own > 1e-8 * np.sqrt(covariance[j, j]))
    return root


def _lattice(d: int, most: float) -> tuple[Mat, Vec]:
    """Nodes (d, m) within a ball, and weights (m,) that sum to one."""
    step = min(_STEP, 2.0 * np.pi * _STRIP / (_DIGITS * max(most, 1e-12)))
    half = int(np.ceil(_REACH[d] / step))
    line = np.arange(-half, half + 1) * step
    z = np.array([one.ravel() for one in np.meshgrid(*[line] * d, indexing="ij")])
    square = np.square(z).sum(0)
    inside = square <= np.square(_REACH[d] + step)
    weights = np.exp(-0.5 * square[inside])
    return z[:, inside], weights / weights.sum()


def _peak(places: Sequence[int], root: Cube, of: Moved) -> Mat:
    """δ (d, n), where log h(e + Rδ) − ½δ'δ is highest: about there, which is enough."""
    d, n = root.shape[1:]
    peak = np.zeros((d, n))
    with np.errstate(all="ignore"):
        for turn in range(_TURNS):
            base = dict(zip(places, np.einsum("kjn,jn->kn", root, peak), strict=True))
            slope = np.array([
                (np.log(of({**base, k: base[k] + _SLOPE})) - np.log(of({**base, k: base[k] - _SLOPE}))) / (2.0 * _SLOPE)
                for k in places
            ])  # fmt: skip
            wanted = np.einsum("kjn,kn->jn", root, np.where(np.isfinite(slope), slope, 0.0))
            share = 1.0 if turn == 0 else 0.5
            peak = np.clip((1.0 - share) * peak + share * wanted, -_FAR, _FAR)
    return peak
