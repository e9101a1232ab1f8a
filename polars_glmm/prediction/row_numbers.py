"""Numbers of rows that a function makes of some fields, with the standard errors that their gradients give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.columns.named import column
from polars_glmm.errors import ModelError
from polars_glmm.families.normal_nodes import AT_ONCE, MOST
from polars_glmm.prediction.effects import MODEL
from polars_glmm.prediction.linear_predictor import MISSING
from polars_glmm.prediction.quantity import Quantity
from polars_glmm.prediction.variances import quadratic

if TYPE_CHECKING:
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.prediction.population import PredictorCovariance
    from polars_glmm.typing import Mat


def computed_numbers(
    frame: pl.LazyFrame,
    asked: tuple[str, list[pl.Expr]],
    values: Callable[[pl.DataFrame], Mat],
    n: int,
    covariance: PredictorCovariance | None,
) -> tuple[pl.LazyFrame, list[pl.Expr]]:
    """The frame with n numbers of each row that a function makes of some fields, and these numbers.

    asked        the name of the column that holds them, and the fields
    covariance   of the predictors that they are averaged over, a column for each of its fields too
    """

    def made(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        at_once = max(AT_ONCE // (1 if covariance is None else covariance.n_nodes(rows)), 1)
        with np.errstate(all="ignore"):
            found = np.hstack([values(rows.slice(at, at_once)) for at in range(0, max(rows.height, 1), at_once)])
        return pl.DataFrame([pl.Series(str(i), one) for i, one in enumerate(found)]).to_struct(batch.name)

    held, fields = asked
    fields = [*fields, *([] if covariance is None else covariance.fields)]
    struct = pl.Struct({str(i): pl.Float64() for i in range(n)})
    whole = pl.struct(fields).map_batches(made, return_dtype=struct, is_elementwise=True)
    frame = frame.with_columns(whole.alias(held))
    return frame, [column(held).struct.field(str(i)) for i in range(n)]


def with_entries(
    fitted: Parameters,
    covariance: PredictorCovariance | None,
    made: tuple[pl.Expr, list[pl.Expr], list[int]],
    bends: Sequence[pl.Expr],
) -> Quantity:
    """A number with its gradient in coefficients, and in the entries of Σ where it is averaged over them."""
    value, gradient, places = made
    if covariance is not None:
        entries, at = covariance.gradient(fitted, bends)
        gradient, places = gradient + entries, places + at
    return Quantity(value, tuple(gradient), tuple(places))


def error_of(fitted: Parameters, quantity: Quantity) -> pl.Expr:
    """Standard errors of a quantity; a variance, or a constant, without one counts as known."""
    assert fitted.report_vcov is not None  # every fit has one
    k, vcov = fitted.beta.shape[1] + fitted.gamma.shape[1], fitted.report_vcov.copy()
    vcov[:, k:], vcov[:, :, k:] = np.nan_to_num(vcov[:, k:]), np.nan_to_num(vcov[:, :, k:])
    many = fitted.model is not None
    fields = [one.alias(f"g_{i}") for i, one in enumerate(quantity.gradient)]

    def errors(batch: pl.Series) -> pl.Series:
        rows = batch.struct.unnest()
        slopes = rows.select(f"g_{i}" for i in range(len(fields))).to_numpy()
        model = rows[MODEL].to_numpy() if many else np.zeros(1, dtype=np.intp)
        with np.errstate(all="ignore"):
            square = quadratic(quantity.jacobian(slopes, vcov.shape[1]).T, vcov, model)
            return pl.Series(batch.name, np.sqrt(np.maximum(square, 0.0)))

    whole = pl.struct(pl.col(MISSING), *fields, *([pl.col(MODEL)] if many else []))
    return whole.map_batches(errors, return_dtype=pl.Float64, is_elementwise=True)


def refuse_more(covariance: PredictorCovariance, verb: str) -> None:
    """Raise ModelError where random effects are on more predictors than a mean is taken over."""
    if len(covariance.places) > MOST:
        msg = (
            f"{verb}(): random='integrate' averages over random effects of at most {MOST} linear predictors. Use "
            "random='none', the unit whose random effects are zero, or average what simulate() draws."
        )
        raise ModelError(msg)
