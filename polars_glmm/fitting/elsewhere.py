"""The fit of a frame that an engine holds: from sums or counts made there, or from its rows, read out once."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

import polars as pl

from polars_glmm import progress
from polars_glmm.errors import DataChangedError, ModelError
from polars_glmm.fitting.choose import choose_on_engine
from polars_glmm.fitting.flow import fit_call, fit_from_rows, told
from polars_glmm.fitting.sums import Obstacle, fit_summaries
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_expressions import NotThereError
from polars_glmm.notes import Note

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.control import Control
    from polars_glmm.spec.call import Call


def fit_frame(frame: pl.DataFrame | pl.LazyFrame | EngineFrame, call: Call, control: Control) -> Answer:
    """Answer what `call` asks to a frame, wherever its rows are; one FitWarning with all notes that are not quiet."""
    if not isinstance(frame, EngineFrame):
        return fit_call(frame, call, control)
    with progress.listening(control.progress):
        fit = _on_engine(frame, call, control)
    told(fit)
    return fit


def _on_engine(frame: EngineFrame, call: Call, control: Control) -> Answer:
    began = perf_counter()
    if control.keep == "rows":  # the one reading serves for both
        if control.rows.stay:
            msg = "Rows cannot both stay with workers (Rows(stay=True)) and be kept here (keep='rows'): choose one."
            raise ModelError(msg)
        return _read_out(frame, call, control)
    source = None if control.keep == "none" else frame.lazy()
    try:
        route = choose_on_engine(frame, call, control)
        if route is None:
            return _read_out(frame, call, control)
        if route.kind != "sums":
            return replace(fit_from_rows(frame.lazy(), call, control, route, began), source=source)
        fit = fit_summaries(frame, call, control)
    except NotThereError as error:
        if control.rows.stay:
            msg = f"Rows cannot stay with workers: {error} Make the column first, or leave out Rows(stay=True)."
            raise ModelError(msg) from error
        return _read_out(frame, call, control, str(error))
    if isinstance(fit, Obstacle):
        return _read_out(frame, call, control, f"{fit.text}.")
    return replace(fit, source=source)


def _read_out(frame: EngineFrame, call: Call, control: Control, why: str = "") -> Answer:
    """The fit of the rows, in memory or on disk as they need; `why` sums were not enough, where they should have been.

    Raises DataChangedError where a reading gave another number of rows than there are.
    """
    n_rows, read = frame.count_rows(), list[int]()
    fit = fit_call(frame.lazy(read), call, control, warn=False)
    if any(n != n_rows for n in read):
        msg = f"{frame.name} gave {read[0]:,} rows of {n_rows:,}: the frame changed while it was read. Fit again."
        raise DataChangedError(msg)
    note = Note("rows_collected", f"The rows in use were read out of {frame.name}: {why}", quiet=True)
    return replace(fit, notes=(*fit.notes, note) if why else fit.notes)
