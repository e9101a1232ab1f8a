"""Times cut into pieces within which a hazard is constant: the piecewise exponential model as counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import polars as pl

from polars_glmm.columns.named import column, columns
from polars_glmm.errors import ColumnError, ModelError, enumerate_names
from polars_glmm.frames.table import require_columns
from polars_glmm.typing import Vec

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)
_ADDED = ("interval", "exposure", "events")
_LOW, _HIGH = "__glmm_low", "__glmm_high"


def split_times(
    frame: Frame, cuts: Sequence[float], *, time: str = "time", event: str = "event", entry: str | None = None
) -> Frame:
    """One row for every interval that a unit was seen in: a piecewise exponential model is Poisson on them.

    Added are `interval` (an Enum), `exposure`, the time spent in it, and `events`, 1 where it ends with the event: fit
    "events ~ interval + x + offset(log(exposure)) + (1 | g)" with family="poisson" (Holford 1980, Biometrics 36;
    Laird & Olivier 1981, JASA 76), whose coefficients are logarithms of hazard ratios. A LazyFrame stays lazy.

    Parameters
    ----------
    frame
        One row for each unit.
    cuts
        Where the hazard may change: increasing numbers above 0.
    time, event, entry
        Columns: when a unit was last seen, whether it had the event then, and since when it was seen (None: since 0).

    Raises
    ------
    ModelError
        For cuts that are not increasing numbers above 0.
    ColumnError
        For a column that the frame does not have, or one of the names that are added.

    Examples
    --------
    >>> rows = pl.DataFrame({"time": [2.0, 5.0], "event": [True, False]})
    >>> split_times(rows, [3.0]).select("interval", "exposure", "events").rows()
    [('(0, 3]', 2.0, 1), ('(0, 3]', 3.0, 0), ('(3, inf)', 2.0, 0)]
    """
    at: Vec = np.asarray(cuts, dtype=np.float64)
    if at.ndim != 1 or not np.isfinite(at).all() or (at <= 0.0).any() or (np.diff(at) <= 0.0).any():
        msg = f"cuts={list(cuts)!r}: give increasing numbers above 0."
        raise ModelError(msg)
    lazy = frame.lazy()
    names = lazy.collect_schema().names()
    require_columns([time, event, *([entry] if entry is not None else [])], names)
    if taken := [name for name in _ADDED if name in names]:
        msg = f"The frame already has {enumerate_names(taken)}: rename or drop it first."
        raise ColumnError(msg)
    bounds = [0.0, *at.tolist(), float("inf")]
    labels = [f"({low:g}, {high:g}{']' if np.isfinite(high) else ')'}" for low, high in zip(bounds, bounds[1:])]  # noqa: B905, RUF007
    pieces = {_LOW: bounds[:-1], _HIGH: bounds[1:], "interval": labels}
    cut = lazy.with_columns(pl.lit(pl.Series([values])).first().alias(name) for name, values in pieces.items())
    last, begun = column(time).cast(pl.Float64), pl.lit(0.0) if entry is None else column(entry).cast(pl.Float64)
    low, high = pl.max_horizontal(pl.col(_LOW), begun), pl.min_horizontal(pl.col(_HIGH), last)
    known = last.is_not_null() & begun.is_not_null()
    made = (
        cut.explode(list(pieces), empty_as_null=True)
        .filter(known & (high > low))
        .with_columns(
            pl.col("interval").cast(pl.Enum(labels)),
            (high - low).alias("exposure"),
            ((last <= pl.col(_HIGH)) & (column(event).cast(pl.Float64) == 1.0)).cast(pl.Int64).alias("events"),
        )
        .select(*columns(names), *map(pl.col, _ADDED))
    )
    return made.collect() if isinstance(frame, pl.DataFrame) else made
