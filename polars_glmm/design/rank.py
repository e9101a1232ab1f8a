"""Which columns of a design are linearly independent of the columns before them, and what makes the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from polars_glmm.linalg.columns import cross_products_about
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

from .recipe import Combination

TOLERANCE = 1e-9
"""A column whose remainder is shorter than this, after the columns before it, is a combination of them."""
_COMFORTABLE = 1e-6
"""Smallest eigenvalue of the cross-product of unit columns above which no remainder can be near the tolerance."""
_MARGINAL_ROUNDING = 64 * np.finfo(np.float64).eps
ROUNDING = 8 * np.finfo(np.float64).eps
"""Share of a column, as it stands, that its rounding may add to a remainder."""
EXACT, APART = 1e-12, 1e-4
"""A remainder so short, among columns so far apart, is that of a true combination: nothing is lost to rounding."""


class Judged(NamedTuple):
    """Columns to keep (p,), what makes each of the others, and which of these may be so by rounding only (p,).

    closest   squared remainder of the kept unit column that is nearest to the columns before, where products told it
    """

    kept: BoolVec
    lost: tuple[Combination, ...]
    blurred: BoolVec
    closest: float = 1.0


def independent(x: Mat, centred: BoolVec) -> BoolVec:
    """(p,) True for the columns of x (p, n) to keep, as `judge` finds them."""
    return judge(x, centred).kept


def judge(x: Mat, centred: BoolVec) -> Judged:
    """The columns of x (p, n) to keep: sequential QR on unit columns, earlier columns win.

    centred   columns to take the mean from first: all but those that span the constant (the intercept, or the full
              set of indicators that stands for it). A column that is constant then has nothing left.
    """
    p, n = x.shape
    if p == 0 or n == 0:
        return Judged(np.ones(p, dtype=np.bool_), (), np.zeros(p, dtype=np.bool_))
    mean = x.mean(axis=1)

    def triangle(shift: Vec, scale: Vec, kept: IntVec) -> Mat:
        unit = (x[kept] - shift[kept, None]) / scale[kept, None]
        return np.asarray(np.linalg.qr(unit.T, mode="r"))

    return judge_moments(n, mean, cross_products_about(x, mean), centred, triangle)


def judge_moments(
    n: int, mean: Vec, cross: Mat, centred: BoolVec, triangle: Callable[[Vec, Vec, IntVec], Mat]
) -> Judged:
    """The same answer for columns known by their moments: n rows, mean (p,), cross (p, p) about the means.

    triangle(shift, scale, kept)   R of the QR of (x − shift)/scale for the kept columns: asked for only in doubt
    """
    p = len(mean)
    length = np.sqrt(np.diag(cross) + n * mean**2)
    left = np.where(centred, np.sqrt(np.diag(cross)), length)
    alive = _alive(length, left, centred)
    scale = np.where(alive, left, 1.0)
    raw = np.where(centred, 0.0, mean)
    nothing = np.zeros(p, dtype=np.bool_)
    if alive.all() and _comfortable((cross + n * np.outer(raw, raw)) / np.outer(scale, scale)):
        return Judged(alive, (), nothing)
    places, weights, blurred = np.flatnonzero(alive), np.zeros((p, p)), nothing
    kept = alive.copy()
    if len(places):
        r = triangle(np.where(centred, mean, 0.0), scale, places)
        own, doubtful = _sequential(r, ROUNDING * (length / scale)[places])
        kept[places], blurred[places] = own, doubtful
        if not own.all():
            made = np.linalg.lstsq(r[:, own], r[:, ~own], rcond=None)[0]
            weights[np.ix_(places[own], places[~own])] = made / scale[places[own]][:, None] * scale[places[~own]]
    size = np.sqrt(np.diag(cross) / n)
    return Judged(kept, combinations(weights, kept, centred, mean, size), blurred)


def combinations(weights: Mat, kept: BoolVec, centred: BoolVec, mean: Vec, size: Vec) -> tuple[Combination, ...]:
    """What makes the columns that are not kept: weights[:, j] for column j, `centred` columns about their means."""
    found = []
    for j in np.flatnonzero(~kept).tolist():
        own = weights[:, j].copy()
        constant = float(centred[j] * mean[j] - own @ (centred * mean))
        if centred.any():
            own[~centred] += constant  # these make the constant: the intercept, or indicators that add up to it
        found.append(Combination(j, tuple(own.tolist()), tuple(mean.tolist()), float(size[j])))
    return tuple(found)


def _alive(length: Vec, left: Vec, centred: BoolVec) -> BoolVec:
    """Columns of which something is left after centring."""
    return np.asarray(left > np.maximum(TOLERANCE * np.where(centred, 0.0, length), _MARGINAL_ROUNDING * length))


def _sequential(r: Mat, rounding: Vec) -> tuple[BoolVec, BoolVec]:
    """Columns of R (k,) that are longer than the tolerance after those before them; which of the others are blurred.

    rounding (k,)   of each unit column: a remainder that is no longer than what it can add up to tells nothing
    """
    k = r.shape[1]
    kept, blurred = np.arange(k), np.zeros(k, dtype=np.bool_)
    while len(kept):
        diagonal = np.abs(np.diagonal(r))
        short = next((j for j, d in enumerate(diagonal) if d < _limit(r, j, rounding[kept], float(d))), len(diagonal))
        if short == len(kept):
            break
        d = diagonal[short] if short < len(diagonal) else 0.0  # more columns than rows
        blurred[kept[short]] = d > EXACT or bool((diagonal[:short] < APART).any())
        kept = np.delete(kept, short)
        r = np.asarray(np.linalg.qr(np.delete(r, short, axis=1), mode="r"))
    return np.isin(np.arange(k), kept), blurred


def _limit(r: Mat, j: int, rounding: Vec, length: float) -> float:
    """Length of a remainder that is none: the tolerance, or the rounding of the columns that it is a difference of."""
    if length >= 1e3 * max(TOLERANCE, float(rounding[: j + 1].max())) or not j:
        return max(TOLERANCE, float(rounding[j]))
    weights = np.linalg.solve(r[:j, :j], r[:j, j])
    return max(TOLERANCE, float(rounding[j] + np.abs(weights) @ rounding[:j]))


def _comfortable(cross: Mat) -> bool:
    """Whether the smallest eigenvalue of the cross-product is above _COMFORTABLE: a shifted Cholesky, no QR of rows."""
    cross[np.diag_indices_from(cross)] -= _COMFORTABLE
    try:
        np.linalg.cholesky(cross)
    except np.linalg.LinAlgError:
        return False
    return True
