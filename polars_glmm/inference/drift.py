"""How far the parameters of a model, or of the models of many keys, moved from one fit to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl
import polars.selectors as cs

from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.inference.natural import naturals

if TYPE_CHECKING:
    from polars_glmm.answer.many import Answers
    from polars_glmm.answer.record import Answer
    from polars_glmm.inference.natural import Natural

SCHEMA = {
    "name": pl.String(),
    "parameter": pl.String(),
    "group": pl.String(),
    "quantity": pl.String(),
    "old": pl.Float64(),
    "new": pl.Float64(),
    "change": pl.Float64(),
    "std_error_old": pl.Float64(),
    "std_error_new": pl.Float64(),
    "in_std_errors": pl.Float64(),
}


def drift(old: Answer, new: Answer) -> pl.DataFrame:
    """One row for every natural parameter of either fit, in the order of the new one; see `polars_glmm.drift`."""
    return _table(_rows(old, new), {})


def drift_by(old: Answers, new: Answers) -> pl.DataFrame:
    """The same for every key that either collection has a model of, after the columns of the key.

    Raises ModelError for keys of other columns, or none in common.
    """
    names = new.keys.columns
    if old.keys.columns != names:
        one, two = (enumerate_names(keys.columns) for keys in (old.keys, new.keys))
        raise ModelError(f"The collections have different keys, {one} and {two}: fit both with the same by=.")
    if clash := [name for name in names if name in SCHEMA]:
        raise ModelError(f"The table of drift has a column {clash[0]!r} of its own: rename the key.")
    before, now = ({found.keys.row(k): fit for k, fit in found.numbered()} for found in (old, new))
    if not before.keys() & now.keys():
        raise ModelError(f"No key of {enumerate_names(names)} has a model in both collections.")
    both = dict.fromkeys([*now, *before])
    return _table([(*key, *row) for key in both for row in _rows(before.get(key), now.get(key))], new.keys.schema)


def _table(rows: list[tuple[object, ...]], keys: Mapping[str, pl.DataType]) -> pl.DataFrame:
    made = pl.DataFrame(rows, schema={**keys, **SCHEMA}, orient="row")
    return made.with_columns((cs.float() & cs.by_name(*SCHEMA)).fill_nan(None))


def _rows(old: Answer | None, new: Answer | None) -> list[tuple[object, ...]]:
    """Parameters of one fit or of both. Raises ModelError for fits of different families."""
    kinds = {f"{fit.spec.family.name} ({fit.spec.family.link.name} link)" for fit in (old, new) if fit is not None}
    if len(kinds) > 1:
        one, two = sorted(kinds)
        msg = f"The fits are of different families, {one} and {two}: their parameters are no amounts of one thing."
        raise ModelError(msg)
    before, now = ({} if fit is None else {one.name: one for one in naturals(fit)} for fit in (old, new))
    return [_row(name, before.get(name), now.get(name)) for name in dict.fromkeys([*now, *before])]


def _row(name: str, old: Natural | None, new: Natural | None) -> tuple[object, ...]:
    known = new or old
    assert known is not None  # a name comes from one of them
    a, b = (None if one is None else one.estimate for one in (old, new))
    errors = [None if one is None else one.std_error for one in (old, new)]
    change = None if a is None or b is None else b - a
    size = None if change is None or not errors[0] else change / errors[0]
    return (name, known.parameter, known.group, known.quantity, a, b, change, *errors, size)
