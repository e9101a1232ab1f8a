"""Which workers can hold the rows of a frame, if any can."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from typing import TypeAlias

from polars_glmm.cluster.dask_workers import DaskHolders, dask_client
from polars_glmm.cluster.spark_executors import SparkHolders, spark_context
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.staying import Holders

Opening: TypeAlias = Callable[[], AbstractContextManager[Holders]]
"""Begins to hold: what is held is let go when the block is left. Raises ModelError where packages of workers differ."""


def connected(frame: EngineFrame) -> Opening | None:
    """The workers behind a frame of Dask that has a cluster, or of Spark; None where there are none."""
    if (client := dask_client(frame)) is not None:
        return lambda: closing(DaskHolders(client))
    if (context := spark_context(frame)) is not None:
        return lambda: closing(SparkHolders(context))
    return None


def unconnected(frame: EngineFrame) -> str:
    """What a frame without such workers is in need of."""
    if frame.name == DaskHolders.name:
        return "a cluster is needed: connect to one first, with distributed.Client(…)"
    if frame.name == SparkHolders.name:
        return "Spark Connect does not let its executors be asked, a session of the cluster itself is needed"
    return "a Dask frame and a cluster are needed, or a frame of Spark"
