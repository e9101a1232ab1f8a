"""A few rows of many, and queries whose answer is small: what pictures are made of."""

from __future__ import annotations

import polars as pl

_ROW = "__glmm_row"


def thinned(query: pl.LazyFrame, most: int) -> tuple[pl.DataFrame, int]:
    """All rows of a query, or about `most` of them chosen by a hash of their place, and how many there are."""
    n = small(query.select(pl.len())).item()
    if n <= most:
        return small(query), n
    chosen = pl.col(_ROW).hash(7) % (1 << 32) < int(most / n * (1 << 32))
    return small(query.with_row_index(_ROW).filter(chosen).drop(_ROW)).head(most), n


def small(query: pl.LazyFrame) -> pl.DataFrame:
    """The answer of a query that is small whatever is read for it."""
    return query.collect(engine="streaming")
