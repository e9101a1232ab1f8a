"""What a model of categories says of a row, with its gradient: a probability, or the log odds against the baseline.

A probability moves with the predictors of all categories, or with thresholds and scale; the coefficients of each follow
by their columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError
from polars_glmm.families.categorical import probability_slopes
from polars_glmm.prediction.categories import Latent, add_latent, family_of, labels_of, probabilities, threshold_slopes
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.quantity import Quantity
from polars_glmm.prediction.unordered import PREDICTORS, add_predictors, names_of, shares

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.prediction.linear_predictor import Purpose
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Mat

CATEGORY = "category"
"""The column of tables that names the category."""
_PROBABILITY = f"{INTERNAL}probability"


def categories_asked(recipe: Recipe, scale: str) -> list[str]:
    """The categories that an answer has a row for, or none where it is one number.

    On the scale of the response all of them, by their probabilities; on that of the link those that have a predictor:
    every one but the baseline, and of ordered categories, which share one, none.
    """
    if recipe.spec.family.response != "category":
        return []
    labels = list(labels_of(recipe))
    if scale == "response":
        return labels
    return labels[1:] if recipe.spec.family.unordered else []


def refuse_integrated(recipe: Recipe, random: object, verb: str) -> None:
    """Raise ModelError for probabilities averaged over random effects, of which there are as many as predictors."""
    if recipe.spec.family.response == "category" and random == "integrate":
        msg = (
            f"{verb}: random='integrate' is of means that are numbers. Use random='none', the unit whose random "
            "effects are zero, or average what simulate() draws."
        )
        raise ModelError(msg)


def add_category(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, purpose: Purpose, asked: tuple[str, str]
) -> tuple[pl.LazyFrame, Quantity]:
    """The frame with what the number is made of, and the number of a category on a scale, `asked`."""
    category, scale = asked
    k = labels_of(fitted.recipe).index(category)
    if not fitted.recipe.spec.family.unordered:
        return _ordered(frame, schema, fitted, purpose, k)
    frame = add_predictors(frame, schema, fitted, purpose)
    names = names_of(fitted)
    if scale == "link":
        own = names[k - 1]
        gradient = tuple(node.to_expr() for node in fitted.fixed(own).nodes)
        return frame, Quantity(pl.col(PREDICTORS).struct.field(str(k - 1)), gradient, _places(fitted, own))

    def values(batch: pl.Series) -> Mat:
        with np.errstate(all="ignore"):
            _, p, rest = shares(batch)
            return np.vstack([p[k][None], probability_slopes(p, rest, k)])

    frame, (value, *slopes) = _made(frame, pl.col(PREDICTORS), values, len(names) + 1)
    gradient = tuple(
        slope * node.to_expr()
        for slope, name in zip(slopes, names, strict=True)
        for node in fitted.fixed(name).nodes
    )
    return frame, Quantity(value, gradient, tuple(place for name in names for place in _places(fitted, name)))


def _ordered(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, purpose: Purpose, k: int
) -> tuple[pl.LazyFrame, Quantity]:
    """The probability of an ordered category: by its linear predictor, the thresholds, and the scale."""
    frame, reader = add_latent(frame, schema, fitted, purpose)
    family, m = family_of(fitted.recipe), len(labels_of(fitted.recipe)) - 1

    def values(batch: pl.Series) -> Mat:
        at: Latent = reader.latent(batch.struct.unnest())
        with np.errstate(all="ignore"):
            found = probabilities(family, at)
            return np.vstack([found.value[k][None], found.eta[k][None], found.alpha[k], found.delta[k][None]])

    frame, (value, by_eta, *rest) = _made(frame, pl.struct(reader.fields), values, m + 3)
    further, places = threshold_slopes(fitted, rest[:m], rest[m])
    mu = fitted.fixed("mu")
    gradient = (*(by_eta * node.to_expr() for node in mu.nodes), *further)
    return frame, Quantity(value, gradient, (*range(len(mu.nodes)), *places))


def _made(
    frame: pl.LazyFrame, fields: pl.Expr, values: Callable[[pl.Series], Mat], n: int
) -> tuple[pl.LazyFrame, list[pl.Expr]]:
    """The frame with n numbers of each row that a function makes of some fields, and these numbers."""

    def made(batch: pl.Series) -> pl.Series:
        found = [pl.Series(str(i), one) for i, one in enumerate(values(batch))]
        return pl.DataFrame(found).to_struct(batch.name)

    struct = pl.Struct({str(i): pl.Float64() for i in range(n)})
    frame = frame.with_columns(fields.map_batches(made, return_dtype=struct, is_elementwise=True).alias(_PROBABILITY))
    return frame, [pl.col(_PROBABILITY).struct.field(str(i)) for i in range(n)]


def _places(fitted: Parameters, name: str) -> tuple[int, ...]:
    """Where the coefficients of a category stand among those of all formulas."""
    first = name == fitted.recipe.predictors[0].parameter
    own = fitted.of_all("mu" if first else name)
    return tuple(range(own.start, own.stop))
