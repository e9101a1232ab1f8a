"""Products of a sparse W with a dense symmetric S⁻¹, at the entries of W only: sums over entries that share a row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.typing import CodeVec, IntVec, Mat

_PAIR_CHUNK = 4_000_000  # gathered pairs held at once


class RowPairs(NamedTuple):
    """Pairs (i, j) of entries that share a row, by i.

    j entry j;  place of (column i, column j) in S⁻¹;  starts first pair of each i
    """

    j: CodeVec
    place: IntVec
    starts: IntVec


def row_pairs(columns: IntVec, pointers: IntVec, row: int, last: int, width: int) -> RowPairs:
    """The pairs of rows row … last − 1; S⁻¹ is held by its lower triangle in column order."""
    first, stop = pointers[row], pointers[last]
    n = np.diff(pointers[row : last + 1])
    partners = np.repeat(n, n)
    starts = np.cumsum(partners) - partners
    i = np.repeat(np.arange(first, stop), partners)
    j = np.arange(len(i)) - np.repeat(starts, partners) + np.repeat(np.repeat(pointers[row:last], n), partners)
    ci, cj = columns[i], columns[j]
    place = np.minimum(ci, cj).astype(np.int64) * width + np.maximum(ci, cj)
    return RowPairs(j.astype(np.int32), place, starts)


class Halves(NamedTuple):
    """Pairs of entries that share a row, once each, by i.

    i, j entries, j ≤ i;  place of (column i, column j) in S;  first pair of each row
    """

    i: CodeVec
    j: CodeVec
    place: IntVec
    first: IntVec


def row_halves(columns: IntVec, pointers: IntVec, width: int) -> Halves:
    """The pairs of all rows once each, in the lower triangle in column order; columns rise within a row."""
    n = np.diff(pointers)
    of_row = np.repeat(pointers[:-1], n)
    partners = np.arange(len(columns)) - of_row + 1
    starts = np.cumsum(partners) - partners
    i = np.repeat(np.arange(len(columns), dtype=np.int32), partners)
    j = np.arange(len(i)) - np.repeat(starts - of_row, partners)
    place = columns[j].astype(np.int64, copy=False) * width + columns[i]
    return Halves(i, j.astype(np.int32), place, starts[pointers[:-1]])


def pair_sums(data: Mat, pairs: RowPairs, flat: Mat) -> Mat:
    """Σ_j data_j S⁻¹(column i, column j) for every entry i of the pairs."""
    if not len(pairs.j):
        return np.empty(0)
    return np.add.reduceat(data.take(pairs.j) * flat.take(pairs.place), pairs.starts)


def row_products(data: Mat, columns: IntVec, pointers: IntVec, flat: Mat, width: int) -> Mat:
    """(W S⁻¹) at the entries of W: Σ over the n_a entries of a row, n_a² gathers a row, in chunks of rows."""
    work = np.concatenate([[0], np.cumsum(np.diff(pointers).astype(np.int64) ** 2)])
    out = np.empty_like(data)
    row = 0
    while row < len(work) - 1:
        last = int(np.searchsorted(work, work[row] + _PAIR_CHUNK, side="right")) - 1
        last = min(max(last, row + 1), len(work) - 1)
        pairs = row_pairs(columns, pointers, row, last, width)
        out[pointers[row] : pointers[last]] = pair_sums(data, pairs, flat)
        row = last
    return out
