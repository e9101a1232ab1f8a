"""Whether two fits that keep their rows have the same ones: exactly, where sums over the rows only say so nearly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.columns.named import column, columns

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def rows_differ(one: Answer, other: Answer) -> bool:
    """True only where both fits keep rows, and the responses differ row by row and the rows as sets.

    The columns compared are those of the response and, for rows in another order, those of either model that both
    frames have: a response exchanged between rows that differ in some of these is another response.
    """
    if one.rows is None or other.rows is None or one.rows.height != other.rows.height:
        return False
    response = [*dict.fromkeys(name for fit in (one, other) for name in _response(fit))]
    shared = set(one.rows.columns) & set(other.rows.columns)
    if not shared.issuperset(response):
        return False
    first, second = used_rows(one), used_rows(other)
    if first.height != second.height or _plain(first, response).equals(_plain(second, response)):
        return False
    names = [*response, *sorted((shared & {*one.spec.columns(), *other.spec.columns()}) - set(response))]
    return not _hashes(first, names).equals(_hashes(second, names))


def _response(fit: Answer) -> list[str]:
    """The columns that the response and its weights are read from."""
    spec = fit.spec
    extra = [name for name in (spec.trials, spec.frequency, spec.precision) if name is not None]
    return [*spec.response.columns(), *extra]


def used_rows(fit: Answer) -> pl.DataFrame:
    """The rows that the model uses."""
    assert fit.rows is not None  # asked only where there are rows
    return fit.rows if fit.kept is None else fit.rows.filter(pl.Series(fit.kept))


def _plain(rows: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """Columns with one dtype for numbers and one for labels, so that the same values compare as the same."""
    numbers = [name for name in names if rows.schema[name].is_numeric() or rows.schema[name] == pl.Boolean]
    labels = [name for name in names if rows.schema[name] in (pl.Categorical, pl.Enum, pl.String)]
    return rows.select(columns(names)).with_columns(
        *(column(name).cast(pl.Float64) for name in numbers), *(column(name).cast(pl.String) for name in labels)
    )


def _hashes(rows: pl.DataFrame, names: list[str]) -> pl.Series:
    """One number for each row, sorted."""
    return _plain(rows, names).hash_rows(seed=1).sort()
