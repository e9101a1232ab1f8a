"""Settings that hold for every test: one BLAS thread.

Two BLAS threads on two busy cores wait for each other (62 s instead of 3 s on a crossed fit of 1e5 rows). The variable
is for libraries that are still to be loaded, the limit for those that a plugin of pytest has loaded already.
"""

from __future__ import annotations

import os

from threadpoolctl import threadpool_limits

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
threadpool_limits(1, user_api="blas")
