"""What a model says of a row, with its gradient in the parameters, as expressions of a lazy plan.

One definition serves a table of means, an average over long frames (p sums in one query, and no n × p matrix) and
columns beside the rows: they differ in what is done with the expressions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.columns.named import as_found, columns
from polars_glmm.errors import ModelError
from polars_glmm.families.averages import averaged_mean
from polars_glmm.frames.aggregates import aggregated
from polars_glmm.prediction.category_quantities import OfCategory, add_category, refuse_integrated
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.curve import SLOPES, CurvePart
from polars_glmm.prediction.expected import OfRows, add_expected, add_expected_over_population, through_link
from polars_glmm.prediction.inverse_links import mean_of, slope_of
from polars_glmm.prediction.linear_predictor import ETA, MISSING, NewLevels, Purpose, add_linear_predictor
from polars_glmm.prediction.places import acting
from polars_glmm.prediction.population import (
    RANDOM_VARIANCE,
    add_population_predictor,
    covariance_entries,
    random_columns,
)
from polars_glmm.prediction.quantity import Quantity

if TYPE_CHECKING:
    from polars_glmm.families.links import Link
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Mat, Vec

Scale: TypeAlias = Literal["response", "link"]
SCALES = ("response", "link")
Random: TypeAlias = str | Sequence[str]

_AVERAGE = f"{INTERNAL}average"
_VALUE, _ETA_SLOPE, _VARIANCE_SLOPE = f"{INTERNAL}value", f"{INTERNAL}eta_slope", f"{INTERNAL}variance_slope"
_COUNT = f"{INTERNAL}n"


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What is asked of every row.

    random      "none", "all" or some grouping factors, "integrate"
    scale       of the response, or of the link
    verb        the public function, for messages
    category    whose probability, or log odds, it is; None where responses are numbers
    kind        "response", its mean; or another kind of prediction; on the scale of the link, of one with a predictor
    """

    random: Random
    scale: Scale
    verb: str
    new_levels: NewLevels = "error"
    category: str | None = None
    kind: str = "response"

    @property
    def integrated(self) -> bool:
        return self.random == "integrate"


class Averages(NamedTuple):
    """Means over the rows of each group: the groups' columns, values (m,), Jacobian (m, R) and numbers of rows (m,)."""

    groups: pl.DataFrame
    value: Vec
    jacobian: Mat
    n: Vec


def with_quantity(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, wanted: Wanted
) -> tuple[pl.LazyFrame, Quantity]:
    """The frame with what the quantity is made of beside its columns, MISSING among it, and the quantity."""
    refuse_integrated(fitted.recipe, wanted.random, wanted.scale, f"{wanted.verb}()")
    if wanted.category is not None:
        factors = () if wanted.integrated else acting(fitted, wanted.random)
        purpose = Purpose(wanted.verb, factors, wanted.new_levels)
        asked = OfCategory(wanted.category, wanted.scale, wanted.integrated)
        return add_category(frame, schema, fitted, purpose, asked)
    link, family = fitted.recipe.spec.family.link, fitted.recipe.spec.family
    kind = "mu" if wanted.scale == "link" and wanted.kind == "response" else wanted.kind
    if not through_link(family, kind):
        add = add_expected_over_population if wanted.integrated else add_expected
        factors = () if wanted.integrated else acting(fitted, wanted.random)
        purpose = Purpose(wanted.verb, factors, wanted.new_levels)
        return add(frame, schema, fitted, purpose, OfRows(kind, wanted.scale))
    nodes = fitted.fixed("mu").nodes
    if wanted.integrated:
        return _integrated(frame, schema, fitted, wanted, link)
    purpose = Purpose(wanted.verb, acting(fitted, wanted.random), wanted.new_levels)
    frame = add_linear_predictor(frame, schema, fitted, purpose)
    curve = CurvePart.of(fitted)
    if curve is not None:
        frame = frame.with_columns(curve.slopes(curve.acting(purpose.factors)).alias(SLOPES))
        nodes = curve.steered()
    name, eta = link.name if wanted.scale == "response" else "identity", pl.col(ETA)
    slope = slope_of(name, eta)
    gradient = tuple(slope * node.to_expr() for node in nodes)
    return frame, Quantity(mean_of(name, eta), gradient, tuple(range(len(nodes))))


def _integrated(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, wanted: Wanted, link: Link
) -> tuple[pl.LazyFrame, Quantity]:
    """The mean over the population: its gradient in beta, and, for v = z'Σz, in the entries of Σ."""
    frame = add_population_predictor(frame, schema, fitted, verb=wanted.verb)
    fields = (_VALUE, _ETA_SLOPE, _VARIANCE_SLOPE)

    def averages(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        with np.errstate(all="ignore"):
            mean, d_eta, d_variance = averaged_mean(link, rows[ETA].to_numpy(), rows[RANDOM_VARIANCE].to_numpy())
            if wanted.scale == "link":
                mean = link.forward(mean)
                slope = link.value(mean, 1)[1]
                d_eta, d_variance = d_eta / slope, d_variance / slope
        made = [pl.Series(name, one) for name, one in zip(fields, (mean, d_eta, d_variance), strict=True)]
        return pl.DataFrame(made).to_struct(batch.name)

    struct = pl.Struct(dict.fromkeys(fields, pl.Float64()))
    made = pl.struct(pl.col(ETA, RANDOM_VARIANCE)).map_batches(averages, return_dtype=struct, is_elementwise=True)
    frame = frame.with_columns(made.alias(_AVERAGE))
    value, d_eta, d_variance = (pl.col(_AVERAGE).struct.field(name) for name in fields)
    x = [node.to_expr() for node in fitted.fixed("mu").nodes]
    z = random_columns(fitted, 0)
    entries = covariance_entries(fitted, fitted.beta.shape[1] + fitted.gamma.shape[1])
    gradient = [d_eta * one for one in x] + [d_variance * (e.times * z[e.i] * z[e.j]) for e in entries]
    return frame, Quantity(value, tuple(gradient), (*range(len(x)), *(entry.place for entry in entries)))


def averages(
    frame: pl.LazyFrame, quantity: Quantity, by: Sequence[str], n_parameters: int, weight: pl.Expr | None = None
) -> Averages:
    """Means of the quantity over the complete rows of each group, in the order of the groups' values; runs the query.

    weight   how often a row counts; None: once
    """
    complete = ~pl.col(MISSING)
    count = pl.lit(1.0) if weight is None else weight.cast(pl.Float64)
    sums = [pl.when(complete).then(part * count).sum() for part in (quantity.value, *quantity.gradient)]
    named = [one.alias(f"{INTERNAL}sum_{k}") for k, one in enumerate(sums)]
    named.append(pl.when(complete).then(count).otherwise(0.0).sum().alias(_COUNT))
    if by:
        table = aggregated(frame.group_by([as_found(one) for one in by]).agg(named)).sort(columns(by), nulls_last=True)
    else:
        table = aggregated(frame.select(named))
    n = table[_COUNT].to_numpy()
    total = table.select(one for one in table.columns if one.startswith(f"{INTERNAL}sum_")).to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        means = total / n[:, None]
    return Averages(table.select(columns(by)), means[:, 0], quantity.jacobian(means[:, 1:], n_parameters), n)


def check_scale(scale: str) -> None:
    """Raise ModelError for a scale that is none."""
    if scale not in SCALES:
        msg = f"scale={scale!r} is not known: use 'response' or 'link'."
        raise ModelError(msg)
