"""The model of a fit once more: rows read again by its route, for questions that its numbers cannot answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import polars as pl

from polars_glmm.errors import ModelError
from polars_glmm.likelihood.given import Given
from polars_glmm.likelihood.holding.profiles import Profiles, profiles, profiles_of_products
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.result.choose import choose
from polars_glmm.result.route import learned_rows
from polars_glmm.result.summaries import model_again

if TYPE_CHECKING:
    from polars_glmm.result.fitted import Fit


def data_of(fit: Fit, verb: str) -> pl.DataFrame | pl.LazyFrame:
    """The data of a fit. Raises ModelError where they are gone, saying which verb needs them."""
    if fit.rows is None and fit.source is None:
        msg = (
            f"{verb} needs the data of the fit, which keeps none (keep='none', fitted from products, or pickled): fit "
            "again, as in fit.update(frame=df)."
        )
        raise ModelError(msg)
    return fit.data()


@contextmanager
def profiles_of(fit: Fit, verb: str) -> Iterator[Profiles]:
    """What profiles a fit's parameters; rows on disk are there until the block is left.

    Raises ModelError where the data are gone, DataChangedError where they have changed.
    """
    frame = data_of(fit, verb)
    route, given = choose(frame, fit.call, fit.control), Given(fixed=fit.call.fixed or {})
    with one_blas_thread():
        if route.kind == "sums":
            yield profiles_of_products(model_again(fit, frame.lazy()), (fit.estimate, given))
            return
        with learned_rows(frame, fit.call, fit.control, route) as learned:
            yield profiles(learned.design, learned.recipe.spec, fit.control, (fit.estimate, given))
