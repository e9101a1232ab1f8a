"""Settings that hold for every test."""

from __future__ import annotations

import os

# One BLAS thread: two on two busy cores wait for each other (62 s instead of 3 s on a crossed fit of 1e5 rows).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
