"""What a model of categories says of a row, with its gradient: a probability, or the log odds against the baseline.

A probability moves with the predictors of all categories, or with thresholds and scale; the coefficients of each follow
by their columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError
from polars_glmm.families.base import all_parts
from polars_glmm.families.categorical import probability_slopes, shares_of
from polars_glmm.families.normal_nodes import nodes_of, slope_at
from polars_glmm.prediction.categories import Latent, add_latent, family_of, labels_of, probability, threshold_slopes
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.linear_predictor import MISSING
from polars_glmm.prediction.population import PredictorCovariance
from polars_glmm.prediction.quantity import Quantity
from polars_glmm.prediction.row_numbers import computed_numbers, refuse_more, with_entries
from polars_glmm.prediction.unordered import PREDICTORS, add_predictors, names_of, predictors

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


def refuse_integrated(recipe: Recipe, random: object, scale: str, verb: str) -> None:
    """Raise ModelError for latent positions averaged over random effects, which are those of the unit at zero."""
    if recipe.spec.family.response == "category" and random == "integrate" and scale == "link":
        msg = (
            f"{verb}: random='integrate' averages probabilities, scale='response'; a linear predictor is on average "
            "that of the unit whose random effects are zero, random='none'."
        )
        raise ModelError(msg)


class OfCategory(NamedTuple):
    """The number of a category that is asked for, on a scale.

    integrated   a probability averaged over random effects, on up to three predictors
    moves        whether the gradient of such an average is wanted, or the value alone
    """

    label: str
    scale: str = "response"
    integrated: bool = False
    moves: bool = True


def add_category(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, purpose: Purpose, asked: OfCategory
) -> tuple[pl.LazyFrame, Quantity]:
    """The frame with what the number of a category is made of, and the number."""
    k = labels_of(fitted.recipe).index(asked.label)
    covariance = None
    if asked.integrated:
        covariance = PredictorCovariance.of(fitted, all_parts(fitted.recipe.spec.family))
        refuse_more(covariance, purpose.verb)
    if not fitted.recipe.spec.family.unordered:
        return _ordered(frame, schema, fitted, purpose, (k, covariance, asked.moves))
    frame = add_predictors(frame, schema, fitted, purpose, integrated=asked.integrated)
    names = names_of(fitted)
    if asked.scale == "link":
        own = names[k - 1]
        nodes = fitted.fixed(own).nodes
        at = pl.col(PREDICTORS).struct.field(str(k - 1))
        return frame, Quantity(at, tuple(node.to_expr() for node in nodes), _places(fitted, own))

    def values(rows: pl.DataFrame) -> Mat:
        at = predictors(rows[PREDICTORS])
        if covariance is None:
            _, p, rest = shares_of(tuple(at), np.zeros(1))
            return np.vstack([p[k][None], probability_slopes(p, rest, k)])
        nodes = nodes_of(covariance.places, covariance.at(rows))
        moved = [one + nodes.moves.get(i, np.zeros((1, 1))) for i, one in enumerate(at)]
        _, p, rest = shares_of(tuple(moved), np.zeros(1))
        slopes = probability_slopes(p, rest, k)
        bends = [0.5 * _bend(p, slopes, k, pair) for pair in covariance.pairs]
        return nodes.mean(np.array([p[k], *slopes, *bends]))

    pairs = [] if covariance is None else covariance.pairs
    frame, (value, *slopes) = computed_numbers(
        frame, (f"{_PROBABILITY}_{k}", [pl.col(MISSING, PREDICTORS)]), values, 1 + len(names) + len(pairs), covariance
    )
    gradient = [
        slope * node.to_expr()
        for slope, name in zip(slopes, names, strict=False)
        for node in fitted.fixed(name).nodes
    ]
    places = [place for name in names for place in _places(fitted, name)]
    return frame, with_entries(fitted, covariance, (value, gradient, places), slopes[len(names) :])


def _bend(p: Mat, slopes: Mat, k: int, pair: tuple[int, int]) -> Mat:
    """∂²p_k/∂η_a ∂η_b of two predictors: ∂/∂η_b of p_k (1[k = a] − p_a)."""
    a, b = pair
    of_other = p[a + 1] * (float(a == b) - p[b + 1])
    return np.asarray(slopes[b] * (float(k == a + 1) - p[a + 1]) - p[k] * of_other)


def _ordered(
    frame: pl.LazyFrame,
    schema: pl.Schema,
    fitted: Parameters,
    purpose: Purpose,
    asked: tuple[int, PredictorCovariance | None, bool],
) -> tuple[pl.LazyFrame, Quantity]:
    """The probability of an ordered category: by its linear predictor, the thresholds, and the scale."""
    k, covariance, moves = asked
    frame, reader = add_latent(frame, schema, fitted, purpose, integrated=covariance is not None)
    family, m = family_of(fitted.recipe), len(labels_of(fitted.recipe)) - 1

    def numbers(at: Latent) -> Mat:
        found = probability(family, at, k)
        return np.vstack([found.value[None], found.eta[None], found.alpha, found.delta[None]])

    def values(rows: pl.DataFrame) -> Mat:
        at = reader.latent(rows)
        if covariance is None:
            return numbers(at)
        nodes = nodes_of(covariance.places, covariance.at(rows))

        def moved(by: Mapping[int, Mat]) -> Mat:
            eta = at.eta + by.get(0, np.zeros((1, 1)))
            latent = [*at.alpha, *([] if at.delta is None else [at.delta])]
            each = [np.broadcast_to(one, eta.shape).ravel() for one in latent]
            found = numbers(Latent(eta.ravel(), np.array(each[:m]), None if at.delta is None else each[m]))
            return found.reshape(len(found), *eta.shape)

        average = nodes.averaged(moved)
        if not moves:
            return average({})
        bends = [0.5 * slope_at(lambda by: average(by)[1], 0, rows.height)[None] for _ in covariance.pairs]
        return np.vstack([average({}), *bends])

    n = m + 3 + (0 if covariance is None or not moves else len(covariance.pairs))
    frame, (value, by_eta, *rest) = computed_numbers(
        frame, (f"{_PROBABILITY}_{k}", reader.fields), values, n, covariance
    )
    if not moves:
        return frame, Quantity(value, (), ())
    further, places = threshold_slopes(fitted, rest[:m], rest[m])
    mu = fitted.fixed("mu")
    gradient = [*(by_eta * node.to_expr() for node in mu.nodes), *further]
    return frame, with_entries(fitted, covariance, (value, gradient, [*range(len(mu.nodes)), *places]), rest[m + 1 :])


def _places(fitted: Parameters, name: str) -> tuple[int, ...]:
    """Where the coefficients of a category stand among those of all formulas."""
    own = fitted.of_all(name)
    return tuple(range(own.start, own.stop))
