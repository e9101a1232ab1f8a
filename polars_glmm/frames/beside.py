"""A small table of Polars brought to the engine that holds a frame, to be joined with it there."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import polars as pl

from polars_glmm.errors import ModelError


def beside(plan: Any, table: pl.DataFrame, like: Mapping[str, str]) -> Any:
    """The table as a lazy frame of narwhals on the engine of `plan`. Raises ModelError for an engine without a way.

    like   columns of the table, and those of the plan that they are compared with
    """
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
            made = import_module("dask.dataframe").from_pandas(_pandas(native, table, like), npartitions=1)
            return nw.from_native(made)
        case "pyspark" | "pyspark[connect]":
            return nw.from_native(native.sparkSession.createDataFrame(table.to_pandas()))
        case other:
            msg = f"Predictions on {other} are not known: take the rows out first."
            raise ModelError(msg)


def _duckdb(relation: Any, table: pl.DataFrame) -> Any:
    """A relation of the same connection, which only the relation itself knows: DuckDB joins no others."""
    __glmm_table = table.to_arrow()  # found by its name in the query
    return relation.query("__glmm_rows", "select * from __glmm_table")


def _pandas(native: Any, table: pl.DataFrame, like: Mapping[str, str]) -> Any:
    """A frame of pandas; keys are stored as those that they are joined with, since Dask tells dates from timestamps."""
    made = table.to_pandas(use_pyarrow_extension_array=True)
    numbers = {name: table[name].to_numpy() for name in table.columns if name not in like}
    return made.assign(**numbers).astype({name: native.dtypes[own] for name, own in like.items()})
