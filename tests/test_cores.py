"""The cores that count are those the process may use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from polars_glmm import cores
from polars_glmm.linalg import threads


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot tie a process to a core")
def test_a_process_tied_to_one_core_has_one() -> None:
    code = (
        "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1]);"
        "from polars_glmm.cores import usable_cores; print(usable_cores())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.parametrize(("text", "most"), [("150000 100000", 1), ("20000 100000", 1), ("max 100000", 10**6)])
def test_a_containers_quota_counts_whole_cores(
    text: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    free = cores.usable_cores()
    monkeypatch.setattr(cores, "_QUOTA", str(quota))
    assert cores.usable_cores() == min(free, most)


def test_workers_are_as_asked_or_one_for_each_core_up_to_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 64)
    assert (cores.workers(0), cores.workers(3), cores.workers(20)) == (8, 3, 20)


@pytest.mark.parametrize("given", [1, 2, 5])
@pytest.mark.parametrize("usable", [1, 2, 3])
def test_large_matrices_get_the_threads_blas_had_but_no_more_than_cores(
    given: int, usable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.linalg.cholesky(np.eye(3))  # BLAS is loaded
    monkeypatch.setattr(threads, "usable_cores", lambda: usable)
    with threadpool_limits(given, user_api="blas"):
        had = min(blas_threads())  # some builds cannot have many
        with threads.one_blas_thread(), threads.one_blas_thread():
            assert blas_threads() == {1}
            with threads.all_blas_threads(threads.LARGE - 1):
                assert blas_threads() == {1}
            with threads.all_blas_threads(threads.LARGE):
                assert blas_threads() == {min(had, usable)}
            assert blas_threads() == {1}
        assert min(blas_threads()) == had
