"""From a call to a fit: ask, learn, estimate, freeze."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import polars as pl

from polars_glmm import progress
from polars_glmm.answer.record import Answer
from polars_glmm.answer.tally import check_unchanged, fingerprint, group_sizes
from polars_glmm.design.learn import Learned, learn
from polars_glmm.design.text_numbers import blaming_text
from polars_glmm.errors import ColumnError, DataChangedError, FitWarning, ModelError, ResponseError
from polars_glmm.fitting.categories import with_categories
from polars_glmm.fitting.choose import Route, choose
from polars_glmm.fitting.readings import collected, fit_readings, rows_to_read
from polars_glmm.fitting.rows import learned_rows
from polars_glmm.fitting.sums import (
    Obstacle,
    collected_note,
    fit_summaries,
    read_summary,
    rows_in_use,
)
from polars_glmm.frames.kept import kept_rows
from polars_glmm.likelihood.build import estimate, objective
from polars_glmm.likelihood.given import Given
from polars_glmm.logs import tell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from polars_glmm.answer.tally import Reading
    from polars_glmm.control import Control
    from polars_glmm.likelihood.objective import NaturalObjective
    from polars_glmm.notes import Note
    from polars_glmm.spec.call import Call

_PACKAGE = str(Path(__file__).parents[1])


def fit_call(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control, *, warn: bool = True) -> Answer:
    """Answer what `call` asks to `frame`; one FitWarning with all notes that are not quiet."""
    with progress.listening(control.progress):
        fit = fit_readings(frame, call, control, _fit)
    if warn:
        told(fit)
    return fit


def told(fit: Answer) -> None:
    """Say what there is to say of a fit: one FitWarning with all notes that are not quiet, and a record of the log."""
    tell(
        "fitted", f"fitted {fit.spec.formula}", formula=fit.spec.formula, n_obs=fit.n_obs, n_dropped=fit.n_dropped,
        loglik=fit.loglik, converged=fit.converged, singular=fit.singular, seconds=fit.seconds,
        notes=[note.code for note in fit.notes],
    )  # fmt: skip
    for note in fit.notes:
        if not note.quiet:
            tell("note", f"{note.text} {note.advice}".strip(), logging.WARNING, code=note.code)
    warn_once(fit.notes)


def _fit(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control) -> Answer:
    """The fit of rows that can be read again by the route that `choose` names; from rows where sums are too rough."""
    began, call = perf_counter(), with_categories(frame, call)
    route = choose(frame, call, control)
    if route.kind != "sums":
        return fit_from_rows(frame, call, control, route, began)
    fit = fit_summaries(frame.lazy(), call, control)
    if isinstance(fit, Obstacle):
        return fit_from_rows(frame, call, control, Route("products", why=fit), began)
    rows, source = kept_rows(frame, control)
    return replace(fit, rows=rows, source=source, kept=None if rows is None else rows_in_use(fit, rows))


def fit_from_rows(
    frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control, route: Route, began: float
) -> Answer:
    """The fit of rows by another route than sums, which began when the clock stood at `began`."""
    given = Given(call.start or {}, call.fixed or {})
    with learned_rows(frame, call, control, route) as learned:
        design, spec = learned.design, learned.recipe.spec
        with progress.stage("fitting"), blaming_text(learned.recipe):
            by_rows = route.kind != "products"
            numbers = estimate(design, spec.family, spec.method, control, given, by_rows=by_rows)
        groups, sums = group_sizes(design), fingerprint(design, learned.recipe)
    rows, source = kept_rows(frame, control)
    found = route.why if isinstance(learned, Learned) and isinstance(frame, pl.LazyFrame) else None
    return Answer(
        recipe=learned.recipe,
        estimate=numbers,
        notes=(*learned.notes, *collected_note(found), *numbers.notes),
        n_dropped=learned.n_dropped,
        seconds=perf_counter() - began,
        control=control,
        call=call,
        groups=groups,
        fingerprint=sums,
        rows=rows,
        source=source,
        kept=None if rows is None else learned.kept,
    )


def data_of(fit: Answer) -> pl.DataFrame | pl.LazyFrame:
    """The frame of a fit: the kept rows, or the source after a check that it still holds the same data.

    Raises ModelError where neither was kept, DataChangedError where the source has changed.
    """
    if fit.rows is not None:
        return fit.rows
    if fit.source is None:
        msg = (
            "This fit keeps no data (keep='none', or it was pickled or read from a file): pass the frame, as in "
            "fit.update(frame=df)."
        )
        raise ModelError(msg)
    read_again(fit, fit.source)
    return fit.source


def read_again(fit: Answer, source: pl.LazyFrame) -> None:
    """Raise DataChangedError unless `source` still gives the data of the fit."""
    try:
        now = _reading(fit, source)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ColumnError, ResponseError) as error:
        # Polars takes a file to be as it was when it was scanned, and fails in many ways where it is not; a source that
        # can be read once only gives nothing the second time
        msg = (
            "The source of this fit can no longer be read, as where a file was written over or removed. Pass the frame "
            "you mean, or fit again."
        )
        raise DataChangedError(msg) from error
    check_unchanged((fit.fingerprint, fit.groups), now)


def _reading(fit: Answer, source: pl.LazyFrame) -> Reading:
    with rows_to_read(source, fit.call, fit.control) as rows:
        return _sums_of(fit, collected(rows, fit.call, fit.control))


def _sums_of(fit: Answer, rows: pl.LazyFrame) -> Reading:
    route = choose(rows, fit.call, fit.control)
    if route.kind == "sums":
        return read_summary(fit.spec, rows, fit.call.missing)
    with learned_rows(rows, fit.call, fit.control, route) as learned:
        return fingerprint(learned.design, learned.recipe), group_sizes(learned.design)


def warn_once(notes: Iterable[Note], heading: str = "") -> None:
    """One FitWarning with every note that is not quiet, pointing at the caller's line."""
    texts = [f"{note.text} {note.advice}".strip() for note in notes if not note.quiet]
    if texts:
        text = texts[0] if len(texts) == 1 else "".join(f"\n- {line}" for line in texts)
        warnings.warn(f"{heading}{text}", FitWarning, stacklevel=_outside())


def _outside() -> int:
    """The stack level of the first caller outside this package, counted from `warn_once`."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001  the documented way to walk the stack
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level


def objective_of(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control) -> NaturalObjective:
    """The log-likelihood of what `call` asks, as a function of natural parameters."""
    learned = learn(with_categories(frame, call).spec(), frame, missing=call.missing)
    spec = learned.recipe.spec
    return objective(learned.design, spec.family, spec.method, control)
