"""How far the parameters of a model moved from one fit to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import polars.selectors as cs

from polars_glmm.errors import ModelError
from polars_glmm.inference.natural import naturals

if TYPE_CHECKING:
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
    one, two = (f"{fit.spec.family.name} ({fit.spec.family.link.name} link)" for fit in (old, new))
    if one != two:
        msg = f"The fits are of different families, {one} and {two}: their parameters are no amounts of one thing."
        raise ModelError(msg)
    before, now = ({one.name: one for one in naturals(fit)} for fit in (old, new))
    return pl.DataFrame(
        [_row(name, before.get(name), now.get(name)) for name in dict.fromkeys([*now, *before])],
        schema=SCHEMA,
        orient="row",
    ).with_columns(cs.float().fill_nan(None))


def _row(name: str, old: Natural | None, new: Natural | None) -> tuple[object, ...]:
    known = new or old
    assert known is not None  # a name comes from one of them
    a, b = (None if one is None else one.estimate for one in (old, new))
    errors = [None if one is None else one.std_error for one in (old, new)]
    change = None if a is None or b is None else b - a
    size = None if change is None or not errors[0] else change / errors[0]
    return (name, known.parameter, known.group, known.quantity, a, b, change, *errors, size)
