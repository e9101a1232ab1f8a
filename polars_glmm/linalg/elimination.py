"""Several grouping factors: eliminate the leading one block by block, recurse on the Schur complement.

For H = [[D, C], [C', E]] with D block diagonal: S = E − C'D⁻¹C, log|H| = log|D| + log|S|, and the *selected* inverse
(the blocks of H⁻¹ on the pattern of H, all that gradients need) follows from that of S:
(H⁻¹)₁₂ = −D⁻¹C S⁻¹, (H⁻¹)₁₁ = D⁻¹ + D⁻¹C S⁻¹ C'D⁻¹ (Takahashi, Fagan & Chin 1973).
While the leading factor is nested in all others S keeps the pattern of H; otherwise S is factorised densely.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from polars_glmm.linalg import cholesky
from polars_glmm.linalg.crossed_lead import CrossedLead
from polars_glmm.linalg.pattern import Blocks, Pairs, Pattern, sum_by
from polars_glmm.typing import Cube, IntVec


class Factorised(Protocol):
    """A factorised H: log determinant (of many models one each), solutions, and the selected inverse."""

    @property
    def log_determinant(self) -> Any: ...

    def solve(self, b: list[Cube]) -> list[Cube]:
        """H⁻¹ b for one (r_f, …, G_f) array per factor."""

    def inverse(self) -> Blocks:
        """H⁻¹ on the pattern of H."""

    def inverse_diagonal(self) -> list[Cube]:
        """The blocks of H⁻¹ over single levels, (r_f, r_f, G_f) per factor: less work than `inverse`."""


class Eliminator(Protocol):
    """What is known of a pattern before any numbers. costly: a factorisation is worth many solutions."""

    @property
    def costly(self) -> bool: ...

    @property
    def order(self) -> int:
        """Order of the largest dense matrix that is left; 0 where none is."""

    @property
    def dense_entries(self) -> int:
        """Entries of all dense matrices that are left."""

    def factorise(self, h: Blocks) -> Factorised | None:
        """The factorised H, or None where it is not positive definite."""


def eliminator(pattern: Pattern) -> Eliminator:
    """The elimination that suits a pattern."""
    if pattern.n_factors == 1:
        return OneFactor()
    if pattern.nested_lead():
        return NestedLead(pattern)
    return CrossedLead(pattern)


# ----------------------------------------------------------------------------------------------- one factor


@dataclass(frozen=True, slots=True)
class OneFactor:
    """Block-diagonal H."""

    costly = False
    order = 0
    dense_entries = 0

    def factorise(self, h: Blocks) -> OneFactorised | None:
        low = cholesky.factor(h.diagonal[0])
        log_det = float(cholesky.log_determinant(low).sum())
        return OneFactorised(low, log_det) if np.isfinite(log_det) else None


@dataclass(frozen=True, slots=True)
class LevelByLevel:
    """H = LL' level by level."""

    low: Cube

    def solve(self, b: list[Cube]) -> list[Cube]:
        return [cholesky.solve(self.low, b[0])]

    def inverse(self) -> Blocks:
        return Blocks(self.inverse_diagonal(), {})

    def inverse_diagonal(self) -> list[Cube]:
        return [cholesky.inverse(self.low)]


@dataclass(frozen=True, slots=True)
class OneFactorised(LevelByLevel):
    """H = LL' level by level, with log|H|."""

    log_determinant: float


# ----------------------------------------------------------------------------------------------- nested lead


@dataclass(frozen=True, eq=False)
class NestedLead:
    """The leading factor is nested in every other: S has the pattern of the rest of H."""

    pattern: Pattern

    @property
    def costly(self) -> bool:
        return self.rest.costly

    @property
    def order(self) -> int:
        return self.rest.order

    @property
    def dense_entries(self) -> int:
        return self.rest.dense_entries

    @cached_property
    def parents(self) -> list[IntVec]:
        """Level of each other factor for every level of the lead; entry 0 is unused."""
        return [np.empty(0, np.intp), *(self.pattern.pairs[0, g].right for g in range(1, self.pattern.n_factors))]

    @cached_property
    def parent_pairs(self) -> dict[tuple[int, int], IntVec]:
        """Index of the pair (parent in g, parent in h) for every level of the lead."""
        found = {}
        for (g, h), pair in self.pattern.pairs.items():
            if g > 0:
                width = self.pattern.n_levels[h]
                key = pair.left * width + pair.right
                found[g, h] = np.searchsorted(key, self.parents[g] * width + self.parents[h])
        return found

    @property
    def rest_pattern(self) -> Pattern:
        """The pattern without the lead."""
        pattern = self.pattern
        pairs = {(g - 1, h - 1): Pairs(p.left, p.right, None) for (g, h), p in pattern.pairs.items() if g > 0}
        return Pattern(pattern.n_levels[1:], pattern.sizes[1:], pattern.codes[1:], pairs)

    @cached_property
    def rest(self) -> Eliminator:
        return eliminator(self.rest_pattern)

    def factorise(self, h: Blocks) -> NestedFactorised | None:
        low = cholesky.factor(h.diagonal[0])
        log_det = float(cholesky.log_determinant(low).sum())
        if not np.isfinite(log_det):
            return None
        w, left = self.without_lead(h, low)
        rest = self.rest.factorise(left)
        return None if rest is None else NestedFactorised(self, low, w, rest, log_det + rest.log_determinant)

    def without_lead(self, h: Blocks, low: Cube) -> tuple[dict[int, Cube], Blocks]:
        """W_g = L⁻¹C of each other factor, and the Schur complement in blocks."""
        factors = range(1, self.pattern.n_factors)
        w = {g: cholesky.forward(low, h.cross[0, g]) for g in factors}
        diagonal = [
            h.diagonal[g] - sum_by(self.parents[g], np.einsum("iaG,ibG->abG", w[g], w[g]), self.pattern.n_levels[g])
            for g in factors
        ]
        cross = {
            (f - 1, g - 1): h.cross[f, g]
            - sum_by(index, np.einsum("iaG,ibG->abG", w[f], w[g]), h.cross[f, g].shape[-1])
            for (f, g), index in self.parent_pairs.items()
        }
        return w, Blocks(diagonal, cross)


@dataclass(frozen=True, slots=True)
class NestedFactorised:
    """L of the lead's block, W_g = L⁻¹C for the columns of each other factor g, and the factorised Schur complement.

    log_determinant   a number, or of many models (m,)
    """

    symbolic: NestedLead
    low: Cube
    w: dict[int, Cube]
    rest: Factorised
    log_determinant: Any

    def solve(self, b: list[Cube]) -> list[Cube]:
        parents, n_levels = self.symbolic.parents, self.symbolic.pattern.n_levels
        y = cholesky.forward(self.low, b[0])
        below = [b[g] - sum_by(parents[g], np.einsum("iaG,i...G->a...G", w, y), n_levels[g]) for g, w in self.w.items()]
        x = self.rest.solve(below)
        for g, w in self.w.items():
            y = y - np.einsum("iaG,a...G->i...G", w, x[g - 1][..., parents[g]])
        return [cholesky.backward(self.low, y), *x]

    def inverse(self) -> Blocks:
        s = self.rest.inverse()
        parents, pairs = self.symbolic.parents, self.symbolic.parent_pairs

        def s_block(g: int, h: int) -> Cube:
            if g == h:
                return s.diagonal[g - 1][..., parents[g]]
            if g < h:
                return s.cross[g - 1, h - 1][..., pairs[g, h]]
            return s.cross[h - 1, g - 1][..., pairs[h, g]].swapaxes(0, 1)

        t = {h: sum(np.einsum("iaG,abG->ibG", w, s_block(g, h)) for g, w in self.w.items()) for h in self.w}
        lead = cholesky.inverse(self.low)
        middle = sum(np.einsum("iaG,jaG->ijG", t[g], w) for g, w in self.w.items())
        half = cholesky.backward(self.low, np.asarray(middle))
        lead = lead + cholesky.backward(self.low, half.swapaxes(0, 1))
        cross = {(0, g): -cholesky.backward(self.low, np.asarray(t[g])) for g in t}
        cross.update({(f + 1, g + 1): block for (f, g), block in s.cross.items()})
        return Blocks([lead, *s.diagonal], cross)

    def inverse_diagonal(self) -> list[Cube]:
        return self.inverse().diagonal
