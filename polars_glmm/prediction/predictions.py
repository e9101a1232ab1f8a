"""Predictions: a frame with what the model expects of its rows beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import polars as pl

from polars_glmm.answer.many import Answers
from polars_glmm.columns.named import columns
from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.families.base import all_parts, only_phi
from polars_glmm.foreign import answered
from polars_glmm.frames.elsewhere import on_engine
from polars_glmm.prediction.by_key import KeyedVerb, apply_by_key
from polars_glmm.prediction.category_predictions import names_by_fit, predict_categories
from polars_glmm.prediction.columns import FrameT, apply_plan, refuse_clash
from polars_glmm.prediction.engine_verbs import predict_on_engine
from polars_glmm.prediction.event_times import EventScale, at_times, quantities_of
from polars_glmm.prediction.expected import OfRows, add_expected_over_population, require_averaged, through_link
from polars_glmm.prediction.half_widths import (
    RowFreedom,
    half_width_by_row,
    half_width_of,
    known_freedom,
    normal_half_width,
)
from polars_glmm.prediction.intervals import HIGH, LIMITS, LOW, TOTAL, new_response_limits
from polars_glmm.prediction.inverse_links import clip_to_domain
from polars_glmm.prediction.joint import of_fit_jointly
from polars_glmm.prediction.linear_predictor import (
    ETA,
    MISSING,
    STD_ERROR,
    NewLevels,
    Purpose,
    add_constant,
    add_linear_predictor,
    at_limits,
)
from polars_glmm.prediction.parameters import Parameters, of_fit, refuse_random_phi
from polars_glmm.prediction.places import acting
from polars_glmm.prediction.population import (
    LINK_ERROR,
    MEAN,
    MEAN_ERROR,
    ON_LINK,
    POPULATION,
    RANDOM_VARIANCE,
    add_population_predictor,
    population_mean,
)
from polars_glmm.prediction.row_numbers import error_of
from polars_glmm.prediction.rows import phi_inputs, size_inputs, with_phi
from polars_glmm.prediction.scale import ResponseScale, on_scale, scale_of
from polars_glmm.prediction.scored import with_scored
from polars_glmm.prediction.several import SEVERAL, error_on_eta, errors_of, kinds_of, link_of_kind, value_of

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.families.base import Family
    from polars_glmm.typing import Kind, Random, Times

Interval = Literal["confidence", "prediction"]
Uncertainty = Literal["conditional", "joint"]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What to predict. New columns: `name`; on request `name` with "_std_error", "_low", "_high" behind."""

    kind: str
    random: Random
    new_levels: NewLevels
    interval: Interval | None
    conf_level: float
    std_error: bool
    name: str
    df: RowFreedom = None
    time: str | None = None

    @property
    def uncertain(self) -> bool:
        return self.std_error or self.interval is not None

    @property
    def names(self) -> list[str]:
        errors = [f"{self.name}_std_error"] if self.std_error else []
        limits = [f"{self.name}_low", f"{self.name}_high"] if self.interval else []
        return [self.name, *errors, *limits]


@answered
def predict(  # noqa: PLR0913  the arguments of the public verb
    frame: FrameT,
    fit: Answer | Answers,
    *,
    kind: Kind = "response",
    random: Random = "all",
    new_levels: NewLevels = "error",
    interval: Interval | None = None,
    conf_level: float = 0.95,
    std_error: bool = False,
    name: str = "prediction",
    uncertainty: Uncertainty = "conditional",
    df: RowFreedom = None,
    times: Times = None,
    ranef: pl.DataFrame | pl.LazyFrame | None = None,
) -> FrameT:
    """The frame with predictions beside its own columns; a LazyFrame stays lazy and nothing of it is collected.

    Parameters
    ----------
    frame
        Needs the columns of the fixed part, the keys of the grouping factors asked for, and offsets; not the response,
        trials, frequency or precision. Rows, their order and their columns are kept.
    kind
        "response": the mean given the random effects (a probability for binomial); "link": the linear predictor of mu;
        or a family parameter, "phi" (gaussian: sigma), "zi"; "zero": P(y = 0) where there is a zi. Where mu is not the
        mean (lognormal, truncated counts) "mu" is mu, and errors of the mean count those of phi. Of categories
        "response" has a column for each, "class" the likeliest; of ordered ones also "cumulative" and "mean", of
        unordered ones "link" a column for each but the baseline.
    random
        "all", "none", or a list of grouping factors whose conditional modes are added, or these by parameter, as in
        {"zi": "none"}: others have all. Under a nonlinear link "none" is the unit at zero; "integrate" the average over
        the population, E g⁻¹(x'β + z'b) with b ~ N(0, Σ), which needs no keys; its error counts those of β and Σ.
    new_levels
        For a level of a grouping factor that the fit has not seen: "error" raises UnknownLevelError (when the plan is
        collected) naming column and levels; "zero" sets its random effect to zero, where for nested a/b the effect of a
        known a stays; "null" gives null. An unseen level of a *fixed* factor always raises.
    std_error, interval, conf_level
        `std_error=True` adds `<name>_std_error` on the scale of `kind` (delta method). `interval="confidence"` adds
        `<name>_low`, `<name>_high`: an interval on the link scale, transformed back. The variance v of the linear
        predictor is z'Var(b|y)z + a'Var(β̂)a, a = x + (∂b̂/∂β)'z over all factors: the modes move against the fixed
        effects. Var(b|y) is given the parameters; an unseen level has Σ, and a mode that does not move. Of factors with
        very many levels two that never met in a row have no standard error. The reference is that of fixef(): t with
        Satterthwaite's degrees of freedom for gaussian REML (2v²/(g'Ag) of each row, g_k = a'(∂Var(β̂)/∂k)a; Var(b|y)
        counts as known), t with n − p without random effects, else normal. `interval="prediction"` is for a new
        response at the row: normal with v + phi²/precision for gaussian, otherwise quantiles of the family averaged
        over the linear predictor (of counts the smallest values with at most (1 − level)/2 beyond each limit; of
        trials their share), t where n − p is exact, else normal.
    uncertainty
        "conditional": given the variance parameters; "joint": v is a'Var(β̂, θ̂)a + z'Var(b|y)z with a holding the
        movement of the modes against all parameters (Kass & Steffey 1989), for which the rows of the fit are read.
    df
        "normal", "satterthwaite" or a number, for the intervals, instead of what is said above.
    times
        Of times to an event (weibull …) kind="median", and at `times` "survival", "hazard" and "cumulative_hazard": the
        name of a column, or times for every row, which then stands once for each, with them in `<name>_time`.
    ranef
        Effects of groups from `fit.score(rows)`, in the place of those of the fit: groups that it has not seen, as they
        are after new rows. As they stand: predictions from them have no standard errors.
    name
        Name of the new column.

    Raises
    ------
    ColumnError
        A needed column is absent or of an unusable dtype, or a new name is taken already.
    ModelError
        An argument is not known, or asks for what the model does not have, as the standard errors of conditional
        predictions where there are too many levels to keep the slopes of the modes.
    UnknownLevelError
        When the plan is collected; see `new_levels`.

    Notes
    -----
    A null or NaN in any column used for a row, keys included, gives null. A value outside the domain of a function of
    the formula, as the logarithm of a negative number, gives what the function gives: NaN. Where columns were dropped,
    a row that the data do not determine (not estimable: an empty cell of an interaction) gives null. A row along which
    the estimates run off to infinity (separation) has a prediction and no standard error; other rows have both.
    """
    frame, time = at_times(frame, kind, times, name)
    request = Request(kind, random, new_levels, interval, conf_level, std_error, name, df, time)
    _check_choice("uncertainty", uncertainty, get_args(Uncertainty))
    if ranef is not None:
        return _predict_scored(frame, fit, request, ranef)
    if uncertainty == "joint":
        if isinstance(fit, Answers):
            msg = "uncertainty='joint' is of one fit: choose it by its key, as in collection[key], and the rows of it."
            raise ModelError(msg)
        return predict_from(frame, of_fit_jointly(fit), request)
    if isinstance(fit, Answers):
        remedy = 'Use new_levels="null" for no prediction.' if new_levels == "error" else None
        verb = KeyedVerb("predict", lambda rows, own: predict_from(rows, own, request), names_by_fit(request), remedy)
        return apply_by_key(frame, fit, verb)
    return predict_from(frame, of_fit(fit), request)


def _predict_scored(
    frame: FrameT, fit: Answer | Answers, request: Request, ranef: pl.DataFrame | pl.LazyFrame
) -> FrameT:
    """Predictions with effects that are given."""
    if isinstance(fit, Answers):
        msg = "ranef= is of one fit: choose it by its key, as in collection[key], and the rows of it."
        raise ModelError(msg)
    if request.uncertain:
        msg = (
            "Predictions from ranef= have no standard errors, nor intervals: std_error of fit.score(frame) is that of "
            "an effect. Fit again with the new groups for intervals."
        )
        raise ModelError(msg)
    return predict_from(frame, with_scored(of_fit(fit), ranef), request)


def predict_from(frame: FrameT, fitted: Parameters, request: Request) -> FrameT:
    """`predict` from the parameters of one fit or of many."""
    if fitted.recipe.spec.family.response == "category":
        _check_choice("new_levels", request.new_levels, get_args(NewLevels))
        _check_interval(request.interval, request.conf_level)
        return predict_categories(frame, fitted, request, normal_half_width(request.conf_level))
    _check_kind(fitted.recipe.spec.family, request)
    _check_choice("new_levels", request.new_levels, get_args(NewLevels))
    _check_interval(request.interval, request.conf_level)
    if request.random != "integrate":
        acting(fitted, request.random)  # refused before the frame is looked at
    if (engine := on_engine(frame)) is not None:
        made: FrameT = predict_on_engine(engine, fitted, request)
        return made
    return apply_plan(frame, "predict", lambda lazy, schema: _plan(lazy, schema, fitted, request))


def _plan(frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, request: Request) -> pl.LazyFrame:
    refuse_clash(schema, request.names, "choose another with name=.")
    family = fitted.recipe.spec.family
    place = next((k for k, one in enumerate(family.parameters) if k and one.name == request.kind), 0)
    plain = request.random != "integrate" and request.interval != "prediction"
    if plain and request.kind in SEVERAL and not only_phi(family) and family.curve is None:
        return _of_several(frame, schema, fitted, request)
    known = known_freedom(fitted, request.df)
    if request.random == "integrate" and not through_link(family, request.kind):
        return _over_population(frame, schema, fitted, request)
    half_width = half_width_of(request.conf_level, known)
    scale = _scale(family, request)
    if place and not fitted.models(request.kind):
        frame = add_constant(frame, fitted, request.kind, std_error=request.uncertain)
        scale = ResponseScale.of_link("log")
        return _selected(frame, schema, request, _values(request, scale, half_width))
    new = request.interval == "prediction"
    also_used = size_inputs(fitted.recipe) | phi_inputs(fitted) if new else frozenset[str]()
    also_used |= phi_inputs(fitted) if scale.needs_phi else frozenset()
    if isinstance(scale, EventScale):
        also_used |= scale.require(schema)
    if new:
        refuse_random_phi(fitted, "interval='prediction'")
    if request.random == "integrate":
        frame = add_population_predictor(frame, schema, fitted, verb="predict", also_used=also_used)
        frame = frame.with_columns(population_mean(fitted, family.link).alias(POPULATION))
        values = _population_values(request, scale, half_width)
        total = pl.col(STD_ERROR) ** 2 + pl.col(RANDOM_VARIANCE)
    else:
        by_row = request.interval == "confidence" and request.df in (None, "satterthwaite")
        purpose = Purpose(
            "predict", acting(fitted, request.random), request.new_levels, also_used=also_used,
            std_error=request.uncertain, interval=by_row, parts=all_parts(family) if scale.needs_phi else (place,),
            own=request.kind == family.parameters[0].name,
        )  # fmt: skip
        frame = add_linear_predictor(frame, schema, fitted, purpose)
        if place:
            frame = at_limits(frame, fitted, family.parameters[place], std_error=request.uncertain)
        if scale.needs_phi:
            frame = with_phi(frame, schema, fitted, verb="predict", factors=purpose.acting)
            if request.uncertain and plain and family.curve is None:
                frame = frame.with_columns(error_on_eta(fitted, request.kind, purpose.acting, scale))
        if by_row and fitted.freedom is not None and not place:
            half_width = half_width_by_row(request.conf_level)
        values = _values(request, scale, half_width)
        total = pl.col(STD_ERROR) ** 2
    if new:
        frame = with_phi(frame.with_columns(total.alias(TOTAL)), schema, fitted, verb="predict")
        limits = new_response_limits(fitted.recipe, request.conf_level, known).alias(LIMITS)
        frame = frame.with_columns(limits)
        values += [pl.col(LIMITS).struct.field(end).fill_nan(None) for end in (LOW, HIGH)]
    return _selected(frame, schema, request, values)


def _of_several(frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, request: Request) -> pl.LazyFrame:
    """A mean, or the probability of a zero, that several predictors decide on."""
    parts, factors = all_parts(fitted.recipe.spec.family), acting(fitted, request.random)
    purpose = Purpose("predict", factors, request.new_levels, also_used=phi_inputs(fitted), parts=parts)
    frame = with_phi(
        add_linear_predictor(frame, schema, fitted, purpose), schema, fitted, verb="predict", factors=purpose.acting
    )
    family = fitted.recipe.spec.family
    if request.uncertain:
        frame = frame.with_columns(errors_of(fitted, request.kind, purpose.acting).alias(STD_ERROR))
    return _selected(frame, schema, request, _numbers(fitted, request, value_of(family, request.kind)))


def _over_population(frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, request: Request) -> pl.LazyFrame:
    """A mean that no single link makes of mu, averaged over random effects on any of its predictors."""
    if request.interval == "prediction":
        msg = (
            "interval='prediction' with random='integrate' is of models whose mean is mu, with random effects on it "
            "alone: use interval='confidence', or draw responses with simulate(random='new')."
        )
        raise ModelError(msg)
    times = frozenset[str]() if request.time is None else frozenset({request.time})
    asked = Purpose("predict", also_used=times), OfRows(request.kind, "response", request.time)
    frame, quantity = add_expected_over_population(frame, schema, fitted, *asked, moves=request.uncertain)
    if request.uncertain:
        frame = frame.with_columns(error_of(fitted, quantity).alias(STD_ERROR))
    return _selected(frame, schema, request, _numbers(fitted, request, quantity.value))


def _numbers(fitted: Parameters, request: Request, value: pl.Expr) -> list[pl.Expr]:
    """A number with its STD_ERROR and limits, made on a scale of its range."""
    family, error = fitted.recipe.spec.family, pl.col(STD_ERROR).fill_nan(None)
    values = [value, error] if request.std_error else [value]
    if request.interval is not None:
        half = half_width_of(request.conf_level, known_freedom(fitted, request.df))
        name, at, slope = on_scale(link_of_kind(family, request.kind).name, family.mean_range, value)
        margin = (error * slope * half).fill_nan(None)
        exact = (error == 0.0) if request.time is not None else pl.lit(value=False)  # survival at time 0 is 1
        values += _limits(ResponseScale.of_link(name), at, pl.when(exact).then(0.0).otherwise(margin))
    return values


def _selected(frame: pl.LazyFrame, schema: pl.Schema, request: Request, values: list[pl.Expr]) -> pl.LazyFrame:
    outputs = [
        pl.when(~pl.col(MISSING)).then(value).alias(name) for name, value in zip(request.names, values, strict=True)
    ]
    return frame.select(*columns(schema), *outputs)


def _scale(family: Family, request: Request) -> ResponseScale:
    """What the linear predictor of a kind becomes."""
    kind = request.kind
    if kind in quantities_of(family):
        return EventScale(family.link.name, family, kind, request.time)
    if kind == "response":
        return scale_of(family)
    links = {one.name: one.link.name for one in family.parameters}
    return ResponseScale.of_link("identity" if kind == "link" else links[kind])


def _population_values(request: Request, scale: ResponseScale, half_width: pl.Expr) -> list[pl.Expr]:
    """Average, standard error and limits; the limits on the scale of the link, transformed back."""
    mean, error, on_link = (pl.col(POPULATION).struct.field(name) for name in (MEAN, MEAN_ERROR, LINK_ERROR))
    values = [mean]
    if request.std_error:
        values.append(error.fill_nan(None))
    if request.interval == "confidence":
        eta = pl.col(POPULATION).struct.field(ON_LINK)
        values += _limits(scale, eta, on_link.fill_nan(None) * half_width)
    return values


def _values(request: Request, scale: ResponseScale, half_width: pl.Expr) -> list[pl.Expr]:
    """Prediction, standard error and limits as far as they are asked for, from ETA and STD_ERROR.

    half_width   of an interval in standard errors
    """
    eta = pl.col(ETA)
    values = [scale.value(eta)]
    std_error = pl.col(STD_ERROR).fill_nan(None)  # NaN: the fit has none, at a boundary or without a Hessian
    if request.std_error:
        values.append(scale.slope(eta).abs() * std_error)
    if request.interval == "confidence":
        values += _limits(scale, eta, std_error * half_width)
    return values


def _limits(scale: ResponseScale, eta: pl.Expr, margin: pl.Expr) -> list[pl.Expr]:
    """Ends of eta ± margin as means, null where the margin is."""
    ends = [scale.value(clip_to_domain(scale.link, end, eta)) for end in (eta - margin, eta + margin)]
    # some inverse links fall: the smaller end is the lower limit
    limits = pl.min_horizontal(ends), pl.max_horizontal(ends)
    return [pl.when(margin.is_not_null()).then(limit) for limit in limits]


def _check_kind(family: Family, request: Request) -> None:
    kind = request.kind
    first, *others = kinds_of(family)
    kinds = [first, "link", *others]
    if kind not in kinds:
        hint = " The mean is kind='response'." if kind == "mu" else suggest(kind, kinds, listed=True)
        msg = f"kind={kind!r} is not something {family!r} predicts: use {enumerate_names(kinds, 'or')}.{hint}"
        raise ModelError(msg)
    if request.random == "integrate":
        require_averaged(family, kind)
    if kind != "response" and request.interval == "prediction":
        msg = "interval='prediction' is for a new response: use kind='response', or interval='confidence'."
        raise ModelError(msg)


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = suggest(str(value), choices, listed=True)
        msg = f"{argument}={value!r} is not known: use {enumerate_names(choices, 'or')}.{hint}"
        raise ModelError(msg)


def _check_interval(interval: str | None, conf_level: float) -> None:
    if interval is not None:
        _check_choice("interval", interval, get_args(Interval))
    if not 0.0 < conf_level < 1.0:
        msg = f"conf_level={conf_level!r} is not a probability strictly between 0 and 1."
        raise ModelError(msg)
