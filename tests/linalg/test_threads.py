"""BLAS keeps the number of threads that the user gave it, whatever happens in between."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from polars_glmm.linalg import threads


class Library:
    """A BLAS whose number of threads can be set, or that is interrupted when it is."""

    def __init__(self, num_threads: int, *, interrupted: bool = False) -> None:
        self.num_threads, self.interrupted = num_threads, interrupted

    def set_num_threads(self, n: int) -> None:
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
        self.num_threads = n


@pytest.mark.parametrize("interrupted", [False, True])
def test_threads_come_back_after_the_work_and_after_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, *, interrupted: bool
) -> None:
    libraries = [Library(4), Library(2, interrupted=interrupted)]
    monkeypatch.setattr(threads, "_controller", lambda: SimpleNamespace(lib_controllers=libraries))
    seen: list[int] = []
    try:
        with threads.one_blas_thread():
            seen += [library.num_threads for library in libraries]
    except KeyboardInterrupt:
        assert interrupted
    assert seen == ([] if interrupted else [1, 1])
    assert [library.num_threads for library in libraries] == [4, 2]
