"""Frames of other libraries (pandas, PyArrow, DuckDB, Ibis, Dask, Spark) as Polars frames, and columns back to them.

What is in memory there is taken as it is; an engine gives the columns in use when they are read, as batches of Arrow
where it streams them, and every other verb then finds a LazyFrame. narwhals is imported for such frames only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.errors import ColumnError, ModelError
from polars_glmm.frames.engine import EngineFrame

PolarsFrame = pl.DataFrame | pl.LazyFrame


class Taken(NamedTuple):
    """A frame as a Polars frame, and how columns that were added to it get back beside the frame's own.

    back     None where an engine keeps its own rows
    engine   the frame there, of which `frame` reads the rows out
    """

    frame: PolarsFrame
    back: Callable[[pl.DataFrame], Any] | None
    engine: EngineFrame | None = None


def take(frame: object) -> Taken | None:
    """A frame of any library that narwhals knows; None for anything else."""
    if isinstance(frame, pl.DataFrame | pl.LazyFrame):
        return Taken(frame, lambda made: made)
    import narwhals.stable.v2 as nw  # noqa: PLC0415  for such frames only
    from narwhals.exceptions import DuplicateError  # noqa: PLC0415

    try:
        found: Any = nw.from_native(frame)
    except TypeError:
        return None
    except DuplicateError as error:
        msg = f"The frame has several columns of one name: {' '.join(str(error).split())}. Rename them first."
        raise ColumnError(msg) from error
    if isinstance(found, nw.LazyFrame):
        native = found.to_native()
        if isinstance(native, pl.LazyFrame):
            return Taken(native, lambda made: made)
        engine = EngineFrame.of(found)
        return Taken(engine.lazy(), None, engine)
    rows = _with_categories(_rows_of(found), found)
    return Taken(rows, lambda made: _beside(found, made.select(pl.exclude(rows.columns))))


def on_engine(frame: object) -> EngineFrame | None:
    """A frame whose rows an engine holds; None for any other."""
    if isinstance(frame, pl.DataFrame | pl.LazyFrame):
        return None
    taken = take(frame)
    return None if taken is None else taken.engine


def read(frame: object, verb: str) -> PolarsFrame:
    """A frame of any library as one of Polars, for a verb that answers with a table of its own.

    Raises ModelError for what is no frame.
    """
    if (taken := take(frame)) is None:
        kind = f"{type(frame).__module__.partition('.')[0]}.{type(frame).__name__}"
        msg = f"{verb} takes a frame of Polars, pandas, PyArrow, DuckDB, Ibis, Dask or Spark, not {kind}."
        raise ModelError(msg)
    return taken.frame


def there(frame: object, verb: str) -> PolarsFrame | EngineFrame:
    """A frame of any library as one of Polars, or as the engine has it that holds its rows.

    Raises ModelError for what is no frame.
    """
    taken = take(frame)
    return read(frame, verb) if taken is None or taken.engine is None else taken.engine


def applied(frame: object, verb: str, work: Callable[[PolarsFrame], PolarsFrame]) -> Any:
    """What a verb makes of a frame, as a frame of the same library with the verb's columns behind its own.

    Raises ModelError for what is no frame, and for the frames of engines, whose rows have no order to add columns in.
    """
    taken = take(frame)
    kind = f"{type(frame).__module__.partition('.')[0]}.{type(frame).__name__}"
    if taken is None:
        msg = f"{verb} takes a frame of Polars, pandas or PyArrow, not {kind}."
        raise ModelError(msg)
    if taken.back is None:
        msg = (
            f"{verb} adds columns to rows in memory or to a LazyFrame of Polars, not to {kind}: take the rows out "
            "first, as in relation.pl() of DuckDB, or scan the file they come from with Polars."
        )
        raise ModelError(msg)
    made = work(taken.frame)
    return taken.back(made.collect() if isinstance(made, pl.LazyFrame) else made)


def _rows_of(found: Any) -> pl.DataFrame:
    """A frame in memory as one of Polars: as it is where it can be taken so, else column by column."""
    try:
        rows: pl.DataFrame = found.to_polars()
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001  whatever Arrow says of a column it does not know
        return pl.DataFrame([_column_of(found[name]) for name in found.columns])
    return rows


def _column_of(found: Any) -> pl.Series:
    """A column of any library; its values one by one where it is stored in a way that Polars does not know.

    What Polars has no dtype for are objects, which are refused where a model uses them.
    """
    try:
        made: pl.Series = found.to_polars().rename(found.name)
    except (Exception, pl.exceptions.PanicException):  # noqa: BLE001
        values = [float(v) if isinstance(v, np.floating) else v for v in found.to_list()]
        try:
            return pl.Series(found.name, values)
        except (TypeError, OverflowError, pl.exceptions.PolarsError):
            return pl.Series(found.name, values, dtype=pl.Object)
    return made


def _with_categories(rows: pl.DataFrame, found: Any) -> pl.DataFrame:
    """Columns of declared categories as Enums, so that levels come in the order that was declared.

    Categories of pandas that are numbers or dates are labels, their text; False and True are Boolean.
    """
    made = []
    for name in found.columns:
        if found.implementation.is_pandas_like():
            own = found.to_native()[name]
            categories = getattr(own.dtype, "categories", None)
            if categories is None or rows.schema[name] == pl.Boolean:
                continue
            codes = pl.Series(own.cat.codes.to_numpy()).cast(pl.Int64)
        else:
            categories = getattr(found[name].dtype, "categories", None)
            codes = None
        labels = [str(value) for value in (() if categories is None else categories)]
        if not labels or len(set(labels)) < len(labels):
            continue
        if codes is None or rows.schema[name] in (pl.String, pl.Categorical):
            made.append(rows[name].cast(pl.Enum(labels)))
        else:
            known = codes.set(codes < 0, None)
            made.append(pl.Series(name, labels, dtype=pl.Enum(labels)).gather(known))
    return rows.with_columns(made) if made else rows


def _beside(found: Any, added: pl.DataFrame) -> Any:
    """The frame with further columns; its own columns and its index stay as they are."""
    native = found.to_native()
    if found.implementation.is_pandas_like():
        new = {name: series.to_numpy() if series.dtype.is_float() else series.to_list() for name, series in
               zip(added.columns, added, strict=True)}  # fmt: skip
        return native.assign(**new)
    for series in added:
        native = native.append_column(series.name, series.to_arrow())
    return native
