"""The likelihood of a fit once more, from its rows: for profiles of its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.fitting.again import data_for, frame_again, sums_again
from polars_glmm.fitting.choose import choose
from polars_glmm.fitting.rows import learned_rows
from polars_glmm.likelihood.given import Given
from polars_glmm.likelihood.holding.profiles import Profiles, profiles, profiles_of_products
from polars_glmm.linalg.threads import one_blas_thread

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer


@contextmanager
def profiles_of(fit: Answer, verb: str) -> Iterator[Profiles]:
    """What profiles a fit's parameters; rows on disk are there until the block is left.

    Raises ModelError where the data are gone, DataChangedError where they have changed.
    """
    if fit.recipe.spec.family.curve is not None:
        msg = f"{verb} follows one linear predictor, and this model is nonlinear: use method='bootstrap' or 'wald'."
        raise ModelError(msg)
    limits = [name for name, value in fit.estimate.others.items() if not np.isfinite(value)]
    if limits:
        msg = (
            f"{verb} follows estimates that are finite, and {enumerate_names(limits)} ends at its limit: use "
            "method='bootstrap' or 'wald', or profile the model at the limit, as in fit.update(family='gaussian')."
        )
        raise ModelError(msg)
    with frame_again(fit, data_for(fit, verb)) as frame, _profiles(fit, frame) as found:
        yield found


@contextmanager
def _profiles(fit: Answer, frame: pl.DataFrame | pl.LazyFrame) -> Iterator[Profiles]:
    route, given = choose(frame, fit.call, fit.control), Given(fixed=fit.call.fixed or {})
    with one_blas_thread():
        if route.kind == "sums":
            recipe, model = sums_again(fit, frame, given.fixed)
            mu = recipe.predictor("mu")
            names = tuple(column.name for column, keep in zip(mu.columns, mu.kept, strict=True) if keep)
            yield profiles_of_products(model, names, (fit.estimate, given))
            return
        with learned_rows(frame, fit.call, fit.control, route) as learned:
            yield profiles(learned.design, learned.recipe.spec, fit.control, (fit.estimate, given))
