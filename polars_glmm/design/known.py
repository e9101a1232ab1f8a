"""A recipe met with rows it was not learned from: the columns are the recipe's, the groups may be the rows' own."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns, nameless
from polars_glmm.errors import ColumnError, ModelError, UnknownLevelError, enumerate_names
from polars_glmm.families.base import n_mean
from polars_glmm.frames.levels import combine
from polars_glmm.frames.table import Table, incomplete, require_columns
from polars_glmm.typing import IntVec

from .members import learn_sets
from .reader import Reader
from .recipe import FactorRecipe, Recipe
from .records import Design, Predictor


class KnownRows(NamedTuple):
    """The design of complete rows, kept columns only; the recipe with their levels; their places in the frame (m,)."""

    recipe: Recipe
    design: Design
    places: IntVec


def effects_elsewhere(recipe: Recipe) -> bool:
    """Whether random effects are on other predictors than the first."""
    return any(set(term.parts) - {0} for factor in recipe.factors for term in factor.terms)


def refuse_effects_elsewhere(recipe: Recipe, what: str, *, curves: bool = False) -> None:
    """Raise ModelError for what is of random effects on the mean alone; those of categories are all of it.

    curves   those on all parameters of a curve are on the mean
    """
    family = recipe.spec.family
    if curves and family.curve is not None:
        first = n_mean(family)
        elsewhere = any(part >= first for factor in recipe.factors for term in factor.terms for part in term.parts)
    else:
        elsewhere = effects_elsewhere(recipe) and not family.unordered
    if elsewhere:
        msg = (
            f"{what} is of models whose random effects are on the mean, and on nothing else. Ask the same model "
            "without the others, whose formula has the fixed effects alone, as in 'phi ~ x': fit.update() makes it."
        )
        raise ModelError(msg)


def used_columns(recipe: Recipe) -> tuple[str, ...]:
    """The columns of a frame that the whole model reads, response included."""
    return tuple(recipe.spec.columns())


def read_known(recipe: Recipe, rows: pl.DataFrame, *, own_levels: bool) -> KnownRows:
    """The design of rows, those with a missing value left out.

    own_levels   the groups are those of the rows, instead of those that the recipe knows; levels that know each other
                 are those of their relation

    Raises ColumnError where a column is absent or no row is complete, UnknownLevelError for a label of a fixed effect
    that has no coefficient or a level that known= does not relate, DataChangedError for a group that the recipe should
    know and does not.
    """
    used = used_columns(recipe)
    require_columns(used, rows.columns)
    taken = rows.select(columns(used))
    if own_levels:
        recipe = _with_levels_of(recipe, taken)
    _require_labels(recipe, taken)
    reader = Reader(recipe)
    design = reader.read(taken) if taken.height else None
    if design is None:
        msg = f"No row is complete in {enumerate_names(used)}."
        raise ColumnError(msg)
    kept = [_kept(one, part.kept) for one, part in zip(design.predictors, recipe.predictors, strict=True)]
    design = replace(design, mu=kept[0], further=tuple(kept[1:]))
    return KnownRows(recipe, design, reader.places)


def _kept(predictor: Predictor, kept: tuple[bool, ...]) -> Predictor:
    if all(kept):
        return predictor
    mask = np.array(kept)
    names = tuple(name for name, keep in zip(predictor.names, kept, strict=True) if keep)
    return replace(predictor, x=np.ascontiguousarray(predictor.x[mask]), names=names)


def _with_levels_of(recipe: Recipe, rows: pl.DataFrame) -> Recipe:
    """The recipe with the groups of complete rows, in level order."""
    if not rows.height:
        return recipe
    table = Table({one.name: one for one in rows.iter_columns()})
    mask, _ = incomplete(table, recipe.spec.gaps)
    table = table if mask is None else table.keep(~mask)
    if not table.n_rows:
        return recipe
    factors = []
    for factor in recipe.factors:
        if factor.members is not None:
            factors.append(replace(factor, levels=learn_sets(factor.members, table).levels))
            continue
        levels = combine([table.levels(key) for key in factor.keys])
        if factor.prior is not None:
            _require_related(factor, table.at(factor.keys[0], levels.first))
            factors.append(factor)
            continue
        factors.append(replace(factor, levels=pl.DataFrame([table.at(key, levels.first) for key in factor.keys])))
    return replace(recipe, factors=tuple(factors))


def _require_related(factor: FactorRecipe, there: pl.Series) -> None:
    """Raise UnknownLevelError for levels that their relation does not know."""
    known, there = nameless(factor.levels.to_series()), nameless(there)
    absent = there.cast(known.dtype).filter(~there.cast(known.dtype).is_in(known.implode()))
    if len(absent):
        msg = (
            f"known= relates the levels of {factor.name!r}, and {enumerate_names(absent.to_list())} is none of them: "
            "what its relatives say of it cannot be told. Fit again with its rows of the matrix, update(known=…)."
        )
        raise UnknownLevelError(msg)


def _require_labels(recipe: Recipe, rows: pl.DataFrame) -> None:
    """Raise UnknownLevelError for labels of fixed and random columns that the recipe has no column for."""
    for name, known in recipe.categoricals.items():
        labels = nameless(rows.get_column(known.column)).drop_nulls().unique()
        if known.dtype.is_numeric():
            learned = set(pl.Series(known.levels).cast(known.dtype).cast(pl.Float64).to_list())
            unseen = [value for value in labels.to_list() if float(value) not in learned]
        else:
            unseen = sorted(set(labels.cast(pl.String)) - set(known.levels))
        if unseen:
            msg = (
                f"column {name!r} has {enumerate_names(list(map(str, unseen)))}, which the model has not seen (it "
                f"knows {enumerate_names(known.levels)}). Drop these rows, or fit again with them."
            )
            raise UnknownLevelError(msg)
