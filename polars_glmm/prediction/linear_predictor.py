"""The linear predictor of new rows inside a lazy plan: fixed part, random part, their standard error, the guard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from polars_glmm.columns.nodes import looked_up
from polars_glmm.errors import ColumnError, brief
from polars_glmm.frames.levels import is_label
from polars_glmm.prediction.columns import INTERNAL, is_missing, require_columns
from polars_glmm.prediction.curve import SLOPES, CurvePart
from polars_glmm.prediction.effects import JoinedFactor, balanced_sum
from polars_glmm.prediction.guards import Check, fixed_level_checks, guarded
from polars_glmm.prediction.variances import ALONG, FREEDOM, ROUNDING, VARIANCE, variance, variance_with_freedom

if TYPE_CHECKING:
    from polars_glmm.design.recipe import Categorical, Recipe
    from polars_glmm.families.base import Parameter
    from polars_glmm.prediction.parameters import Parameters

NewLevels = Literal["error", "zero", "null"]

MISSING = f"{INTERNAL}missing"
ETA = f"{INTERNAL}eta"
FIXED = f"{INTERNAL}fixed"
STD_ERROR = f"{INTERNAL}std_error"
SPREAD = f"{INTERNAL}spread"

ZERO_OR_NULL = (
    'Use new_levels="zero" to predict with its random effect at zero, or new_levels="null" for no prediction.'
)


@dataclass(frozen=True, slots=True, eq=False)
class Purpose:
    """What a linear predictor is wanted for.

    verb        the public function, for messages
    factors     grouping factors whose random effects are added
    parts       predictors that are wanted, by their places in the family: the first one here, others by what follows
    new_levels  what their unseen levels become; `remedy` is said where they are an error
    also_designed   columns that enter further predictors
    levels      columns of further levels that must be known
    own         of the first parameter of a curve as it is, and not of the curve
    also_used   further columns whose nulls make a row incomplete (the response, in augment)
    std_error, interval   whether the variance is wanted, and whether its degrees of freedom are
    """

    verb: str
    factors: tuple[JoinedFactor, ...] = ()
    new_levels: NewLevels = "error"
    remedy: str = ZERO_OR_NULL
    also_used: frozenset[str] = frozenset()
    std_error: bool = False
    interval: bool = False
    parts: tuple[int, ...] = (0,)
    also_designed: frozenset[str] = frozenset()
    levels: frozenset[str] = frozenset()
    own: bool = False

    @property
    def acting(self) -> tuple[JoinedFactor, ...]:
        """The factors with random effects on what is wanted."""
        return tuple(factor for factor in self.factors if factor.on(*self.parts))


def add_linear_predictor(frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, purpose: Purpose) -> pl.LazyFrame:
    """The frame with internal columns MISSING, FIXED, ETA and, on request, STD_ERROR of the first predictor wanted.

    With an interval FREEDOM as well, where its reference is t. MISSING is true of rows whose fixed part is not
    estimable, and carries the guard: whatever is derived from the others must be made null by it, and so keeps it.
    """
    curve = CurvePart.of(fitted) if purpose.parts[0] == 0 and not purpose.own else None
    if curve is not None:
        purpose = replace(purpose, parts=(*curve.places, *(k - 1 + len(curve.places) for k in purpose.parts[1:])))
    part, factors = purpose.parts[0], purpose.acting
    fixed = fitted.fixed(fitted.recipe.spec.family.parameters[part].name)
    inputs = fixed.inputs if curve is None else curve.inputs
    designs = inputs.union(purpose.also_designed, *(factor.slope_inputs(*purpose.parts) for factor in factors))
    designs = designs.union(*(factor.weights for factor in factors))
    used = designs.union(purpose.also_used, *(factor.recipe.columns for factor in factors))
    require_columns(schema, used, purpose.verb)
    require_dtypes(schema, designs, fitted.recipe)

    frame = fitted.attach(frame).with_columns(is_missing(schema, used, fitted.recipe.spec.gaps).alias(MISSING))
    for factor in factors:
        frame = factor.attach(frame, schema)

    missing = incomplete = pl.col(MISSING)
    levels = purpose.levels | (designs & looked_up_in(fitted.recipe, factors))
    checks: list[Check] = fixed_level_checks(used_categoricals(fitted.recipe, levels), missing)
    checks += [check for factor in factors for check in factor.new_points(missing, *purpose.parts)]
    if purpose.new_levels == "error":
        checks += [check for factor in factors for check in factor.checks(missing, purpose.remedy)]
    elif purpose.new_levels == "null" and factors:
        incomplete = pl.any_horizontal(missing, *(factor.unseen() for factor in factors))
    unclear = curve.undetermined() if curve is not None else [fixed.undetermined]
    incomplete = pl.any_horizontal(incomplete, *(one for one in unclear if one is not None))
    if curve is not None:
        values = curve.value().alias(FIXED), curve.value(factors).alias(ETA)
        frame = frame.with_columns(guarded(incomplete, checks).alias(MISSING), *values)
        if not purpose.std_error:
            return frame
        spread = curve.variance(factors, pl.col(MISSING)).sqrt().alias(STD_ERROR)
        return frame.with_columns(curve.slopes(factors).alias(SLOPES)).with_columns(spread)
    columns = [
        guarded(incomplete, checks).alias(MISSING),
        fixed.value().alias(FIXED),
        balanced_sum([fixed.value(), *(factor.effect(part) for factor in factors)]).alias(ETA),
    ]
    if purpose.interval and fixed.freedom is not None:
        spread = variance_with_freedom(fixed, (factors, part), pl.col(MISSING)).alias(SPREAD)
        frame = frame.with_columns(columns).with_columns(spread)
        variances, freedom = (pl.col(SPREAD).struct.field(name) for name in (VARIANCE, FREEDOM))
        return frame.with_columns(variances.sqrt().alias(STD_ERROR), freedom)
    if purpose.std_error:
        columns.append(variance(fixed, (factors, part), pl.col(MISSING)).sqrt().alias(STD_ERROR))
    return frame.with_columns(columns)


def add_constant(frame: pl.LazyFrame, fitted: Parameters, parameter: str, *, std_error: bool = False) -> pl.LazyFrame:
    """The frame with MISSING, ETA = log of a parameter without a formula and, on request, its STD_ERROR."""
    value = fitted.constant(parameter)
    columns = [pl.lit(value=False).alias(MISSING), value.log().alias(ETA)]
    if std_error:
        columns.append((fitted.constant_error(parameter) / value).alias(STD_ERROR))
    return fitted.attach(frame).with_columns(columns)


def at_limits(frame: pl.LazyFrame, fitted: Parameters, parameter: Parameter, *, std_error: bool) -> pl.LazyFrame:
    """The frame with an infinite ETA, without STD_ERROR, in rows in which a parameter with a formula is at a limit."""
    directions, eta, limits = fitted.further_directions(parameter.name), pl.col(ETA), []
    if directions is not None:
        columns = [node.to_expr() for node in fitted.fixed(parameter.name).nodes]
        for d in directions.T.tolist():
            terms = [column * weight for column, weight in zip(columns, d, strict=True)]
            size = balanced_sum([term.abs() for term in terms])
            limits.append(balanced_sum(terms).abs() > ALONG + ROUNDING * size)
    if np.isfinite(parameter.far):
        limits.append(eta > parameter.far)
    if not limits:
        return frame
    at, infinite = pl.any_horizontal(limits), pl.when(eta > 0.0).then(np.inf).otherwise(-np.inf)
    frame = frame.with_columns(pl.when(at).then(infinite).otherwise(eta).alias(ETA))
    if not std_error:
        return frame
    return frame.with_columns(pl.when(eta.is_finite()).then(pl.col(STD_ERROR)).alias(STD_ERROR))


def used_categoricals(recipe: Recipe, used: frozenset[str]) -> list[Categorical]:
    """The categorical variables of the formulas among the used columns."""
    return [factor for factor in recipe.categoricals.values() if factor.column in used]


def looked_up_in(recipe: Recipe, factors: Iterable[JoinedFactor]) -> frozenset[str]:
    """The columns whose levels the formulas look up, those of random effects where factors act."""
    nodes = [column.node for part in recipe.predictors for column in part.columns]
    nodes += [node for factor in factors for node in factor.nodes]
    return frozenset[str]().union(*map(looked_up, nodes))


def require_dtypes(schema: pl.Schema, used: frozenset[str], recipe: Recipe) -> None:
    """Raise ColumnError where a column that enters a design has a dtype without the meaning it had in the fit."""
    learned = {factor.column: factor.dtype for factor in used_categoricals(recipe, used)}
    for column in sorted(used):
        found, dtype = schema[column], learned.get(column, pl.Float64())
        if found in (pl.Null, dtype):
            continue
        if is_label(dtype):
            fits = is_label(found) or found.is_integer()
        else:
            fits = dtype.is_numeric() and (found.is_numeric() or (found == pl.Boolean and column not in learned))
        if not fits:
            what = f"as {brief(dtype)}" if column in learned else "as a number"
            remedy = f"Cast it to {brief(dtype)} first."
            msg = f"column {column!r} is {brief(found)} here, but the model uses it {what}. {remedy}"
            raise ColumnError(msg)
