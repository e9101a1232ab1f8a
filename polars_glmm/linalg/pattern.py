"""Which levels of several grouping factors meet: the sparsity of H = Λ'Z'WZΛ + I, found once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polars_glmm.linalg.membership import Membership, meetings, whole
from polars_glmm.typing import Cube, IntVec


class Pairs(NamedTuple):
    """Pairs of levels of factors f < g that share a row, sorted by (left, right); each (P,).

    of_cell (C,) is the pair of each cell, or None where pairs are the cells themselves; shares: what cells have of
    each pair, where a row has several levels of a factor. Of such a factor levels left < right are pairs as well.
    """

    left: IntVec
    right: IntVec
    of_cell: IntVec | None
    shares: Membership | None = None

    def sums(self, cells: Cube) -> Cube:
        """Sums of values of cells (…, C) over pairs: (…, P)."""
        if self.shares is not None:
            return self.shares.sums(cells)
        return cells if self.of_cell is None else sum_by(self.of_cell, cells, len(self.left))

    def spread(self, values: Cube) -> Cube:
        """Values of pairs (…, P) in the cells: (…, C)."""
        if self.shares is not None:
            return self.shares.spread(values)
        return values if self.of_cell is None else values[..., self.of_cell]


class Blocks(NamedTuple):
    """A symmetric matrix over the levels of F factors.

    diagonal[f] (r_f, r_f, G_f);  cross[f, g] (r_f, r_g, P_fg) for f < g, in the order of the pattern's pairs, and for
    f = g between levels that share rows
    """

    diagonal: list[Cube]
    cross: dict[tuple[int, int], Cube]


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """Levels, sizes and meeting pairs of F factors, the first having the most levels.

    n_levels (F,), sizes (F,): random effects per level; codes[f] (C,): level of each cell; pairs as above
    sets (F,): of factors of which rows have several levels what each cell has of every level; None of others
    """

    n_levels: tuple[int, ...]
    sizes: tuple[int, ...]
    codes: tuple[IntVec, ...]
    pairs: dict[tuple[int, int], Pairs]
    sets: tuple[Membership | None, ...] = ()

    def to_levels(self, f: int, cells: Cube) -> Cube:
        """Sums of values of cells (…, C) over the levels of a factor: (…, G_f)."""
        sets = self.sets[f] if self.sets else None
        return sum_by(self.codes[f], cells, self.n_levels[f]) if sets is None else sets.sums(cells)

    def to_cells(self, f: int, levels: Cube) -> Cube:
        """Values of levels (…, G_f) in the cells: (…, C)."""
        sets = self.sets[f] if self.sets else None
        return levels[..., self.codes[f]] if sets is None else sets.spread(levels)

    def to_own(self, f: int, cells: Cube) -> Cube:
        """The same of squares: what pairs of a level with itself have, (…, G_f)."""
        sets = self.sets[f] if self.sets else None
        return sum_by(self.codes[f], cells, self.n_levels[f]) if sets is None else sets.squared.sums(cells)

    def of_own(self, f: int, levels: Cube) -> Cube:
        """Values of pairs of a level with itself (…, G_f) in the cells: (…, C)."""
        sets = self.sets[f] if self.sets else None
        return levels[..., self.codes[f]] if sets is None else sets.squared.spread(levels)

    @property
    def n_factors(self) -> int:
        return len(self.n_levels)

    def nested_lead(self) -> bool:
        """Whether every level of the first factor meets exactly one level of each other factor."""
        return self.crossing(1) is None

    def crossing(self, n_leads: int | None = None) -> tuple[int, int] | None:
        """The first two factors f < g of which a level of f meets several of g; f among the first n_leads, or all."""
        for f in range(self.n_factors if n_leads is None else n_leads):
            for g in range(f + 1, self.n_factors):
                if len(self.pairs[f, g].left) > self.n_levels[f]:
                    return f, g
        return None


def find_pattern(
    codes: tuple[IntVec, ...],
    n_levels: tuple[int, ...],
    sizes: tuple[int, ...],
    sets: tuple[Membership | None, ...] = (),
) -> Pattern:
    """The pattern of cells given by their level codes (F, C); cells sorted by the first factor.

    sets   of factors of which a cell has several levels: its code is then that of one of these
    """
    pairs = {}
    cells = [None if one is None else one.at(own) for one, own in zip(sets, codes, strict=True)] if any(sets) else []
    for f in range(len(codes)):
        for g in range(f if cells else f + 1, len(codes)):
            if cells and (cells[f] is not None or cells[g] is not None):
                a, b = (cells[k] or whole(codes[k], n_levels[k]) for k in (f, g))
                left, right, shares = meetings(a, b, own=f == g)
                if len(left):
                    pairs[f, g] = Pairs(left, right, None, shares)
                continue
            if f == g:
                continue
            key = codes[f].astype(np.int64) * n_levels[g] + codes[g]
            unique, of_cell = np.unique(key, return_inverse=True)
            same = len(unique) == len(key) and bool((of_cell == np.arange(len(key))).all())
            left, right = np.divmod(unique, n_levels[g])
            pairs[f, g] = Pairs(left, right, None if same else of_cell)
    return Pattern(n_levels, sizes, codes, pairs, tuple(cells))


def distinct(keys: IntVec) -> IntVec:
    """Sorted, each once (by sorting; the hashing of numpy 2.3's `unique` takes five times as long on millions)."""
    keys = np.sort(keys)
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def sum_by(index: IntVec, values: Cube, n: int) -> Cube:
    """Sums of values (…, C) by index (C,) into (…, n)."""
    lead = values.shape[:-1]
    flat = values.reshape(-1, values.shape[-1])
    out = np.empty((len(flat), n))
    for row, value in enumerate(flat):
        out[row] = np.bincount(index, value, n)
    return out.reshape(*lead, n)


def gather_blocks(pattern: Pattern, cells: Cube) -> Blocks:
    """Sums of per-cell matrices (d, d, C) over levels and pairs: A = Z'WZ in blocks."""
    if pattern.n_factors == 1 and not pattern.sets and cells.shape[-1] == pattern.n_levels[0]:
        return Blocks([cells], {})
    diagonal = [pattern.to_own(f, cells) for f in range(pattern.n_factors)]
    return Blocks(diagonal, {at: pair.sums(cells) for at, pair in pattern.pairs.items()})


def times(a: Blocks, pattern: Pattern | None, x: list[Cube]) -> list[Cube]:
    """A x for one (d, w, G_f) array per factor; a single factor needs no pattern."""
    out: list[Cube] = [np.einsum("jkG,kwG->jwG", block, own) for block, own in zip(a.diagonal, x, strict=True)]
    for (f, g), block in a.cross.items():
        assert pattern is not None  # crossed factors have one
        pair, n = pattern.pairs[f, g], pattern.n_levels
        out[f] = out[f] + sum_by(pair.left, np.einsum("jkP,kwP->jwP", block, x[g][..., pair.right]), n[f])
        out[g] = out[g] + sum_by(pair.right, np.einsum("kjP,kwP->jwP", block, x[f][..., pair.left]), n[g])
    return out
