"""The covariance of the modes of different factors in one row: they are not independent given the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from polars_glmm.errors import ModelError

if TYPE_CHECKING:
    from polars_glmm.prediction.effects import JoinedFactor
    from polars_glmm.typing import Cube, IntVec, Mat, Vec


class Share(NamedTuple):
    """What n rows have of one factor: z (r, n) of its effects, and levels (m, n), −1 where unseen, with weights (m, n).

    A row has one level, with weight 1, or several.
    """

    z: Sequence[Vec]
    codes: IntVec
    weights: Mat


@dataclass(frozen=True, slots=True, eq=False)
class PairSpread:
    """Cov(b_f, b_g | y) (r_f, r_g, P) of pairs of levels, known by own · width + its; `every`: of others it is zero."""

    keys: IntVec
    covariance: Cube
    width: int
    every: bool

    def twice(self, f: Share, g: Share) -> Vec:
        """2 z_f'Cov(b_f, b_g | y)z_g (n,), NaN where it is not known; unseen levels are independent."""
        total = np.zeros(f.codes.shape[1])
        for own, w in zip(f.codes, f.weights, strict=True):
            for its, v in zip(g.codes, g.weights, strict=True):
                both = (own >= 0) & (its >= 0) & (w != 0.0) & (v != 0.0)
                total[both] += 2.0 * (w * v)[both] * self._between(own[both], its[both], _of(f.z, both), _of(g.z, both))
        return total

    def _between(self, own: IntVec, its: IntVec, z: list[Vec], x: list[Vec]) -> Vec:
        key, absent = own.astype(np.intp) * self.width + its, 0.0 if self.every else np.nan
        if not len(self.keys):
            return np.full(len(key), absent)
        place = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        total = np.zeros(len(key))
        for j, zj in enumerate(z):
            for k, xk in enumerate(x):
                total += zj * xk * self.covariance[j, k][place]
        return np.where(self.keys[place] == key, total, absent)


def _of(z: Sequence[Vec], rows: Vec) -> list[Vec]:
    return [np.broadcast_to(v, rows.shape)[rows] for v in z]


def pair_spreads(
    factors: Sequence[JoinedFactor], effects: Sequence[list[int]], *, wanted: bool
) -> dict[tuple[int, int], PairSpread]:
    """By the places of two factors the covariance of these effects of theirs.

    wanted   there are standard errors to be had. Raises ModelError where the fit does not have what they need.
    """
    out: dict[tuple[int, int], PairSpread] = {}
    for pair in combinations([i for i, own in enumerate(effects) if own], 2):
        found = {
            (i, j): spread for i, j in (pair, pair[::-1])
            if (spread := _spread(factors[i], factors[j], effects[i], effects[j])) is not None
        }  # fmt: skip
        out |= found
        if wanted and not found:
            names = " and ".join(repr(factors[i].recipe.name) for i in pair)
            msg = (
                f"Standard errors of predictions need the covariance of the modes of {names}, which an earlier version "
                'did not keep: fit again. random="none" gives those of the fixed part.'
            )
            raise ModelError(msg)
    return out


def _spread(f: JoinedFactor, g: JoinedFactor, own: list[int], its: list[int]) -> PairSpread | None:
    width = g.modes.shape[1]
    for one in f.between:
        if one.other == g.recipe.name:
            return PairSpread(one.own * width + one.its, one.covariance[own][:, its], width, one.every)
    return None
