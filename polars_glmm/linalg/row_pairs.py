"""Narrow rows of a sparse W: sums over pairs of entries that share a row, for W'W and W S⁻¹ at the entries of W.

Work goes in slabs of S: what is gathered and scattered at a time stays near the processor, and temporary arrays stay
small enough for their memory to be used again (fresh pages can cost more than the arithmetic).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from polars_glmm.linalg.remainder import Remainder
from polars_glmm.typing import CodeVec, IntVec, Vec

_SLAB = 4_000_000  # places of S in a slab, about
_PAIR_CHUNK = 2_000_000  # pairs held at once


@dataclass(frozen=True, slots=True, eq=False)
class RowPairs:
    """Pairs of entries of W that share a row, once each, by slabs of S.

    i, j         entries, j ≤ i
    place        of (column j, column i) within its slab
    bounds       (B+1,) first pair of each slab;  slab places of S in one, size in all
    first        pair of each row, where all pairs are one run
    pointers     (n+1,) first entry of each row, none of them empty
    on_diagonal  place of (column, column) for each entry
    """

    i: CodeVec
    j: CodeVec
    place: IntVec
    bounds: IntVec
    slab: int
    size: int
    first: IntVec | None
    pointers: IntVec
    on_diagonal: IntVec

    @property
    def one_run(self) -> bool:
        """Whether all pairs are worked on at once."""
        return len(self.bounds) == 2 and len(self.i) <= _PAIR_CHUNK

    def chunks(self) -> Iterator[tuple[slice, int]]:
        """Runs of pairs within one slab, and where in S the slab begins."""
        for b, (low, high) in enumerate(zip(self.bounds[:-1], self.bounds[1:], strict=True)):
            for first in range(int(low), int(high), _PAIR_CHUNK):
                yield slice(first, min(first + _PAIR_CHUNK, int(high))), b * self.slab

    def gram(self, data: Vec, out: Vec) -> Vec | None:
        """−W'W into `out`, its entries (a, b) with a ≤ b; the products, where they are one run."""
        if self.one_run:
            products: Vec = data.take(self.i) * data.take(self.j)
            np.negative(np.bincount(self.place, products, len(out)), out=out)
            return products
        out[:] = 0.0
        for run, base in self.chunks():
            part = out[base : base + self.slab]
            part -= np.bincount(self.place[run], data.take(self.i[run]) * data.take(self.j[run]), len(part))
        return None

    def at_entries(self, data: Vec, inverse: Vec) -> Vec:
        """W S⁻¹ at the entries of W."""
        out = -data * inverse.take(self.on_diagonal)  # a pair of an entry with itself is met from both ends
        for run, base in self.chunks():
            i, j = self.i[run], self.j[run]
            met = inverse[base : base + self.slab].take(self.place[run])
            out += np.bincount(i, met * data.take(j), len(data))
            out += np.bincount(j, met * data.take(i), len(data))
        return out

    def row_norms(self, data: Vec, inverse: Vec, products: Vec | None) -> Vec:
        """w S⁻¹ w' of every row w of W; `products` as `gram` returned them."""
        own: Vec = np.add.reduceat(data**2 * inverse.take(self.on_diagonal), self.pointers[:-1])
        if products is not None and self.first is not None:
            return np.asarray(2.0 * np.add.reduceat(products * inverse.take(self.place), self.first) - own)
        n = len(self.pointers) - 1
        rows = np.repeat(np.arange(n), np.diff(self.pointers))
        out = np.zeros(n)
        for run, base in self.chunks():
            met = inverse[base : base + self.slab].take(self.place[run])
            met *= data.take(self.i[run])
            met *= data.take(self.j[run])
            out += np.asarray(np.bincount(rows.take(self.i[run]), met, n))
        return np.asarray(2.0 * out - own)


def row_pairs(columns: IntVec, pointers: IntVec, s: Remainder) -> RowPairs:
    """The pairs of W (rows by pointers, columns rising within a row)."""
    i, j, first = _partners(pointers)
    place, on_diagonal = s.place(columns[j], columns[i]), s.place(columns, columns)
    if s.size <= _SLAB:
        return RowPairs(i, j, place, np.array([0, len(i)]), s.size, s.size, first, pointers, on_diagonal)
    which = (place // _SLAB).astype(np.int16)
    order = np.argsort(which, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(which, minlength=-(-s.size // _SLAB)))])
    place = (place - which * np.int64(_SLAB))[order]
    return RowPairs(i[order], j[order], place, bounds, _SLAB, s.size, None, pointers, on_diagonal)


def _partners(pointers: IntVec) -> tuple[CodeVec, CodeVec, IntVec]:
    """Entries i and j ≤ i of the same row, all of them, and the first such pair of each row."""
    n = np.diff(pointers)
    of_row = np.repeat(pointers[:-1], n)
    partners = np.arange(int(n.sum())) - of_row + 1
    starts = np.cumsum(partners) - partners
    i = np.repeat(np.arange(len(partners), dtype=np.int32), partners)
    j = (np.arange(len(i)) - np.repeat(starts - of_row, partners)).astype(np.int32)
    return i, j, starts[pointers[:-1]]
