"""How many threads BLAS may use: one for small work, all for large factorisations.

Two BLAS threads on many small solves spin against each other: measured, a fit of 3 s took 62.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from os import cpu_count

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

LARGE = 1500
"""Order of a dense matrix from which its factorisation is given all cores."""


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS with one thread; the caller's setting comes back on leaving."""
    with _controller().limit(limits=1, user_api="blas"):
        yield


@contextmanager
def all_blas_threads(order: int) -> Iterator[None]:
    """BLAS with all cores, for a dense matrix of this order; nothing changes for small ones."""
    if order < LARGE:
        yield
        return
    with _controller().limit(limits=cpu_count() or 1, user_api="blas"):
        yield
