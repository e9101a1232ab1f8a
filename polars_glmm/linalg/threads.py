"""How many threads BLAS may use: one for small work, all it was given for large factorisations.

Two BLAS threads on many small solves spin against each other: measured, a fit of 3 s took 62. More threads than cores
are as bad on large matrices: measured, two on one core took 40 times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from polars_glmm.cores import usable_cores

LARGE = 1500
"""Order of a dense matrix from which its factorisation is given more than one thread."""

_given: ContextVar[int] = ContextVar("threads BLAS had before it was held to one", default=1)


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS with one thread; the caller's setting comes back on leaving."""
    libraries = _controller().lib_controllers
    had = [library.num_threads or 1 for library in libraries]
    token = _given.set(max(_given.get(), min(had, default=1)))
    try:  # before anything is changed: an interrupt may come at any line
        for library in libraries:
            library.set_num_threads(1)
        yield
    finally:
        for library, threads in zip(libraries, had, strict=True):
            library.set_num_threads(threads)
        _given.reset(token)


@contextmanager
def all_blas_threads(order: int) -> Iterator[None]:
    """For a dense matrix of this order: as many threads as BLAS had before `one_blas_thread`, but no more than cores.

    Nothing changes for small ones.
    """
    threads = min(_given.get(), usable_cores()) if order >= LARGE else 1
    if threads == 1:
        yield
        return
    with _controller().limit(limits=threads):
        yield
