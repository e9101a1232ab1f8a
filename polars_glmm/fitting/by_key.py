"""`by=`: one model per key, most of them fitted together, the unusual ones singly."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl
import polars.selectors as cs

from polars_glmm import progress
from polars_glmm.answer.many import Answers, Batch, KeyedRows, Outcome, Outcomes, collected_notes
from polars_glmm.columns.named import as_found, column
from polars_glmm.design.by_key.learn import KeyedLearned, batchable, learn_by_key
from polars_glmm.errors import ColumnError, GlmmError, ModelError, enumerate_names, suggest
from polars_glmm.fitting.categories import with_categories
from polars_glmm.fitting.flow import fit_call, warn_once
from polars_glmm.frames.held import taken
from polars_glmm.frames.levels import BEYOND_INT64, code_integers
from polars_glmm.frames.missing import Incomplete, check_missing, dropped_rows
from polars_glmm.frames.table import refuse_objects, require_columns
from polars_glmm.likelihood.many.build import answers, estimate_batch
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.spec.syntax import columns as columns_of

if TYPE_CHECKING:
    from polars_glmm.control import Control
    from polars_glmm.spec.call import Call, Missing
    from polars_glmm.spec.model import ModelSpec
    from polars_glmm.typing import IntVec

FEWEST = 4
"""Keys from which they are fitted together."""
LARGEST = 10_000
"""Rows beyond which a model gains nothing from company."""


class _Keyed(NamedTuple):
    """The rows that have a key: their frame, the number of each one's key (n,), and the keys."""

    frame: pl.DataFrame
    code: IntVec
    keys: pl.DataFrame


class KeyedQuestion(NamedTuple):
    """What by= makes of a call and its rows: the keys with the rows of each, and which may be fitted together (k,).

    n_without   rows without a key
    """

    call: Call
    spec: ModelSpec
    keyed: _Keyed
    rows: KeyedRows
    together: IntVec
    n_without: int


def question_by(
    frame: pl.DataFrame | pl.LazyFrame, by: str | Sequence[str], call: Call, taken: Collection[str] = ()
) -> KeyedQuestion:
    """The keys of a frame and the way of their fits; raises as `fit_by` does before it fits anything."""
    columns = _by_columns(frame, by, taken)
    if call.known is not None:
        msg = (
            "by= makes models of independent groups of rows, each with levels of its own, and known= relates levels of "
            "them all: fit one key at a time, as in frame.filter(…).glmm.fit(…, known=…)."
        )
        raise ModelError(msg)
    spec, schema = call.spec(), frame.collect_schema()
    resolved = spec.resolve(frozenset(schema.names()))
    require_columns(resolved.columns(), schema.names(), spec.beside_columns)
    refuse_objects(resolved.columns(), schema)
    _refuse_keys_in_terms(resolved, columns)
    data = _read(frame, columns, spec) if isinstance(frame, pl.LazyFrame) else frame.clone()
    data = data.with_columns(column(name).fill_nan(None) for name in columns if schema[name].is_float())
    keyed = _keyed(data, columns)
    _require_keys(data, columns, call.missing)
    rows = KeyedRows.of(keyed.frame, keyed.code, keyed.keys.height)
    call = with_categories(data, call)
    spec = call.spec().resolve(frozenset(data.columns))
    small = np.flatnonzero(np.diff(rows.starts) <= LARGEST)
    alike = len(small) >= FEWEST and not call.start and not call.fixed
    alike = alike and batchable(spec, data.schema) and answers(spec)
    return KeyedQuestion(call, spec, keyed, rows, small if alike else small[:0], data.height - len(keyed.code))


def fit_by(
    frame: pl.DataFrame | pl.LazyFrame,
    by: str | Sequence[str],
    call: Call,
    control: Control,
    taken: Collection[str] = (),
) -> Answers:
    """One model per key of the columns `by`; a key whose fit raises keeps its error, and nothing is said of notes.

    taken   names that a key cannot have, because it will stand beside columns of that name

    Raises what every key would raise, such as a formula that cannot be read, at once.
    """
    began = perf_counter()
    call, spec, keyed, rows, small, n_without = question_by(frame, by, call, taken)
    n_keys = keyed.keys.height
    batches: list[Batch] = []
    with progress.listening(control.progress), one_blas_thread():
        for learned in _learned(spec, keyed, rows, small, call.missing):
            batches += _batches(learned, rows, call, control)
        together = sum(len(batch) for batch in batches)
        each = (perf_counter() - began) / max(together, 1)
        batches = [replace(batch, seconds=each) for batch in batches]
        done = np.concatenate([np.empty(0, np.intp), *(batch.keys for batch in batches)])
        rest = np.setdiff1d(np.arange(n_keys), done)
        singles: dict[int, Outcome] = {}
        with progress.stage("models", len(rest)):
            for k in rest.tolist():
                singles[k] = attempt(rows.part(k), call, control)
                progress.advance()
    failures = [outcome for outcome in singles.values() if isinstance(outcome, GlmmError)]
    if failures and len(failures) == n_keys and len({str(error) for error in failures}) == 1:
        raise failures[0]
    return Answers(keyed.keys, Outcomes(n_keys, tuple(batches), singles), n_without)


def told_by(found: Answers) -> None:
    """One FitWarning with what there is to say of the models."""
    warn_once(collected_notes(found), "Models with notes (collection.status() lists them): ")


def _by_columns(frame: pl.DataFrame | pl.LazyFrame, by: str | Sequence[str], taken: Collection[str]) -> list[str]:
    if not isinstance(by, str | Sequence):
        msg = f"by= takes the name of a column or a list of names, not {type(by).__name__}: make the column first."
        raise ModelError(msg)
    columns = [by] if isinstance(by, str) else list(by)
    schema = frame.collect_schema()
    known = schema.names()
    if not columns:
        msg = "by=[] names no column: name one or several, or leave by= out."
        raise ModelError(msg)
    for name in columns:
        if name not in known:
            msg = f"by={name!r}: the frame has no such column.{suggest(str(name), known)}"
            raise ColumnError(msg)
    refuse_objects(columns, schema)
    if len(set(columns)) < len(columns):
        msg = f"by={by!r} names a column twice."
        raise ModelError(msg)
    for name in columns:
        if name in taken:
            msg = (
                f"by={name!r}: the tables of the fits have a column of this name. Rename the key first, as in "
                f"df.rename({{{name!r}: '{name}_key'}})."
            )
            raise ColumnError(msg)
    return columns


def _refuse_keys_in_terms(spec: ModelSpec, keys: list[str]) -> None:
    """Raise ModelError for a term or a grouping factor that is the same in all rows of a key."""
    for part in spec.predictors:
        fixed = [(term.written, {c for factor in term.factors for c in columns_of(factor)}) for term in part.fixed]
        for text, used in [*fixed, *((term.text, set(term.columns)) for term in part.random)]:
            if used and used <= set(keys):
                named = enumerate_names(sorted(used))
                msg = f"{text} is constant in each model, because by= makes one model per {named}: leave it out."
                raise ModelError(msg)


def _read(frame: pl.LazyFrame, by: list[str], spec: ModelSpec) -> pl.DataFrame:
    """The columns that keys and model use, read once."""
    known = frame.collect_schema().names()
    used = {*by, *spec.resolve(frozenset(known)).columns()}
    return taken(frame.select(column(name) for name in known if name in used))


def _require_keys(data: pl.DataFrame, columns: list[str], missing: Missing) -> None:
    """Raise ColumnError for a null in a key where missing="error"."""
    check_missing(missing)
    where = tuple(name for name in columns if data[name].null_count())
    if where and missing == "error":
        gone = pl.any_horizontal(column(name).is_null() for name in where)
        rows = data.select(pl.arg_where(gone)).to_series()
        dropped_rows(Incomplete(len(rows), data.height, int(rows[0]), where), missing)


def _keyed(data: pl.DataFrame, columns: list[str]) -> _Keyed:
    """Rows with a key, numbered by the sorted keys."""
    dtype, by = data.schema[columns[0]], [as_found(name) for name in columns]
    quick = len(columns) == 1 and dtype.is_integer() and dtype not in BEYOND_INT64
    if quick and data.height and not data[columns[0]].null_count():
        levels = code_integers(data[columns[0]].to_numpy())
        keys = data.select(by)[levels.first]
        return _Keyed(data, levels.codes.astype(np.intp), keys)
    frame = data.drop_nulls(cs.by_name(*columns))
    found = frame.select(by)
    keys = found.unique().sort(by)
    place, on = "__glmm_key", [column(name) for name in columns]
    numbered = found.join(keys.with_row_index(place), on=on, how="left", maintain_order="left", nulls_equal=True)
    return _Keyed(frame, numbered[place].to_numpy().astype(np.intp), keys)


def _learned(spec: ModelSpec, keyed: _Keyed, rows: KeyedRows, keys: IntVec, missing: Missing) -> Iterator[KeyedLearned]:
    """What the keys taught, together; where one of them cannot be learned from, in halves, and few not at all."""
    if len(keys) < FEWEST:
        return
    try:
        if len(keys) == keyed.keys.height:
            found = learn_by_key(spec, keyed.frame, keyed.code, len(keys), missing=missing)
        else:
            places = np.sort(np.concatenate([rows.places(int(k)) for k in keys]))
            code = np.searchsorted(keys, keyed.code[places])
            found = learn_by_key(spec, keyed.frame[places], code, len(keys), missing=missing)
            if found is not None:
                found = found._replace(facts=found.facts.renumbered(keys, places, len(keyed.code)))
    except GlmmError:
        half = len(keys) // 2
        yield from _learned(spec, keyed, rows, keys[:half], missing)
        yield from _learned(spec, keyed, rows, keys[half:], missing)
        return
    if found is not None:
        yield found


def _batches(learned: KeyedLearned, rows: KeyedRows, call: Call, control: Control) -> Iterator[Batch]:
    """The models of what was learned that can be answered for together."""
    spec = learned.facts.recipe.spec
    for estimate, models in estimate_batch(learned.design, spec.family, spec.method, control):
        own = learned.facts.take(models)
        yield Batch(
            own.keys,
            own.recipe,
            estimate,
            own.notes,
            own.dropped,
            own.moments,
            own.paired,
            tuple(of.sizes for of in own.levels),
            own.kept,
            rows,
            control,
            call,
            0.0,
        )


def attempt(part: pl.DataFrame, call: Call, control: Control) -> Outcome:
    """The fit, or the error of this package that stopped it; other exceptions are bugs and pass."""
    try:
        return fit_call(part, call, control, warn=False)
    except GlmmError as error:
        return error.with_traceback(None)
