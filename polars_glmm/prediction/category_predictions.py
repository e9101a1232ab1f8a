"""`predict` for categories: probabilities, the likeliest category, the mean number, the latent position."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.prediction.categories import (
    KINDS,
    UNORDERED_KINDS,
    VALUES,
    LatentReader,
    Outputs,
    add_latent,
    cumulated,
    expected_number,
    family_of,
    labels_of,
    likeliest,
    probabilities,
    refuse_many,
    suffixes,
)
from polars_glmm.prediction.category_quantities import OfCategory, add_category
from polars_glmm.prediction.columns import FrameT, apply_plan, refuse_clash
from polars_glmm.prediction.drawn import as_response
from polars_glmm.prediction.linear_predictor import MISSING, Purpose
from polars_glmm.prediction.places import acting
from polars_glmm.prediction.row_numbers import error_of
from polars_glmm.prediction.unordered import add_predictors, errors_of, values_of

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Recipe
    from polars_glmm.prediction.effects import JoinedFactor
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.prediction.predictions import Request
    from polars_glmm.typing import Mat

_MADE = {"response": probabilities, "cumulative": cumulated, "mean": expected_number}


def category_names(recipe: Recipe, request: Request) -> list[str]:
    """New columns: those of all categories, then their standard errors, then their limits."""
    first = [f"{request.name}{suffix}" for suffix in suffixes(recipe, request.kind)]
    ends = ["_std_error"] * request.std_error + (["_low", "_high"] if request.interval else [])
    return [*first, *(f"{name}{end}" for end in ends for name in first)]


def names_by_fit(request: Request) -> Callable[[Parameters], list[str]]:
    """Names of the new columns, by the fit."""

    def of(fitted: Parameters) -> list[str]:
        if fitted.recipe.spec.family.response != "category":
            return request.names
        if request.kind == "class":
            msg = "kind='class' is of one fit: choose it by its key, as in collection[key], and the rows of it."
            raise ModelError(msg)
        return category_names(fitted.recipe, request)

    return of


def check_category_request(recipe: Recipe, request: Request) -> None:
    """Raise ModelError for what categories do not have."""
    kinds = UNORDERED_KINDS if recipe.spec.family.unordered else KINDS
    if request.kind not in kinds:
        hint = suggest(request.kind, kinds, listed=True)
        if request.kind in KINDS:
            hint = " Its categories have no order, and so no cumulative probabilities and no mean number."
        msg = f"kind={request.kind!r} is not something {recipe.spec.family!r} predicts: use "
        raise ModelError(f"{msg}{enumerate_names(kinds, 'or')}.{hint}")
    if request.interval == "prediction":
        msg = "interval='prediction' is of numbers: kind='response' has the probability of every category."
        raise ModelError(msg)
    if request.random == "integrate" and request.kind != "response":
        msg = "random='integrate' averages probabilities: use kind='response', or random='none' for other kinds."
        raise ModelError(msg)
    if request.kind == "class" and request.uncertain:
        msg = "The likeliest category has no standard error: kind='response' has those of the probabilities."
        raise ModelError(msg)
    if request.df not in (None, "normal"):
        msg = f"df={request.df!r}: intervals for categories are normal ones, df='normal'."
        raise ModelError(msg)


def predict_categories(frame: FrameT, fitted: Parameters, request: Request, quantile: float) -> FrameT:
    """`predict` from the parameters of one fit; intervals reach `quantile` standard errors to either side."""
    check_category_request(fitted.recipe, request)
    refuse_many(fitted, "A prediction of categories")
    if request.random == "integrate":
        return apply_plan(frame, "predict", lambda lazy, schema: _integrated(lazy, schema, fitted, request, quantile))
    factors = acting(fitted, request.random)
    if fitted.recipe.spec.family.unordered:
        return apply_plan(
            frame, "predict", lambda lazy, schema: _unordered(lazy, schema, fitted, (request, factors, quantile))
        )

    def plan(lazy: pl.LazyFrame, schema: pl.Schema) -> pl.LazyFrame:
        names = category_names(fitted.recipe, request)
        refuse_clash(schema, names, "choose another with name=.")
        purpose = Purpose("predict", factors, request.new_levels, std_error=request.uncertain)
        lazy, reader = add_latent(lazy, schema, fitted, purpose)
        fields = [f"{k}" for k in range(len(names))]

        def values(batch: pl.Series) -> pl.Series:
            rows = batch.struct.unnest()
            found = _values(rows, fitted, reader, request, quantile)
            made = [pl.Series(name, one, nan_to_null=True) for name, one in zip(fields, found, strict=True)]
            return pl.DataFrame(made).to_struct(batch.name)

        struct = pl.Struct(dict.fromkeys(fields, pl.Float64))
        made = pl.struct(reader.fields).map_batches(values, return_dtype=struct, is_elementwise=True)
        lazy = lazy.with_columns(made.alias(VALUES))
        outputs = [
            pl.when(~pl.col(MISSING)).then(pl.col(VALUES).struct.field(field)).alias(name)
            for field, name in zip(fields, names, strict=True)
        ]
        if request.kind == "class":
            outputs = [_as_category(outputs[0], fitted.recipe).alias(names[0])]
        return lazy.select(*columns(schema), *outputs)

    return apply_plan(frame, "predict", plan)


def _integrated(
    lazy: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, request: Request, quantile: float
) -> pl.LazyFrame:
    """The plan for probabilities averaged over random effects."""
    names = category_names(fitted.recipe, request)
    refuse_clash(schema, names, "choose another with name=.")
    made, errors = [], []
    for k, label in enumerate(labels_of(fitted.recipe)):
        purpose = Purpose("predict")
        asked = OfCategory(label, integrated=True, moves=request.uncertain)
        lazy, quantity = add_category(lazy, schema, fitted, purpose, asked)
        made.append(quantity.value)
        if request.uncertain:
            lazy = lazy.with_columns(error_of(fitted, quantity).alias(f"{VALUES}_{k}"))
            errors.append(pl.col(f"{VALUES}_{k}").fill_nan(None))
    return _with_limits(lazy, schema, (names, made, errors), request, quantile)


def _with_limits(
    lazy: pl.LazyFrame,
    schema: pl.Schema,
    made: tuple[list[str], list[pl.Expr], list[pl.Expr]],
    request: Request,
    quantile: float,
) -> pl.LazyFrame:
    """The columns of the rows and of the answer: its names, values and standard errors, with limits where asked for."""
    names, values, errors = made
    outputs = [*values, *(errors if request.std_error else [])]
    for sign in (-quantile, quantile) if request.interval is not None else ():
        outputs += [_end(value, sign * error, request.kind) for value, error in zip(values, errors, strict=True)]
    shown = [pl.when(~pl.col(MISSING)).then(value).alias(name) for name, value in zip(names, outputs, strict=True)]
    return lazy.select(*columns(schema), *shown)


def _unordered(
    lazy: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, asked: tuple[Request, tuple[JoinedFactor, ...], float]
) -> pl.LazyFrame:
    """The plan for categories without an order, of which each has a predictor."""
    request, factors, quantile = asked
    names, n = category_names(fitted.recipe, request), len(suffixes(fitted.recipe, request.kind))
    refuse_clash(schema, names, "choose another with name=.")
    purpose = Purpose("predict", factors, request.new_levels)
    lazy = add_predictors(lazy, schema, fitted, purpose).with_columns(values_of(request.kind, n).alias(VALUES))
    values = [pl.col(VALUES).struct.field(str(k)) for k in range(n)]
    if request.kind == "class":
        shown = _as_category(pl.when(~pl.col(MISSING)).then(values[0]), fitted.recipe)
        return lazy.select(*columns(schema), shown.alias(names[0]))
    errors = []
    if request.uncertain:
        lazy = lazy.with_columns(errors_of(fitted, request.kind, k, factors).alias(f"{VALUES}_{k}") for k in range(n))
        errors = [pl.col(f"{VALUES}_{k}").fill_nan(None) for k in range(n)]
    return _with_limits(lazy, schema, (names, values, errors), request, quantile)


def _end(value: pl.Expr, margin: pl.Expr, kind: str) -> pl.Expr:
    """An end of an interval: of a probability on the logit scale, of a predictor as it stands."""
    if kind == "link":
        return value + margin
    logit = (value / (1.0 - value)).log() + margin / (value * (1.0 - value))
    return 1.0 / (1.0 + (-logit).exp())


def _as_category(number: pl.Expr, recipe: Recipe) -> pl.Expr:
    """The number of a category as the category, in the dtype of the response."""
    dtype = recipe.response.dtype
    assert dtype is not None  # a response of categories is one column
    return number.map_batches(lambda one: as_response(one, recipe), return_dtype=dtype, is_elementwise=True)


def _values(rows: pl.DataFrame, fitted: Parameters, reader: LatentReader, request: Request, quantile: float) -> Mat:
    """Every new column of complete and other rows, (m, n)."""
    family, at = family_of(fitted.recipe), reader.latent(rows)
    with np.errstate(all="ignore"):
        if request.kind == "class":
            return likeliest(family, at)[None]
        if request.kind == "link":
            n, m = len(at.eta), len(at.alpha)
            found = Outputs(at.eta[None], np.ones((1, n)), np.zeros((1, m, n)), np.zeros((1, n)))
        else:
            found = _MADE[request.kind](family, at)
        if not request.uncertain:
            return found.value
        assert reader.errors is not None  # wanted
        error = reader.errors(rows, found)
        out = [found.value, *([error] if request.std_error else [])]
        if request.interval is not None:
            out += _limits(found.value, error * quantile, request.kind)
        return np.concatenate(out)


def _limits(value: Mat, margin: Mat, kind: str) -> list[Mat]:
    """Ends of an interval: of probabilities on the logit scale, of others as they stand."""
    if kind in ("link", "mean"):
        return [value - margin, value + margin]
    logit, slope = np.log(value) - np.log1p(-value), value * (1.0 - value)
    return [1.0 / (1.0 + np.exp(-(logit + sign * margin / slope))) for sign in (-1.0, 1.0)]
