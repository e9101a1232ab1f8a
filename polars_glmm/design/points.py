"""Points of random effects that fade with distance: the distinct coordinates of rows, and a column for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from polars_glmm.columns.coding import Column
from polars_glmm.columns.nodes import Coded, Product, product
from polars_glmm.covariance.fields import distinct
from polars_glmm.covariance.structures import alone, at_points, over_points, plain_name
from polars_glmm.errors import ColumnError, brief
from polars_glmm.frames.limits import require_effects, require_points
from polars_glmm.spec.syntax import Name, quoted
from polars_glmm.spec.terms import RandomTerm

from .ordered import structured
from .predictors import learn_columns
from .variables import Variables


class Designed(NamedTuple):
    """The structure of a random-effects term with what data taught it, and the term's columns."""

    structure: str
    columns: tuple[Column, ...]


def design_of(term: RandomTerm, variables: Variables, n_rows: int | None = None) -> Designed:
    """The columns of a term, of whatever structure; n_rows: where all rows are here. Raises ColumnError and others."""
    if over_points(term.structure):
        return _over_points(term, variables)
    made = tuple(column for part in learn_columns(term.design, variables) for column in part)
    if n_rows is not None and not alone(term.structure):
        require_effects(term.text, len(made), n_rows)
    return Designed(*structured(term, made, variables.categoricals))


class KnownPoints(NamedTuple):
    """Columns of coordinates, and the points that a fit knows."""

    names: tuple[str, ...]
    points: tuple[tuple[float, ...], ...]


def known_points(columns: Sequence[Column]) -> KnownPoints | None:
    """The points whose indicators a term's columns are, in their order; None where these are labels and no numbers."""
    nodes = [column.node.factors if isinstance(column.node, Product) else (column.node,) for column in columns]
    coded = [[node for node in own if isinstance(node, Coded)] for own in nodes]
    if any(node.kind != "number" for own in coded for node in own):
        return None
    points = tuple(tuple(float(node.levels[0]) for node in own) for own in coded)
    return KnownPoints(tuple(node.column for node in coded[0]), points)


def _over_points(term: RandomTerm, variables: Variables) -> Designed:
    """An indicator for every point, in the order of coordinates."""
    names = [factor.name for one in term.design for factor in one.factors if isinstance(factor, Name)]
    for name in names:
        dtype = variables.table.dtype(name)
        if not dtype.is_numeric():
            msg = (
                f"{term.text}: column {name!r} is {brief(dtype)}, and coordinates are numbers."
                f"{variables.refused(name) or ' Make it a number, or group by it: (1 | ' + quoted(name) + ').'}"
            )
            raise ColumnError(msg)
    points = tuple(dict.fromkeys(tuple(map(float, point)) for point in variables.combinations(names)))
    where = names[0] if len(names) == 1 else f"({', '.join(names)})"
    require_points(term.text, where, len(points))
    if len(points) > 1 and not distinct(points):
        msg = (
            f"{term.text}: the distances between points of {where} are no numbers that tell the points apart: "
            "coordinates are too large or differ by too little. Shift and rescale them, or round them."
        )
        raise ColumnError(msg)
    columns = []
    for point in points:
        place = "[" + ", ".join(map(repr, point)) + "]"
        nodes = tuple(Coded(name, "number", (at,), (1.0,)) for name, at in zip(names, point, strict=True))
        columns.append(Column(f"{where}{place}", product(nodes)))
    if len(columns) < 2:
        msg = (
            f"{term.text} has one point, and {plain_name(term.structure)}() is about several. Write (1 | {term.group})."
        )
        raise ColumnError(msg)
    return Designed(at_points(term.structure, points), tuple(columns))
