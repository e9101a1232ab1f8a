"""Sums over pairs of entries of a sparse W that share a row: W'W, and W S⁻¹ at the entries of W for a dense S.

Work goes in slabs of S: what is gathered and scattered at a time stays near the processor, and temporary arrays stay
small enough for their memory to be used again (fresh pages can cost more than the arithmetic).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from polars_glmm.typing import CodeVec, IntVec, Vec

_SLAB = 4_000_000  # entries of S in a slab, about
_PAIR_CHUNK = 2_000_000  # pairs held at once


class Pairs(NamedTuple):
    """Pairs of entries of W that share a row, once each, by slabs of S.

    i, j       entries, j ≤ i
    place      of (column j, column i) within its slab; S is symmetric, held by rows, and only j ≤ i is looked at
    bounds     (B+1,) first pair of each slab;  slab entries of S in one
    first      of each row, where all pairs are one run
    """

    i: CodeVec
    j: CodeVec
    place: IntVec
    bounds: IntVec
    slab: int
    first: IntVec | None

    @property
    def one_run(self) -> bool:
        """Whether all pairs are worked on at once."""
        return len(self.bounds) == 2 and len(self.i) <= _PAIR_CHUNK

    def chunks(self) -> Iterator[tuple[slice, int]]:
        """Runs of pairs within one slab, and where in S the slab begins."""
        for b, (low, high) in enumerate(zip(self.bounds[:-1], self.bounds[1:], strict=True)):
            for first in range(int(low), int(high), _PAIR_CHUNK):
                yield slice(first, min(first + _PAIR_CHUNK, int(high))), b * self.slab


def row_pairs(columns: IntVec, pointers: IntVec, width: int) -> Pairs:
    """The pairs of W (rows by pointers, columns rising within a row); S has order `width`."""
    n = np.diff(pointers)
    of_row = np.repeat(pointers[:-1], n)
    partners = np.arange(len(columns)) - of_row + 1
    starts = np.cumsum(partners) - partners
    i = np.repeat(np.arange(len(columns), dtype=np.int32), partners)
    j = (np.arange(len(i)) - np.repeat(starts - of_row, partners)).astype(np.int32)
    tall = max(1, _SLAB // max(width, 1))
    above, across = columns[j], columns[i]
    if width <= tall:
        bounds = np.array([0, len(i)])
        return Pairs(i, j, above * width + across, bounds, width * width, starts[pointers[:-1]])
    which = (above // tall).astype(np.int16)
    order = np.argsort(which, kind="stable")
    place = (above % tall) * width + across
    bounds = np.concatenate([[0], np.cumsum(np.bincount(which, minlength=-(-width // tall)))])
    return Pairs(i[order], j[order], place[order], bounds, tall * width, None)


def gram(data: Vec, pairs: Pairs, out: Vec) -> Vec | None:
    """−W'W (width²,) by rows into `out`, its entries (a, b) with a ≤ b; the products, where they are one run."""
    if pairs.one_run:
        products: Vec = data.take(pairs.i) * data.take(pairs.j)
        np.negative(np.bincount(pairs.place, products, len(out)), out=out)
        return products
    out[:] = 0.0
    for run, base in pairs.chunks():
        part = out[base : base + pairs.slab]
        part -= np.bincount(pairs.place[run], data.take(pairs.i[run]) * data.take(pairs.j[run]), len(part))
    return None


def at_entries(data: Vec, pairs: Pairs, inverse: Vec, on_diagonal: IntVec) -> Vec:
    """W S⁻¹ at the entries of W; `inverse` (width²,) by rows, on_diagonal the place of each entry's own column."""
    out = -data * inverse.take(on_diagonal)  # a pair of an entry with itself is met from both ends
    for run, base in pairs.chunks():
        i, j = pairs.i[run], pairs.j[run]
        met = inverse[base : base + pairs.slab].take(pairs.place[run])
        out += np.bincount(i, met * data.take(j), len(data))
        out += np.bincount(j, met * data.take(i), len(data))
    return out


def row_norms(
    data: Vec, pairs: Pairs, inverse: Vec, on_diagonal: IntVec, pointers: IntVec, products: Vec | None
) -> Vec:
    """w S⁻¹ w' of every row w of W, none of them empty; `products` as `gram` returned them."""
    own: Vec = np.add.reduceat(data**2 * inverse.take(on_diagonal), pointers[:-1])
    if products is not None and pairs.first is not None:
        return np.asarray(2.0 * np.add.reduceat(products * inverse.take(pairs.place), pairs.first) - own)
    n = len(pointers) - 1
    rows = np.repeat(np.arange(n), np.diff(pointers))
    out = np.zeros(n)
    for run, base in pairs.chunks():
        met = inverse[base : base + pairs.slab].take(pairs.place[run])
        met *= data.take(pairs.i[run])
        met *= data.take(pairs.j[run])
        out += np.asarray(np.bincount(rows.take(pairs.i[run]), met, n))
    return np.asarray(2.0 * out - own)


def products_in_passing(data: Vec, columns: IntVec, pointers: IntVec, inverse: Vec, width: int) -> Vec:
    """As `at_entries` where the pairs are too many to keep: found anew for some rows at a time."""
    work = np.concatenate([[0], np.cumsum(np.diff(pointers).astype(np.int64) ** 2)])
    out = np.empty_like(data)
    row = 0
    while row < len(work) - 1:
        last = int(np.searchsorted(work, work[row] + _PAIR_CHUNK, side="right")) - 1
        last = min(max(last, row + 1), len(work) - 1)
        first, stop = pointers[row], pointers[last]
        n = np.diff(pointers[row : last + 1])
        partners = np.repeat(n, n)
        starts = np.cumsum(partners) - partners
        i = np.repeat(np.arange(first, stop), partners)
        j = np.arange(len(i)) - np.repeat(starts, partners) + np.repeat(np.repeat(pointers[row:last], n), partners)
        ci, cj = columns[i], columns[j]
        met = data.take(j) * inverse.take(np.minimum(ci, cj).astype(np.int64) * width + np.maximum(ci, cj))
        if len(met):
            out[first:stop] = np.add.reduceat(met, starts)
        row = last
    return out
