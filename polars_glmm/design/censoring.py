"""Responses that are not all seen: how `surv()` and `cens()` are read, and what cannot be a time or its status."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.nodes import Arithmetic, Constant, Elapsed, Interval, Looked, Node, Reference
from polars_glmm.errors import ColumnError, ResponseError, brief, counted
from polars_glmm.families.base import BETWEEN, LEFT, RIGHT, SEEN, Censoring
from polars_glmm.frames.levels import is_label
from polars_glmm.frames.table import Table
from polars_glmm.notes import Note
from polars_glmm.spec.response import Observation, Response
from polars_glmm.spec.syntax import Expression, Name, render
from polars_glmm.typing import BoolVec, Vec

from .recipe import ResponseRecipe
from .variables import Variables

WORDS = {
    "right": RIGHT, "censored": RIGHT, "seen": SEEN, "observed": SEEN, "event": SEEN, "none": SEEN, "left": LEFT,
    "interval": BETWEEN,
}  # fmt: skip
"""What a column of text may call a status."""


class ObservedNodes(NamedTuple):
    """Where y and the arrays of `Censoring` are read from."""

    value: Node
    status: Node
    upper: Node | None
    entry: Node | None
    notes: tuple[Note, ...]


def observed_nodes(response: Response, variables: Variables) -> ObservedNodes:
    """How a response that may be censored is read. Raises ColumnError for a dtype that is no time or no status."""
    seen = response.observation
    assert seen is not None  # asked for such responses
    days: list[str] = []
    value = _time(response.success, seen, variables, days)
    if seen.sight == "interval":
        assert seen.upper is not None
        upper, least = _time(seen.upper, seen, variables, days), 0.0 if seen.times else -np.inf
        made = [Interval(value, upper, field, least) for field in ("value", "status", "upper")]
        return ObservedNodes(made[0], made[1], made[2], None, _in_days(days))
    if seen.sight == "limits":
        status: Node = Constant(SEEN)
        if seen.low is not None:
            low = Constant(seen.low)
            status = Arithmetic("+", status, Arithmetic("<=", value, low))
            value = Arithmetic("pmax", value, low)
        if seen.high is not None:
            high = Constant(seen.high)
            status = Arithmetic("-", status, Arithmetic(">=", value, high))
            value = Arithmetic("pmin", value, high)
        return ObservedNodes(value, status, None, None, ())
    assert seen.status is not None
    status = _status(seen.status, seen, variables)
    if seen.sight == "left":
        status = Arithmetic("-", Constant(LEFT), status)
    upper_node = None if seen.upper is None else _time(seen.upper, seen, variables, days)
    entry = None if seen.entry is None else _time(seen.entry, seen, variables, days)
    return ObservedNodes(value, status, upper_node, entry, _in_days(days))


def _time(node: Expression, seen: Observation, variables: Variables, days: list[str]) -> Node:
    """A number, or a duration in days."""
    if isinstance(node, Name):
        dtype = variables.table.dtype(node.name)
        if isinstance(dtype, pl.Duration):
            days.append(node.name)
            return Elapsed(node.name)
        if dtype.is_temporal():
            msg = (
                f"response {seen.text}: column {node.name!r} is {brief(dtype)}, and a model needs the time since some "
                "origin. Subtract one first, as in (pl.col('end') - pl.col('begin')).dt.total_days()."
            )
            raise ColumnError(msg)
    return variables.arithmetic(node)


def _in_days(columns: list[str]) -> tuple[Note, ...]:
    if not columns:
        return ()
    names = ", ".join(repr(name) for name in dict.fromkeys(columns))
    return (Note("time_unit", f"Durations ({names}) are read in days.", quiet=True),)


def _status(node: Expression, seen: Observation, variables: Variables) -> Node:
    """Numbers, Booleans, comparisons, or words."""
    if isinstance(node, Name) and is_label(variables.table.dtype(node.name)):
        if seen.sight != "coded":
            msg = (
                f"response {seen.text}: the event {node.name!r} is text; write what an event is, as in "
                f"pl.col({node.name!r}) == 'died', or make the column Boolean."
            )
            raise ColumnError(msg)
        return Looked(node.name, "text", tuple(WORDS), tuple(WORDS.values()))
    if isinstance(node, Name) and variables.table.dtype(node.name) == pl.Boolean:
        return Reference(node.name)
    return variables.arithmetic(node)


def read_censoring(recipe: ResponseRecipe, seen: Observation, y: Vec, variables: Variables) -> Censoring:
    """The arrays of all rows. Raises ResponseError for what is no status, no time or no interval, naming the row."""
    assert recipe.status is not None
    text, table = f"response {recipe.name}", variables.table
    judge = _Judge(text, table)
    status = _known_status(np.asarray(table.evaluate(recipe.status), dtype=np.float64), recipe, seen, table)
    upper = None if recipe.upper is None else np.asarray(table.evaluate(recipe.upper), dtype=np.float64)
    entry = None if recipe.entry is None else variables.evaluate(recipe.entry, text)
    if upper is not None:
        judge.refuse((status == BETWEEN) & ~np.isfinite(upper), "is an interval from {:g} without an upper end", y)
        upper = np.where(status == BETWEEN, upper, y)
        judge.refuse(upper < y, "has its ends the wrong way round: {:g} to {:g}", y, upper)
        equal = (status == BETWEEN) & (upper == y)
        status = np.where(equal, SEEN, status)
    if entry is not None:
        judge.refuse(entry < 0.0, "begins at {:g}; a time of entry is not negative", entry)
        judge.refuse(~(entry < y), "ends at {:g}, not after its entry at {:g}", y, entry)
    if seen.times:
        judge.refuse(~(y > 0.0), "is {:g}: a time is above 0", y, more=_ZERO)
    return Censoring(status, upper, entry)


_ZERO = (
    " A unit whose event was there at the start has no time to it: leave it out, or add half of the smallest unit "
    "of time."
)


def _known_status(status: Vec, recipe: ResponseRecipe, seen: Observation, table: Table) -> Vec:
    """Codes (n,). Raises ResponseError for others."""
    if status.ndim == 0:
        status = np.full(table.n_rows, float(status))
    coded = seen.sight == "coded"
    known = [RIGHT, SEEN, LEFT, *([BETWEEN] if recipe.upper is not None else [])]
    allowed = np.isin(status, known if coded or seen.sight in ("interval", "limits") else [known[0], SEEN, LEFT])
    if seen.sight in ("right", "counting"):
        allowed = (status == RIGHT) | (status == SEEN)
    elif seen.sight == "left":
        allowed = (status == LEFT) | (status == SEEN)
    bad = np.flatnonzero(~allowed)
    if not len(bad):
        return status
    i = int(bad[0])
    assert recipe.status is not None
    given = {name: table.series[name][i] for name in sorted(recipe.status.inputs())}
    shown = ", ".join(f"{name} = {value!r}" for name, value in given.items()) or f"{status[i]:g}"
    what = f"response {recipe.name} in row {table.row(i)} ({shown}): "
    if coded:
        what += "a status is 1 (seen), 0 (right-censored), 2 (left-censored)"
        what += ", 3 (interval)" if recipe.upper is not None else ""
        what += " or one of the words 'observed', 'right', 'left', 'interval'."
    else:
        what += "an event is Boolean, or 1 and 0."
        name = "" if seen.status is None else render(seen.status, top=False)
        values = set(np.unique(status[np.isfinite(status)]).tolist())
        if values <= {1.0, 2.0} and seen.sight != "left":
            what += f" Where 2 marks the event write {name} == 2."
    raise ResponseError(what)


class _Judge(NamedTuple):
    """Says which row of a response cannot be."""

    text: str
    table: Table

    def refuse(self, bad: BoolVec, what: str, *values: Vec, more: str = "") -> None:
        """Raise ResponseError for the first row that is bad, with its values in the words."""
        if not bad.any():
            return
        i = int(np.flatnonzero(bad)[0])
        n = counted(int(bad.sum()), "such row")
        said = what.format(*(value[i] for value in values))
        raise ResponseError(f"{self.text} in row {self.table.row(i)} {said} ({n}, counted from 0).{more}")


def refuse_unseen(name: str, statuses: set[float]) -> None:
    """Raise ResponseError where no row says how large the response is, only how large at least, or at most."""
    if statuses <= {RIGHT}:
        msg = (
            f"response {name}: there is no event, every row is right-censored, and the likelihood rises for ever as "
            "times grow. Is the event coded the other way round?"
        )
        raise ResponseError(msg)
    if statuses <= {LEFT}:
        msg = f"response {name}: every row is left-censored, and the likelihood rises for ever as values fall."
        raise ResponseError(msg)
