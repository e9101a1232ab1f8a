"""`by=` of a frame that an engine holds: from few rows of the same sums or counts, else from all rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.answer.many import Answers, KeyedRows, Outcome
from polars_glmm.answer.record import Answer
from polars_glmm.columns.named import columns
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.by_key.learn import Dropped
from polars_glmm.errors import GlmmError
from polars_glmm.fitting.by_key import attempt, fit_by, told_by
from polars_glmm.fitting.choose import equal_rows_count
from polars_glmm.fitting.sums import FEW_DIGITS, obstacle
from polars_glmm.frames import held
from polars_glmm.frames.counted import COUNT
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_expressions import NotThereError
from polars_glmm.frames.engine_fewer import Fewer, KeyedGaps, fewer_rows

if TYPE_CHECKING:
    from polars_glmm.control import Control
    from polars_glmm.spec.call import Call
    from polars_glmm.typing import IntVec


def fit_by_frame(
    frame: pl.DataFrame | pl.LazyFrame | EngineFrame,
    by: str | Sequence[str],
    call: Call,
    control: Control,
    taken: Collection[str] = (),
) -> Answers:
    """As `fit_by`, wherever the rows are; one FitWarning says which models have notes."""
    found = _answers(frame, by, call, control, taken)
    told_by(found)
    return found


def _answers(
    frame: pl.DataFrame | pl.LazyFrame | EngineFrame,
    by: str | Sequence[str],
    call: Call,
    control: Control,
    taken: Collection[str],
) -> Answers:
    """The models of the keys; a collection of an engine's frame has it as the source of its models."""
    if not isinstance(frame, EngineFrame):
        return fit_by(frame, by, call, control, taken)
    few = fewer(frame, by, call, control)
    if few is None:
        return fit_by(frame.lazy(), by, call, control, taken)
    try:
        counted = replace(call, frequency=COUNT)
        found = fit_by(few.frame, by, counted, replace(control, keep="none"), taken)
    except GlmmError:  # to be raised again from the rows that the user knows
        return fit_by(frame.lazy(), by, call, control, taken)
    if (call.spec().family.linear and _few_digits(found)) or _speaks_of_rows(found):
        return fit_by(frame.lazy(), by, call, control, taken)
    return _of_frame(found, frame.lazy(), few.gaps, call, control)


def fewer(frame: EngineFrame, by: str | Sequence[str], call: Call, control: Control) -> Fewer | None:
    """Few rows in the place of all, or None where they would not do, or something is to be said of the rows."""
    if control.keep == "rows":
        return None
    names = [by] if isinstance(by, str) else list(by)
    spec = call.spec().resolve(frozenset(frame.schema.names()))
    linear = obstacle(spec, call) is None and not any(STRUCTURES[term.structure].bends for term in spec.random)
    if call.known is not None or spec.inputs or not equal_rows_count(spec):
        return None
    if not linear and (spec.family.linear or not control.rows.compress):
        return None
    if any(name not in frame.schema for name in (*names, *spec.columns())):
        return None
    try:
        return fewer_rows(frame, spec, names, linear=linear, missing=call.missing)
    except (GlmmError, NotThereError):  # to be raised again by the models that it belongs to
        return None


def _few_digits(found: Answers) -> bool:
    """Whether some model leaves so little of its response that rows tell more of it than differences of sums."""
    moments = [(batch.moments, batch.estimate.phi) for batch in found.outcomes.batches]
    singles = found.outcomes.single_answers().values()
    moments += [(np.array([one.fingerprint.moments]), np.array([one.estimate.phi])) for one in singles]
    for sums, phi in moments:
        n, total, squares = sums[:, 0], sums[:, 1], sums[:, 2]
        if not (np.asarray(phi, dtype=float) ** 2 * n > FEW_DIGITS * (squares - total**2 / n)).all():
            return True
    return False


def _speaks_of_rows(found: Answers) -> bool:
    """Whether something is to be said of single rows, which few rows in their place have no number of."""
    singles = found.outcomes.single_answers().values()
    return any(batch.dropped.untried.any() for batch in found.outcomes.batches) or any(
        note.code == "rows_without_trials" for one in singles for note in one.notes
    )


def _of_frame(
    found: Answers, source: pl.LazyFrame, gaps: KeyedGaps | None, call: Call, control: Control
) -> Answers:
    """The answers as those of the rows themselves; a model that could not be made is tried from them."""
    frequency, read = call.spec().frequency, control.keep != "none"
    rows = KeyedRows.elsewhere(source, found.keys)
    outcomes = found.outcomes
    batches = tuple(
        replace(
            batch,
            recipe=replace(batch.recipe, spec=replace(batch.recipe.spec, frequency=frequency)),
            rows=rows,
            control=control,
            call=call,
            dropped=batch.dropped if gaps is None else _dropped(gaps, batch.keys),
        )
        for batch in outcomes.batches
    )
    singles = _tried_again(found, source, call, control)
    for k, outcome in outcomes.singles.items():
        if isinstance(outcome, GlmmError):
            continue
        recipe = replace(outcome.recipe, spec=replace(outcome.recipe.spec, frequency=frequency))
        own = None if gaps is None else _dropped(gaps, np.array([k]))
        singles[k] = replace(
            outcome, recipe=recipe, call=call, control=control, source=rows.source(k) if read else None, kept=None,
            notes=(*(() if own is None else own.notes(0)), *outcome.notes),
            n_dropped=0 if own is None else int(own.missing[0]),
        )  # fmt: skip
    return replace(found, outcomes=replace(outcomes, batches=batches, singles=singles))


def _tried_again(found: Answers, source: pl.LazyFrame, call: Call, control: Control) -> dict[int, Outcome]:
    """The models that few rows did not give, from all of their rows, which are read in one run."""
    lost = [k for k, outcome in found.outcomes.singles.items() if isinstance(outcome, GlmmError)]
    if not lost:
        return {}
    names, keys = source.collect_schema().names(), found.keys
    used = {*keys.columns, *call.spec().resolve(frozenset(names)).columns()}
    asked = source.select(columns([name for name in names if name in used]))
    here = held.taken(asked.join(keys[lost].lazy(), on=columns(keys.columns), how="semi"))
    rows, there = KeyedRows.elsewhere(here.lazy(), keys), KeyedRows.elsewhere(source, keys)
    out: dict[int, Outcome] = {}
    for k in lost:
        tried = attempt(held.taken(rows.source(k)), call, control)
        if isinstance(tried, Answer) and tried.source is not None:
            tried = replace(tried, source=there.source(k))
        out[k] = tried
    return out


def _dropped(gaps: KeyedGaps, keys: IntVec) -> Dropped:
    """What rows of some keys miss, as a design of their rows would tell."""
    where = {name: marks[keys] for name, marks in gaps.where.items()}
    return Dropped(gaps.n_rows[keys], gaps.missing[keys], where, np.zeros(len(keys), dtype=np.intp))
