"""Unordered categories in new rows: the predictors of all of them, probabilities, and their delta-method errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.families.base import all_parts
from polars_glmm.families.categorical import Shares, probability_slopes, shares_of
from polars_glmm.prediction.columns import INTERNAL
from polars_glmm.prediction.effects import JoinedFactor, balanced_sum
from polars_glmm.prediction.linear_predictor import MISSING, Purpose, add_linear_predictor
from polars_glmm.prediction.population import add_population_rows
from polars_glmm.prediction.variances import Moving, joint_variance

if TYPE_CHECKING:
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Mat, Vec

PREDICTORS, AT_ZERO = f"{INTERNAL}predictors", f"{INTERNAL}predictors_at_zero"
"""Structs of the predictors of every category but the baseline: with random effects, and with all of them at zero."""


def names_of(fitted: Parameters) -> list[str]:
    """The parameters of the predictors, in the order of the categories."""
    return [one.name for one in fitted.recipe.spec.family.parameters]


def further_inputs(fitted: Parameters) -> frozenset[str]:
    """Columns of the frame that the predictors beyond the first are made of."""
    return frozenset[str]().union(*(fitted.fixed(name).inputs for name in names_of(fitted)[1:]))


def add_predictors(
    frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, purpose: Purpose, *, integrated: bool = False
) -> pl.LazyFrame:
    """The frame with MISSING, PREDICTORS and AT_ZERO; the factors of `purpose` are added where they are on them.

    integrated   with what random effects multiply instead
    """
    parts = all_parts(fitted.recipe.spec.family)
    purpose = replace(purpose, parts=parts, also_designed=further_inputs(fitted), std_error=False)
    add = add_population_rows if integrated else add_linear_predictor
    frame = add(frame, schema, fitted, purpose)
    fixed = [fitted.fixed(name) for name in names_of(fitted)]
    lost = [part.undetermined for part in fixed if part.undetermined is not None]
    if lost:
        frame = frame.with_columns(pl.any_horizontal(pl.col(MISSING), *lost).alias(MISSING))
    at = [
        balanced_sum([part.value(), *(factor.effect(k) for factor in purpose.acting if factor.on(k))]).alias(str(k))
        for k, part in enumerate(fixed)
    ]
    zero = [part.value().alias(str(k)) for k, part in enumerate(fixed)]
    return frame.with_columns(pl.struct(at).alias(PREDICTORS), pl.struct(zero).alias(AT_ZERO))


def shares(at: pl.Series) -> Shares:
    """Probabilities of all categories in rows of PREDICTORS, each (C, n)."""
    return shares_of(tuple(predictors(at)), np.zeros(1))


def predictors(at: pl.Series) -> Mat:
    """The predictors (C − 1, n) in rows of PREDICTORS."""
    rows = at.struct.unnest()
    return np.array([one.cast(pl.Float64).to_numpy() for one in rows.iter_columns()])


def values_of(kind: str, n: int) -> pl.Expr:
    """Probabilities (kind "response"), the number of the likeliest ("class") or the predictors ("link"), a struct.

    n   how many columns there are
    """

    def values(batch: pl.Series) -> pl.Series:
        made = _values(kind, batch)
        return pl.DataFrame([pl.Series(str(k), one) for k, one in enumerate(made)]).to_struct(batch.name)

    struct = pl.Struct({str(k): pl.Float64() for k in range(n)})
    return pl.col(PREDICTORS).map_batches(values, return_dtype=struct, is_elementwise=True)


def _values(kind: str, at: pl.Series) -> Mat:
    if kind == "link":
        return predictors(at)
    log, p, _ = shares(at)
    return np.argmax(log, axis=0).astype(np.float64)[None] if kind == "class" else p


def errors_of(fitted: Parameters, kind: str, k: int, factors: Sequence[JoinedFactor]) -> pl.Expr:
    """Standard errors of the probability of a category (kind "response"), or of a predictor ("link")."""
    parts = [(place, fitted.fixed(name)) for place, name in enumerate(names_of(fitted))]

    def slopes(at: pl.Series) -> dict[int, Vec]:
        if kind == "link":
            return {place: np.full(len(at), float(place == k)) for place, _ in parts}
        _, p, rest = shares(at)
        return dict(enumerate(probability_slopes(p, rest, k)))

    field: tuple[pl.Expr, Callable[[pl.Series], dict[int, Vec]]] = (pl.col(PREDICTORS), slopes)
    return joint_variance(Moving(parts), factors, field, pl.col(MISSING)).sqrt()
