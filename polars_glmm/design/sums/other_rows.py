"""A recipe met with other rows of the same kind: the same columns and constants, groups of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from polars_glmm.columns.coding import Column
from polars_glmm.columns.nodes import Node
from polars_glmm.design.recipe import Recipe
from polars_glmm.design.sums.outline import Outline
from polars_glmm.errors import ColumnError, ModelError, UnknownLevelError, enumerate_names, suggest
from polars_glmm.frames.facts import Fact
from polars_glmm.frames.levels import is_label
from polars_glmm.frames.source import Source


def outline_like(recipe: Recipe, source: Source) -> Outline:
    """The outline of `recipe` for a source. Raises UnknownLevelError for labels of fixed factors it does not know."""
    _require_dtypes(recipe, source)
    facts: list[Fact] = []
    for name, known in recipe.categoricals.items():
        counted = source.answer(source.labels(name))
        facts.append(source.fact_of_labels(counted, name))
        unseen = sorted(set(counted[name].cast(pl.String)) - set(known.levels))
        if unseen:
            msg = (
                f"column {name!r} has the level {enumerate_names(unseen)}, which the recipe does not know. Name all "
                f"levels when the first part is made: levels={{{name!r}: [...]}}."
            )
            raise UnknownLevelError(msg)
    factors = tuple(
        replace(factor, levels=pl.DataFrame(schema={key: source.dtypes[key] for key in factor.keys}))
        for factor in recipe.factors
    )
    mu = recipe.predictor("mu")
    checked: dict[Node, str] = {recipe.response.success: f"response {recipe.response.name}"}
    for column in _columns(recipe):
        checked.setdefault(column.node, column.name)
    if mu.offset is not None:
        checked.setdefault(mu.offset, "the offset")
    every = replace(mu, kept=(True,) * len(mu.columns))
    met = replace(recipe, factors=factors, predictors=(every,))
    return Outline(met, (), tuple(checked.items()), len(facts), tuple(facts))


def _require_dtypes(recipe: Recipe, source: Source) -> None:
    """Raise ColumnError for a column that does not mean here what it meant where the recipe was made."""
    nodes = [recipe.response.success, *(column.node for column in _columns(recipe))]
    offset = recipe.predictor("mu").offset
    used = {name for node in [*nodes, *([] if offset is None else [offset])] for name in node.inputs()}
    used |= {name for name in (recipe.spec.frequency, recipe.spec.precision) if name is not None}
    for name in sorted(used):
        found, known = source.dtypes[name], recipe.categoricals.get(name)
        numeric = known is None or known.dtype.is_numeric()
        fits = found.is_numeric() or (known is None and found == pl.Boolean)
        if not numeric and known is not None:
            fits = found == known.dtype or (is_label(found) and is_label(known.dtype))
        if not fits:
            what = "a number" if numeric or known is None else str(known.dtype)
            msg = f"column {name!r} is {found} here, and {what} in the recipe of like=. Cast it first."
            raise ColumnError(msg)


def check_declared(declared: object, names: Sequence[str]) -> None:
    """Raise ModelError for levels= that are no lists of labels by column, ColumnError for a column there is not."""
    if declared is None:
        return
    if not isinstance(declared, Mapping) or not all(map(_is_list_of_labels, declared.values())):
        msg = "levels= takes a dict from columns to lists of their labels, as levels={'country': ['DE', 'FR']}."
        raise ModelError(msg)
    absent = [str(name) for name in declared if name not in names]
    if absent:
        msg = f"levels= names {enumerate_names(absent)}, which the frame does not have.{suggest(absent[0], names)}"
        raise ColumnError(msg)


def _is_list_of_labels(labels: object) -> bool:
    return isinstance(labels, Sequence) and not isinstance(labels, str) and None not in labels


def require_like(one: Recipe, other: Recipe) -> None:
    """Raise ModelError with the reason where two recipes differ in more than the levels of their groups."""
    remedy = "Make every part from the first one's recipe: products(frame, like=first)."
    for what, a, b in (
        ("formula", one.spec.formula, other.spec.formula),
        *((f"{name}=", getattr(one.spec, name), getattr(other.spec, name)) for name in ("frequency", "precision")),
        ("response", one.response.success, other.response.success),
        ("offset", one.predictor("mu").offset, other.predictor("mu").offset),
    ):
        if a != b:
            msg = f"The parts differ in their {what}: {a} and {b}. Parts of one model answer one question."
            raise ModelError(msg)
    for name, known in one.categoricals.items():
        if (unlike := other.categoricals[name].levels) != known.levels:
            msg = (
                f"column {name!r} has the levels {enumerate_names(known.levels)} in one part and "
                f"{enumerate_names(unlike)} in the other, so its columns differ. {remedy}"
            )
            raise ModelError(msg)
    for a, b in zip(_columns(one), _columns(other), strict=True):
        if a != b:
            msg = f"column {a.name!r} was learned with other constants in the two parts. {remedy}"
            raise ModelError(msg)


def common_levels(one: pl.DataFrame, other: pl.DataFrame, name: str) -> pl.DataFrame:
    """The levels of both parts; labels of other kinds, or of Enums that list others, as text.

    Raises ModelError for keys that cannot stand in one column.
    """
    if not all(map(_joinable, one.dtypes, other.dtypes)):
        msg = (
            f"group {name!r} has keys of {_dtypes(one)} in one part and of {_dtypes(other)} in the other. "
            "Cast the column before making the parts."
        )
        raise ModelError(msg)
    unlike = {key: pl.String for key, a in one.schema.items() if is_label(a) and a != other.schema[key]}
    return pl.concat([one.cast(unlike), other.cast(unlike)], how="vertical_relaxed").unique()  # type: ignore[arg-type]


def _joinable(one: pl.DataType, other: pl.DataType) -> bool:
    """Equal, both whole numbers, both floats, or both labels."""
    if one == other or (one.is_integer() and other.is_integer()) or (one.is_float() and other.is_float()):
        return True
    return is_label(one) and is_label(other)


def _dtypes(levels: pl.DataFrame) -> str:
    return enumerate_names([str(dtype) for dtype in levels.dtypes])


def _columns(recipe: Recipe) -> Sequence[Column]:
    """All columns, fixed and random."""
    random = [column for factor in recipe.factors for term in factor.terms for column in term.columns]
    return [*recipe.predictor("mu").columns, *random]


Declared = Mapping[str, Sequence[Any]]
"""Labels of categorical columns that some part has."""
