"""Design nodes as Polars expressions over the rows of a fit: dtypes are known and nothing is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from polars_glmm.columns import named
from polars_glmm.columns.operators import Engine


class Expressions(Engine):
    """As `Engine` for Polars, without what only new rows need: NaN stays NaN, labels are compared as stored."""

    def __init__(self, dtypes: Mapping[str, pl.DataType]) -> None:
        super().__init__()
        self.dtypes = dtypes

    def number(self, column: str) -> pl.Expr:
        value = named.column(column)
        return value if self.dtypes[column] == pl.Float64 else value.cast(pl.Float64)

    def coded(self, column: str, kind: str, levels: tuple[Any, ...], weights: tuple[float, ...]) -> pl.Expr:
        value = self.number(column) if kind == "number" else named.column(column)
        total: pl.Expr | None = None
        for level, weight in zip(levels, weights, strict=True):
            part = (value == (float(level) if kind == "number" else level)).cast(pl.Float64)
            part = part if weight == 1.0 else part * weight
            total = part if total is None else total + part
        return pl.lit(0.0) if total is None else total

    def otherwise_null(self, x: pl.Expr, value: pl.Expr) -> pl.Expr:  # noqa: ARG002  # x is known in every row
        return value
