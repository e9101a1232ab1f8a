"""Structures of random effects met with data: what their columns must be, and the places of levels in an order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import gcd
from typing import Any, NamedTuple

import polars as pl

from polars_glmm.columns.coding import Column
from polars_glmm.columns.nodes import Coded
from polars_glmm.covariance.structures import (
    STRUCTURES,
    in_order,
    placed,
    plain_name,
    reduced_rank,
    takes_places,
    whole_distances,
)
from polars_glmm.errors import ColumnError, counted
from polars_glmm.spec.terms import RandomTerm

from .recipe import Categorical


class Structured(NamedTuple):
    """The structure of a term with what data taught it, and the term's columns."""

    structure: str
    columns: tuple[Column, ...]


def structured(term: RandomTerm, columns: Sequence[Column], categoricals: Mapping[str, Categorical]) -> Structured:
    """The structure of a term over its columns. Raises ColumnError where the columns are not what it is for."""
    made = tuple(columns)
    if not in_order(term.structure):
        _require_columns(term, len(made))
        return Structured(term.structure, made)
    nodes = [column.node for column in made]
    levels = [node.levels[0] for node in nodes if isinstance(node, Coded) and len(node.levels) == 1]
    assert len(levels) == len(made)  # the levels of one column, coded in full
    first = nodes[0]
    assert isinstance(first, Coded)
    made = tuple(replace(c, name=f"{first.column}[{c.name.partition(')[')[2]}") for c in made)
    _require_columns(term, len(made))
    places = _places(term, first, levels, categoricals[first.column].dtype)
    if takes_places(term.structure):
        return Structured(placed(term.structure, places), made)
    if any(b - a != 1.0 for a, b in pairwise(places)):
        msg = (
            f"{term.text}: levels of {first.column!r} are not one step apart, and {term.structure}() knows no gaps. "
            "Use ar1() or ou(), or a column that numbers the levels."
        )
        raise ColumnError(msg)
    return Structured(term.structure, made)


def _require_columns(term: RandomTerm, n: int) -> None:
    structure = STRUCTURES[term.structure]
    rank = reduced_rank(term.structure)
    if structure.plural and n < 2:
        name = plain_name(term.structure)
        msg = f"{term.text} has one column, and {name}() is about several. Write ({term.written} | {term.group})."
        raise ColumnError(msg)
    if rank is not None and rank > n:
        msg = f"{term.text} has {counted(n, 'column')}, which have no rank of {rank}: take a smaller d."
        raise ColumnError(msg)


def _places(term: RandomTerm, node: Coded, levels: Sequence[Any], dtype: pl.DataType) -> tuple[float, ...]:
    """Where levels stand: numbers at their values (whole ones in units of their largest common step), the labels of an
    Enum among all of it, others one after the other.
    """
    if node.kind == "number":
        values = [float(value) for value in levels]
        if not whole_distances(term.structure) and takes_places(term.structure):
            return tuple(values)
        if any(value != int(value) for value in values):
            msg = f"{term.text}: {node.column!r} is not whole everywhere; ou() is over times of any distance."
            raise ColumnError(msg)
        step = gcd(*(int(b - a) for a, b in pairwise(values))) or 1
        return tuple((value - values[0]) / step for value in values)
    if takes_places(term.structure) and not whole_distances(term.structure):
        msg = f"{term.text}: {node.column!r} is no number, and {term.structure}() is over times. Use ar1(), or numbers."
        raise ColumnError(msg)
    if isinstance(dtype, pl.Enum):
        known = {label: place for place, label in enumerate(dtype.categories.to_list())}
        return tuple(float(known[level]) for level in levels)
    return tuple(float(place) for place in range(len(levels)))
