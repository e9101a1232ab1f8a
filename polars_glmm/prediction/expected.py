"""Numbers of rows that no single link makes of mu: means of zero-inflated counts, of times, zi, medians.

Their gradients are the slopes in every linear predictor, times its columns, and in constants; averaged over the
population, those in the entries of Σ too (families.normal_nodes).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.families.base import all_parts, beyond_parameters
from polars_glmm.families.normal_nodes import bend_at, nodes_of, slope_at
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.constants import constants_of
from polars_glmm.prediction.event_times import QUANTITIES, quantities_of
from polars_glmm.prediction.linear_predictor import ETA, MISSING, Purpose, add_linear_predictor
from polars_glmm.prediction.parameters import refuse_random_phi
from polars_glmm.prediction.population import PredictorCovariance, add_population_rows
from polars_glmm.prediction.quantity import Quantity
from polars_glmm.prediction.row_numbers import computed_numbers, refuse_more, with_entries
from polars_glmm.prediction.rows import PHI, beyond, phi_inputs, with_phi
from polars_glmm.prediction.several import PROBABILITIES, kinds_of, link_of_kind, moved_number

if TYPE_CHECKING:
    from polars_glmm.families.base import Family
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Mat, Vec

_AVERAGED = ("response", "zero", "median", "survival")
"""Kinds of prediction that mean something as averages over random effects."""
_MADE, _TIME = f"{INTERNAL}expected", f"{INTERNAL}time"


class OfRows(NamedTuple):
    """What is asked of every row: a kind, its scale, and of survival the column of the times."""

    kind: str
    scale: str
    time: str | None = None


def through_link(family: Family, kind: str) -> bool:
    """Whether a number is the inverse link of the linear predictor of mu."""
    return kind == "mu" or (kind == "response" and family.response != "category" and family.mu_is_mean)


def has_predictor(family: Family, kind: str) -> bool:
    """Whether a number is the inverse link of any one predictor."""
    return through_link(family, kind) or kind in [one.name for one in family.parameters[1:]]


def _deciding(family: Family, kind: str) -> tuple[int, ...]:
    """The places of the predictors that a number depends on."""
    return tuple(k for k, one in enumerate(family.parameters) if one.name == kind) or all_parts(family)


def check_kind(family: Family, kind: str, scale: str, verb: str) -> None:
    """Raise ModelError for a kind that a verb does not average."""
    kinds = ["response"] if family.response == "category" or family.curve is not None else kinds_of(family)
    kinds = [one for one in kinds if one not in QUANTITIES[1:]]
    if kind not in kinds:
        msg = f"{verb}(): kind={kind!r} is not among {', '.join(map(repr, kinds))}. Use one of these, or fit.predict()."
        raise ModelError(msg)
    if scale == "link" and kind != "response" and not has_predictor(family, kind):
        msg = f"scale='link' is of a linear predictor, and kind={kind!r} has none of its own: use scale='response'."
        raise ModelError(msg)


def require_averaged(family: Family, kind: str) -> None:
    """Raise ModelError for a kind that is no average over random effects."""
    if kind in _AVERAGED:
        return
    own = [one for one in _AVERAGED if one in kinds_of(family)]
    msg = f"random='integrate' averages kind={enumerate_names(own, 'or')}: use one of these, or random='none'."
    if kind in quantities_of(family):
        msg += " The hazard of a population is no average of hazards: it is what its survival tells."
    raise ModelError(msg)


def add_expected(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, purpose: Purpose, asked: OfRows
) -> tuple[pl.LazyFrame, Quantity]:
    """The frame with what a number is made of, and the number."""
    purpose = replace(
        purpose, parts=all_parts(fitted.recipe.spec.family), also_used=purpose.also_used | phi_inputs(fitted)
    )
    frame = add_linear_predictor(frame, schema, fitted, purpose)
    frame = with_phi(frame, schema, fitted, verb=purpose.verb, factors=purpose.acting)
    return _made(frame, fitted, asked, None)


def add_expected_over_population(
    frame: pl.LazyFrame,
    schema: pl.Schema,
    fitted: Parameters,
    purpose: Purpose,
    asked: OfRows,
    *,
    moves: bool = True,
) -> tuple[pl.LazyFrame, Quantity]:
    """The same averaged over random effects, whichever predictors they are on. Raises ModelError for too many.

    moves   whether the gradient is wanted, or the value alone
    """
    family = fitted.recipe.spec.family
    if family.curve is not None:
        refuse_random_phi(fitted, "an average over random effects")
    covariance = PredictorCovariance.of(fitted, _deciding(family, asked[0]))
    refuse_more(covariance, purpose.verb)
    purpose = replace(purpose, parts=all_parts(family), also_used=purpose.also_used | phi_inputs(fitted))
    frame = add_population_rows(frame, schema, fitted, purpose)
    frame = with_phi(frame, schema, fitted, verb=purpose.verb)
    return _made(frame, fitted, asked, covariance, moves=moves)


def _made(
    frame: pl.LazyFrame,
    fitted: Parameters,
    asked: OfRows,
    covariance: PredictorCovariance | None,
    *,
    moves: bool = True,
) -> tuple[pl.LazyFrame, Quantity]:
    family, (kind, scale, time) = fitted.recipe.spec.family, asked
    times = [] if time is None else [column(time).cast(pl.Float64).alias(_TIME)]
    parts = [(k, one.name) for k, one in enumerate(family.parameters) if moves and fitted.models(one.name)]
    constants = constants_of(fitted) if moves else []
    pairs = covariance.pairs if moves and covariance is not None else []

    def values(rows: pl.DataFrame) -> Mat:
        n = rows.height
        eta, at = rows[ETA].cast(pl.Float64).to_numpy(), rows[_TIME].to_numpy() if times else None
        of = moved_number(family, kind, eta, beyond(rows[PHI], family), at)
        if covariance is not None:
            of = nodes_of(covariance.places, covariance.at(rows), of).averaged(of)
        out = [np.broadcast_to(of({}), (n,)), *(slope_at(of, k, n) for k, _ in parts)]
        out += [_natural_slope(slope_at(of, k, n), family, k, rows) for k, _ in constants]
        out += [0.5 * bend_at(of, k, other, n) for k, other in pairs]
        if kind in PROBABILITIES:
            out[0] = np.clip(out[0], 0.0, 1.0)  # an average may be 1 + 2e-16
        if scale == "link":
            link = link_of_kind(family, kind)
            out[0] = link.forward(out[0])
            slope = link.value(out[0], 1)[1]
            out[1:] = [one / slope for one in out[1:]]
        return np.array(out)

    n = 1 + len(parts) + len(constants) + len(pairs)
    fields = [pl.col(MISSING, ETA, PHI), *times]
    frame, (value, *slopes) = computed_numbers(frame, (_MADE, fields), values, n, covariance)
    gradient: list[pl.Expr] = []
    places: list[int] = []
    for slope, (_, name) in zip(slopes[: len(parts)], parts, strict=True):
        gradient += [slope * node.to_expr() for node in fitted.fixed(name).nodes]
        own = fitted.of_all(name)
        places += range(own.start, own.stop)
    rest = slopes[len(parts) :]
    gradient += rest[: len(constants)]
    places += [place for _, place in constants]
    averaged = covariance if moves else None
    return frame, with_entries(fitted, averaged, (value, gradient, places), rest[len(constants) :])


def _natural_slope(slope: Vec, family: Family, k: int, rows: pl.DataFrame) -> Vec:
    """∂/∂(a constant) from that in its predictor; zero where it is at its limit, and counts as known."""
    values, several = beyond(rows[PHI], family), beyond_parameters(family)
    place = next(i for i, (at, _) in enumerate(several) if at == k)
    link = several[place][1].link
    eta = link.forward(np.asarray(values[place] if len(several) > 1 else values))
    found = slope / link.value(eta, 1)[1]
    return np.where(np.isfinite(found), found, 0.0)
