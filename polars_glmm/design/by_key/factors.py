"""Grouping factors whose levels are numbered key by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl

from polars_glmm.design.by_key.records import KeyedFactor
from polars_glmm.design.factors import LearnedFactor
from polars_glmm.design.recipe import FactorRecipe
from polars_glmm.frames.levels import Levels, code_integers
from polars_glmm.frames.table import Table
from polars_glmm.typing import BoolVec, IntVec, Mat


class LevelledFactor(NamedTuple):
    """A factor and its place in the formula, with the levels of each key numbered key by key in level order."""

    place: int
    learned: LearnedFactor
    levels: Levels

    def of(self, order: IntVec, code: IntVec, keys: IntVec) -> KeyedFactor:
        """The factor in rows of some keys, in an order."""
        there = self._of_keys(code, keys)
        counts = np.bincount(code[self.levels.first][there], minlength=keys[-1] + 1)[keys]
        number = np.cumsum(there) - 1
        factor = self.learned.factor
        codes = number[self.levels.codes[order]]
        return KeyedFactor(factor.name, self.place, factor.terms, taken(factor.z, order), codes, counts)

    def recipe(self, table: Table, code: IntVec, keys: IntVec) -> FactorRecipe:
        """The recipe with the levels of some keys, one after the other."""
        rows, recipe = self.levels.first[self._of_keys(code, keys)], self.learned.recipe
        return replace(recipe, levels=pl.DataFrame([table.at(key, rows) for key in recipe.keys]))

    def _of_keys(self, code: IntVec, keys: IntVec) -> BoolVec:
        """Marks of the levels that are of some keys."""
        return np.isin(code[self.levels.first], keys)


def by_size(learned: Sequence[LearnedFactor], code: IntVec) -> list[LevelledFactor]:
    """The factors in the order of elimination: most levels first."""
    factors = [
        LevelledFactor(place, one, code_integers(code * one.factor.n_levels + one.factor.codes))
        for place, one in enumerate(learned)
    ]
    return sorted(factors, key=lambda one: -one.levels.n_levels)


def taken(v: Mat, order: IntVec) -> Mat:
    """Rows in an order; nothing is copied where they are in it already."""
    n = v.shape[-1]
    if len(order) == n and order[0] == 0 and order[-1] == n - 1 and bool((np.diff(order) == 1).all()):
        return v
    return np.take(v, order, axis=-1)
