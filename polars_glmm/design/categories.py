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
    if not isinstance(node, Name):
        msg = f"The response {render(node)} is computed; categories are those of a column: make one, an Enum, first."
        raise ColumnError(msg)
    table, name = variables.table, node.name
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
    if len(found) < 2:
        msg = f"response {name!r} has one category only, {_listed(found)}: there is nothing to model."
        raise ResponseError(msg)
    keys = tuple(float(value) for value in found) if kind == "number" else tuple(found)
    return Looked(name, kind, keys, tuple(map(float, range(len(found))))), notes


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

