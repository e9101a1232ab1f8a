"""From a call to a fit: ask, learn, estimate, freeze."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import polars as pl

from polars_glmm import progress
from polars_glmm.design.learn import Learned, learn
from polars_glmm.errors import DataChangedError, FitWarning
from polars_glmm.likelihood.build import estimate, objective
from polars_glmm.likelihood.given import Given
from polars_glmm.result.data import check_unchanged, fingerprint, group_sizes
from polars_glmm.result.fitted import Fit
from polars_glmm.result.route import learned_rows
from polars_glmm.result.summaries import (
    Obstacle,
    collected_note,
    fit_summaries,
    obstacle,
    read_summary,
    rows_in_use,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from polars_glmm.control import Control
    from polars_glmm.likelihood.natural import NaturalObjective
    from polars_glmm.notes import Note
    from polars_glmm.result.call import Call
    from polars_glmm.result.data import Reading
    from polars_glmm.spec.model import ModelSpec

_PACKAGE = str(Path(__file__).parents[1])
MANY_ROWS = (30_000, 200_000)
"""Rows of a DataFrame from which queries are quicker than arrays: with one grouping factor, with several."""


def fit_call(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control, *, warn: bool = True) -> Fit:
    """Fit what `call` asks to `frame`; one FitWarning with all notes that are not quiet."""
    with progress.listening(control.progress):
        fit = fit_from_sums(frame, call, control)
        if isinstance(fit, Obstacle):
            fit = _fit_from_rows(frame, call, control, fit)
    if warn:
        warn_once(fit.notes)
    return fit


def fit_from_sums(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control) -> Fit | Obstacle:
    """The fit of a lazy or large frame by aggregation queries, or why that is not the way."""
    spec = call.spec()
    if (found := obstacle(spec, call)) is not None:
        return found
    if isinstance(frame, pl.LazyFrame) and control.keep == "rows":
        return fit_call(frame.collect(), call, control, warn=False)
    if isinstance(frame, pl.DataFrame) and not queries_pay(frame.height, spec):
        return Obstacle("")
    fit = fit_summaries(frame.lazy(), call, control)
    if isinstance(fit, Obstacle):
        return fit
    rows, source = kept_rows(frame, control)
    return replace(fit, rows=rows, source=source, kept=None if rows is None else rows_in_use(fit, rows))


def queries_pay(n_rows: int, spec: ModelSpec) -> bool:
    """Whether a DataFrame has so many rows that queries are quicker than arrays."""
    factors = {frozenset(term.keys) for term in spec.mu.random}
    return n_rows >= MANY_ROWS[len(factors) > 1]


def _fit_from_rows(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control, why: Obstacle) -> Fit:
    began = perf_counter()
    given = Given(call.start or {}, call.fixed or {})
    with learned_rows(frame, call, control) as learned:
        design, spec = learned.design, learned.recipe.spec
        with progress.stage("fitting"):
            numbers = estimate(design, spec.family, spec.method, control, given)
        groups, sums = group_sizes(design), fingerprint(design, learned.recipe)
    rows, source = kept_rows(frame, control)
    found = why if isinstance(learned, Learned) and isinstance(frame, pl.LazyFrame) else None
    return Fit(
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


def read_again(fit: Fit, source: pl.LazyFrame) -> None:
    """Raise DataChangedError unless `source` still gives the data of the fit."""
    try:
        now = _reading(fit, source)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        # Polars takes a file to be as it was when it was scanned, and fails in many ways where it is not
        msg = (
            "The source of this fit can no longer be read, as where a file was written over or removed. Pass the frame "
            "you mean, or fit again."
        )
        raise DataChangedError(msg) from error
    check_unchanged((fit.fingerprint, fit.groups), now)


def _reading(fit: Fit, source: pl.LazyFrame) -> Reading:
    if obstacle(fit.spec, fit.call) is None:
        return read_summary(fit.spec, source, fit.call.missing)
    with learned_rows(source, fit.call, fit.control) as learned:
        return fingerprint(learned.design, learned.recipe), group_sizes(learned.design)


def warn_once(notes: Iterable[Note], heading: str = "") -> None:
    """One FitWarning with every note that is not quiet, pointing at the caller's line."""
    texts = [f"{note.text} {note.advice}".strip() for note in notes if not note.quiet]
    if texts:
        text = texts[0] if len(texts) == 1 else "".join(f"\n- {line}" for line in texts)
        warnings.warn(f"{heading}{text}", FitWarning, stacklevel=_outside())


def kept_rows(frame: pl.DataFrame | pl.LazyFrame, control: Control) -> tuple[pl.DataFrame | None, pl.LazyFrame | None]:
    """Rows and source as `control.keep` asks; a clone, because frames can be changed in place."""
    lazy = isinstance(frame, pl.LazyFrame)
    keep = control.keep or ("source" if lazy else "rows")
    if keep == "rows":
        return (frame.collect() if isinstance(frame, pl.LazyFrame) else frame.clone()), None
    return None, frame.lazy() if keep == "source" else None


def _outside() -> int:
    """The stack level of the first caller outside this package, counted from `warn_once`."""
    level, frame = 1, sys._getframe(1)  # noqa: SLF001  the documented way to walk the stack
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level


def objective_of(frame: pl.DataFrame | pl.LazyFrame, call: Call, control: Control) -> NaturalObjective:
    """The log-likelihood of what `call` asks, as a function of natural parameters."""
    learned = learn(call.spec(), frame, missing=call.missing)
    spec = learned.recipe.spec
    return objective(learned.design, spec.family, spec.method, control)
