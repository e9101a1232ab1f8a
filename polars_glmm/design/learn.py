"""A question met with data: rows chosen, constants learned, columns made, once."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.errors import ColumnError, counted
from polars_glmm.frames.missing import MOST_OF_A_ROW, NO_WEIGHT, Incomplete, check_missing, dropped_rows, refuse_weight
from polars_glmm.frames.table import Table, collect, incomplete
from polars_glmm.notes import Note
from polars_glmm.spec.members import Gaps
from polars_glmm.spec.model import ModelSpec
from polars_glmm.spec.syntax import Name
from polars_glmm.typing import BoolVec, Vec

from .factors import learn_factors
from .predictors import learn_predictor
from .recipe import Recipe, cuts_of
from .records import Design
from .residual import learn_residual
from .response import check_support, check_untried, input_nodes, learn_response, read_inputs, response_arrays
from .text_numbers import text_notes
from .variables import Variables

__all__ = ["Learned", "learn", "response_arrays"]


class Learned(NamedTuple):
    """kept (n,): the rows of the frame that the design holds, or None for all; n_dropped had missing values."""

    recipe: Recipe
    design: Design
    notes: tuple[Note, ...]
    n_dropped: int
    kept: BoolVec | None


class Weights(NamedTuple):
    """frequency (n,) and precision (n,), or None where nobody asked."""

    frequency: Vec | None
    precision: Vec | None


def learn(
    spec: ModelSpec, frame: pl.DataFrame | pl.LazyFrame, *, missing: Literal["drop", "error"] = "drop"
) -> Learned:
    """Recipe and design of a model on a frame; a LazyFrame is projected to the columns used and collected once.

    Raises ColumnError, ResponseError, FormulaError or ModelError for whatever in the data cannot be the model's.
    """
    names = frame.columns if isinstance(frame, pl.DataFrame) else frame.collect_schema().names()
    spec = spec.resolve(frozenset(names))
    table = collect(frame, spec.columns(), spec.beside_columns)
    n_rows = table.n_rows
    table, n_dropped, notes = _complete(table, missing, spec.gaps)
    table, weights = _weigh(spec, table)
    variables = Variables(table, weights.frequency)
    response = learn_response(spec, variables)
    if response.trials is not None and not response.trials.all():
        tried = response.trials > 0
        check_untried(response.y, response.trials, response.recipe.name, table)
        n = int((~tried).sum())
        what = f"{counted(n, 'row')} without any trial {'was' if n == 1 else 'were'} left out."
        notes += (Note("rows_without_trials", what, quiet=True),)
        table, weights = _keep(table, weights, tried)
        variables = Variables(table, weights.frequency)
        response = learn_response(spec, variables)
    check_support(spec.family, response.rows(weights.precision), response.recipe.name, table)
    notes += response.notes
    cuts = cuts_of(spec, response.recipe)
    made = [learn_predictor(part, spec.offset, variables, cuts.get(part.parameter)) for part in spec.predictors]
    factors = learn_factors(spec.random, variables, spec.relations)
    residual = None if spec.residual is None else learn_residual(spec.residual, table)
    recipe = Recipe(
        spec=spec,
        response=response.recipe,
        predictors=tuple(part.recipe for part in made),
        factors=tuple(factor.recipe for factor in factors),
        categoricals=variables.categoricals,
        inputs=input_nodes(spec, variables),
        residual=None if residual is None else residual.recipe,
    )
    design = Design(
        y=response.y,
        trials=response.trials,
        frequency=weights.frequency,
        precision=weights.precision,
        mu=made[0].predictor,
        further=tuple(part.predictor for part in made[1:]),
        factors=tuple(factor.factor for factor in factors),
        censoring=response.censoring,
        inputs=read_inputs(recipe.inputs, spec, variables),
        residual=None if residual is None else residual.rows,
    )
    notes += text_notes(spec, variables.categoricals)
    notes += tuple(note for part in made for note in part.notes)
    notes += tuple(note for factor in factors for note in factor.notes)
    notes += () if residual is None else residual.notes
    return Learned(recipe, design, notes, n_dropped, _mask(table, n_rows))


def _complete(table: Table, missing: str, optional: Gaps) -> tuple[Table, int, tuple[Note, ...]]:
    """The rows without missing values; how many had some."""
    check_missing(missing)
    mask, where = incomplete(table, optional)
    if mask is None:
        return table, 0, ()
    empty = tuple(name for name in where if table.series[name].null_count() == table.n_rows)
    found = Incomplete(int(mask.sum()), table.n_rows, int(np.flatnonzero(mask)[0]), where, empty)
    note = dropped_rows(found, missing)
    return table.keep(~mask), found.n, (note,)


def _weigh(spec: ModelSpec, table: Table) -> tuple[Table, Weights]:
    """frequency and precision; rows where either is 0 leave the table."""
    weights, keep = require_weights(spec, table)
    return (table, weights) if keep.all() else _keep(table, weights, keep)


def require_weights(spec: ModelSpec, table: Table) -> tuple[Weights, BoolVec]:
    """frequency and precision, and the rows where neither is 0. Raises ColumnError for what is no weight."""
    reader = Variables(table)
    frequency = precision = None
    keep = np.ones(table.n_rows, dtype=np.bool_)
    if spec.frequency is not None:
        frequency = reader.evaluate(reader.arithmetic(Name(spec.frequency)), f"frequency={spec.frequency!r}")
        none = (frequency < 0) | (frequency > MOST_OF_A_ROW) | (frequency != np.round(frequency))
        _refuse(frequency, none, "frequency", spec.frequency, table)
        keep &= frequency > 0
    if spec.precision is not None:
        precision = reader.evaluate(reader.arithmetic(Name(spec.precision)), f"precision={spec.precision!r}")
        _refuse(precision, precision < 0, "precision", spec.precision, table)
        keep &= precision > 0
    return Weights(frequency, precision), keep


def _keep(table: Table, weights: Weights, keep: BoolVec) -> tuple[Table, Weights]:
    if not keep.any():
        raise ColumnError(NO_WEIGHT)
    return part(table, weights, keep)


def part(table: Table, weights: Weights, keep: BoolVec) -> tuple[Table, Weights]:
    """The rows where `keep` is True, with their weights."""
    if keep.all():
        return table, weights
    return table.keep(keep), Weights(*(None if values is None else values[keep] for values in weights))


def _refuse(values: Vec, bad: BoolVec, argument: str, name: str, table: Table) -> None:
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        refuse_weight(argument, name, float(values[i]), table.row(i))


def _mask(table: Table, n_rows: int) -> BoolVec | None:
    if table.rows is None:
        return None
    mask = np.zeros(n_rows, dtype=np.bool_)
    mask[table.rows] = True
    return mask
