"""The columns of a user's frame as expressions: exactly those of a name, and as their values are."""

from __future__ import annotations

import re
from collections.abc import Iterable

import polars as pl

_FIELD = "__glmm_found"


def column(name: str) -> pl.Expr:
    """The column of this name, also where Polars reads the name as a pattern ("*", "^…$")."""
    if name == "*" or is_pattern(name):
        return pl.col(f"^{re.escape(name)}$")
    return pl.col(name)


def is_pattern(name: str) -> bool:
    """Whether Polars reads a name as a regular expression."""
    return name.startswith("^") and name.endswith("$")


def nameless(series: pl.Series) -> pl.Series:
    """The values without their name where it is a pattern: many a method of a Series asks a frame for that name."""
    return series.alias("") if is_pattern(series.name) else series


def columns(names: Iterable[str]) -> list[pl.Expr]:
    """`column` of each name."""
    return [column(name) for name in names]


def as_found(name: str) -> pl.Expr:
    """The column without the mark that it is sorted, which may be false; nothing is copied.

    Group_by, joins and comparisons of Polars believe the mark, and a field of a struct does not carry it.
    """
    return pl.struct(column(name).alias(_FIELD)).struct.field(_FIELD).alias(name)
