"""What a fit keeps of its data: the rows, where to read them again, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from polars_glmm.control import Control


def kept_rows(frame: pl.DataFrame | pl.LazyFrame, control: Control) -> tuple[pl.DataFrame | None, pl.LazyFrame | None]:
    """Rows and source as `control.keep` asks; a clone, because frames can be changed in place."""
    lazy = isinstance(frame, pl.LazyFrame)
    keep = control.keep or ("source" if lazy else "rows")
    if keep == "rows":
        return (frame.collect() if isinstance(frame, pl.LazyFrame) else frame.clone()), None
    return None, frame.lazy() if keep == "source" else None
