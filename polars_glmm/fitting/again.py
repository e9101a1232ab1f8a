"""The rows of a fit, read again for what needs more of them than the answer keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.design.known import KnownRows, read_known, used_columns
from polars_glmm.errors import ModelError
from polars_glmm.fitting.flow import data_of
from polars_glmm.frames.table import collect

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def rows_of(fit: Answer, what: str) -> pl.DataFrame:
    """The columns in use of the rows of a fit, in memory; `what` needs them, for the message where they are gone."""
    if fit.rows is None and fit.source is None:
        msg = (
            f"{what} needs the rows of the fit, and this one keeps none (keep='none', or it was pickled): fit again, "
            "as with fit.update(frame=df)."
        )
        raise ModelError(msg)
    return pl.DataFrame(list(collect(data_of(fit), used_columns(fit.recipe)).series.values()))


def design_of(fit: Answer, what: str) -> KnownRows:
    """The design of a fit again, with the levels and columns it has."""
    return read_known(fit.recipe, rows_of(fit, what), own_levels=False)
