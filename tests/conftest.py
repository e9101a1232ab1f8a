"""Settings that hold for every test: one BLAS thread, and few ordinary cases of a law that has many.

Two BLAS threads on two busy cores wait for each other (62 s instead of 3 s on a crossed fit of 1e5 rows). The variable
is for libraries that are still to be loaded, the limit for those that a plugin of pytest has loaded already.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from threadpoolctl import threadpool_limits

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
threadpool_limits(1, user_api="blas")

CASES: Counter[str] = Counter()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Of the cases of a test that is marked `one_in(n)` the first of every n is ordinary, and the others are slow."""
    one_in = item.get_closest_marker("one_in")
    if one_in is not None:
        test = item.nodeid.partition("[")[0]
        if CASES[test] % one_in.args[0]:
            item.add_marker(pytest.mark.slow)
        CASES[test] += 1
