"""Responses and their sizes in new rows: y, trials, precision and phi, as the families' functions take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.families.base import Rows, beyond_parameters
from polars_glmm.prediction.columns import INTERNAL, require_columns
from polars_glmm.prediction.effects import JoinedFactor, balanced_sum
from polars_glmm.prediction.inverse_links import mean_of
from polars_glmm.prediction.linear_predictor import MISSING

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.families.base import Family
    from polars_glmm.prediction.parameters import Parameters

PHI = f"{INTERNAL}phi"
"""What the family takes beyond the mean: phi or another parameter that stands alone, or a struct of several by name."""


def phi_inputs(fitted: Parameters) -> frozenset[str]:
    """Columns that parameters beyond the mean depend on: none unless one has a formula."""
    return frozenset[str]().union(*(fitted.fixed(name).inputs for name in _with_formulas(fitted)))


def _with_formulas(fitted: Parameters) -> list[str]:
    return [one.name for _, one in beyond_parameters(fitted.recipe.spec.family) if fitted.models(one.name)]


def with_phi(
    frame: pl.LazyFrame,
    schema: pl.Schema,
    fitted: Parameters,
    *,
    verb: str,
    factors: tuple[JoinedFactor, ...] = (),
    name: str = PHI,
) -> pl.LazyFrame:
    """A frame with a linear predictor, and with what is beyond the mean of every row: constants, or by formulas.

    Of `factors`, whose modes are beside the rows, the random effects on it are in it. A row in which a formula is not
    estimable is marked as missing.
    """
    require_columns(schema, phi_inputs(fitted), verb)
    lost = [one for name in _with_formulas(fitted) if (one := fitted.fixed(name).undetermined) is not None]
    if lost:
        frame = frame.with_columns(pl.any_horizontal(pl.col(MISSING), *lost).alias(MISSING))
    values = []
    for k, parameter in beyond_parameters(fitted.recipe.spec.family):
        if not fitted.models(parameter.name):
            values.append(fitted.constant(parameter.name).alias(parameter.name))
            continue
        effects = (factor.effect(k) for factor in factors if factor.on(k))
        at = balanced_sum([fitted.fixed(parameter.name).value(), *effects])
        values.append(mean_of(parameter.link.name, at).alias(parameter.name))
    whole = pl.lit(None, dtype=pl.Float64) if not values else values[0] if len(values) == 1 else pl.struct(values)
    return frame.with_columns(whole.alias(name))


def beyond(values: pl.Series, family: Family) -> Any:
    """What a family takes beyond the mean, from PHI of rows."""
    names = [one.name for _, one in beyond_parameters(family)]
    if len(names) < 2:
        return values.cast(pl.Float64).to_numpy() if names else None
    return tuple(values.struct.field(name).cast(pl.Float64).to_numpy() for name in names)


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
