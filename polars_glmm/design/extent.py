"""How many columns a design may have: asked before they are made, because made they may not fit anywhere."""

from __future__ import annotations

from polars_glmm.errors import IdentifiabilityError, ResourceError
from polars_glmm.memory import memory_limit, readable

_SATURATED = 100
"""Rows up to which a column may have a level for each: the saturated model of a table of counts."""
_MANY = 1000
"""Columns up to which more of them than rows are made, and those that are combinations of others dropped."""
_NUMBER = 8
"""Bytes."""


def require_levels(column: str, n_levels: int, n_rows: int | None) -> None:
    """Raise where a column has too many levels for an effect of each; n_rows None: not known.

    IdentifiabilityError where every row has its own, ResourceError where their coding does not fit in memory.
    """
    remedy = f"Use it as a grouping factor, (1 | {column}), or leave it out."
    if n_rows is not None and n_levels >= n_rows > _SATURATED:
        msg = (
            f"column {column!r} has {n_levels} levels in {n_rows} rows: an effect of every level leaves nothing to "
            f"tell it by. {remedy}"
        )
        raise IdentifiabilityError(msg)
    _require_memory(f"column {column!r} has {n_levels} levels: as many effects", 2 * n_levels, n_levels, remedy)


def require_columns(n_columns: int, n_rows: int, largest: str) -> None:
    """Raise where the fixed part, most of it from the term `largest`, has more columns than rows or memory can hold."""
    where = f"The fixed part has {n_columns} columns, most of them from {largest!r}: they"
    remedy = "Use that as a grouping factor behind a bar, or leave it out."
    if n_columns > max(n_rows, _MANY):
        msg = f"{where} cannot be told apart in {n_rows} rows. {remedy}"
        raise IdentifiabilityError(msg)
    _require_memory(where, n_columns, n_rows, remedy)


def require_effects(term: str, n_columns: int, n_rows: int) -> None:
    """Raise where a random-effects term has a column for every row."""
    remedy = "A variable with many levels stands behind the bar, as a grouping factor."
    if n_columns >= n_rows > 1:
        msg = f"{term} has {n_columns} effects for each level and there are {n_rows} rows. {remedy}"
        raise IdentifiabilityError(msg)
    _require_memory(f"{term} has {n_columns} effects for each level: they", n_columns, n_rows, remedy)


def _require_memory(subject: str, n_columns: int, n_rows: int, remedy: str) -> None:
    need, limit = _NUMBER * n_columns * n_rows, memory_limit(None)
    if need > limit:
        msg = f"{subject} take {readable(need)} in memory, and a fit may use {readable(limit)}. {remedy}"
        raise ResourceError(msg)
