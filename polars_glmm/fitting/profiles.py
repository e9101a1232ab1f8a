"""The likelihood of a fit once more, from its rows: for profiles of its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.design.sums.independent import settle
from polars_glmm.design.sums.outline import outline
from polars_glmm.design.sums.summarise import summarise
from polars_glmm.errors import ModelError
from polars_glmm.fitting.choose import choose
from polars_glmm.fitting.flow import data_of
from polars_glmm.fitting.readings import collected, rows_to_read
from polars_glmm.fitting.rows import learned_rows
from polars_glmm.fitting.sums import moments_model
from polars_glmm.frames.source import Source
from polars_glmm.likelihood.given import Given
from polars_glmm.likelihood.holding.profiles import Profiles, profiles, profiles_of_products
from polars_glmm.linalg.threads import one_blas_thread

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


def rows_of(fit: Answer, verb: str) -> pl.DataFrame | pl.LazyFrame:
    """The data of a fit. Raises ModelError where they are gone, saying which verb needs them."""
    if fit.rows is None and fit.source is None:
        msg = (
            f"{verb} needs the data of the fit, which keeps none (keep='none', fitted from products, or pickled): fit "
            "again, as in fit.update(frame=df)."
        )
        raise ModelError(msg)
    return data_of(fit)


@contextmanager
def profiles_of(fit: Answer, verb: str) -> Iterator[Profiles]:
    """What profiles a fit's parameters; rows on disk are there until the block is left.

    Raises ModelError where the data are gone, DataChangedError where they have changed.
    """
    data = rows_of(fit, verb)
    if isinstance(data, pl.DataFrame):
        with _profiles(fit, data) as found:
            yield found
        return
    with (
        rows_to_read(data, fit.call, fit.control) as rows,
        _profiles(fit, collected(rows, fit.call, fit.control)) as found,
    ):
        yield found


@contextmanager
def _profiles(fit: Answer, frame: pl.DataFrame | pl.LazyFrame) -> Iterator[Profiles]:
    route, given = choose(frame, fit.call, fit.control), Given(fixed=fit.call.fixed or {})
    with one_blas_thread():
        if route.kind == "sums":
            source = Source.of(fit.spec, frame.lazy())
            summary = summarise(outline(fit.spec, source), source, fit.call.missing)
            recipe, _, _ = settle(summary.recipe, summary.moments, source)
            model = moments_model(recipe, summary.moments, fit.control, given.fixed)
            mu = recipe.predictor("mu")
            names = tuple(column.name for column, keep in zip(mu.columns, mu.kept, strict=True) if keep)
            yield profiles_of_products(model, names, (fit.estimate, given))
            return
        with learned_rows(frame, fit.call, fit.control, route) as learned:
            yield profiles(learned.design, learned.recipe.spec, fit.control, (fit.estimate, given))
