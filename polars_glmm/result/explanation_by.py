"""What a fit by key would do, without doing it: which keys there are, and what becomes of the models of each."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.errors import ModelError, counted, enumerate_names
from polars_glmm.fitting.by_key import KeyedQuestion, question_by
from polars_glmm.fitting.by_key_elsewhere import fewer
from polars_glmm.frames.counted import COUNT
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.size import row_bytes
from polars_glmm.inference.cells import visible
from polars_glmm.inference.schemas import table
from polars_glmm.memory import readable
from polars_glmm.result.explanation import EXPLANATION, Explanation, explain_call, plan_html

if TYPE_CHECKING:
    from polars_glmm.control import Control
    from polars_glmm.spec.call import Call
    from polars_glmm.typing import IntVec


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KeyedExplanation:
    """The plan of fits by key: print it, or take `frame`.

    frame      part ("keys", "rows", "route", "memory"), name, columns, size, and rows of the smallest and largest key
    keys       the keys with `n_rows` and `together`: whether a model may be fitted side by side with others; one that
               turns out to be unusual, as by a column that is constant in it, is fitted alone after all
    largest    the explanation of the key with most rows
    """

    text: str
    frame: pl.DataFrame
    keys: pl.DataFrame
    largest: Explanation

    def __repr__(self) -> str:
        return "\n".join(map(visible, self.text.split("\n")))

    def _repr_html_(self) -> str:
        return plan_html(self.text)


class _KeySizes(NamedTuple):
    """Rows of each key, rows without one, and what becomes of the rows that an engine holds."""

    n_rows: IntVec
    n_without: int
    where: tuple[str, ...] = ()


def explain_by(
    frame: pl.DataFrame | pl.LazyFrame | EngineFrame,
    by: str | Sequence[str],
    call: Call,
    control: Control,
    taken: Collection[str],
) -> KeyedExplanation:
    """Count the keys of a frame and their rows; the question is the one that a fit asks.

    Raises what a fit would raise before it fits anything; ModelError where no row has a key.
    """
    if isinstance(frame, EngineFrame):
        if (few := fewer(frame, by, call, control)) is not None:
            asked = question_by(few.frame, by, replace(call, frequency=COUNT), taken)
            return _explained(asked, _sizes_there(frame, asked, few.frame.height), control)
        asked = question_by(frame.lazy(), by, call, taken)
        where = (f"rows stay with {frame.name} until they are read out, once",)
        return _explained(asked, _sizes(asked)._replace(where=where), control)
    asked = question_by(frame, by, call, taken)
    return _explained(asked, _sizes(asked), control)


def _sizes(asked: KeyedQuestion) -> _KeySizes:
    return _KeySizes(np.diff(asked.rows.starts), asked.n_without)


def _sizes_there(frame: EngineFrame, asked: KeyedQuestion, n_few: int) -> _KeySizes:
    """Rows of the engine's frame, in whose place there are n_few."""
    keys = asked.keyed.keys
    counts = frame.counted(keys.columns, COUNT)
    n_rows = keys.join(counts, on=columns(keys.columns), how="left", maintain_order="left")[COUNT].to_numpy()
    verb = "sums them by key" if asked.spec.family.linear else "counts them"
    where = (f"rows stay with {frame.name}, which {verb}: {counted(n_few, 'row', grouped=True)} in their place",)
    return _KeySizes(n_rows, asked.n_without, where)


def _explained(asked: KeyedQuestion, found: _KeySizes, control: Control) -> KeyedExplanation:
    sizes = found.n_rows
    names = asked.keyed.keys.columns
    if not len(sizes):
        msg = f"by={enumerate_names(names)}: no row has a key."
        raise ModelError(msg)
    together = np.isin(np.arange(len(sizes)), asked.together)
    largest = explain_call(asked.rows.part(int(sizes.argmax())), asked.call, control)
    memory = _memory(asked, int(np.diff(asked.rows.starts)[together].sum()), largest)
    n, n_together = len(sizes), int(together.sum())
    rows: list[tuple[Any, ...]] = [
        ("keys", ", ".join(names), names, n, int(sizes.min()), int(sizes.max())),
        ("rows", "used", [], int(sizes.sum()), None, None),
        ("rows", "dropped", [], found.n_without, None, None),
        ("route", "together", [], n_together, None, None),
        ("route", "singly", [], n - n_together, None, None),
        ("memory", "bytes", [], memory, None, None),
    ]
    keys = asked.keyed.keys.with_columns(n_rows=pl.Series(sizes, dtype=pl.Int64), together=pl.Series(together))
    made = {name: [row[k] for row in rows] for k, name in enumerate(EXPLANATION)}
    return KeyedExplanation(_text(rows, found.where, largest), table(EXPLANATION, made), keys, largest)


def _memory(asked: KeyedQuestion, n_together: int, largest: Explanation) -> int:
    """Bytes of the rows that are read, and of the arrays of models side by side, or of the largest alone."""
    arrays = n_together * row_bytes(asked.spec, asked.keyed.frame.lazy(), most=1 << 62)
    return int(asked.keyed.frame.estimated_size() + max(arrays, largest.plan.cost.memory))


def _text(rows: Sequence[tuple[Any, ...]], where: Sequence[str], largest: Explanation) -> str:
    (_, name, _, n, low, high), used, dropped, together, singly, memory = rows
    own = counted(high, "row", grouped=True) if low == high else f"{low:,} to {counted(high, 'row', grouped=True)}"
    formula, *others = largest.text.splitlines()
    lines = [
        formula,
        f"{counted(n, 'model', grouped=True)}, one for each {name}, of {own}; {used[3]:,} rows in all",
        *([f"{counted(dropped[3], 'row', grouped=True)} without a key left out"] if dropped[3] else []),
        *where,
        f"{together[3]:,} fitted together, {singly[3]:,} one after the other",
        f"cost: source read once, {readable(memory[3])} of memory",
        "the largest of them:",
        *(f"  {line}" for line in others),
    ]
    return "\n".join(lines)
