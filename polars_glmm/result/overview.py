"""What a collection says of its models at a glance: the state of each, and the reasons of those that failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from polars_glmm.errors import GlmmError, brief, counted
from polars_glmm.inference.cells import visible, width, wrap
from polars_glmm.inference.schemas import STATUS, STATUS_NOTES, table
from polars_glmm.notes import Note

if TYPE_CHECKING:
    from polars_glmm.answer.many import Batch, Outcome, Outcomes
    from polars_glmm.inference.sheet import Sheet
    from polars_glmm.result.collection import FitCollection

STATES = ("ok", "singular", "failed")
WIDTH = 80
MOST_REASONS = 5
"""Reasons that are spelled out, the most frequent first; status() has all."""
MOST_KEYS = 3
LONGEST = 240
"""Characters of a reason: the whole message stands in status()."""
_OWN = re.compile(r"'[^']*'|\d[\d.,e+-]*")
"""What differs between two keys that failed for one reason: names and numbers."""


class KeyState(NamedTuple):
    """One row of status(): the status, the note that matters most or the error, and all notes."""

    status: str
    code: str | None
    text: str | None
    notes: list[dict[str, str]]


class Reason(NamedTuple):
    """Why models failed: the error's name, the first message, and the models it concerns."""

    code: str
    text: str
    places: list[int]


def states(outcomes: Outcomes) -> list[KeyState]:
    """The state of every key."""
    found = [KeyState("", None, None, [])] * len(outcomes)
    for k, outcome in outcomes.singles.items():
        found[k] = _state(outcome)
    for batch in outcomes.batches:
        for place, k in enumerate(batch.keys.tolist()):
            found[k] = _batch_state(batch, place)
    return found


def status_table(outcomes: Outcomes) -> pl.DataFrame:
    """The states as a frame of the columns of status()."""
    found = states(outcomes)
    columns = {name: [getattr(state, name) for state in found] for name in STATUS if name != "notes"}
    return table(STATUS, columns | {"notes": _lists_of_notes([state.notes for state in found])})


def _lists_of_notes(notes: Sequence[Sequence[dict[str, str]]]) -> pl.Series:
    """A column of lists, by way of a flat frame: Polars takes 100 times longer to build it from nested objects."""
    flat = pl.DataFrame(
        {
            "model": [k for k, own in enumerate(notes) for _ in own],
            **{name: [note[name] for own in notes for note in own] for name in ("code", "text")},
        },
        schema={"model": pl.Int64, "code": pl.String, "text": pl.String},
    )
    lists = flat.group_by("model", maintain_order=True).agg(notes=pl.struct("code", "text"))
    every = pl.DataFrame({"model": range(len(notes))}, schema={"model": pl.Int64})
    own = pl.col("notes")
    none = pl.lit([], dtype=STATUS_NOTES)
    joined = every.join(lists, on="model", how="left", maintain_order="left")
    return joined.select(pl.when(own.is_null()).then(none).otherwise(own)).to_series().alias("notes")


def _state(outcome: Outcome) -> KeyState:
    if isinstance(outcome, GlmmError):
        code, text = type(outcome).__name__, str(outcome)
        return KeyState("failed", code, text, [{"code": code, "text": text}])
    return _remark(outcome.notes, singular=outcome.singular)


def _batch_state(batch: Batch, place: int) -> KeyState:
    """The state of one model of a batch."""
    return _remark(batch.notes(place), singular=batch.estimate.singular)


def _remark(notes: Sequence[Note], *, singular: bool) -> KeyState:
    """Code and text of the note that matters most, which is never a quiet one; it stands first among all."""
    ordered = sorted(notes, key=lambda note: (note.quiet, not (singular and "singular" in note.code)))
    code, text = (ordered[0].code, ordered[0].text) if ordered and not ordered[0].quiet else (None, None)
    every = [{"code": note.code, "text": note.text} for note in ordered]
    return KeyState("singular" if singular else "ok", code, text, every)


def reasons(found: Sequence[KeyState]) -> list[Reason]:
    """The failed models by reason, the most frequent first; messages that differ in names and numbers are one."""
    groups: dict[tuple[str, str], Reason] = {}
    for k, state in enumerate(found):
        if state.status == "failed":
            code, text = state.code or "", state.text or ""
            groups.setdefault((code, _OWN.sub("#", text)), Reason(code, text, [])).places.append(k)
    return sorted(groups.values(), key=lambda reason: -len(reason.places))


def as_text(collection: FitCollection) -> str:
    """The number of models by state, the formula, and why models failed."""
    found = states(collection.outcomes)
    lines = [f"FitCollection of {_heading(collection, found)}"]
    if (formula := _formula(collection)) is not None:
        lines.append(formula)
    told = reasons(found)
    if told:
        lines.append("Failed:")
    for reason in told[:MOST_REASONS]:
        text = f"{len(reason.places)} {reason.code} ({_keys(collection, reason)}): {_one_line(reason.text)}"
        lines += wrap(text, WIDTH, " - ", "   ")
    return "\n".join(map(visible, [*lines, *_further(told)]))


def as_sheet(collection: FitCollection) -> Sheet:
    """The same for HTML, the reasons as a table."""
    from polars_glmm.inference.sheet import Sheet, SheetColumn, SheetTable

    found = states(collection.outcomes)
    told = reasons(found)
    shown = told[:MOST_REASONS]
    columns = (
        SheetColumn("Models", tuple(str(len(reason.places)) for reason in shown)),
        SheetColumn("Error", tuple(reason.code for reason in shown), right=False),
        SheetColumn("Keys", tuple(_keys(collection, reason) for reason in shown), right=False),
        SheetColumn("Message", tuple(_one_line(reason.text) for reason in shown), right=False, prose=True),
    )
    tables = (SheetTable("Failed", columns, tuple(_further(told))),) if shown else ()
    facts = [("Formula", formula)] if (formula := _formula(collection)) is not None else []
    return Sheet(f"FitCollection of {_heading(collection, found)}", (tuple(facts),), tables, ())


def _heading(collection: FitCollection, found: Sequence[KeyState]) -> str:
    names = [state.status for state in found]
    counts = ", ".join(f"{names.count(name)} {name}" for name in STATES if name in names)
    return f"{counted(len(found), 'model')} by {', '.join(collection.keys.columns)}: {counts or 'empty'}"


def _formula(collection: FitCollection) -> str | None:
    """The formula of the first model that was fitted."""
    fitted = collection.outcomes.fitted.nonzero()[0]
    first = collection.outcomes[int(fitted[0])] if len(fitted) else None
    return None if first is None or isinstance(first, GlmmError) else first.formula


def _keys(collection: FitCollection, reason: Reason) -> str:
    rows = [collection.keys.row(k) for k in reason.places[:MOST_KEYS]]
    names = [brief(row[0] if len(row) == 1 else row, 40) for row in rows]
    return ", ".join(names) + (", …" if len(reason.places) > MOST_KEYS else "")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if width(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _further(told: Sequence[Reason]) -> list[str]:
    """A line for the reasons that are not spelled out."""
    rest = told[MOST_REASONS:]
    models = sum(len(reason.places) for reason in rest)
    return [f"{models} more failed for {counted(len(rest), 'further reason')}: status() has them."] if rest else []
