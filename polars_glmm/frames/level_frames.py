"""Levels as frames of key columns: their order, and the place of rows among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from polars_glmm.columns.named import column, columns
from polars_glmm.typing import IntVec


def in_order(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Sorted by keys in level order: labels of text by letters, an Enum's own order, everything else by value."""
    text = [isinstance(frame.schema[name], pl.Categorical) for name in keys]
    return frame.sort(
        column(name).cast(pl.String) if labels else column(name) for name, labels in zip(keys, text, strict=True)
    )


def codes_of(frame: pl.DataFrame, levels: pl.DataFrame) -> IntVec:
    """The place among levels of every row's keys."""
    placed = levels.with_row_index("__glmm_code")
    on = columns(levels.columns)
    joined = frame.select(on).join(placed, on=on, how="left", maintain_order="left", nulls_equal=True)
    return joined["__glmm_code"].to_numpy().astype(np.intp)
