"""Sums over the rows of a sparse W, each row in the way that is cheaper for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polars_glmm.linalg.passing_rows import PassingRows
from polars_glmm.linalg.remainder import BlockFactor, BlockRemainder, FactorisedRemainder, Remainder
from polars_glmm.linalg.row_pairs import RowPairs, row_pairs
from polars_glmm.linalg.wide_rows import WideRows
from polars_glmm.typing import BoolVec, IntVec, Vec

_PAIR_NS, _SQUARE_NS = 27.0, 0.09  # measured cost of a pair of entries, and per width² of a row as a dense one
PAIRS_KEPT = 20_000_000  # up to here pairs are found once and kept, 16 bytes each …
_PAIRS_PER_PLACE = 4.0  # … unless so many meet at each place of S that gathering them by rows is faster


def pairs_within(counts: IntVec) -> IntVec:
    """Pairs of entries, once each and with themselves, in rows of these lengths."""
    return counts * (counts + 1) // 2


@dataclass(frozen=True, eq=False)
class RowProducts:
    """Rows of W (columns rising within a row, none empty) beside S."""

    columns: IntVec
    pointers: IntVec
    remainder: Remainder

    @cached_property
    def _is_wide(self) -> BoolVec:
        counts = np.diff(self.pointers)
        if not (isinstance(self.remainder, BlockRemainder) and len(self.remainder.blocks) == 1):
            return np.zeros(len(counts), dtype=bool)
        return pairs_within(counts) * _PAIR_NS > _SQUARE_NS * float(self.remainder.width) ** 2

    @cached_property
    def narrow(self) -> RowPairs | PassingRows | None:
        """The narrow rows, if any."""
        if self._is_wide.all():
            return None
        columns, pointers = self._of(~self._is_wide)
        pairs = int(pairs_within(np.diff(pointers)).sum())
        many = pairs > min(PAIRS_KEPT, _PAIRS_PER_PLACE * self.remainder.size)
        if many and isinstance(self.remainder, BlockRemainder):
            return PassingRows(columns, pointers, self.remainder)
        return row_pairs(columns, pointers, self.remainder)

    @cached_property
    def wide(self) -> WideRows | None:
        """The wide rows, if any."""
        return WideRows(*self._of(self._is_wide), self.remainder.width) if self._is_wide.any() else None

    def gram(self, data: Vec, out: Vec) -> Vec | None:
        """−W'W into `out` (size of S,); what makes `row_norms` cheaper, where it is at hand."""
        products = None
        if self.narrow is None:
            out[:] = 0.0
        else:
            products = self.narrow.gram(data[self._entries(wide=False)], out)
        if self.wide is not None:
            self.wide.subtract_gram(data[self._entries(wide=True)], out)
        return products

    def at_entries(self, data: Vec, inverse: Vec) -> Vec:
        """W S⁻¹ at the entries of W."""
        out = np.empty_like(data)
        for part, chosen in ((self.narrow, self._entries(wide=False)), (self.wide, self._entries(wide=True))):
            if part is not None:
                out[chosen] = part.at_entries(data[chosen], inverse)
        return out

    def row_norms(self, data: Vec, factor: FactorisedRemainder, inverse: Vec, products: Vec | None) -> Vec:
        """w S⁻¹ w' of every row w of W; `products` as `gram` returned them."""
        out = np.empty(len(self.pointers) - 1)
        narrow = data[self._entries(wide=False)]
        if isinstance(self.narrow, RowPairs):
            out[~self._is_wide] = self.narrow.row_norms(narrow, inverse, products)
        elif self.narrow is not None:
            out[~self._is_wide] = self.narrow.row_norms(narrow, inverse)
        if self.wide is not None:
            assert isinstance(factor, BlockFactor)  # rows are wide beside one dense block only
            out[self._is_wide] = self.wide.row_norms(data[self._entries(wide=True)], factor.lows[0])
        return out

    @cached_property
    def _entry_is_wide(self) -> BoolVec:
        return np.repeat(self._is_wide, np.diff(self.pointers))

    def _entries(self, *, wide: bool) -> BoolVec | slice:
        """The entries of the wide or of the narrow rows; a slice where that is all of them."""
        if self.narrow is None or self.wide is None:
            return slice(None) if wide == (self.narrow is None) else slice(0)
        return self._entry_is_wide if wide else ~self._entry_is_wide

    def _of(self, rows: BoolVec) -> tuple[IntVec, IntVec]:
        """Columns and row pointers of these rows."""
        if rows.all():
            return self.columns, self.pointers
        counts = np.diff(self.pointers)
        return self.columns[np.repeat(rows, counts)], np.concatenate([[0], np.cumsum(counts[rows])])
