"""The linear predictor of rows that an engine holds, as a plan there: modes joined on, nothing read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add, or_
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.errors import ColumnError, enumerate_names
from polars_glmm.frames.beside import beside
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_expressions import EngineExpressions, every, finite
from polars_glmm.frames.levels import is_label
from polars_glmm.prediction.columns import INTERNAL, require_columns
from polars_glmm.prediction.effects import JoinedFactor
from polars_glmm.prediction.estimable import misses
from polars_glmm.prediction.keys import match_key
from polars_glmm.prediction.linear_predictor import require_dtypes, used_categoricals
from polars_glmm.prediction.members import refuse_slots

if TYPE_CHECKING:
    from polars_glmm.columns.nodes import Node
    from polars_glmm.design.recipe import Categorical
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Vec


@dataclass(frozen=True, slots=True, eq=False)
class EngineRows:
    """A frame of an engine with modes beside its rows, and what can be asked of a row.

    plan      a lazy frame of narwhals with internal columns
    schema    of the frame itself
    complete  the row has all that its predictions need, and a level of every fixed factor that the fit knows
    seen      the levels of all factors are known
    """

    plan: Any
    schema: pl.Schema
    fitted: Parameters
    factors: tuple[JoinedFactor, ...]
    complete: Any
    seen: Any

    @property
    def words(self) -> EngineExpressions:
        return EngineExpressions()

    def expression(self, node: Node) -> Any:
        """A node, null or NaN where it is not known."""
        return node.compile(self.words)

    def fixed(self, part: int) -> Any:
        """x'β̂ + offset of one predictor."""
        recipe = self.fitted.recipe.predictors[part]
        values = (self.fitted.beta if part == 0 else self.fitted.gamma)[0].tolist()
        nodes = [column.node for column, kept in zip(recipe.columns, recipe.kept, strict=True) if kept]
        terms = [self.expression(node) * b for node, b in zip(nodes, values, strict=True)]
        if recipe.offset is not None:
            terms.append(self.expression(recipe.offset))
        return _sum(terms, self.words)

    def random(self, part: int) -> Any:
        """z'b̂ of one predictor, an unseen level counting zero."""
        terms = []
        for factor in self.factors:
            for j in factor.on(part):
                mode = self.words.column(factor.mode(j))
                known = self.words.engine.when(~mode.is_null()).then(mode).otherwise(0.0)
                terms.append(self.expression(factor.nodes[j]) * known)
        return _sum(terms, self.words)

    def determined(self, part: int) -> Any:
        """Whether the data determine the fixed part of the row."""
        recipe = self.fitted.recipe.predictors[part]
        nodes = [column.node for column in recipe.columns]
        if not recipe.lost:
            return self.complete
        far = [misses(one, nodes, self.expression, finite) for one in recipe.lost]
        return self.complete & ~reduce(or_, far)

    def with_columns(self, values: dict[str, Any], usable: Any) -> Any:
        """The frame of the engine's own kind with its columns and these, null where a row is not usable."""
        when, column = self.words.engine.when, self.words.column
        made = [when(usable).then(value).alias(name) for name, value in values.items()]
        return self.plan.select(*map(column, self.schema), *made).to_native()


def engine_rows(
    frame: EngineFrame,
    fitted: Parameters,
    factors: tuple[JoinedFactor, ...],
    also_used: Iterable[str],
    *,
    parts: Sequence[int],
    verb: str,
) -> EngineRows:
    """The rows of a frame made ready for predictors `parts`. Raises ColumnError for columns that lack or do not fit."""
    schema = readable(frame)
    acting = tuple(factor for factor in factors if factor.on(*parts))
    recipe = fitted.recipe
    designs = frozenset[str]().union(
        *(fitted.fixed(recipe.predictors[part].parameter).inputs for part in parts),
        *(factor.slope_inputs(*parts) for factor in acting),
    )
    refuse_slots(acting, f"{verb} joins the effects of one level where an engine holds rows", "Read them out first.")
    used = designs.union(also_used, *(factor.recipe.keys for factor in acting))
    require_columns(schema, used, verb)
    require_dtypes(schema, designs, recipe)
    words, plan = EngineExpressions(), frame.plan
    for factor in acting:
        modes = {factor.mode(j): factor.modes[j] for j in range(len(factor.modes))}
        plan = joined(plan, schema, factor, modes)
    known = [is_there(words, schema, name) for name in sorted(used)]
    known += [_is_known(words, schema, factor) for factor in used_categoricals(recipe, designs)]
    points = [nodes for factor in acting for nodes in factor.points(*parts)]
    known += [_sum([node.compile(words) for node in nodes], words) != 0.0 for nodes in points]
    seen = [~words.column(factor.mode(0)).is_null() for factor in acting]
    true = words.engine.lit(value=True)
    return EngineRows(plan, schema, fitted, acting, every([*known, true]), every([*seen, true]))


def readable(frame: EngineFrame) -> pl.Schema:
    """The schema, refused when it holds names reserved for the inside of plans."""
    reserved = [name for name in frame.schema if name.startswith(INTERNAL)]
    if reserved:
        msg = f"the frame has {enumerate_names(reserved)}: names with {INTERNAL!r} in front are reserved. Rename them."
        raise ColumnError(msg)
    return frame.schema


def joined(plan: Any, schema: pl.Schema, factor: JoinedFactor, values: dict[str, Vec]) -> Any:
    """The plan with values of each level, (G,) in code order, on its rows; null where a level is not known."""
    words = EngineExpressions()
    left, right = [], []
    for i, (key, learned) in enumerate(factor.recipe.levels.schema.items()):
        pair = match_key(key, schema[key], learned)
        found, column = schema[key], words.column(key)
        dtype: Any = found
        if is_label(found) and is_label(learned):
            dtype, column = pl.String, column.cast(words.engine.String)
        elif found.is_numeric() and not (found.is_integer() and learned.is_integer()):
            dtype, column = pl.Float64, column.cast(words.engine.Float64)
        left.append(column.alias(f"{factor.tag}key_{i}"))
        right.append(pair.learned.cast(dtype, strict=False).alias(f"{factor.tag}level_{i}"))
    table = factor.recipe.levels.select(right)
    table = table.with_columns(pl.Series(name, np.array(value), nan_to_null=True) for name, value in values.items())
    on = [f"{factor.tag}key_{i}" for i in range(len(left))]
    plan = plan.with_columns(*left)
    small = beside(plan, table.drop_nulls(table.columns[: len(left)]), dict(zip(table.columns, on, strict=False)))
    return plan.join(small, left_on=on, right_on=table.columns[: len(left)], how="left")


def is_there(words: EngineExpressions, schema: pl.Schema, name: str) -> Any:
    """Whether a value is neither null nor NaN."""
    value = words.column(name)
    if not schema[name].is_float():
        return ~value.is_null()
    return ~value.is_null() & (finite(value) | (value == np.inf) | (value == -np.inf))


def _is_known(words: EngineExpressions, schema: pl.Schema, factor: Categorical) -> Any:
    """Whether a fixed factor has a level that the fit knows."""
    column = words.column(factor.column)
    if factor.dtype.is_numeric():
        numbers = pl.Series(factor.levels).cast(factor.dtype).cast(pl.Float64).to_list()
        return column.cast(words.engine.Float64).is_in(numbers)
    if schema[factor.column] == pl.Boolean:
        return reduce(or_, [column == (level.lower() == "true") for level in factor.levels])
    return column.cast(words.engine.String).is_in(list(factor.levels))


def _sum(terms: list[Any], words: EngineExpressions) -> Any:
    return reduce(add, terms) if terms else words.engine.lit(0.0)

