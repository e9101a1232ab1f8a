"""A call about unordered categories meets its rows: which categories there are, and so which predictors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.design.categories import column_of, unordered_labels
from polars_glmm.families.registry import is_unordered
from polars_glmm.frames.source import Source

if TYPE_CHECKING:
    from polars_glmm.spec.call import Call


def with_categories(frame: pl.DataFrame | pl.LazyFrame, call: Call) -> Call:
    """The call with the categories of the complete rows of a frame; the same call where it knows them or needs none.

    Raises ColumnError, ResponseError for a response that has no unordered categories.
    """
    if not is_unordered(call.family):
        return call
    spec = call.spec()
    if spec.family.labels:
        return call
    lazy = frame.lazy()
    spec = spec.resolve(frozenset(lazy.collect_schema().names()))
    name = column_of(spec.response.success)
    source = Source.of(spec, lazy)
    weighed = all(source.dtypes[one].is_numeric() for one in (spec.frequency, spec.precision) if one is not None)
    rows = source.rows if weighed else source.frame.filter(source.complete)  # what is no weight is told later
    seen = source.answer(rows.select(column(name).unique()))[name]
    if not len(seen):
        source.refuse_empty()
    return call.of_categories(unordered_labels(name, source.dtypes[name], seen.to_list()))
