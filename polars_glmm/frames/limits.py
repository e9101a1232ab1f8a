"""How many columns a design may have: asked before they are made, because made they may not fit anywhere."""

from __future__ import annotations

from collections.abc import Callable

from polars_glmm.errors import IdentifiabilityError, ResourceError, counted
from polars_glmm.memory import memory_limit, readable
from polars_glmm.spec.syntax import quoted

_SATURATED = 100
"""Rows up to which a column may have a level for each: the saturated model of a table of counts."""
_MANY = 1000
"""Columns up to which more of them than rows are made, and those that are combinations of others dropped."""
_SQUARES = 6
"""Square matrices of a fit's effects that stand in memory together: products, factor, Hessian, inverse, covariances."""
_NUMBER = 8
"""Bytes."""


def require_levels(column: str, n_levels: int, count_rows: Callable[[], int], also: Callable[[], str]) -> None:
    """Raise where a column has too many levels for an effect of each; rows are counted only where levels are many.

    also   what the labels say about the column, asked only where an error is raised; it takes the place of the remedy
    IdentifiabilityError where every row has its own, ResourceError where so many effects do not fit in memory.
    """
    remedy = f"Use it as a grouping factor, (1 | {quoted(column)}), or leave it out."
    n_rows = count_rows() if n_levels > _SATURATED else 0
    if n_levels >= n_rows > _SATURATED:
        msg = (
            f"column {column!r} has {counted(n_levels, 'level')} in {counted(n_rows, 'row')}: an effect of every level "
            f"leaves nothing to tell it by.{also() or f' {remedy}'}"
        )
        raise IdentifiabilityError(msg)
    _require_memory(f"column {column!r} has {counted(n_levels, 'level')}", n_levels, remedy)


def require_columns(n_columns: int, count_rows: Callable[[], int], largest: str) -> None:
    """Raise where terms, `largest` the largest of them, make more columns than rows can tell apart or memory holds."""
    subject = f"The terms of the formula make {counted(n_columns, 'column')}, most of them {largest!r}"
    remedy = "Make one column of its variables and use it as a grouping factor, behind a bar, or leave it out."
    n_rows = count_rows() if n_columns > _MANY else 0
    if n_columns > n_rows > 0:
        msg = f"{subject}: {counted(n_rows, 'row')} cannot tell them apart. {remedy}"
        raise IdentifiabilityError(msg)
    _require_memory(subject, n_columns, remedy)


def require_effects(term: str, n_columns: int, n_rows: int) -> None:
    """Raise IdentifiabilityError where a random-effects term has a column for every row."""
    if n_columns >= n_rows > 1:
        msg = (
            f"{term} has {counted(n_columns, 'effect')} in each level, "
            f"and there {'is' if n_rows == 1 else 'are'} {counted(n_rows, 'row')}. A variable with many levels "
            "stands behind the bar, as a grouping factor."
        )
        raise IdentifiabilityError(msg)


def require_points(term: str, where: str, n_points: int) -> None:
    """Raise ResourceError where a term has so many points that matrices of them do not fit in memory."""
    remedy = "Round the coordinates to fewer points, or group by areas."
    _require_memory(f"{term} has {counted(n_points, 'point', grouped=True)} of {where}", n_points, remedy)


def _require_memory(subject: str, n_columns: int, remedy: str) -> None:
    need, limit = _NUMBER * _SQUARES * n_columns**2, memory_limit(None)
    if need > limit:
        msg = f"{subject}: as many effects take {readable(need)}, and a fit may use {readable(limit)}. {remedy}"
        raise ResourceError(msg)
