"""A small table of Polars brought to the engine that holds a frame, to be joined with it there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import polars as pl

from polars_glmm.errors import ModelError


def beside(plan: Any, table: pl.DataFrame) -> Any:
    """The table as a lazy frame of narwhals on the engine of `plan`. Raises ModelError for an engine without a way."""
    import narwhals.stable.v2 as nw  # noqa: PLC0415  for frames of engines only

    native = plan.to_native()
    match str(plan.implementation.value):
        case "polars":
            return nw.from_native(table.lazy())
        case "duckdb":
            return nw.from_native(_duckdb(native, table))
        case "ibis":
            return nw.from_native(import_module("ibis").memtable(table.to_arrow()))
        case "dask":
            return nw.from_native(import_module("dask.dataframe").from_pandas(table.to_pandas(), npartitions=1))
        case "pyspark" | "pyspark[connect]":
            return nw.from_native(native.sparkSession.createDataFrame(table.to_pandas()))
        case other:
            msg = f"Predictions on {other} are not known: take the rows out first."
            raise ModelError(msg)


def _duckdb(relation: Any, table: pl.DataFrame) -> Any:
    """A relation of the same connection, which only the relation itself knows: DuckDB joins no others."""
    __glmm_table = table.to_arrow()  # found by its name in the query
    return relation.query("__glmm_rows", "select * from __glmm_table")
