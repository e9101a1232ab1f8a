"""FitCollection: one fit per key, and their tables one under the other with the keys in front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.errors import ColumnError, GlmmError, ModelError, enumerate_names, suggest
from polars_glmm.inference.schemas import DISPERSION, FIXEF, GLANCE, RANEF, STATUS, VARCORR, Schema, table
from polars_glmm.notes import Note
from polars_glmm.result.flow import fit_call, warn_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from polars_glmm.control import Control
    from polars_glmm.inference.coefficients import DegreesOfFreedom
    from polars_glmm.result.call import Call
    from polars_glmm.result.fitted import Fit
    from polars_glmm.spec.model import ModelSpec
    from polars_glmm.typing import Scalar

STATES = ("ok", "singular", "failed")
MOST_NAMED = 3
"""Keys named in a warning; the others are counted."""


@dataclass(frozen=True, eq=False, repr=False)
class FitCollection:
    """Fits of one model to the rows of each key.

    keys       key columns under their own names and dtypes, one row per model, sorted
    outcomes   per key the fit, or the error that kept it from being made
    n_unkeyed  rows in no model, because a key is null
    `len` counts keys; iteration gives (key, fit) for those that were fitted; `collection[key]` raises a failed key's
    own error.
    """

    keys: pl.DataFrame
    outcomes: tuple[Fit | GlmmError, ...]
    n_unkeyed: int = 0

    def __len__(self) -> int:
        return len(self.outcomes)

    def __iter__(self) -> Iterator[tuple[Scalar, Fit]]:
        return ((_scalar(row), fit) for row, fit in self._fitted())

    def __getitem__(self, key: Scalar) -> Fit:
        wanted = key if isinstance(key, tuple) else (key,)
        for row, outcome in zip(self.keys.rows(), self.outcomes, strict=True):
            if row == wanted:
                if isinstance(outcome, GlmmError):
                    raise outcome
                return outcome
        names = [str(_scalar(row)) for row in self.keys.rows()]
        msg = f"No model has the key {key!r} of {enumerate_names(self.keys.columns)}.{suggest(str(key), names)}"
        raise KeyError(msg)

    def status(self) -> pl.DataFrame:
        """Key columns, status ("ok", "singular", "failed"), and code and text of the first note or the error."""
        rows = [_status(outcome) for outcome in self.outcomes]
        columns = {name: [row[k] for row in rows] for k, name in enumerate(STATUS)}
        return self.keys.hstack(table(STATUS, columns))

    def fixef(
        self,
        conf_level: float = 0.95,
        df: DegreesOfFreedom = None,
        exponentiate: bool = False,  # noqa: FBT001, FBT002
    ) -> pl.DataFrame:
        """Fixed effects of all fits."""
        return self._stack(FIXEF, lambda fit: fit.fixef(conf_level, df, exponentiate))

    def varcorr(self, conf_level: float = 0.95) -> pl.DataFrame:
        """Variances and correlations of all fits."""
        return self._stack(VARCORR, lambda fit: fit.varcorr(conf_level))

    def dispersion(self, conf_level: float = 0.95) -> pl.DataFrame:
        """Dispersions of all fits."""
        return self._stack(DISPERSION, lambda fit: fit.dispersion(conf_level))

    def ranef(self) -> pl.DataFrame:
        """Conditional modes of all fits, long."""
        return self._stack(RANEF, lambda fit: fit.ranef())

    def glance(self) -> pl.DataFrame:
        """One row per fit."""
        return self._stack(GLANCE, lambda fit: fit.glance())

    def __repr__(self) -> str:
        states = [_status(outcome)[0] for outcome in self.outcomes]
        counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
        by = ", ".join(self.keys.columns)
        formula = next((fit.formula for _, fit in self._fitted()), None)
        return f"FitCollection of {len(self)} models by {by}: {counts or 'empty'}" + (f"\n{formula}" if formula else "")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def _fitted(self) -> Iterator[tuple[tuple[Scalar, ...], Fit]]:
        for row, outcome in zip(self.keys.iter_rows(), self.outcomes, strict=True):
            if not isinstance(outcome, GlmmError):
                yield row, outcome

    def _stack(self, schema: Schema, make: Callable[[Fit], pl.DataFrame]) -> pl.DataFrame:
        """The tables of all fits one under the other, keys in front; a key column that a table also has is refused."""
        clash = [name for name in self.keys.columns if name in schema]
        if clash:
            msg = f"The key column {clash[0]!r} has the name of a column of this table: rename it before fitting."
            raise ColumnError(msg)
        fitted = [k for k, outcome in enumerate(self.outcomes) if not isinstance(outcome, GlmmError)]
        tables = [make(fit) for _, fit in self._fitted()]
        places = np.repeat(np.array(fitted, dtype=np.int64), [part.height for part in tables])
        body = pl.concat([table(schema, {name: [] for name in schema}), *tables])
        return self.keys[places].hstack(body)


def fit_by(frame: pl.DataFrame | pl.LazyFrame, by: str | Sequence[str], call: Call, control: Control) -> FitCollection:
    """One model per key of the columns `by`; a key whose fit raises keeps its error.

    Raises what every key would raise, such as a formula that cannot be read, at once.
    """
    columns = _by_columns(frame, by)
    spec = call.spec()
    data = _read(frame, columns, spec) if isinstance(frame, pl.LazyFrame) else frame
    keyed = data.drop_nulls(columns)
    keys = keyed.select(columns).unique().sort(columns)
    outcomes = tuple(_attempt(part, call, control) for part in _parts(keyed, keys))
    failures = [outcome for outcome in outcomes if isinstance(outcome, GlmmError)]
    if failures and len(failures) == len(outcomes) and len({str(error) for error in failures}) == 1:
        raise failures[0]
    collection = FitCollection(keys, outcomes, data.height - keyed.height)
    warn_once(_collected_notes(collection), "Models with notes (collection.status() lists them): ")
    return collection


def _by_columns(frame: pl.DataFrame | pl.LazyFrame, by: str | Sequence[str]) -> list[str]:
    columns = [by] if isinstance(by, str) else list(by)
    known = frame.collect_schema().names()
    if not columns:
        msg = "by=[] names no column: name one or several, or leave by= out."
        raise ModelError(msg)
    for name in columns:
        if name not in known:
            msg = f"by={name!r}: the frame has no such column.{suggest(str(name), known)}"
            raise ColumnError(msg)
    return columns


def _read(frame: pl.LazyFrame, by: list[str], spec: ModelSpec) -> pl.DataFrame:
    """The columns that keys and model use, read once; a column that is not there is left to the fit to report."""
    known = frame.collect_schema().names()
    used = {*by, *spec.resolve(frozenset(known)).columns()}
    return frame.select(name for name in known if name in used).collect()


def _parts(keyed: pl.DataFrame, keys: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The rows of each key, in the order of `keys`, each in the order of the frame."""
    place = "__glmm_key"
    numbered = keyed.join(keys.with_row_index(place), on=keys.columns, how="left", maintain_order="left")
    for part in numbered.sort(place, maintain_order=True).partition_by(place, maintain_order=True):
        yield part.drop(place)


def _attempt(part: pl.DataFrame, call: Call, control: Control) -> Fit | GlmmError:
    """The fit, or the error of this package that stopped it; other exceptions are bugs and pass."""
    try:
        return fit_call(part, call, control, warn=False)
    except GlmmError as error:
        return error.with_traceback(None)


def _status(outcome: Fit | GlmmError) -> tuple[str, str | None, str | None]:
    if isinstance(outcome, GlmmError):
        return "failed", type(outcome).__name__, str(outcome)
    loud = [note for note in outcome.notes if not note.quiet]
    if outcome.singular:
        loud.sort(key=lambda note: "singular" not in note.code)
    code, text = (loud[0].code, loud[0].text) if loud else (None, None)
    return ("singular" if outcome.singular else "ok"), code, text


def _collected_notes(collection: FitCollection) -> list[Note]:
    """Per code one note that names the first keys it concerns."""
    found: dict[str, list[str]] = {}
    for row, outcome in zip(collection.keys.rows(), collection.outcomes, strict=True):
        if isinstance(outcome, GlmmError):
            codes = {f"failed ({type(outcome).__name__})"}
        else:
            codes = {note.code for note in outcome.notes if not note.quiet}
        for code in codes:
            found.setdefault(code, []).append(str(_scalar(row)))
    notes = [
        Note(code, f"{code}: {len(keys)} ({enumerate_names(keys, limit=MOST_NAMED)}).") for code, keys in found.items()
    ]
    if collection.n_unkeyed:
        notes.append(Note("null_key", f"{collection.n_unkeyed} rows with a null key belong to no model."))
    return notes


def _scalar(row: tuple[Scalar, ...]) -> Scalar:
    """A key of one column is its value, of several a tuple."""
    return row[0] if len(row) == 1 else row
