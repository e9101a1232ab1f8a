"""A small table from a query over many rows, which are never all in memory."""

from __future__ import annotations

import polars as pl


def aggregated(query: pl.LazyFrame) -> pl.DataFrame:
    """The result of a query that ends in an aggregation, its rows streamed."""
    return query.collect(engine="streaming")


def computed(query: pl.LazyFrame) -> pl.DataFrame:
    """The result of a query over rows in memory, in their order."""
    return query.collect()
