"""Rows of W whose pairs of entries are too many to keep: they are gathered anew, some rows of like length at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from polars_glmm.linalg.remainder import BlockRemainder
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

_CHUNK = 250_000  # pairs gathered at once: they stay near the processor
_STRIPE = 256  # columns turned over at once


@dataclass(frozen=True, slots=True, eq=False)
class PassingRows:
    """Rows of W (rows by pointers (n+1,), their columns) beside an S of dense blocks."""

    columns: IntVec
    pointers: IntVec
    remainder: BlockRemainder

    def gram(self, data: Vec, out: Vec) -> None:
        """−W'W into `out`."""
        width, s = self.remainder.width, self.remainder
        w = sp.csr_matrix((data, self.columns, self.pointers), shape=(len(self.pointers) - 1, width))
        product = w.T @ w
        if len(s.blocks) == 1:
            dense = out.reshape(width, width)
            product.toarray(out=dense)  # where it is to stand: a second matrix of this order may not fit
            np.negative(dense, out=dense)
            return
        rows = np.repeat(np.arange(width), np.diff(product.indptr))
        out[:] = 0.0
        out[s.place(rows, product.indices.astype(np.intp))] = -product.data

    def at_entries(self, data: Vec, inverse: Vec) -> Vec:
        """W S⁻¹ at the entries of W; the lower triangle of `inverse` is filled on the way."""
        out = np.empty_like(data)
        for _, entries, mask, _, product in self._products(data, inverse):
            out[entries[mask]] = product[mask]
        return out

    def row_norms(self, data: Vec, inverse: Vec) -> Vec:
        """w S⁻¹ w' of every row w of W; the lower triangle of `inverse` is filled on the way."""
        out = np.empty(len(self.pointers) - 1)
        for rows, _, _, w, product in self._products(data, inverse):
            out[rows] = np.einsum("kn,kn->k", w, product)
        return out

    def _products(self, data: Vec, inverse: Vec) -> Iterator[tuple[IntVec, IntVec, BoolVec, Mat, Mat]]:
        """For some rows: which, their entries (k, n) filled up, a mask of the true ones, w and w S⁻¹ (k, n)."""
        for block in self.remainder.views(inverse):
            _fill_lower(block.T)
        counts, row_start, local = np.diff(self.pointers), self.remainder.row_start, self.remainder.local
        order = np.argsort(counts, kind="stable")
        first = 0
        while first < len(order):
            last = first + max(1, _CHUNK // int(counts[order[first]]) ** 2)
            longest = int(counts[order[min(last, len(order)) - 1]])
            rows = order[first : first + max(1, _CHUNK // longest**2)]
            n = counts[rows]
            step = np.arange(int(n[-1]))
            mask = step < n[:, None]
            entries = np.where(mask, self.pointers[rows][:, None] + step, 0)
            columns, w = self.columns[entries], np.where(mask, data[entries], 0.0)
            met = inverse.take(row_start[columns][:, :, None] + local[columns][:, None, :])
            yield rows, entries, mask, w, np.matmul(met, w[:, :, None])[:, :, 0]
            first += len(rows)


def _fill_lower(s: Mat) -> None:
    """The lower triangle of a symmetric matrix from its upper one, in place."""
    for start in range(0, len(s), _STRIPE):
        stop = min(start + _STRIPE, len(s))
        s[stop:, start:stop] = s[start:stop, stop:].T
        corner = s[start:stop, start:stop]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T
