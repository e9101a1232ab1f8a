"""Conditional modes as small tables, and the left join that brings them to the rows of a frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.covariance.structures import over_points
from polars_glmm.errors import ModelError, counted, enumerate_names, suggest
from polars_glmm.likelihood.parameters.parts import label
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.guards import Check
from polars_glmm.prediction.keys import match_key
from polars_glmm.prediction.members import attach_slots, slot_checks

if TYPE_CHECKING:
    from polars_glmm.columns.nodes import Node
    from polars_glmm.design.recipe import FactorRecipe
    from polars_glmm.likelihood.estimate import Between
    from polars_glmm.prediction.places import TermPlaces
    from polars_glmm.typing import Cube, IntVec, Mat, Random

MODEL = f"{INTERNAL}model"
"""Internal column: which of many fits answers for a row."""


@dataclass(frozen=True, slots=True, eq=False)
class JoinedFactor:
    """One grouping factor inside a plan: its recipe, its estimates, and the names of its internal columns.

    tag            in front of the internal columns
    term_names … mode_slope   as in likelihood.estimate.FactorEstimate, for the levels of all fits
    covariances    one (M, r_t, r_t) per term, fit by fit
    of_level (G,)  the fit of every level, where there are many
    by             the columns that tell fits by key apart
    level_covariance   as in FactorEstimate: of factors of which rows have several levels
    between            as in FactorEstimate, for the levels of all fits
    scored         keys, code and modes of levels that stand in the place of those of the fit
    silent         predictors on which its effects do not count
    places         what makes columns of rows for the effects of a term that stand at places
    """

    recipe: FactorRecipe
    tag: str
    term_names: tuple[str, ...]
    modes: Mat
    mode_covariance: Cube
    mode_slope: Cube | None
    covariances: tuple[Cube, ...]
    of_level: IntVec | None = None
    by: tuple[str, ...] = ()
    scored: pl.LazyFrame | None = None
    level_covariance: Cube | None = None
    between: tuple[Between, ...] = ()
    places: tuple[TermPlaces, ...] = ()
    silent: frozenset[int] = frozenset()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The expressions that the random effects multiply, all terms side by side: r of them."""
        return tuple(column.node for term in self.recipe.terms for column in term.columns)

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names for columns that tell random effects on several parameters apart."""
        effects = zip(self.term_names, self.parameter_of, strict=True)
        return tuple(label(name, on, "_") for name, on in effects)

    @property
    def parameter_of(self) -> tuple[str, ...]:
        """The parameter that each of them is on."""
        return tuple(on for term in self.recipe.terms for on in term.parameter_of)

    @property
    def part_of(self) -> tuple[int, ...]:
        """The predictor that each of them is added to, by its place in the family."""
        return tuple(part for term in self.recipe.terms for part in term.parts or (0,) * len(term.columns))

    @property
    def weights(self) -> tuple[str, ...]:
        """The columns of weights of rows that have several levels."""
        return () if self.recipe.members is None else self.recipe.members.weights

    def on(self, *parts: int) -> list[int]:
        """The random effects that are added to some of the predictors."""
        return [j for j, part in enumerate(self.part_of) if part in parts and part not in self.silent]

    def slope_inputs(self, *parts: int) -> frozenset[str]:
        """Columns that the random effects on some of the predictors multiply."""
        return frozenset[str]().union(*(self.nodes[j].inputs() for j in self.on(*parts)))

    @property
    def level_names(self) -> list[str]:
        return [f"{self.tag}level_{i}" for i in range(len(self.recipe.keys))]

    def mode(self, j: int) -> str:
        return f"{self.tag}mode_{j}"

    @property
    def code(self) -> str:
        return f"{self.tag}code"

    def attach(self, frame: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
        """The frame with code and modes of each row's level beside it; null where it is unseen or a key is null."""
        frame = frame.with_columns(one.weights() for one in self.places)
        if self.scored is not None:
            return self._joined(frame, schema, self.scored, [self.code, *map(self.mode, range(len(self.nodes)))])
        if self.recipe.members is not None:
            return attach_slots(self, frame, schema, self._values())
        return self.join(frame, schema, self._values())

    def _joined(self, frame: pl.LazyFrame, schema: pl.Schema, levels: pl.LazyFrame, values: list[str]) -> pl.LazyFrame:
        """The frame with columns of a table of levels on its rows."""
        known = levels.collect_schema()
        pairs = [match_key(key, schema[key], known[key]) for key in self.recipe.keys]
        found = [pair.found.alias(name) for pair, name in zip(pairs, self.level_names, strict=True)]
        learned = [pair.learned.alias(name) for pair, name in zip(pairs, self.level_names, strict=True)]
        table = levels.select(*learned, *map(pl.col, values))
        return frame.with_columns(found).join(table, on=self.level_names, how="left", maintain_order="left")

    def join(self, frame: pl.LazyFrame, schema: pl.Schema, values: Sequence[pl.Series]) -> pl.LazyFrame:
        """The frame with values of each level, (G,) in code order, on its rows."""
        pairs = [match_key(key, schema[key], dtype) for key, dtype in self.recipe.levels.schema.items()]
        found = [pair.found.alias(name) for pair, name in zip(pairs, self.level_names, strict=True)]
        learned = [pair.learned.alias(name) for pair, name in zip(pairs, self.level_names, strict=True)]
        table, on = self.recipe.levels.lazy().select(learned).with_columns(values), self.level_names
        if self.of_level is not None:
            table, on = table.with_columns(pl.Series(MODEL, self.of_level.astype(np.int32))), [*on, MODEL]
        return frame.with_columns(found).join(table, on=on, how="left", maintain_order="left")

    def _values(self) -> list[pl.Series]:
        """The code and the modes of every level, in code order."""
        r, n_levels = self.modes.shape
        codes = pl.Series(self.code, np.arange(n_levels, dtype=np.int32))
        return [codes, *(pl.Series(self.mode(j), self.modes[j].copy()) for j in range(r))]

    def effect(self, part: int = 0) -> pl.Expr:
        """z'b̂ of one predictor: Σ_j column_j · mode_j, an unseen level counting zero."""
        return balanced_sum(self.nodes[j].to_expr() * pl.col(self.mode(j)).fill_null(0.0) for j in self.on(part))

    def unseen(self) -> pl.Expr:
        return pl.col(self.code).is_null()

    def checks(self, missing: pl.Expr, remedy: str) -> list[Check]:
        """The guards against levels of this factor that the fit does not know."""
        known = f"{counted(self.recipe.levels.height, 'level')}"
        if self.of_level is not None:
            known = f"{known} in {counted(self.covariances[0].shape[0], 'model')}"
        if self.recipe.members is not None:
            return slot_checks(self, missing, known, remedy)
        columns = tuple(dict.fromkeys((*self.by, *self.recipe.keys)))
        return [Check(~missing & self.unseen(), columns, known, remedy)]


    def points(self, *parts: int) -> list[tuple[Node, ...]]:
        """The indicators of the points of each field on some of the predictors: of a new point all are 0."""
        if self.places:
            return []
        found, own = [], set(self.on(*parts))
        start = 0
        for term in self.recipe.terms:
            stop = start + len(term.columns)
            if over_points(term.structure) and own & set(range(start, stop)):
                found.append(self.nodes[start:stop])
            start = stop
        return found

    def new_points(self, missing: pl.Expr, *parts: int) -> list[Check]:
        """The guards against points that the fields of this factor do not know."""
        remedy = (
            'Between points there is predict(), of independent groups and with uncertainty="conditional": drop these '
            'rows, or leave the field out, random="none".'
        )
        return [one.check(missing) for one in self.places if one.part in parts and one.part not in self.silent] + [
            Check(
                ~missing & (balanced_sum([node.to_expr() for node in nodes]) == 0.0),
                tuple(sorted(frozenset[str]().union(*(node.inputs() for node in nodes)))),
                counted(len(nodes), "point"),
                remedy,
            )
            for nodes in self.points(*parts)
        ]


def chosen(factors: tuple[JoinedFactor, ...], random: Random) -> tuple[JoinedFactor, ...]:
    """The grouping factors that `random` asks for: "all", "none", a list of their names, or these by parameter."""
    if isinstance(random, Mapping):
        return _by_parameter(factors, random)
    known = [factor.recipe.name for factor in factors]
    if isinstance(random, str):
        if random == "all":
            return factors
        if random == "none":
            return ()
        hint = f" For one factor write random=[{random!r}]." if random in known else ""
        msg = f"random={random!r} is not known: use 'all', 'none' or a list of grouping factors.{hint}"
        raise ModelError(msg)
    for name in random:
        if name not in known:
            has = f" The model has {enumerate_names(known)}." if known else " The model has none."
            near = suggest(name, known, listed=True)
            msg = f"random= names {name!r}, which is not a grouping factor of this model.{has}{near}"
            raise ModelError(msg)
    return tuple(factor for factor in factors if factor.recipe.name in set(random))


def _by_parameter(
    factors: tuple[JoinedFactor, ...], random: Mapping[str, str | Sequence[str]]
) -> tuple[JoinedFactor, ...]:
    """The factors without effects on parameters that do not ask for them; one that is not named has all."""
    known = list(dict.fromkeys(on for factor in factors for on in factor.parameter_of))
    for name in random:
        if name not in known:
            has = f"There are some on {enumerate_names(known)}." if known else "The model has none."
            near = suggest(name, known, listed=True)
            msg = f"random= names {name!r}, on which there are no random effects. {has}{near}"
            raise ModelError(msg)
    wanted = {on: {one.recipe.name for one in chosen(factors, random.get(on, "all"))} for on in known}
    return tuple(
        replace(
            factor,
            silent=frozenset(
                part
                for part, on in zip(factor.part_of, factor.parameter_of, strict=True)
                if factor.recipe.name not in wanted[on]
            ),
        )
        for factor in factors
    )


def balanced_sum(terms: Iterable[pl.Expr]) -> pl.Expr:
    """Sum as a balanced tree: its depth grows with the logarithm of the number of terms, and so does rounding."""
    level = list(terms)
    if not level:
        return pl.lit(0.0)
    while len(level) > 1:
        paired = [level[i] + level[i + 1] for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(paired) * 2 :]
    return level[0]
