"""A recipe met, batch by batch, with the rows it was learned from: each batch's part of the design."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from polars_glmm.columns.coding import Column
from polars_glmm.errors import ColumnError, DataChangedError, counted, dropped_text, enumerate_names
from polars_glmm.families.base import Cuts, Rows
from polars_glmm.frames.table import Table, incomplete
from polars_glmm.notes import Note
from polars_glmm.typing import BoolVec, Mat

from .censoring import refuse_unseen
from .keys import KeyCoder
from .learn import Weights, part, require_weights
from .members import known_sets
from .predictors import matrix
from .recipe import FactorRecipe, PredictorRecipe, Recipe, TermRecipe, cuts_of
from .records import Design, Factor, Predictor, Term
from .residual import residual_rows
from .response import check_support, check_untried, read_inputs, read_response
from .variables import Variables


class Reader:
    """Batches in the order of the frame become designs; rows that the model leaves out are counted.

    The designs hold every column of the formulas, also those that are combinations of others.

    n_rows, n_dropped, n_untried   rows read, left out for a missing value, left out for having no trial
    places                         of the rows of the latest design, counted over all batches
    """

    def __init__(self, recipe: Recipe, *, refuse_missing: bool = False) -> None:
        self.recipe = recipe
        self.n_rows = self.n_dropped = self.n_untried = 0
        self.places = np.empty(0, dtype=np.intp)
        self._refuse_missing = refuse_missing
        self._coders = [KeyCoder(factor) for factor in recipe.factors]
        self._where: dict[str, None] = {}
        self._cuts = cuts_of(recipe.spec, recipe.response)
        self._statuses: set[float] = set()
        self._terms = [terms_of(factor.terms) for factor in recipe.factors]

    def read(self, batch: pl.DataFrame) -> Design | None:
        """The design of a batch, or None where no row of it is used.

        Raises ColumnError, ResponseError for what cannot be the model's, naming the row.
        """
        first, self.n_rows = self.n_rows, self.n_rows + batch.height
        table = Table({one.name: one for one in batch.iter_columns()}, np.arange(first, self.n_rows))
        mask, where = incomplete(table, self.recipe.spec.gaps)
        if mask is not None:
            self._drop(mask, where, table)
            table = table.keep(~mask)
        if not table.n_rows:
            return None
        weights, keep = require_weights(self.recipe.spec, table)
        table, weights = part(table, weights, keep)
        if not table.n_rows:
            return None
        rows = read_response(self.recipe, Variables(table))
        if rows.trials is not None and not rows.trials.all():
            check_untried(rows.y, rows.trials, self.recipe.response.name, table)
            tried = rows.trials > 0
            self.n_untried += int((~tried).sum())
            table, weights = part(table, weights, tried)
            rows = rows.each(lambda v: v[tried])
            if not table.n_rows:
                return None
        if rows.censoring is not None:
            self._statuses.update(np.unique(rows.censoring.status).tolist())
        return self._design(table, weights, rows._replace(precision=weights.precision))

    def notes(self) -> tuple[Note, ...]:
        """What was left out. Raises ColumnError where that was everything, ResponseError where no event was seen."""
        found = []
        if self._statuses:
            refuse_unseen(self.recipe.response.name, self._statuses)
        if self.n_dropped:
            where = enumerate_names(list(self._where))
            if self.n_dropped == self.n_rows:
                msg = f"Every row has a missing value: in {where}."
                raise ColumnError(msg)
            what = f"{dropped_text(self.n_dropped, self.n_rows)}: missing values in {where}."
            found.append(Note("rows_dropped", what, quiet=True))
        if self.n_untried:
            n = self.n_untried
            what = f"{counted(n, 'row')} without any trial {'was' if n == 1 else 'were'} left out."
            found.append(Note("rows_without_trials", what, quiet=True))
        return tuple(found)

    def _design(self, table: Table, weights: Weights, rows: Rows) -> Design:
        assert table.rows is not None  # batches are numbered
        variables, self.places = Variables(table), table.rows
        recipe = self.recipe
        check_support(recipe.spec.family, rows, recipe.response.name, table)
        made = [_predictor(part, variables, self._cuts.get(part.parameter)) for part in recipe.predictors]
        self._require_known_labels(table)
        factors = [
            Factor(
                factor.name,
                terms,
                _columns([column for term in factor.terms for column in term.columns], variables),
                n_levels=factor.levels.height,
                prior=factor.prior,
                **_levels(factor, coder, table),
            )
            for factor, terms, coder in zip(recipe.factors, self._terms, self._coders, strict=True)
        ]
        further = tuple(made[1:])
        inputs = read_inputs(recipe.inputs, recipe.spec, variables)
        term, known = recipe.spec.residual, recipe.residual
        residual = None if term is None or known is None else residual_rows(term, known, table)
        return Design(
            rows.y, rows.trials, weights.frequency, rows.precision, made[0], further, tuple(factors), inputs,
            residual, rows.censoring,
        )  # fmt: skip

    def _require_known_labels(self, table: Table) -> None:
        """Raise DataChangedError for a label that no column was made for."""
        for name, known in self.recipe.categoricals.items():
            labels = set(table.at(name, table.levels(name).first).cast(pl.String))
            if not labels <= set(known.levels):
                msg = f"The source changed while it was read: column {name!r} had other labels before."
                raise DataChangedError(msg)

    def _drop(self, mask: BoolVec, where: Sequence[str], table: Table) -> None:
        if self._refuse_missing:
            i = int(np.flatnonzero(mask)[0])
            msg = (
                f"Rows have a missing value in {enumerate_names(where)} (the first is row {table.row(i)}, counted from "
                "0). missing='drop' leaves them out."
            )
            raise ColumnError(msg)
        self.n_dropped += int(mask.sum())
        self._where.update(dict.fromkeys(where))


def _levels(factor: FactorRecipe, coder: KeyCoder, table: Table) -> dict[str, Any]:
    """The level of each row, or the sets of those that it has."""
    if factor.members is None:
        return {"codes": coder.codes(table.series)}
    return known_sets(factor.members, table, coder, factor.levels.height)._asdict()


def _predictor(recipe: PredictorRecipe, variables: Variables, cuts: Cuts | None) -> Predictor:
    offset = None if recipe.offset is None else variables.evaluate(recipe.offset, "the offset")
    names = tuple(column.name for column in recipe.columns)
    return Predictor(_columns(recipe.columns, variables), names, offset, recipe.parameter, cuts)


def _columns(columns: Sequence[Column], variables: Variables) -> Mat:
    """The columns (k, m). Raises ColumnError where one is not finite."""
    x = matrix(columns, variables.table)
    if not np.isfinite(x.sum()):
        for column in columns:
            variables.evaluate(column.node, column.name)
    return x


def terms_of(recipes: Sequence[TermRecipe]) -> tuple[Term, ...]:
    """Where the columns of each term stand among those of their factor."""
    terms: list[Term] = []
    start = 0
    for recipe in recipes:
        names = tuple(column.name for column in recipe.columns)
        own = recipe.parameter_of if recipe.parts else ()
        terms.append(Term(start, start + len(names), recipe.structure, names, recipe.parts, own))
        start += len(names)
    return tuple(terms)
