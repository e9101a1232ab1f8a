"""The rows of a lazy query, some at a time: the one place that calls Polars' unstable batch reader."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

BATCH = 1 << 17
"""Rows a batch: large enough to spread over many parts, small enough for the cache of any machine."""


def batches(query: pl.LazyFrame, rows: int = BATCH, *, contiguous: bool = True) -> Iterator[pl.DataFrame]:
    """The result of a query in its order, never whole in memory; `contiguous` copies a column that is in pieces."""
    for batch in query.collect_batches(chunk_size=rows, maintain_order=True, engine="streaming"):
        for start in range(0, batch.height, rows):
            part = batch.slice(start, rows)
            yield part.rechunk() if contiguous else part


def whole(query: pl.LazyFrame) -> pl.DataFrame:
    """All rows of a query at once."""
    return query.collect(engine="streaming")
