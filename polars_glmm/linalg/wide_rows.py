"""Wide rows of W, with so many entries that dense algebra is cheaper than pairs of entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas

from polars_glmm.linalg.threads import all_blas_threads
from polars_glmm.typing import IntVec, Mat, Vec

_SLAB = 2_000_000  # numbers of W held densely at once


@dataclass(frozen=True, slots=True, eq=False)
class WideRows:
    """Rows of W (rows by pointers (n+1,), their columns) beside a dense S of order `width`."""

    columns: IntVec
    pointers: IntVec
    width: int

    def _slabs(self, data: Vec) -> Iterator[tuple[slice, slice, IntVec, Mat]]:
        """Some rows at a time: which rows, which entries, the row of each entry within the slab, and W' (m, k)."""
        step, n = max(1, _SLAB // self.width), len(self.pointers) - 1
        for row in range(0, n, step):
            rows = slice(row, min(row + step, n))
            entries = slice(int(self.pointers[rows.start]), int(self.pointers[rows.stop]))
            at = np.repeat(np.arange(rows.stop - rows.start), np.diff(self.pointers[rows.start : rows.stop + 1]))
            w = np.zeros((rows.stop - rows.start, self.width))
            w[at, self.columns[entries]] = data[entries]
            yield rows, entries, at, w.T

    def subtract_gram(self, data: Vec, out: Vec) -> None:
        """W'W off `out` (m²,), its entries (a, b) with a ≤ b."""
        s = out.reshape(self.width, self.width).T
        for _, _, _, w in self._slabs(data):
            with all_blas_threads(self.width):
                blas.dsyrk(-1.0, w, beta=1.0, c=s, lower=1, overwrite_c=1)

    def at_entries(self, data: Vec, inverse: Vec) -> Vec:
        """W S⁻¹ at the entries of W."""
        s, out = inverse.reshape(self.width, self.width).T, np.empty_like(data)
        for _, entries, at, w in self._slabs(data):
            with all_blas_threads(self.width):
                product = blas.dsymm(1.0, s, w, lower=1)
            out[entries] = product[self.columns[entries], at]
        return out

    def row_norms(self, data: Vec, low: Mat) -> Vec:
        """w S⁻¹ w' = |L⁻¹w'|² of every row w of W, S = LL'."""
        out = np.empty(len(self.pointers) - 1)
        for rows, _, _, w in self._slabs(data):
            with all_blas_threads(self.width):
                below = blas.dtrsm(1.0, low, w, lower=1, overwrite_b=1)
            out[rows] = np.einsum("mk,mk->k", below, below)
        return out
