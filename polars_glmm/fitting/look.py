"""What a model's rows look like before they are fitted: counted by queries, or in the arrays of a small frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.answer.tally import group_sizes
from polars_glmm.columns.nodes import Reference
from polars_glmm.design.inquired import trials_of
from polars_glmm.design.learn import learn
from polars_glmm.design.predictors import predictor_columns
from polars_glmm.design.sums.outline import Known, LazyVariables, factors_of, group_factors, needs_learning, outline
from polars_glmm.design.text_numbers import text_notes
from polars_glmm.frames.engine import EngineFrame
from polars_glmm.frames.engine_source import open_source
from polars_glmm.frames.missing import check_missing, dropped_rows
from polars_glmm.frames.source import Query, Source
from polars_glmm.likelihood.parameters.parts import label
from polars_glmm.linalg.membership import meetings, whole
from polars_glmm.linalg.pattern import distinct

if TYPE_CHECKING:
    from polars_glmm.design.recipe import FactorRecipe
    from polars_glmm.design.records import Factor
    from polars_glmm.notes import Note
    from polars_glmm.spec.model import ModelSpec
    from polars_glmm.typing import IntVec

_COUNT = "__glmm_count"


class FactorLook(NamedTuple):
    """A grouping factor: its random-effects columns, its levels, and observations in the smallest and largest."""

    name: str
    columns: tuple[str, ...]
    n_levels: int
    smallest: int
    largest: int


class Look(NamedTuple):
    """What is known of the rows of a model.

    n_rows, n_dropped, n_obs   rows used, rows with missing values, observations (Σ frequency)
    predictors                 (parameter, columns) of each fixed part; by queries also those that will prove redundant
    factors                    in the order of the formula
    pairs                      (i, j), i < j: how many pairs of levels of factors i and j share a row
    meetings                   (i, j), i ≠ j: {k: levels of factor i that meet k levels of factor j}
    learning                   scans of the source for labels and constants of transforms
    """

    spec: ModelSpec
    n_rows: int
    n_dropped: int
    n_obs: int
    predictors: tuple[tuple[str, tuple[str, ...]], ...]
    factors: tuple[FactorLook, ...]
    pairs: Mapping[tuple[int, int], int]
    meetings: Mapping[tuple[int, int], Mapping[int, int]]
    learning: int
    notes: tuple[Note, ...]


def look_at_arrays(spec: ModelSpec, frame: pl.DataFrame, missing: str) -> Look:
    """From the design itself."""
    check_missing(missing)
    learned = learn(spec, frame, missing="error" if missing == "error" else "drop")
    design = learned.design
    predictors = [(one.parameter, one.names) for one in design.predictors]
    names = [
        _labels([effect for term in factor.terms for effect in zip(term.names, term.parameter_of, strict=True)])
        for factor in design.factors
    ]
    sizes = group_sizes(design)
    meetings: dict[tuple[int, int], dict[int, int]] = {}
    for (i, a), (j, b) in combinations(enumerate(design.factors), 2):
        met = _met(a, b)
        for at, own in zip(((i, j), (j, i)), met, strict=True):
            many, levels = np.unique(np.bincount(own), return_counts=True)
            meetings[at] = dict(zip(many.tolist(), levels.tolist(), strict=True))
    return Look(
        spec=learned.recipe.spec,
        n_rows=design.n_rows,
        n_dropped=learned.n_dropped,
        n_obs=design.n_obs,
        predictors=tuple(predictors),
        factors=tuple(
            FactorLook(size.group, columns, size.n_levels, size.smallest, size.largest)
            for size, columns in zip(sizes, names, strict=True)
        ),
        pairs=_pairs(meetings),
        meetings=meetings,
        learning=int(needs_learning(learned.recipe.spec, frame.schema)),
        notes=learned.notes,
    )


def _met(a: Factor, b: Factor) -> tuple[IntVec, IntVec]:
    """The pairs of levels of two factors that share a row."""
    if a.sets is None and b.sets is None:
        left, right = np.divmod(distinct(a.codes.astype(np.int64) * b.n_levels + b.codes), b.n_levels)
        return left, right
    x, y = (whole(f.codes, f.n_levels) if f.sets is None else f.sets.at(f.codes) for f in (a, b))
    found = meetings(x, y, own=False)
    return found.left, found.right


def look_by_queries(spec: ModelSpec, frame: pl.LazyFrame | EngineFrame, missing: str) -> Look:
    """From aggregations in the streaming engine, or in the engine that holds the frame; no row is collected."""
    check_missing(missing)
    spec = spec.resolve(frozenset(frame.collect_schema().names()))
    source = open_source(spec, frame)
    source = replace(source, tried=trials_of(spec, source))
    variables = LazyVariables(Known(source))
    variables.ask(factors_of(spec))
    predictors = tuple(
        (part.parameter, tuple(column.name for term in predictor_columns(part, variables) for column in term))
        for part in spec.predictors
    )
    factors, notes = group_factors(spec, variables)
    notes = text_notes(spec, variables.categoricals) + notes
    census, totals, *counted = source.answers(_questions(factors, source.shared()))
    incomplete = source.judge(census.row(0, named=True))
    n_rows, n_obs = map(int, totals.row(0))
    if not n_rows:
        source.refuse_empty()
    sizes, met = counted[: len(factors)], counted[len(factors) :]
    meetings = {
        at: {int(k): int(n) for k, n in one.select(_COUNT, "n").iter_rows()}
        for at, one in zip(permutations(range(len(factors)), 2), met, strict=True)
    }
    return Look(
        spec=spec,
        n_rows=n_rows,
        n_dropped=0 if incomplete is None else incomplete.n,
        n_obs=int(n_obs),
        predictors=predictors,
        factors=tuple(
            FactorLook(factor.name, _columns(factor), *map(int, size.select("n", "smallest", "largest").row(0)))
            for factor, size in zip(factors, sizes, strict=True)
        ),
        pairs=_pairs(meetings),
        meetings=meetings,
        learning=variables.scans,
        notes=notes if incomplete is None else (dropped_rows(incomplete, missing), *notes),
    )


def require_words(spec: ModelSpec, frame: EngineFrame) -> None:
    """Raise NotThereError where an engine has no words for a column of a gaussian model."""
    source = open_source(spec, frame)
    for node, _ in outline(spec, source).checked:
        source.expression(node)


def _questions(factors: tuple[FactorRecipe, ...], source: Source) -> list[Query]:
    """Missing values; rows and observations; levels and sizes of every factor; meeting pairs of every two."""
    one_each, n = source.library.lit(1.0), source.library.len()
    frequency = one_each if source.frequency is None else source.expression(Reference(source.frequency))
    rows = source.rows.with_columns(frequency.alias(_COUNT))
    count = source.library.col(_COUNT)

    def columns(keys: Iterable[str]) -> list[Any]:
        return [source.column(key) for key in keys]

    asked = [source.census(), rows.select(n.alias("n"), count.sum())]
    for factor in factors:
        levels = rows.group_by(columns(factor.keys)).agg(count.sum())
        asked.append(levels.select(n.alias("n"), count.min().alias("smallest"), count.max().alias("largest")))
    for one, other in permutations(factors, 2):
        keys = list(dict.fromkeys((*one.keys, *other.keys)))
        met = rows.select(columns(keys)).unique().group_by(columns(one.keys)).agg(n.alias(_COUNT))
        asked.append(met.group_by(_COUNT).agg(n.alias("n")))
    return asked


def _pairs(meetings: Mapping[tuple[int, int], Mapping[int, int]]) -> dict[tuple[int, int], int]:
    """How many pairs of levels meet, i < j."""
    return {(i, j): sum(k * n for k, n in met.items()) for (i, j), met in meetings.items() if i < j}


def _columns(factor: FactorRecipe) -> tuple[str, ...]:
    parameters = [on for term in factor.terms for on in term.parameter_of]
    names = [column.name for term in factor.terms for column in term.columns]
    return _labels(list(zip(names, parameters, strict=True)))


def _labels(effects: list[tuple[str, str]]) -> tuple[str, ...]:
    """Names of random effects that tell those on several parameters apart."""
    return tuple(label(name, on) for name, on in effects)
