"""What one reading of a source found and the next must find again, so that no fit is made of two samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.columns.nodes import Node

_COUNT = "__glmm_count"
_HASHES = 1 << 64
_ROUNDING = 1e-9


class Fact(NamedTuple):
    """A sum over the rows in use: of `value`, known to be `total` up to `rounding` (0: exactly, modulo 2^64).

    value   a node, or an expression of Polars
    """

    name: str
    value: Node | pl.Expr
    total: float
    rounding: float = 0.0

    def holds(self, now: float) -> bool:
        """Whether a reading gave the same."""
        if self.rounding:
            return abs(now - self.total) <= self.rounding
        return int(now) % _HASHES == int(self.total) % _HASHES


def count_labels(rows: pl.LazyFrame, name: str) -> pl.LazyFrame:
    """The labels of a column with the rows of each."""
    return rows.group_by(column(name)).agg(pl.len().alias(_COUNT))


def of_labels(counted: pl.DataFrame, name: str) -> Fact:
    """That every label has the rows it had: the sum of the labels' hashes."""
    hashes = counted.select(_hash(name, counted.schema[name])).to_series().to_list()
    total = sum(a * b for a, b in zip(hashes, counted[_COUNT].to_list(), strict=True))
    return Fact(f"the labels of column {name!r}", _hash(name, counted.schema[name]), total)


def weighed(text: str, value: Node, known: Sequence[tuple[float, float]]) -> Fact:
    """That rows weighed by label have the sum they had; known: the weight and the rows of each label."""
    total = sum(weight * n for weight, n in known)
    return Fact(text, value, total, _ROUNDING * max(total, 1.0))


def of_argument(text: str, value: Node, total: float, size: float) -> Fact:
    """That the argument of a transform has the sum it had; size: of the numbers summed, for rounding."""
    return Fact(text, value, total, _ROUNDING * max(size, 1e-300))


def _hash(name: str, dtype: Any) -> pl.Expr:
    label = column(name)
    return (label.cast(pl.String) if isinstance(dtype, pl.Categorical) else label).hash()
