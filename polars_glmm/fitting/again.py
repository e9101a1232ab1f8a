"""The rows of a fit, read again for what needs more of them than the answer keeps: frames, designs, sums."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.design.known import KnownRows, read_known, used_columns
from polars_glmm.design.sums.independent import settle
from polars_glmm.design.sums.outline import outline
from polars_glmm.design.sums.summarise import summarise
from polars_glmm.errors import ColumnError, ModelError, suggest
from polars_glmm.fitting.flow import data_of
from polars_glmm.fitting.readings import collected, rows_to_read
from polars_glmm.fitting.sums import moments_model
from polars_glmm.frames.batches import whole
from polars_glmm.frames.source import Source
from polars_glmm.frames.table import collect

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.likelihood.products.engine import ProductModel


def data_for(fit: Answer, verb: str) -> pl.DataFrame | pl.LazyFrame:
    """The data of a fit. Raises ModelError where they are gone, saying which verb needs them."""
    if fit.rows is None and fit.source is None:
        msg = (
            f"{verb} needs the data of the fit, which keeps none (keep='none', fitted from products, or pickled): fit "
            "again, as in fit.update(frame=df)."
        )
        raise ModelError(msg)
    return data_of(fit)


@contextmanager
def frame_again(fit: Answer, data: pl.DataFrame | pl.LazyFrame) -> Iterator[pl.DataFrame | pl.LazyFrame]:
    """The data of a fit for one reading as they were read for the fit; rows on disk are there until the end."""
    if isinstance(data, pl.DataFrame):
        yield data
        return
    with rows_to_read(data, fit.call, fit.control) as rows:
        yield collected(rows, fit.call, fit.control)


def sums_again(
    fit: Answer, frame: pl.DataFrame | pl.LazyFrame, fixed: Mapping[str, float] | None = None
) -> tuple[Recipe, ProductModel]:
    """The model of a fit from sums over its rows, and its recipe."""
    source = Source.of(fit.spec, frame.lazy())
    summary = summarise(outline(fit.spec, source), source, fit.call.missing)
    recipe, _, _ = settle(summary.recipe, summary.moments, source)
    return recipe, moments_model(recipe, summary.moments, fit.control, fixed or {})


def rows_of(fit: Answer, what: str) -> pl.DataFrame:
    """The columns in use of the rows of a fit, in memory; `what` needs them, for the message where they are gone."""
    if fit.rows is None and fit.source is None:
        msg = (
            f"{what} needs the rows of the fit, and this one keeps none (keep='none', or it was pickled): fit again, "
            "as with fit.update(frame=df)."
        )
        raise ModelError(msg)
    return pl.DataFrame(dict(collect(data_of(fit), used_columns(fit.recipe)).series))


def rows_with(fit: Answer, keys: Sequence[str], what: str) -> pl.DataFrame:
    """As `rows_of`, with further columns of the data. Raises ColumnError for one that the data lack."""
    rows = rows_of(fit, what)
    if set(keys) <= set(rows.columns):
        return rows
    lazy = data_of(fit).lazy()
    names = lazy.collect_schema().names()
    absent = [key for key in keys if key not in names]
    if absent:
        msg = f"{absent[0]!r} is neither a grouping factor of the model nor a column of its data."
        raise ColumnError(f"{msg}{suggest(absent[0], names)}")
    return whole(lazy.select(columns(list(dict.fromkeys([*used_columns(fit.recipe), *keys])))))


def design_of(fit: Answer, what: str) -> KnownRows:
    """The design of a fit again, with the levels and columns it has."""
    return read_known(fit.recipe, rows_of(fit, what), own_levels=False)
