"""What is said of rows that cannot be used, however they were read."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from polars_glmm.errors import ColumnError, ModelError, counted, dropped_text, enumerate_names
from polars_glmm.notes import Note

NO_WEIGHT = "No row is left: frequency, precision or trials is 0 in all of them."


class Incomplete(NamedTuple):
    """n of n_rows rows have a missing value, the first of them row `first`; `where` names the columns.

    first   None where rows have no numbers, as those of an engine;  empty: columns that hold nothing else
    """

    n: int
    n_rows: int
    first: int | None
    where: tuple[str, ...]
    empty: tuple[str, ...] = ()


def check_missing(missing: str) -> None:
    """Raise ModelError for a value that missing= does not have."""
    if missing not in ("drop", "error"):
        msg = f"missing={missing!r}: use 'drop' or 'error'."
        raise ModelError(msg)


def nothing_but_null(*names: str) -> str:
    """That no row is complete because of some columns."""
    return f"Every row has a missing value: column {enumerate_names(names)} holds nothing else."


def dropped_rows(found: Incomplete, missing: str, *, all_may_go: bool = False) -> Note:
    """The note about rows left out. Raises ColumnError where missing="error", or none is left (but all_may_go)."""
    n, n_rows, first, where, empty = found
    if n == n_rows and not all_may_go:
        raise ColumnError(
            nothing_but_null(*empty) if empty else f"Every row has a missing value: in {enumerate_names(where)}."
        )
    if missing == "error":
        at = "" if first is None else f" (the first is row {first}, counted from 0)"
        msg = (
            f"{counted(n, 'row', 'has', 'have')} a missing value in {enumerate_names(where)}{at}. "
            "missing='drop' leaves them out."
        )
        raise ColumnError(msg)
    what = f"{dropped_text(n, n_rows)}: missing values in {enumerate_names(where)}."
    return Note("rows_dropped", what, quiet=True)


MOST_OF_A_ROW = 1e12
"""A frequency up to here leaves digits for the log-likelihood, and the sum of all is a whole number."""


def refuse_weight(argument: str, name: str, value: float, row: int | None = None) -> NoReturn:
    """Raise ColumnError for a frequency or precision that is none; row: None where rows have no numbers."""
    whole = f"a whole number of at least 0 and at most {MOST_OF_A_ROW:.0e}"
    rule = whole if argument == "frequency" else "not negative"
    where = "a row" if row is None else f"row {row}"
    msg = f"{argument}={name!r} is {value:g} in {where}; it must be {rule}."
    raise ColumnError(msg)
