"""What a recipe needs of the data besides levels of groups, learned by queries: no row is collected.

Labels of categorical columns and constants of transforms are asked for together, in one scan per depth of nesting; a
model of plain numeric columns needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.coding import Column
from polars_glmm.columns.named import column, nameless
from polars_glmm.columns.nodes import Looked, Node, Reference
from polars_glmm.columns.transforms import SPREAD_SUFFICES, Input, Spread
from polars_glmm.design.factors import correlated, independent_levels
from polars_glmm.design.points import design_of
from polars_glmm.design.predictors import learn_columns, offset_node, refuse_equal_names
from polars_glmm.design.recipe import FactorRecipe, PredictorRecipe, Recipe, TermRecipe
from polars_glmm.design.response import response_recipe, success_node
from polars_glmm.design.text_numbers import text_notes
from polars_glmm.design.variables import Variables, kind_of
from polars_glmm.errors import ColumnError, brief
from polars_glmm.frames.facts import About, Fact, Facts, of_argument, of_values, standardised, summed
from polars_glmm.frames.levels import Levels, code, is_label
from polars_glmm.frames.source import Query, Source
from polars_glmm.frames.table import Table
from polars_glmm.notes import Note
from polars_glmm.spec.functions import SIGNATURES, bind
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.syntax import Expression, FunctionCall, Name, render
from polars_glmm.typing import IntVec, Vec


class Outline(NamedTuple):
    """A recipe whose columns are all known and all still kept, and whose groups have no levels yet.

    checked   expressions that must be finite in every row, with the text an error calls them by
    scans     how often the source was read for it
    facts     what these readings found
    """

    recipe: Recipe
    notes: tuple[Note, ...]
    checked: tuple[tuple[Node, str], ...]
    scans: int
    facts: tuple[Fact, ...] = ()


def outline(spec: ModelSpec, source: Source, declared: Mapping[str, Sequence[Any]] | None = None) -> Outline:
    """The columns of a gaussian model with one residual variance; `declared` labels count as if rows had them.

    Raises ColumnError, FormulaError or ResponseError as `learn` does, except for what only totals can tell.
    """
    variables = LazyVariables(Known(source), declared=declared or {})
    for weight in (spec.frequency, spec.precision):
        if weight is not None:
            variables.arithmetic(Name(weight))
    variables.ask(factors_of(spec))
    success, notes = success_node(spec, variables)
    variables.evaluate(success, f"response {spec.response.text}")
    terms = learn_columns(spec.mu.fixed, variables)
    columns = tuple(column for term in terms for column in term)
    refuse_equal_names(tuple(column.name for column in columns))
    offset = offset_node(spec.mu, spec.offset, variables)
    if offset is not None:
        variables.evaluate(offset, "the offset")
    factors, more = group_factors(spec, variables)
    recipe = Recipe(
        spec=spec,
        response=response_recipe(spec, variables, success),
        predictors=(PredictorRecipe("mu", columns, (True,) * len(columns), offset),),
        factors=factors,
        categoricals=variables.categoricals,
    )
    notes += text_notes(spec, variables.categoricals)
    return Outline(recipe, notes + more, tuple(variables.checked.items()), variables.scans, tuple(variables.facts))


def needs_learning(spec: ModelSpec, dtypes: Mapping[str, pl.DataType]) -> bool:
    """Whether the source must be read once before its products can be taken."""
    return any(_Asked.of(factor, dtypes) for factor in factors_of(spec))


class Known(Table):
    """A table of which only dtypes and the labels of some columns are known."""

    __slots__ = ("source",)

    def __init__(self, source: Source) -> None:
        super().__init__({}, None, dict(source.dtypes))
        self.source = source

    def levels(self, column: str) -> Levels:
        if column not in self._levels:
            labels, dtype = self.series[column], self.dtypes[column]
            physical: IntVec | None = None
            if isinstance(dtype, pl.Enum) or dtype.is_temporal():
                physical = labels.to_physical().to_numpy()
            self._levels[column] = code(column, labels, dtype, physical)
        return self._levels[column]


@dataclass(slots=True, eq=False)
class LazyVariables(Variables):
    """Variables learned from queries.

    declared  labels of categorical columns that other rows have
    checked   nodes that must be finite, which the totals will tell, and their texts
    facts     what was found, to be found again when the source is read again
    """

    declared: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    checked: dict[Node, str] = field(default_factory=dict)
    spreads: dict[Node, Spread] = field(default_factory=dict)
    counts: dict[Node, tuple[Vec, Vec]] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    scans: int = 0
    arguments: int = 0

    def count_rows(self) -> int:
        return self.source.count_rows()

    @property
    def source(self) -> Source:
        assert isinstance(self.table, Known)
        return self.table.source

    def ask(self, factors: Iterable[Expression]) -> None:
        """Learn, in one scan, the labels and the arguments of transforms that need nothing learned before."""
        labels: dict[str, Query] = {}
        values: dict[tuple[Node, bool], _About] = {}
        shared = self.source.shared()
        for factor in factors:
            for asked in _Asked.of(factor, self.source.dtypes):
                if isinstance(asked.of_what, str):
                    labels[asked.of_what] = shared.labels(asked.of_what)
                elif not asked.nested and asked.of_what.function != "ave":  # learned by a query of its own
                    call = asked.of_what
                    node = self.arithmetic(bind(call)["x"])
                    values[node, call.function in SPREAD_SUFFICES] = self._about(node, call.function, shared)
        if not labels and not values:
            return
        found = iter(shared.answers([*labels.values(), *(about.query for about in values.values())]))
        self.scans += 1
        for name in labels:
            counted = next(found)
            series = counted[name].cast(self.source.dtypes[name])
            if not len(series) and name not in self.declared:
                self.source.refuse_empty()
            self.facts.append(self.source.fact_of_labels(counted, name))
            self.table.series[name] = self._with_declared(name, nameless(series))
        for (node, _), about in values.items():
            self._understand(node, next(found), about.near)

    def labels(self, column: str) -> list[str]:
        if column in self.table.series:
            return super(LazyVariables, self).labels(column)  # a class with slots has no bare super()
        own = self.source.column(column).alias(column)
        found = self.source.frame.select(own).unique()  # every row: which are in use may depend on this column
        return nameless(self.source.answer(found)[column]).cast(pl.String).drop_nulls().to_list()

    def evaluate(self, node: Node, text: str) -> Vec:
        self.checked.setdefault(node, text)
        return np.empty(0)

    def input(self, call: FunctionCall, x: Node, options: dict[str, Any]) -> Input:
        self.checked.setdefault(x, render(call))
        short = call.function in SPREAD_SUFFICES
        if x not in (self.spreads if short else self.counts):
            about = self._about(x, call.function, self.source)
            self._understand(x, self.source.answer(about.query), about.near)
            self.scans += 1
        values, counts = (np.array(self.spreads[x]), np.empty(0)) if short else self.counts[x]
        if not np.isfinite(values.sum()):
            self.source.refuse_not_finite(x, render(call))
        if short:
            return Input(call, x, np.empty(0), None, options, self.spreads[x])
        weights = None if bool((counts == 1.0).all()) else counts
        return Input(call, x, values, weights, options)

    def means(self, call: FunctionCall, x: Node, group: str) -> tuple[list[Any], Vec]:
        self.checked.setdefault(x, render(call))
        source, near = self.source, _near(self.source, x)
        rows = source.rows.select(
            source.column(group).alias(group),
            ((source.expression(x) - near) * self._frequency()).alias("__glmm_away"),
            self._frequency().alias("__glmm_f"),
        )
        away, count = (source.library.col(name).sum() for name in ("__glmm_away", "__glmm_f"))
        asked = rows.group_by(source.column(group)).agg(away.alias("__glmm_away"), count.alias("__glmm_f"))
        found = source.answer(asked)
        self.scans += 1
        if not found.height:
            source.refuse_empty()
        means = near + (found["__glmm_away"] / found["__glmm_f"]).to_numpy()
        if not np.isfinite(means).all():
            source.refuse_not_finite(x, render(call))
        labels = found[group].cast(source.dtypes[group])
        order = np.argsort(labels.cast(pl.String).to_numpy() if is_label(labels.dtype) else labels.to_numpy())
        values = labels.cast(pl.String) if is_label(labels.dtype) else labels
        named = [values[int(k)] for k in order]
        counts = found["__glmm_f"].to_numpy()[order]
        self._find(lambda text: self._of_means(text, x, group, named, means[order], counts))
        return named, means[order]

    def _of_means(self, text: str, x: Node, group: str, labels: list[Any], means: Vec, counts: Vec) -> Facts:
        """That the levels of a column have the rows, and the means of x, that they had."""
        kind = kind_of(group, self.source.dtypes[group], marked=True)
        keys = tuple(float(label) if kind == "number" else label for label in labels)
        about = About.of(means, counts)
        level = standardised(Looked(group, kind, keys, tuple(means.tolist())), about)
        z, own = replace(level, x=x), (means - level.centre) / level.scale
        slack, frequency = about.size, self.source.frequency
        return (
            summed(f"the levels of {text}", (level, level), float(counts @ own**2), slack, frequency),
            summed(f"the means of {text}", (level, z), float(counts @ own**2), slack, frequency),
        )

    def combinations(self, names: Sequence[str]) -> list[tuple[Any, ...]]:
        found = self.source.levels_of(names, "__glmm_count")
        self.scans += 1
        if not found.height:
            self.source.refuse_empty()
        counts, nodes = found["__glmm_count"].to_numpy().astype(np.float64), [Reference(name) for name in names]
        values = [found[name].cast(pl.Float64).to_numpy() for name in names]
        for node, own in zip(nodes, values, strict=True):
            self._find(partial(of_values, node=node, values=own, counts=counts))
        return sorted(found.select(map(column, names)).iter_rows())

    def bounds(self, node: Node, text: str) -> tuple[float, float]:
        self.checked.setdefault(node, text)
        v = self.source.library.col("v")
        asked = self.source.rows.select(v=self.source.expression(node)).select(low=v.min(), high=v.max())
        low, high = self.source.answer(asked).row(0)
        self.scans += 1
        return low, high

    def _with_declared(self, column: str, labels: pl.Series) -> pl.Series:
        """Labels found and declared. Raises ColumnError for a declared one that the column cannot hold."""
        if column not in self.declared:
            return labels
        given = list(self.declared[column])
        try:
            more = pl.Series(labels.name, given, dtype=labels.dtype)
        except (TypeError, pl.exceptions.PolarsError) as error:
            msg = f"levels= of column {column!r}: {brief(given)} are no values of {brief(labels.dtype)}."
            raise ColumnError(msg) from error
        return pl.concat([labels, more]).unique()

    def _about(self, node: Node, function: str, source: Source) -> _About:
        """For the small transforms count, mean and squares; for the others every distinct value and its count."""
        rows = source.rows.select(v=source.expression(node), f=self._frequency())
        v, f = (source.library.col(name) for name in ("v", "f"))
        if function not in SPREAD_SUFFICES:
            return _About(rows.group_by("v").agg(f.sum()), None)
        near = _near(self.source, node)
        sums = {"away": f * (v - near), "squares": f * (v - near) * (v - near)}
        return _About(source.totals(rows, sums, [f.sum().alias("count")]), near)

    def _understand(self, node: Node, answer: pl.DataFrame, near: float | None) -> None:
        if near is not None:
            count, away, squares = answer.select("count", "away", "squares").row(0)
            mean = away / count if count else 0.0
            self.spreads[node] = Spread(count, near + mean, float(np.maximum(squares - count * mean**2, 0.0)))
            self._find(lambda text: of_argument(text, node, About(*self.spreads[node]), self.source.frequency))
        else:
            ordered = answer.sort("v")
            v, f = self.counts[node] = ordered["v"].to_numpy(), ordered["f"].to_numpy()
            self._find(lambda text: of_values(text, node, v, f, self.source.frequency))

    def _find(self, told: Callable[[str], Facts]) -> None:
        """What was found of an argument of the formula, by a name of its own."""
        self.arguments += 1
        found = told(f"argument {self.arguments} of the formula")
        self.facts += [fact for fact in found if np.isfinite(fact.total) and np.isfinite(fact.rounding)]

    def _frequency(self) -> Any:
        name = self.source.frequency
        return self.source.library.lit(1.0) if name is None else self.source.expression(Reference(name))


class _About(NamedTuple):
    """What tells of the argument of a transform; near: the number from which its sums count, None for all values."""

    query: Query
    near: float | None


class _Asked(NamedTuple):
    """A column whose labels, or a transform whose argument must be known; nested: only after another transform."""

    of_what: str | FunctionCall
    nested: bool = False

    @classmethod
    def of(cls, factor: Expression, dtypes: Mapping[str, pl.DataType]) -> tuple[_Asked, ...]:
        """What a factor of a term asks for."""
        match factor:
            case Name(name) if name in dtypes and not dtypes[name].is_numeric():
                return (cls(name),)
            case FunctionCall(function="C", arguments=((_, Name(name)), *_)):
                return (cls(name),)
            case FunctionCall() if SIGNATURES[factor.function].kind == "learned":
                inner = bind(factor)["x"]
                below = cls._calls(inner, dtypes)
                return (*below, cls(factor, nested=bool(below)))
            case _:
                return cls._calls(factor, dtypes)

    @classmethod
    def _calls(cls, node: Expression, dtypes: Mapping[str, pl.DataType]) -> tuple[_Asked, ...]:
        """The transforms inside arithmetic."""
        if isinstance(node, FunctionCall):
            if SIGNATURES[node.function].kind == "learned":
                return cls.of(node, dtypes)
            return tuple(found for _, value in node.arguments for found in cls._calls(value, dtypes))
        parts = [getattr(node, name) for name in ("left", "right", "operand") if hasattr(node, name)]
        return tuple(found for part in parts for found in cls._calls(part, dtypes))


def factors_of(spec: ModelSpec) -> list[Expression]:
    """Every factor of every fixed term and of every design of a random term, and the response."""
    fixed = [term for part in spec.predictors for term in part.fixed]
    terms = [*fixed, *(term for random in spec.random for term in random.design)]
    found = {render(factor): factor for term in terms for factor in term.factors}
    inside = [spec.response.success, *(offset for part in spec.predictors for offset in part.offsets)]
    categories = [spec.response.success] if spec.family.response == "category" else []
    labelled = [FunctionCall("C", "C", (("", node),)) for node in categories if isinstance(node, Name)]
    return [*found.values(), *(node for node in inside if not isinstance(node, Name)), *labelled]


def group_factors(spec: ModelSpec, variables: LazyVariables) -> tuple[tuple[FactorRecipe, ...], tuple[Note, ...]]:
    """The factors of all random terms, their levels still unknown."""
    grouped: dict[frozenset[str], list[Any]] = {}
    for term in spec.random:
        grouped.setdefault(frozenset(term.keys), []).append(term)
    factors, notes = [], []
    dtypes = variables.source.dtypes
    for terms in grouped.values():
        keys = terms[0].keys
        for key in keys:
            _require_key(key, dtypes[key])
        recipes = []
        for members in correlated(terms):
            structure = members[0].structure
            own: tuple[Column, ...] = ()
            parts: tuple[int, ...] = ()
            named: tuple[str, ...] = ()
            for term in members:
                structure, made = design_of(term, variables)
                own, parts = own + made, parts + (term.part,) * len(made)
                named += (term.parameter,) * len(made)
                notes += independent_levels(term, made)
            recipes.append(TermRecipe(structure, own, *((parts, named) if set(named) != {"mu"} else ())))
        unknown = pl.DataFrame(schema={key: dtypes[key] for key in keys})
        factors.append(FactorRecipe(terms[0].group, keys, unknown, tuple(recipes)))
    return tuple(factors), tuple(notes)


def _require_key(name: str, dtype: pl.DataType) -> None:
    if dtype == pl.Object or (dtype.is_nested() and not isinstance(dtype, pl.Struct)):
        msg = f"column {name!r} is {brief(dtype)}: a grouping factor has one plain value in each row."
        raise ColumnError(msg)


def _near(source: Source, node: Node) -> float:
    """A number near the mean, from the first rows."""
    values = source.first(source.rows.select(v=source.expression(node)), 1000)["v"]
    mean = values.filter(values.is_finite()).mean()
    return float(mean) if isinstance(mean, int | float) else 0.0
