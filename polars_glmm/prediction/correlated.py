"""Correlated residuals of the rows of a frame: drawn, or taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.design.residual import residual_rows
from polars_glmm.frames.table import Table
from polars_glmm.likelihood.residual.rows import Correlated, correlated

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.design.records import ResidualRows
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Vec


def residual_inputs(recipe: Recipe) -> frozenset[str]:
    """Columns that say which rows belong together, and where in their group they are."""
    term = recipe.spec.residual
    return frozenset[str]() if term is None else frozenset((*term.places, *term.keys))


def residual_of(recipe: Recipe, rows: pl.DataFrame) -> ResidualRows:
    """The groups of complete rows and their places in these.

    Raises ModelError where rows of one group have one place, UnknownLevelError for places that the fit does not know.
    """
    term, known = recipe.spec.residual, recipe.residual
    assert term is not None  # else nobody asks
    assert known is not None
    names = sorted(residual_inputs(recipe))
    table = Table({name: rows.get_column(name) for name in names} or {"": pl.Series("", np.zeros(rows.height))})
    return residual_rows(term, known, table)


def correlation_of(recipe: Recipe, values: Vec, rows: pl.DataFrame) -> Correlated:
    """The correlation of complete rows at natural parameters (k,). Raises as `residual_of`."""
    return correlated(residual_of(recipe, rows), values)


def add_normalized(frame: pl.LazyFrame, fitted: Parameters, pearson: str, name: str) -> pl.LazyFrame:
    """The frame with L⁻¹r beside the Pearson residuals r of its rows: uncorrelated, of variance 1, if the model holds.

    LL' is the correlation of a group's rows, in the order of their places. All rows of the frame pass through memory.
    """
    values = fitted.correlations
    assert values is not None  # else nobody asks

    def added(rows: pl.DataFrame) -> pl.DataFrame:
        complete = rows.select(~column(pearson).is_null()).to_series()
        out = np.full(rows.height, np.nan)
        used = rows.filter(complete)
        if used.height:
            errors = used.get_column(pearson).to_numpy()[None]
            out[complete.to_numpy()] = correlation_of(fitted.recipe, values, used).whiten(errors)[0]
        return rows.with_columns(pl.Series(name, out, nan_to_null=True))

    return frame.map_batches(
        added, schema=pl.Schema({**frame.collect_schema(), name: pl.Float64()}), predicate_pushdown=False,
        projection_pushdown=False, slice_pushdown=False,
    )  # fmt: skip
