"""Rows in several levels met with data: the levels of all slots together, and what each row has of every level."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from polars_glmm.errors import ColumnError, brief, enumerate_names
from polars_glmm.frames.table import Table, as_float
from polars_glmm.linalg.membership import Membership
from polars_glmm.notes import Note
from polars_glmm.spec.members import Members
from polars_glmm.typing import CodeVec, Mat

from .keys import KeyCoder

_WHOLE = 1e-9
"""Difference of a row's weights from one that is rounding."""


class Sets(NamedTuple):
    """The levels, one column under the name of the factor; of each row its set (n,), and the sets."""

    levels: pl.DataFrame
    codes: CodeVec
    sets: Membership
    notes: tuple[Note, ...]


def learn_sets(members: Members, table: Table) -> Sets:
    """The levels of slots with a weight other than 0, those of all columns together.

    Raises ColumnError, naming columns and row, for columns of several dtypes, weights that are no numbers, and where no
    row has a weight.
    """
    weights, used = _slots(members, table)
    if not len(used):
        msg = f"{members.text}: the weights of all rows are 0, so that no row is in any level."
        raise ColumnError(msg)
    slots = Table({members.name: used})
    found = slots.levels(members.name)
    levels = pl.DataFrame([slots.at(members.name, found.first)])
    return Sets(levels, *_sets(weights, found.codes, found.n_levels), _uneven(members, table, weights))


class KnownSets(NamedTuple):
    """Of each row its set (n,), and the sets."""

    codes: CodeVec
    sets: Membership


def known_sets(members: Members, table: Table, coder: KeyCoder, n_levels: int) -> KnownSets:
    """The same of levels that are known. Raises DataChangedError for one that is not."""
    weights, used = _slots(members, table)
    return _sets(weights, coder.codes({members.name: used}), n_levels)


def _slots(members: Members, table: Table) -> tuple[Mat, pl.Series]:
    """Weights (m, n), and the levels of all slots with one, slot by slot."""
    require_one_dtype(members, table.dtypes)
    weights = slot_weights(members, table)
    stacked = pl.concat([table.series[key].rename(members.name) for key in members.keys])
    return weights, stacked.filter(pl.Series(weights.reshape(-1) != 0.0))


def _sets(weights: Mat, found: CodeVec, n_levels: int) -> KnownSets:
    codes = np.zeros(weights.size, dtype=np.intp)
    codes[weights.reshape(-1) != 0.0] = found
    sets, of_row = Membership.of_slots(codes.reshape(weights.shape), weights, n_levels).distinct()
    return KnownSets(of_row.astype(np.int32), sets)


def require_one_dtype(members: Members, dtypes: dict[str, pl.DataType]) -> None:
    """Raise ColumnError where slots are of several dtypes: they hold levels of one factor."""
    first = members.keys[0]
    for key in members.keys[1:]:
        if dtypes[key] != dtypes[first]:
            msg = (
                f"{members.name} is one grouping factor, and its columns are of different dtypes: {first!r} is "
                f"{brief(dtypes[first])}, {key!r} is {brief(dtypes[key])}. Cast them to one."
            )
            raise ColumnError(msg)


def slot_weights(members: Members, table: Table) -> Mat:
    """The weights of each row in each slot, (m, n): 1/m where none are given, 0 where a slot is not used."""
    n, m = table.n_rows, len(members.keys)
    if not members.weights:
        return np.full((m, n), 1.0 / m)
    weights = np.empty((m, n))
    for own, name in zip(weights, members.weights, strict=True):
        dtype = table.dtypes[name]
        if not dtype.is_numeric():
            msg = f"{members.text}: the column {name!r} of weights is {brief(dtype)}, not numeric. Cast it first."
            raise ColumnError(msg)
        own[:] = np.nan_to_num(as_float(table.series[name]))  # infinite ones are refused with missing values
    return weights


def _uneven(members: Members, table: Table, weights: Mat) -> tuple[Note, ...]:
    """A note where the weights of a row do not sum to one, as they do where a row is shared out."""
    sums = weights.sum(0)
    away = np.abs(sums - 1.0) > _WHOLE
    if not away.any():
        return ()
    i = int(np.argmax(away))
    what = (
        f"{enumerate_names(members.weights)} sum to {sums[i]:.6g} in row {table.row(i)}, counted from 0, and not to "
        f"one in {int(away.sum())} of {len(sums)} rows: they are used as they are."
    )
    return (Note("membership_weights", what, quiet=True),)
