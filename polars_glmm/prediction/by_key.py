"""Verbs of a fit on rows of many keys: every row is answered by the model of its own key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import polars as pl

from polars_glmm.answer.record import Answer
from polars_glmm.columns.named import columns, nameless
from polars_glmm.errors import ModelError, UnknownLevelError, enumerate_names
from polars_glmm.frames.batches import whole
from polars_glmm.frames.elsewhere import applied, read
from polars_glmm.prediction.columns import INTERNAL, readable_schema, refuse_clash, require_columns
from polars_glmm.prediction.keys import match_key
from polars_glmm.prediction.parameters import Parameters, of_batch, of_fit

if TYPE_CHECKING:
    from polars_glmm.answer.many import Answers
    from polars_glmm.typing import IntVec

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)
_PLACE = f"{INTERNAL}key"
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class KeyedVerb:
    """A verb of a fit, for rows of many keys.

    name      of the public function, for messages
    answer    the verb on rows, from the parameters of their fits
    added     names of the columns it adds for these fits
    remedy    what is said of rows with a key that has no model at all; None: they get nulls
    """

    name: str
    answer: Callable[[pl.DataFrame, Parameters], pl.DataFrame]
    added: Callable[[Parameters], list[str]]
    remedy: str | None


def apply_by_key(frame: Frame, answers: Answers, verb: KeyedVerb) -> Frame:
    """The frame with the verb's columns; null where a key is null or failed, rows and their order kept.

    A LazyFrame stays lazy, its rows passing through one Python function. Raises what the verb raises for the schema,
    and UnknownLevelError (when a lazy plan is collected) for keys that the collection does not have.
    """
    if not isinstance(frame, pl.DataFrame | pl.LazyFrame):
        made: Frame = applied(frame, verb.name, lambda rows: apply_by_key(rows, answers, verb))
        return made
    schema = readable_schema(frame.lazy())
    require_columns(schema, answers.keys.columns, verb.name)
    added = _added(schema, answers, verb)
    if isinstance(frame, pl.DataFrame):
        return _answer(frame, answers, verb, added)
    whole = pl.Schema({**schema, **dict.fromkeys(added, pl.Float64())})
    return frame.map_batches(
        lambda rows: _answer(rows, answers, verb, added),
        schema=whole, predicate_pushdown=False, projection_pushdown=False, slice_pushdown=False,
    )  # fmt: skip


def rows_of_key(frame: pl.DataFrame | pl.LazyFrame, keys: pl.DataFrame, k: int, verb: str) -> pl.LazyFrame:
    """The rows of one key, number k of the keys, without those of any other."""
    lazy = read(frame, verb).lazy()
    schema = readable_schema(lazy)
    require_columns(schema, keys.columns, verb)
    tests = []
    for name in keys.columns:
        pair = match_key(name, schema[name], keys.schema[name])
        tests.append(pair.found == pl.lit(keys.select(pair.learned.alias(name))[name][k : k + 1].first()))
    return lazy.filter(pl.all_horizontal(tests))


def _added(schema: pl.Schema, answers: Answers, verb: KeyedVerb) -> list[str]:
    """New columns of all fits together; the verb is tried on no rows at all, so that it can refuse the schema."""
    names: dict[str, None] = {}
    tried = False
    for fitted in _representatives(answers):
        if not tried:
            verb.answer(pl.DataFrame(schema=schema), fitted)
            tried = True
        names |= dict.fromkeys(verb.added(fitted))
    if not tried:
        msg = f"{verb.name}: none of the models was fitted; collection.status() says why."
        raise ModelError(msg)
    refuse_clash(schema, list(names), "rename these columns first.")
    return list(names)


def _representatives(answers: Answers) -> Iterator[Parameters]:
    """A fit of every kind: those fitted together add the same columns."""
    for batch in answers.outcomes.batches:
        yield of_fit(batch.one(0))
    for fit in answers.outcomes.single_answers().values():
        yield of_fit(fit)


def _answer(frame: pl.DataFrame, answers: Answers, verb: KeyedVerb, added: list[str]) -> pl.DataFrame:
    values = np.full((len(added), frame.height), np.nan)
    missing = np.ones((len(added), frame.height), dtype=np.bool_)
    for rows, fitted in _shares(_places(frame, answers, verb.remedy), answers):
        made = verb.answer(frame[rows], fitted)
        for i, name in enumerate(added):
            if name in made.columns:
                values[i, rows] = made[name].to_numpy()
                missing[i, rows] = nameless(made[name]).is_null().to_numpy()
    return frame.with_columns(
        pl.select(pl.when(~pl.Series(gone)).then(pl.Series(value)).alias(name)).to_series()
        for name, value, gone in zip(added, values, missing, strict=True)
    )


def _shares(place: IntVec, answers: Answers) -> Iterator[tuple[IntVec, Parameters]]:
    """Rows with the parameters that answer for them: those of a batch at once, those of single fits key by key."""
    outcomes, known, keys = answers.outcomes, place >= 0, tuple(answers.keys.columns)
    batch_of = np.where(known, outcomes.batch_of[place], -1)
    for i, batch in enumerate(outcomes.batches):
        rows = np.flatnonzero(batch_of == i)
        if len(rows):
            yield rows, of_batch(batch, outcomes.place_of[place[rows]], keys)
    alone = np.flatnonzero(known & (batch_of < 0))
    alone = alone[np.argsort(place[alone], kind="stable")]
    fits = outcomes.single_answers()
    for rows in np.split(alone, np.flatnonzero(np.diff(place[alone])) + 1):
        if len(rows) and (fit := fits.get(int(place[rows[0]]))) is not None:
            yield rows, of_fit(fit, keys)


def rows_by_key(frame: pl.DataFrame | pl.LazyFrame, answers: Answers) -> Iterator[tuple[int, Answer, pl.DataFrame]]:
    """The number of every key that has a model and rows in the frame, in order, its answer, and those rows."""
    lazy = read(frame, "this").lazy()
    require_columns(readable_schema(lazy), answers.keys.columns, "this")
    rows = whole(lazy)
    place = _places(rows, answers, None)
    order = np.argsort(place, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(place[order])) + 1):
        if not len(own) or place[own[0]] < 0:
            continue
        k = int(place[own[0]])
        answer = answers.outcomes[k]
        if isinstance(answer, Answer):
            yield k, answer, rows[own]


def _places(frame: pl.DataFrame, answers: Answers, remedy: str | None) -> IntVec:
    """The number of each row's key, −1 where it is null or not known; UnknownLevelError where that is an error."""
    keys = answers.keys
    pairs = {name: match_key(name, frame.schema[name], keys.schema[name]) for name in keys.columns}
    found = frame.select(pair.found.alias(name) for name, pair in pairs.items())
    learned = keys.select(pair.learned.alias(name) for name, pair in pairs.items()).with_row_index(_PLACE)
    place = found.join(learned, on=columns(keys.columns), how="left", maintain_order="left")[_PLACE]
    if remedy is not None:
        unknown = frame.select(columns(keys.columns)).filter(place.is_null()).fill_nan(None).drop_nulls()
        if unknown.height:
            shown = unknown.unique(maintain_order=True)
            names = [":".join(map(str, row)) for row in shown.head(_SHOWN).iter_rows()]
            more = ", …" if shown.height > _SHOWN else ""
            msg = (
                f"{enumerate_names(keys.columns)} has {enumerate_names(names)}{more}, for which there is no model "
                f"(there are {keys.height}). {remedy}"
            )
            raise UnknownLevelError(msg)
    return place.fill_null(-1).cast(pl.Int64).to_numpy().astype(np.intp)
