"""Engines that need more than a wheel (Dask a cluster of threads, Spark Java): a step of their own in .ci/run."""

from __future__ import annotations

import os
import sys

collect_ignore_glob = [] if os.environ.get("POLARS_GLMM_ENGINES") else ["test_*.py"]
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # or Spark takes the python3 of the path for its workers
