"""A response of categories: which there are, in which order, and the number of each."""

from __future__ import annotations

from typing import Any, Literal

import polars as pl

from polars_glmm.columns.nodes import Looked
from polars_glmm.errors import ColumnError, ResponseError, brief, enumerate_names
from polars_glmm.frames.table import Table
from polars_glmm.notes import Note
from polars_glmm.spec.syntax import Expression, Name, render

from .variables import Variables

_MOST = 200
"""Categories of whole numbers: more of them are a measurement."""


def category_node(node: Expression, variables: Variables) -> tuple[Looked, tuple[Note, ...]]:
    """The number of the row's category, from 0 in their order. Raises ColumnError, ResponseError for what has none."""
    name, table = column_of(node), variables.table
    dtype = table.dtype(name)
    notes: tuple[Note, ...] = ()
    kind: Literal["text", "boolean", "number"] = "text"
    if dtype.is_integer():
        kind = "number"
        found = categories(name, table)
        if len(found) > _MOST:
            msg = f"response {name!r} has {len(found)} whole numbers; more than {_MOST} are no categories."
            raise ColumnError(msg)
        what = f"The whole numbers of the response {name!r} are categories in their order: {_listed(found)}."
        notes = (Note("response_categories", what, quiet=True),)
    elif dtype == pl.Boolean:
        kind = "boolean"
        found = categories(name, table)
    elif isinstance(dtype, pl.Enum):
        found = categories(name, table)
        seen = set(table.values(name))
        empty = [label for label in found if label not in seen]
        if empty:
            one = len(empty) == 1
            msg = (
                f"response {name!r} has no row in the {'category' if one else 'categories'} {enumerate_names(empty)}, "
                f"whose {'probability' if one else 'probabilities'} cannot be estimated. Leave "
                f"{'it' if one else 'them'} out of the Enum, as in pl.col({name!r}).cast(pl.Enum([…]))."
            )
            raise ResponseError(msg)
    else:
        msg = (
            f"response {name!r} is {brief(dtype)}: the order of its categories is not known. Make it an Enum with the "
            f"categories in order, pl.col({name!r}).cast(pl.Enum([…]))."
        )
        raise ColumnError(msg)
    _refuse_one(name, found)
    return _numbered(name, kind, found), notes


def column_of(node: Expression) -> str:
    """The column of a response of categories. Raises ColumnError for one that is computed."""
    if not isinstance(node, Name):
        msg = f"The response {render(node)} is computed; categories are those of a column: make one, an Enum, first."
        raise ColumnError(msg)
    return node.name


def unordered_labels(name: str, dtype: pl.DataType, seen: list[Any]) -> tuple[str, ...]:
    """Labels of the categories of a response that rows have: of an Enum in its order, else sorted.

    Raises ColumnError, ResponseError for a column that is no response of unordered categories.
    """
    kinds = dtype.is_integer() or dtype in (pl.Boolean, pl.String, pl.Enum, pl.Categorical)
    if not kinds:
        msg = (
            f"response {name!r} is {brief(dtype)}; unordered categories are a String, Categorical, Enum, Boolean or "
            f"whole numbers: cast it first, as in pl.col({name!r}).cast(pl.String)."
        )
        raise ColumnError(msg)
    if len(seen) > _MOST:
        msg = f"response {name!r} has {len(seen):,} different values; more than {_MOST} are no categories."
        raise ColumnError(msg)
    found = [one for one in dtype.categories if one in set(seen)] if isinstance(dtype, pl.Enum) else sorted(seen)
    _refuse_one(name, found)
    return tuple(map(label_of, found))


def unordered_node(
    node: Expression, variables: Variables, labels: tuple[str, ...]
) -> tuple[Looked, tuple[Note, ...]]:
    """The number of the row's category among labels that are known, the baseline first.

    Raises ResponseError for a category without rows.
    """
    name, table = column_of(node), variables.table
    dtype = table.dtype(name)
    every, seen = categories(name, table), set(table.values(name))
    of_label = {label_of(value): value for value in every}
    empty = [label for label in labels if of_label.get(label) not in seen]
    if empty:
        msg = (
            f"response {name!r} has no row in {enumerate_names(empty)} here, whose log odds have no finite estimate. "
            "Leave these rows out, or join categories first."
        )
        raise ResponseError(msg)
    notes = []
    unused = [label for label in of_label if label not in set(labels)]
    if unused:
        what = f"No row of the response {name!r} is {enumerate_names(unused, 'or')}: the model has no such category."
        notes.append(Note("response_categories", what))
    what = f"Categories of the response {name!r} are compared with the baseline {labels[0]!r}."
    notes.append(Note("response_categories", what, quiet=True))
    kind: Literal["text", "boolean", "number"] = (
        "number" if dtype.is_integer() else "boolean" if dtype == pl.Boolean else "text"
    )
    return _numbered(name, kind, [of_label[label] for label in labels]), tuple(notes)


def _numbered(name: str, kind: Literal["text", "boolean", "number"], values: list[Any]) -> Looked:
    keys = tuple(float(value) for value in values) if kind == "number" else tuple(values)
    return Looked(name, kind, keys, tuple(map(float, range(len(values)))))


def _refuse_one(name: str, found: list[Any]) -> None:
    if len(found) < 2:
        msg = f"response {name!r} has one category only, {_listed(found)}: there is nothing to model."
        raise ResponseError(msg)


def categories(name: str, table: Table) -> list[Any]:
    """The categories of a response column in their order, as values of its dtype."""
    dtype = table.dtype(name)
    if isinstance(dtype, pl.Enum):
        labels: list[Any] = dtype.categories.to_list()
        return labels
    return sorted(table.values(name))


def label_of(value: Any) -> str:
    """What a category is called."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(values: list[Any]) -> str:
    return enumerate_names([label_of(value) for value in values])

