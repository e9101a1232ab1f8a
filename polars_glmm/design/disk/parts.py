"""The columns of a model on disk: rows in parts, each all rows of a run of levels, and what their sums tell.

A row is a record of float64: the code of its level, y, what weighs and shifts it, and every distinct column once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from polars_glmm.design.apart import ONES, Apart, RecordLayout, narrowed
from polars_glmm.design.records import Design
from polars_glmm.spill import Spill, SpillFile
from polars_glmm.typing import CodeVec, IntVec, Mat, Vec

_MOST_PARTS = 100
_SMALLEST_PART = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class StoredDesign(Apart):
    """A design whose rows are on disk, in parts."""

    parts: Parts
    spill: Spill

    def drain(self) -> Iterator[Design]:
        """The rows, part by part and sorted by level; every part leaves the disk once the next is asked for."""
        for file in self.parts.files:
            records = self._records(file)
            if len(records):
                yield self._design(records)
            file.remove()

    def columns(self, places: tuple[int, ...]) -> Iterator[Mat]:
        """Some of the distinct columns, ONES among them, (k, m) part by part in no order."""
        for file in self.parts.files:
            records = self._records(file)
            if len(records):
                yield self._taken(records, places)

    def _records(self, file: SpillFile) -> Mat:
        records = np.empty((file.size // (8 * self.layout.width), self.layout.width))
        if len(records):
            file.read_into([records.data.cast("B")], 0)
        return records

    def _taken(self, records: Mat, places: tuple[int, ...]) -> Mat:
        stored = records[:, 1 + len(self.layout.head) :]
        out = np.empty((len(places), len(records)))
        for row, place in zip(out, places, strict=True):
            row[:] = 1.0 if place == ONES else stored[:, place]
        return out

    def _design(self, records: Mat) -> Design:
        codes = records[:, 0].astype(np.int32)
        if self.factors and not bool((codes[1:] >= codes[:-1]).all()):
            order = _stable_order(codes)
            codes, records = codes[order], records[order]
        head = {name: np.ascontiguousarray(records[:, k]) for k, name in enumerate(self.layout.head, start=1)}
        return self.filling.filled(head, [codes] * len(self.factors), lambda places: self._taken(records, places))

    def triangle(self, places: tuple[int, ...], shift: Vec, scale: Vec) -> Mat:
        """R of some distinct columns, part by part."""
        r = np.empty((0, len(places)))
        for columns in self.columns(places):
            r = narrowed(r, columns, shift, scale)
        return r


class Parts:
    """Files of records, filled batch by batch: each takes the rows of a run of levels, or of the frame in order.

    level_rows (G,)   about how many rows each level has; empty without factor
    """

    def __init__(self, spill: Spill, layout: RecordLayout, n_rows: int, level_rows: IntVec, part_bytes: int) -> None:
        size = 8 * layout.width * n_rows
        count = min(_MOST_PARTS, max(1, -(-size // max(part_bytes, _SMALLEST_PART))))
        ends = np.cumsum(level_rows)
        total = int(ends[-1]) if len(ends) else 0
        self._part_of_level = np.minimum((ends - level_rows) * count // max(total, 1), count - 1).astype(np.uint8)
        self._most = -(-size // count)
        self._spill = spill
        self.files: list[SpillFile] = [spill.create(f"part{k}") for k in range(count if len(level_rows) else 1)]

    def append(self, records: Mat) -> None:
        """Records (m, width) to the parts of their levels."""
        if not len(self._part_of_level):
            if self.files[-1].size >= self._most:
                self.files.append(self._spill.create(f"part{len(self.files)}"))
            self.files[-1].append(records.data.cast("B"))
            return
        if len(self.files) == 1:
            self.files[0].append(records.data.cast("B"))
            return
        part = self._part_of_level[records[:, 0].astype(np.intp)]
        order = np.argsort(part, kind="stable")
        records, ends = records[order], np.cumsum(np.bincount(part, minlength=len(self.files)))
        start = 0
        for file, end in zip(self.files, ends.tolist(), strict=True):
            if end > start:
                file.append(records[start:end].data.cast("B"))
            start = end


def _stable_order(codes: CodeVec) -> IntVec:
    """The order that sorts codes; few different ones are sorted by their digits, which takes one pass."""
    low = int(codes.min())
    narrow = int(codes.max()) - low < 1 << 16
    return np.argsort((codes - low).astype(np.uint16) if narrow else codes, kind="stable")
