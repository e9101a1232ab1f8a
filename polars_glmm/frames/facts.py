"""What one reading of a source found and the next must find again, so that no fit is made of two samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.columns.nodes import Affine, Arithmetic, Node, Reference
from polars_glmm.typing import Vec

_COUNT = "__glmm_count"
_HASHES = 1 << 64
_ROUNDING = 1e-9
_FAR = 1e-6
"""Rounding of a mean beside its distance from zero, in units of the above."""


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


Facts: TypeAlias = tuple[Fact, ...]


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


class About(NamedTuple):
    """How many rows an argument was learned from, its mean, and its sum of squares about it."""

    size: float
    mean: float
    squares: float

    @classmethod
    def of(cls, values: Vec, counts: Vec) -> About:
        """Of values with their counts."""
        size = float(counts.sum())
        mean = float(counts @ values) / size
        return cls(size, mean, float(counts @ (values - mean) ** 2))


def of_argument(text: str, node: Node, about: About, frequency: str | None = None, cubes: float | None = None) -> Facts:
    """That what a transform learned from has the mean and the spread it had, and the sum of its cubes where known.

    Sums are of z = (x − mean)/sd, so that they tell as much of a column far from zero;  cubes  Σ f z³
    """
    z = standardised(node, about)
    slack = about.size * (1.0 + _FAR * abs(z.centre) / z.scale)
    sums = [("mean", 0.0, slack), ("spread", about.squares / z.scale**2, slack)]
    sums += [] if cubes is None else [("skewness", cubes, max(slack, abs(cubes)))]
    return tuple(
        summed(f"the {what} of {text}", (z,) * power, total, size, frequency)
        for power, (what, total, size) in enumerate(sums, start=1)
    )


def of_values(text: str, node: Node, values: Vec, counts: Vec, frequency: str | None = None) -> Facts:
    """The same of an argument of which every different value is known, with its count."""
    about = About.of(values, counts)
    z = standardised(node, about)
    return of_argument(text, node, about, frequency, float(counts @ ((values - z.centre) / z.scale) ** 3))


def standardised(node: Node, about: About) -> Affine:
    """A column less its mean, in standard deviations; in its mean where it does not vary."""
    sd = float(np.sqrt(about.squares / about.size)) if about.size else 0.0
    return Affine(node, about.mean, sd if sd > 0.0 else abs(about.mean) or 1.0)


def summed(text: str, factors: Sequence[Node], total: float, size: float, frequency: str | None = None) -> Fact:
    """That a product summed over rows is what it was; size: of what is summed, for rounding."""
    nodes = [*factors, *([] if frequency is None else [Reference(frequency)])]
    return Fact(text, reduce(lambda a, b: Arithmetic("*", a, b), nodes), total, _ROUNDING * max(size, 1e-300))


def _hash(name: str, dtype: Any) -> pl.Expr:
    label = column(name)
    return (label.cast(pl.String) if isinstance(dtype, pl.Categorical) else label).hash()
