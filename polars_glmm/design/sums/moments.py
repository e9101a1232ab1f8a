"""Second moments of a model's columns, level by level: means from a common centre, squares about each level's own mean.

Two sets of rows are joined by the pairwise formula of Chan, Golub & LeVeque (1983, Am. Stat. 37): with W = W₁ + W₂ and
d = m₂ − m₁,  m = m₁ + d W₂/W,  S = S₁ + S₂ + d d' W₁W₂/W.  Nothing large is ever subtracted from something large.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from polars_glmm.typing import Cube, IntVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class LevelMoments:
    """Moments of some columns at each of G levels (of a factor, or of a pair of factors).

    columns (m,)             which of the model's columns
    left, right (a,), (b,)   places among these whose products are known: all pairs of one of `left` and one of `right`
    weight (G,)              Σ w, with w = frequency · precision;  count (G,) Σ frequency
    mean (m, G)              weighted mean minus the centre
    second (a, b, G)         Σ w (v_i − mean_i)(v_j − mean_j) about the level's means
    """

    columns: IntVec
    left: IntVec
    right: IntVec
    weight: Vec
    count: Vec
    mean: Mat
    second: Cube

    @property
    def n_levels(self) -> int:
        return len(self.weight)

    def taken(self, order: IntVec) -> LevelMoments:
        """The levels in another order."""
        return replace(
            self,
            weight=self.weight[order],
            count=self.count[order],
            mean=self.mean[:, order],
            second=self.second[:, :, order],
        )

    def transposed(self, order: IntVec) -> LevelMoments:
        """`left` and `right` exchanged, the levels in another order."""
        other = replace(self, left=self.right, right=self.left, second=self.second.swapaxes(0, 1))
        return other.taken(order)


class PairMoments(NamedTuple):
    """Moments at the pairs of levels of two factors that share a row, sorted by (left, right): codes (P,) each."""

    left: IntVec
    right: IntVec
    moments: LevelMoments


class Checks(NamedTuple):
    """Sums that tell whether data are the same: Σ f y, Σ f y², Σ f precision, of the response without offset."""

    y: float
    y_squared: float
    precision: float


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """All that a gaussian model needs of its rows, for k columns of which the last is the response less its offset.

    centre (k,)      what all means are counted from; columns as they stand in the formula, neither centred nor scaled
    total            moments over all rows, as one level, with all products
    factors, pairs   per grouping factor, and per pair f < g of factors, in the order of the formula
    n_obs            Σ frequency;  log_weights Σ frequency · log precision
    """

    centre: Vec
    total: LevelMoments
    factors: tuple[LevelMoments, ...]
    pairs: dict[tuple[int, int], PairMoments]
    n_obs: int
    log_weights: float
    checks: Checks

    @property
    def mean(self) -> Vec:
        """Means of the columns (k,)."""
        return np.asarray(self.centre + self.total.mean[:, 0])

    @property
    def second(self) -> Mat:
        """Σ w (v − mean)(v − mean)' (k, k)."""
        return np.asarray(self.total.second[:, :, 0])


class Layout(NamedTuple):
    """Which columns and which products some moments are of, as in LevelMoments."""

    columns: IntVec
    left: IntVec
    right: IntVec


def about_means(layout: Layout, weight: Vec, count: Vec, sums: Mat, products: Cube) -> LevelMoments:
    """Level moments from sums of columns (m, G) and of their products (a, b, G), all counted from one centre."""
    mean = sums / weight
    with np.errstate(over="ignore", invalid="ignore"):  # whoever asked refuses what is not finite
        second = products - weight * (mean[layout.left][:, None] * mean[layout.right])
    return LevelMoments(*layout, weight, count, mean, second)


def moved(part: LevelMoments, shift: Vec) -> LevelMoments:
    """The same moments, with means counted from centre − shift."""
    return replace(part, mean=part.mean + shift[part.columns][:, None]) if shift.any() else part


def pooled(part: LevelMoments, into: IntVec, n_levels: int) -> LevelMoments:
    """Moments of unions of levels: level l of `part` goes to into[l] (the formula of Chan et al. for many parts)."""

    def add(values: Cube) -> Cube:
        out = np.empty((*values.shape[:-1], n_levels))
        for at in np.ndindex(values.shape[:-1]):
            out[at] = np.bincount(into, values[at], n_levels)
        return out

    weight = add(part.weight)
    mean = add(part.mean * part.weight)
    mean = np.divide(mean, weight, out=np.zeros_like(mean), where=weight > 0)
    away = part.mean - mean[:, into]
    between = part.weight * (away[part.left][:, None] * away[part.right])
    return LevelMoments(part.columns, part.left, part.right, weight, add(part.count), mean, add(part.second + between))


def stacked(first: LevelMoments, second: LevelMoments, codes: tuple[IntVec, IntVec], n_levels: int) -> LevelMoments:
    """Moments of two sets of rows whose levels have the given codes in common numbering; means from one centre."""
    both = LevelMoments(
        first.columns,
        first.left,
        first.right,
        *(
            np.concatenate([getattr(first, name), getattr(second, name)], axis=-1)
            for name in ("weight", "count", "mean", "second")
        ),
    )
    return pooled(both, np.concatenate(codes), n_levels)


def joined(
    first: Moments,
    second: Moments,
    codes: tuple[tuple[IntVec, IntVec], ...],
    n_levels: tuple[int, ...],
) -> Moments:
    """Moments of the rows of both; codes[f] place the levels of each part's factor f among n_levels[f] common ones."""
    if not first.n_obs:  # no digits are lost to a centre that no row is near
        first = replace(first, centre=second.centre)
    shift = second.centre - first.centre if second.n_obs else np.zeros_like(first.centre)
    one = np.zeros(1, dtype=np.intp)
    total = stacked(first.total, moved(second.total, shift), (one, one), 1)
    factors = tuple(
        stacked(a, moved(b, shift), places, n)
        for a, b, places, n in zip(first.factors, second.factors, codes, n_levels, strict=True)
    )
    pairs = {}
    for (f, g), a in first.pairs.items():
        b = second.pairs[f, g]
        key = [
            codes[f][k][part.left].astype(np.int64) * n_levels[g] + codes[g][k][part.right]
            for k, part in enumerate((a, b))
        ]
        met, place = np.unique(np.concatenate(key), return_inverse=True)
        split = place.reshape(-1)[: len(key[0])], place.reshape(-1)[len(key[0]) :]
        left, right = np.divmod(met, n_levels[g])
        pairs[f, g] = PairMoments(left, right, stacked(a.moments, moved(b.moments, shift), split, len(met)))
    return Moments(
        centre=first.centre,
        total=total,
        factors=factors,
        pairs=pairs,
        n_obs=first.n_obs + second.n_obs,
        log_weights=first.log_weights + second.log_weights,
        checks=Checks(*(x + y for x, y in zip(first.checks, second.checks, strict=True))),
    )
