"""A question met with rows that will be elsewhere, on disk or with workers: what queries and moments teach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.columns.nodes import Arithmetic, Node
from polars_glmm.design.apart import Apart
from polars_glmm.design.curved import kept_by_query, lost_to_rounding, spread_by_query
from polars_glmm.design.distinct import AnyApart, keep_columns
from polars_glmm.design.predictors import (
    centred_columns,
    dropped_columns,
    in_reach,
    offset_node,
    predictor_columns,
    refuse_equal_names,
)
from polars_glmm.design.rank import Judged, judge_moments
from polars_glmm.design.recipe import FactorRecipe, PredictorRecipe, Recipe, ResponseRecipe
from polars_glmm.design.response import all_integers, input_nodes, observed_recipe, response_recipe, success_node
from polars_glmm.design.sums.outline import Known, LazyVariables, factors_of, group_factors
from polars_glmm.design.text_numbers import text_notes
from polars_glmm.errors import ColumnError, ResourceError, ResponseError, counted, enumerate_names
from polars_glmm.frames.facts import Facts, summed
from polars_glmm.frames.levels import combine
from polars_glmm.frames.source import Source
from polars_glmm.frames.table import Table
from polars_glmm.memory import readable
from polars_glmm.notes import Note
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.syntax import Expression, Name
from polars_glmm.spec.terms import PredictorTerms as PredictorSpec
from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

_COUNT = "__glmm_count"
_WORKING = 20
"""Numbers a row takes while its group is worked on, besides its columns: densities, derivatives and their products."""


class ApartLearned(NamedTuple):
    """Recipe and design of rows that are elsewhere; n_dropped had missing values. Which rows are used is not kept."""

    recipe: Recipe
    design: Apart
    notes: tuple[Note, ...]
    n_dropped: int
    kept: None = None


@dataclass(frozen=True, slots=True)
class _Predictor:
    """One predictor with all columns of its formula, and which of them the rank rule centres."""

    recipe: PredictorRecipe
    centred: BoolVec
    notes: tuple[Note, ...] = ()


class Inquired(NamedTuple):
    """What queries teach of a model: its recipe before columns are dropped, the rows of every level by factor."""

    recipe: Recipe
    centred: tuple[BoolVec, ...]
    level_rows: tuple[IntVec, ...]
    notes: tuple[Note, ...]
    later: tuple[Note, ...]
    source: Source
    facts: Facts = ()

    def found_again(self) -> Source:
        """The source that finds again what was learned of it."""
        return self.source.finding(self.facts, ())


def asked_of(spec: ModelSpec, source: Source) -> Inquired:
    """What a source teaches of a resolved model by queries, wherever its rows are."""
    variables = LazyVariables(Known(source))
    variables.ask([*factors_of(spec), *_told_by_rows(spec, source.dtypes)])
    response, notes = _response(spec, variables)
    made = [_predictor(part, spec, variables) for part in spec.predictors]
    factors, later = group_factors(spec, variables)
    counted = [_levels(factor, source) for factor in factors]
    recipe = Recipe(
        spec=spec,
        response=response,
        predictors=tuple(part.recipe for part in made),
        factors=tuple(factor for factor, _ in counted),
        categoricals=variables.categoricals,
        inputs=input_nodes(spec, variables),
    )
    notes += tuple(note for part in made for note in part.notes)
    notes += text_notes(spec, variables.categoricals)
    rows = tuple(rows for _, rows in counted)
    centred = tuple(part.centred for part in made)
    return Inquired(recipe, centred, rows, notes, later, source, tuple(variables.facts))


def settled(asked: Inquired, design: AnyApart) -> tuple[Recipe, AnyApart, tuple[Note, ...]]:
    """The recipe and the design with the columns that are no combination of others, and what there is to say."""
    before, notes = asked.recipe.predictors, asked.notes
    found = [_judged(design, places, own) for places, own in zip(design.layout.x, asked.centred, strict=True)]
    predictors = tuple(
        replace(part, kept=tuple(one.kept.tolist()), lost=one.lost) for part, one in zip(before, found, strict=True)
    )
    for part, centred, one in zip(before, asked.centred, found, strict=True):
        notes += _dropped(part, centred, one, asked.source)
    design = keep_columns(design, [one.kept for one in found])
    return replace(asked.recipe, predictors=predictors), design, notes + asked.later


def require_groups_fit(
    recipe: Recipe,
    level_rows: IntVec,
    allowed: int | None,
    factor: FactorRecipe | None = None,
    remedy: str = "Allow more with control=Control(memory=Memory(limit=…))",
) -> None:
    """Raise ResourceError for a level whose rows, which are worked on together, are too many; None allows all.

    factor   whose level_rows these are, the first if not given
    """
    if allowed is None or not len(level_rows):
        return
    columns = sum(len(part.columns) for part in recipe.predictors)
    columns += sum(len(term.columns) for factor in recipe.factors for term in factor.terms)
    k = int(np.argmax(level_rows))
    needed = 8 * int(level_rows[k]) * (columns + _WORKING)
    if needed > allowed:
        factor = recipe.factors[0] if factor is None else factor
        level = ", ".join(str(value) for value in factor.levels.row(k))
        msg = (
            f"group {factor.name!r} has {counted(int(level_rows[k]), 'row', grouped=True)} at level {level}; "
            f"they are worked on together, "
            f"which takes about {readable(needed)} of memory, more than the {readable(allowed)} allowed. {remedy}, "
            "or group by something finer."
        )
        raise ResourceError(msg)


def _told_by_rows(spec: ModelSpec, dtypes: Mapping[str, pl.DataType]) -> list[Expression]:
    """The response of successes where it is an Enum of more than two levels: rows tell which two there are."""
    success = spec.response.success
    dtype = dtypes[success.name] if isinstance(success, Name) else None
    asked = spec.family.takes_trials and isinstance(dtype, pl.Enum) and len(dtype.categories) != 2
    return [success] if asked else []


def trials_of(spec: ModelSpec, source: Source) -> Node | None:
    """The number of trials, which is 0 in rows that the model leaves out."""
    plain = LazyVariables(Known(source))
    if spec.response.failure is not None:
        return Arithmetic("+", plain.arithmetic(spec.response.success), plain.arithmetic(spec.response.failure))
    return None if spec.trials is None else plain.arithmetic(Name(spec.trials))


def _response(spec: ModelSpec, variables: LazyVariables) -> tuple[ResponseRecipe, tuple[Note, ...]]:
    """How the response is read; every value is checked later, row by row."""
    if spec.response.observation is not None:
        return observed_recipe(spec, variables)
    success, notes = success_node(spec, variables)
    text, tried = spec.response.text, trials_of(spec, variables.source)
    recipe = replace(response_recipe(spec, variables, success), trials=tried)
    if tried is None or spec.trials is None:
        return recipe, notes
    proportion = _is_share(spec, variables, success, tried)
    if proportion:
        what = f"The response {text} is read as the proportion of successes in {spec.trials!r} trials."
        notes = (*notes, Note("response_proportion", what, quiet=True))
    return replace(recipe, proportion=proportion), notes


def _is_share(spec: ModelSpec, variables: LazyVariables, success: Node, trials: Node) -> bool:
    """Whether the response is a share of the trials; where a query raises doubts, the rows in doubt decide."""
    source = variables.source
    y, n = source.expression(success), source.expression(trials)
    asked = source.rows.select(
        ((y - y.round()).abs() > 1e-7).any().alias("share"),
        y.max().alias("most"),
        ((y == 1) & (n > 1)).any().alias("doubt"),
        y.sum().alias("sum"),
    )
    found = source.answer(asked).row(0, named=True)
    if found["sum"] is not None and np.isfinite(found["sum"]):
        variables.facts.append(summed("the sum of the response", (success,), found["sum"], found["sum"]))
    if found["share"]:
        return True
    if found["most"] is not None and found["most"] <= 1 and found["doubt"] and not all_integers(spec, variables.table):
        name = spec.response.text
        msg = (
            f"response {name} holds only 0 and 1 while trials={spec.trials!r} is larger: 1 may be one success or all "
            f"of them. Write cbind({name}, {spec.trials} - {name}) for a number of successes, or make the column whole "
            "numbers."
        )
        raise ResponseError(msg)
    return False


def _predictor(part: PredictorSpec, spec: ModelSpec, variables: LazyVariables) -> _Predictor:
    terms, notes = in_reach(part, predictor_columns(part, variables), variables)
    columns = tuple(column for term in terms for column in term)
    refuse_equal_names(tuple(column.name for column in columns))
    offset = offset_node(part, spec.offset, variables)
    recipe = PredictorRecipe(part.parameter, columns, (True,) * len(columns), offset)
    return _Predictor(recipe, centred_columns(part, terms, variables.table), notes)


def _levels(factor: FactorRecipe, source: Source) -> tuple[FactorRecipe, IntVec]:
    """The factor with its levels in code order, and the rows of each."""
    keys = list(factor.keys)
    found = source.levels_of(keys, _COUNT)
    if not found.height:
        source.refuse_empty()
    sorted_levels = in_code_order(found, keys)
    level_rows = sorted_levels[_COUNT].to_numpy().astype(np.int64)
    return replace(factor, levels=sorted_levels.select(map(column, keys))), level_rows


def in_code_order(levels: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Different levels in the order of their codes. Raises ColumnError for values that have none."""
    table = Table({key: levels[key] for key in keys})
    try:
        order = combine([table.levels(key) for key in keys]).first
    except TypeError as error:  # values that cannot be sorted or hashed
        msg = f"columns {enumerate_names(keys)} cannot be grouped by: {error}"
        raise ColumnError(msg) from error
    return levels[pl.Series(order.astype(np.uint32))]


def _dropped(part: PredictorRecipe, centred: BoolVec, judged: Judged, source: Source) -> tuple[Note, ...]:
    """The notes on columns that are combinations of others."""
    if judged.kept.all():
        return ()
    columns = part.columns
    again = kept_by_query(source, centred)
    rounded = lost_to_rounding([column.node for column in columns], judged, spread_by_query(source), again)
    return dropped_columns(part.parameter, [column.name for column in columns], judged.kept, rounded)


def _judged(design: Apart, places: tuple[int, ...], centred: BoolVec) -> Judged:
    """The columns that are no combination of those before them, and what makes the others."""
    if not places:
        return Judged(np.ones(0, dtype=np.bool_), (), np.zeros(0, dtype=np.bool_))
    own = design.moments.pick(places)

    def triangle(shift: Vec, scale: Vec, kept: IntVec) -> Mat:
        return design.triangle(tuple(places[k] for k in kept), shift[kept], scale[kept])

    return judge_moments(int(own.n), own.mean, own.cross, centred, triangle)
