"""Engines that need more than a wheel (Dask a cluster of threads, Spark Java): a step of their own in .ci/run."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("POLARS_GLMM_ENGINES") else ["test_*.py"]
