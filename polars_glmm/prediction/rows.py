"""Responses and their sizes in new rows: y, trials, precision and phi, as the families' functions take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.families.base import Rows
from polars_glmm.prediction.columns import INTERNAL, require_columns
from polars_glmm.prediction.effects import JoinedFactor, balanced_sum
from polars_glmm.prediction.linear_predictor import MISSING

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.prediction.parameters import Parameters

PHI = f"{INTERNAL}phi"


def phi_inputs(fitted: Parameters) -> frozenset[str]:
    """Columns that phi depends on: none unless it has a formula."""
    return fitted.fixed("phi").inputs if fitted.models_phi else frozenset()


def with_phi(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, *, verb: str, factors: tuple[JoinedFactor, ...] = ()
) -> pl.LazyFrame:
    """A frame with a linear predictor, and with phi of every row as PHI: the constant, or what its formula says.

    Of `factors`, whose modes are beside the rows, the random effects on phi are in it. A row whose phi is not estimable
    is marked as missing.
    """
    require_columns(schema, phi_inputs(fitted), verb)
    if not fitted.models_phi:
        return frame.with_columns(fitted.constant_phi().alias(PHI))
    part = fitted.fixed("phi")
    if part.undetermined is not None:
        frame = frame.with_columns(pl.any_horizontal(pl.col(MISSING), part.undetermined).alias(MISSING))
    place = [one.name for one in fitted.recipe.spec.family.parameters].index("phi")
    log_phi = balanced_sum([part.value(), *(factor.effect(place) for factor in factors if factor.on(place))])
    return frame.with_columns(log_phi.exp().alias(PHI))


def response_inputs(recipe: Recipe) -> frozenset[str]:
    """Columns that y, trials and precision of a row are read from."""
    return size_inputs(recipe).union(*(node.inputs() for node in recipe.response.nodes()))


def size_inputs(recipe: Recipe) -> frozenset[str]:
    """Columns that trials and precision of a row are read from; with cbind(success, failure) both counts."""
    trials = frozenset[str]() if recipe.response.trials is None else recipe.response.trials.inputs()
    return trials if recipe.spec.precision is None else trials | {recipe.spec.precision}


def sizes_of(recipe: Recipe, frame: pl.DataFrame) -> Rows:
    """Trials and precision of complete rows without a response; y is zero."""
    wanted = {}
    if recipe.response.trials is not None:
        wanted["trials"] = recipe.response.trials.to_expr()
    if recipe.spec.precision is not None:
        wanted["precision"] = column(recipe.spec.precision).cast(pl.Float64)
    sizes = {name: values.to_numpy() for name, values in frame.select(**wanted).to_dict(as_series=True).items()}
    return Rows(np.zeros(frame.height), sizes.get("trials"), sizes.get("precision"))
