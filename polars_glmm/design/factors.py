"""Grouping factors met with data: levels of their keys, and the columns of their random-effects terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from polars_glmm.columns.coding import Column
from polars_glmm.columns.nodes import Coded, Node, Product
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.errors import ColumnError, enumerate_names
from polars_glmm.frames.levels import Levels, combine
from polars_glmm.frames.table import Table
from polars_glmm.notes import Note
from polars_glmm.spec.relation import KnownLevels, Relations
from polars_glmm.spec.terms import RandomTerm

from .members import learn_sets
from .points import design_of
from .predictors import matrix, require_finite
from .recipe import FactorRecipe, TermRecipe
from .records import Factor, Term
from .relation import codes_in, relation_of
from .variables import Variables


class LearnedFactor(NamedTuple):
    """One grouping factor as recipe and as arrays."""

    recipe: FactorRecipe
    factor: Factor
    notes: tuple[Note, ...]


def learn_factors(
    random: Sequence[RandomTerm], variables: Variables, relations: Relations = ()
) -> tuple[LearnedFactor, ...]:
    """One factor for each grouping, in the order of the formula, all its terms side by side."""
    grouped: dict[frozenset[str], list[RandomTerm]] = {}
    for term in random:
        grouped.setdefault(frozenset(term.keys), []).append(term)
    known = dict(relations)
    return tuple(_learn_factor(terms, variables, known.get(terms[0].group)) for terms in grouped.values())


def _learn_factor(asked: Sequence[RandomTerm], variables: Variables, known: KnownLevels | None) -> LearnedFactor:
    table, keys, name = variables.table, asked[0].keys, asked[0].group
    slots = asked[0].members
    met = None if slots is None else learn_sets(slots, table)
    columns: list[Column] = []
    terms: list[Term] = []
    recipes: list[TermRecipe] = []
    notes: list[Note] = []
    for members in correlated(asked):
        structure = members[0].structure
        own: tuple[Column, ...] = ()
        parts: tuple[int, ...] = ()
        named: tuple[str, ...] = ()
        for term in members:
            structure, made = design_of(term, variables, table.n_rows)
            own, parts = own + made, parts + (term.part,) * len(made)
            named += (term.parameter,) * len(made)
            notes += independent_levels(term, made)
        recipe = TermRecipe(structure, own, *((parts, named) if set(named) != {"mu"} else ()))
        names = tuple(column.name for column in own)
        place = len(columns)
        terms.append(Term(place, place + len(own), recipe.structure, names, recipe.parts, recipe.parameters))
        recipes.append(recipe)
        columns += own
    prior, sets = None, None if met is None else met.sets
    if met is not None:
        frame, codes = met.levels, met.codes
        notes += met.notes
    else:
        levels = _levels(keys, table)
        frame, codes = pl.DataFrame([table.at(key, levels.first) for key in keys]), levels.codes
    if known is not None:
        relation = relation_of(name, keys[0], known, frame.schema[keys[0]])
        codes = codes_in(name, relation, frame[keys[0]])[codes]
        frame, prior = relation
    z = matrix(columns, table)
    require_finite(z, columns, variables)
    factor = Factor(name, tuple(terms), z, codes, frame.height, prior, sets)
    return LearnedFactor(FactorRecipe(name, keys, frame, tuple(recipes), prior, slots), factor, tuple(notes))


def correlated(terms: Sequence[RandomTerm]) -> list[list[RandomTerm]]:
    """The terms of one factor, those of one label together: they have one covariance matrix."""
    groups: dict[object, list[RandomTerm]] = {}
    for place, term in enumerate(terms):
        groups.setdefault(term.label or place, []).append(term)
    return list(groups.values())


def _levels(keys: tuple[str, ...], table: Table) -> Levels:
    try:
        return combine([table.levels(key) for key in keys])
    except TypeError as error:  # values that cannot be sorted or hashed
        msg = f"columns {enumerate_names(keys)} cannot be grouped by: {error}"
        raise ColumnError(msg) from error


def _is_categorical(node: Node) -> bool:
    return isinstance(node, Coded) or (isinstance(node, Product) and any(map(_is_categorical, node.factors)))


def independent_levels(term: RandomTerm, columns: Sequence[Column]) -> list[Note]:
    """A note where `||` stands between the levels of a categorical variable."""
    structure = STRUCTURES[term.structure]
    if structure.correlated or structure.bends or not any(_is_categorical(column.node) for column in columns):
        return []
    text = (
        f"{term.text} drops all correlations, also those between the levels of a categorical variable "
        "(lme4 before version 2.0 kept these)."
    )
    return [Note("double_bar_categorical", text, quiet=True)]
