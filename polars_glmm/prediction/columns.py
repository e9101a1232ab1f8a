"""What a verb may take from a frame and add to it: checks of the schema, and the mark of an incomplete row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import polars as pl

from polars_glmm.errors import ColumnError, enumerate_names, suggest
from polars_glmm.frames.elsewhere import applied
from polars_glmm.frames.held import taken
from polars_glmm.frames.source import missing_in
from polars_glmm.spec.members import NO_GAPS, Gaps

INTERNAL = "__glmm_"
"""Prefix of columns that live only inside a plan."""

FrameT = TypeVar("FrameT", pl.DataFrame, pl.LazyFrame)


def apply_plan(frame: FrameT, verb: str, plan: Callable[[pl.LazyFrame, pl.Schema], pl.LazyFrame]) -> FrameT:
    """Run a lazy plan on a frame and give back the same kind: LazyFrame stays lazy, DataFrame is collected.

    The plan receives the frame's schema, the only thing that is read of a LazyFrame.
    """
    if isinstance(frame, pl.LazyFrame):
        return plan(frame, readable_schema(frame))
    if isinstance(frame, pl.DataFrame):
        lazy = frame.lazy()
        return taken(plan(lazy, readable_schema(lazy)))
    made: FrameT = applied(frame, verb, lambda rows: apply_plan(rows, verb, plan))
    return made


def readable_schema(frame: pl.LazyFrame) -> pl.Schema:
    """The schema, refused when it holds names reserved for the inside of plans."""
    schema = frame.collect_schema()
    reserved = [name for name in schema if name.startswith(INTERNAL)]
    if reserved:
        msg = f"the frame has {enumerate_names(reserved)}: names with {INTERNAL!r} in front are reserved. Rename them."
        raise ColumnError(msg)
    return schema


def require_columns(schema: pl.Schema, needed: Iterable[str], verb: str) -> None:
    """Raise ColumnError naming every column that the model needs and the frame has not."""
    absent = sorted(set(needed) - set(schema))
    if absent:
        hint = suggest(absent[0], schema.names()) if len(absent) == 1 else ""
        msg = f"{verb} needs {enumerate_names(absent)}, which the frame does not have.{hint}"
        raise ColumnError(msg)


def refuse_clash(schema: pl.Schema, added: Sequence[str], remedy: str) -> None:
    """Raise ColumnError if a column to be added exists already; `remedy` names the argument that avoids it."""
    taken = [name for name in added if name in schema]
    if taken:
        msg = f"the frame already has {enumerate_names(taken)}: {remedy}"
        raise ColumnError(msg)
    doubled = sorted({name for name in added if added.count(name) > 1})
    if doubled:
        msg = f"{enumerate_names(doubled)} would be added twice: {remedy}"
        raise ColumnError(msg)


def is_missing(schema: pl.Schema, columns: Iterable[str], optional: Gaps = NO_GAPS) -> pl.Expr:
    """Boolean: a null or NaN in any of the columns; of two ends of an interval, if they are among them, in both.

    Of slots of several levels, if they are among them, in those that a row uses.
    """
    used = sorted(set(columns))
    ends = optional.ends if {*(optional.ends or ())} <= {*used, None} else None
    here = Gaps(ends, tuple(pair for pair in optional.slots if {*pair} <= {*used}))
    tests = missing_in({name: schema[name] for name in used}, here)
    return pl.any_horizontal(tests.values()) if tests else pl.lit(value=False)
