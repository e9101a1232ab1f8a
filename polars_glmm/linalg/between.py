"""H⁻¹ between levels of two factors: what the covariance of their effects in one row is made of.

Of levels that meet in a row it lies on the pattern of H, and is in the selected inverse. Levels that never met are
correlated too, through those that met both: they are solved for, one column for every effect of the smaller factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from polars_glmm.linalg.coupled import CoupledFactorised
from polars_glmm.linalg.crossed_lead import CrossedFactorised
from polars_glmm.linalg.elimination import Factorised, NestedFactorised
from polars_glmm.linalg.pattern import Pattern
from polars_glmm.linalg.side_by_side import LevelsOf, ManyCrossedFactorised
from polars_glmm.typing import Cube, IntVec, Mat, Vec

PAIRS_KEPT = 1_000_000
"""Entries of H⁻¹ between the levels of different factors up to which those of all pairs are made."""


class PairBlocks(NamedTuple):
    """Pairs of levels of two factors, sorted by (left, right), (P,) each, and values between them (r_f, r_g, P)."""

    left: IntVec
    right: IntVec
    values: Cube

    def moved(self, left: IntVec, right: IntVec) -> PairBlocks:
        """The same pairs where levels have other numbers: left (G_f,), right (G_g,)."""
        return sorted_pairs([self._replace(left=left[self.left], right=right[self.right])])


class BetweenFactors(NamedTuple):
    """Values between levels of factors f < g.

    every   those of all pairs that are not 0; else of pairs that met in a row, and nothing is known of the others
    """

    every: bool
    pairs: dict[tuple[int, int], PairBlocks]

    def times(self, sizes: Sequence[Vec]) -> BetweenFactors:
        """The same times a number of each pair, which that of its level of f is: (G_f,) per factor."""
        pairs = {
            (f, g): own._replace(values=own.values * sizes[f][own.left]) for (f, g), own in self.pairs.items()
        }
        return BetweenFactors(self.every, pairs)


NONE_BETWEEN = BetweenFactors(every=True, pairs={})


def between_factors(found: Factorised | None, levels: Sequence[LevelsOf] = ()) -> BetweenFactors:
    """H⁻¹ between the levels of different factors: of all pairs, where they are not too many, or of those that met.

    levels   of many models side by side, the levels of each factor; pairs are then of levels of one model
    """
    if not isinstance(found, NestedFactorised | CrossedFactorised | CoupledFactorised | ManyCrossedFactorised):
        return NONE_BETWEEN
    pattern: Pattern = found.symbolic.pattern
    levels = levels or [LevelsOf.of(np.array([n])) for n in pattern.n_levels]
    sizes = np.array([own.counts * r for own, r in zip(levels, pattern.sizes, strict=True)], dtype=float)
    if sum(float(a @ b) for a, b in combinations(sizes, 2)) <= PAIRS_KEPT:
        return BetweenFactors(every=True, pairs=_all_pairs(found, pattern, levels))
    cross = found.inverse().cross
    return BetweenFactors(
        every=False,
        pairs={(f, g): PairBlocks(*pattern.pairs[f, g][:2], block) for (f, g), block in cross.items() if f < g},
    )


def _all_pairs(found: Factorised, pattern: Pattern, levels: Sequence[LevelsOf]) -> dict[tuple[int, int], PairBlocks]:
    """By columns of H⁻¹: the k-th level of a factor in every model at once, as models do not meet."""
    out = {}
    for g in range(1, pattern.n_factors):
        own, size = levels[g], pattern.sizes[g]
        most = int(own.counts.max(initial=0))
        columns: list[Cube] = [
            np.zeros((r, size, most, n)) for r, n in zip(pattern.sizes, pattern.n_levels, strict=True)
        ]
        effects = np.arange(size)
        columns[g][effects[:, None], effects[:, None], own.within, np.arange(own.n_levels)] = 1.0
        solved = found.solve(columns)
        for f in range(g):
            left, right = pairs_of_models(levels[f], own)
            out[f, g] = PairBlocks(left, right, solved[f][:, :, own.within[right], left])
    return out


def pairs_of_models(f: LevelsOf, g: LevelsOf) -> tuple[IntVec, IntVec]:
    """All pairs of levels of two factors that are of one model, sorted."""
    repeats = g.counts[f.model]
    left = np.repeat(np.arange(f.n_levels), repeats)
    number = np.arange(len(left)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return left, g.first[f.model[left]] + number


def sorted_pairs(parts: Sequence[PairBlocks]) -> PairBlocks:
    """Pairs of several parts as one."""
    left, right = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    order = np.lexsort((right, left))
    return PairBlocks(left[order], right[order], np.concatenate([part.values for part in parts], axis=-1)[..., order])


def renumbered(parts: Sequence[BetweenFactors], places: Sequence[Sequence[IntVec]]) -> BetweenFactors:
    """Those of several parts that do not meet, by the places (G_f,) of each part's levels among all."""
    moved = [
        {(f, g): pairs.moved(own[f], own[g]) for (f, g), pairs in part.pairs.items()}
        for part, own in zip(parts, places, strict=True)
    ]
    every = all(part.every for part in parts)
    return BetweenFactors(every, {at: sorted_pairs([one[at] for one in moved]) for at in moved[0]})


def scaled(pairs: PairBlocks, left: Mat | Cube, right: Mat | Cube) -> PairBlocks:
    """L·values·R' of every pair, for matrices L and R of a factor (r, r), or of each of its levels (r, r, G)."""
    one, other = (
        np.broadcast_to(own[..., None], (*own.shape, len(at))) if own.ndim == 2 else own[..., at]
        for own, at in ((left, pairs.left), (right, pairs.right))
    )
    return pairs._replace(values=np.einsum("ikP,klP,jlP->ijP", one, pairs.values, other, optimize=True))
