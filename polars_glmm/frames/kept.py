"""What a fit keeps of its data: the rows, where to read them again, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.frames.source import missing_in
from polars_glmm.spec.members import NO_GAPS, Gaps

if TYPE_CHECKING:
    from polars_glmm.control import Control
    from polars_glmm.typing import BoolVec


def kept_rows(frame: pl.DataFrame | pl.LazyFrame, control: Control) -> tuple[pl.DataFrame | None, pl.LazyFrame | None]:
    """Rows and source as `control.keep` asks; a clone, because frames can be changed in place."""
    lazy = isinstance(frame, pl.LazyFrame)
    keep = control.keep or ("source" if lazy else "rows")
    if keep == "rows":
        return (frame.collect() if isinstance(frame, pl.LazyFrame) else frame.clone()), None
    return None, frame.lazy() if keep == "source" else None


def complete_rows(
    data: pl.DataFrame | pl.LazyFrame,
    names: Sequence[str],
    kept: BoolVec | None,
    frequency: str | None,
    optional: Gaps = NO_GAPS,
) -> pl.DataFrame:
    """These columns of the rows in use, without those that miss a value; rows that stand for several are repeated."""
    frame = data.lazy().select(columns(names)).collect()
    if kept is not None:
        frame = frame.filter(pl.Series(kept))
    frame = frame.filter(~pl.any_horizontal(missing_in(frame.schema, optional).values()))
    if frequency is None:
        return frame
    return frame[np.repeat(np.arange(frame.height), frame[frequency].cast(pl.Int64).to_numpy())]
