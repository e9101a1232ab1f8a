"""Lazy sources that count how often they are read, and some that can be read by one at a time, or once only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

Count = list[int]
Kind = Callable[[pl.DataFrame, Count], pl.LazyFrame]


def rows(n: int = 400, seed: int = 4) -> pl.DataFrame:
    """Responses of several families, a covariate with gaps, categorical columns, keys and weights."""
    rng = np.random.default_rng(seed)
    g, x = rng.integers(0, 15, n), rng.normal(size=n)
    trials, count = rng.integers(1, 5, n), rng.poisson(np.exp(0.3 * x))
    return pl.DataFrame(
        {
            "y": 1.0 + x + rng.normal(size=15)[g] + rng.normal(size=n), "count": count, "x": x,
            "gappy": pl.Series(x).set(pl.Series(np.arange(n) % 9 == 4), None),
            "f": np.array(["a", "b", "c"])[rng.integers(0, 3, n)], "g": g, "h": rng.integers(0, 5, n),
            "key": np.arange(n) % 5, "trials": trials, "w": rng.uniform(0.5, 2.0, n),
            "share": np.minimum(count, trials) / trials,
        }
    )  # fmt: skip


def step(frame: pl.DataFrame, count: Count) -> pl.LazyFrame:
    """A query with a step in Python."""

    def counted(batch: pl.DataFrame) -> pl.DataFrame:
        count[0] += 1
        return batch

    return frame.lazy().map_batches(counted)


def one_at_a_time(frame: pl.DataFrame, count: Count) -> pl.LazyFrame:
    """A foreign source that refuses a second reader while it is read, as a database connection does."""
    busy = threading.Lock()

    def scan(columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Iterator[pl.DataFrame]:
        count[0] += 1
        if not busy.acquire(blocking=False):
            msg = "connection is busy"
            raise RuntimeError(msg)
        try:
            yield from _parts(frame.iter_slices(100), columns, predicate)
        finally:
            busy.release()

    return register_io_source(scan, schema=frame.schema)


def once_only(frame: pl.DataFrame, count: Count) -> pl.LazyFrame:
    """A foreign source that is used up by its first reader, as a stream is."""
    left = frame.iter_slices(100)

    def scan(columns: Any, predicate: Any, n_rows: Any, batch_size: Any) -> Iterator[pl.DataFrame]:
        count[0] += 1
        yield from _parts(left, columns, predicate)

    return register_io_source(scan, schema=frame.schema)


def _parts(left: Iterator[pl.DataFrame], columns: Any, predicate: Any) -> Iterator[pl.DataFrame]:
    for part in left:
        chosen = part if predicate is None else part.filter(predicate)
        yield chosen if columns is None else chosen.select(columns)


KINDS: dict[str, Kind] = {"step": step, "one at a time": one_at_a_time, "once only": once_only}
