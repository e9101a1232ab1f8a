"""Predictions: a frame with what the model expects of its rows beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import polars as pl

from polars_glmm.answer.many import Answers
from polars_glmm.columns.named import columns
from polars_glmm.errors import ModelError, enumerate_names, suggest
from polars_glmm.foreign import answered
from polars_glmm.prediction.by_key import KeyedVerb, apply_by_key
from polars_glmm.prediction.columns import FrameT, apply_plan, refuse_clash
from polars_glmm.prediction.effects import chosen
from polars_glmm.prediction.inverse_links import clip_to_domain, mean_of, slope_of
from polars_glmm.prediction.linear_predictor import (
    ETA,
    MISSING,
    STD_ERROR,
    NewLevels,
    Purpose,
    add_constant_dispersion,
    add_linear_predictor,
)
from polars_glmm.prediction.parameters import Parameters, of_fit
from polars_glmm.prediction.variances import FREEDOM

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.families.base import Family
    from polars_glmm.typing import Kind

Interval = Literal["confidence"]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What to predict. New columns: `name`; on request `name` with "_std_error", "_low", "_high" behind."""

    kind: str
    random: str | Sequence[str]
    new_levels: NewLevels
    interval: Interval | None
    conf_level: float
    std_error: bool
    name: str

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
    random: str | Sequence[str] = "all",
    new_levels: NewLevels = "error",
    interval: Interval | None = None,
    conf_level: float = 0.95,
    std_error: bool = False,
    name: str = "prediction",
) -> FrameT:
    """The frame with predictions beside its own columns; a LazyFrame stays lazy and nothing of it is collected.

    Parameters
    ----------
    frame
        Needs the columns of the fixed part, the keys of the grouping factors asked for, and offsets; not the response,
        trials, frequency or precision. Rows, their order and their columns are kept.
    kind
        "response": the mean given the random effects (a probability for binomial); "link": the linear predictor of mu;
        or a family parameter, "phi" (gaussian: sigma).
    random
        "all", "none", or a list of grouping factors whose conditional modes are added. Under a nonlinear link "none" is
        the unit whose random effects are zero, not the average over the population.
    new_levels
        For a level of a grouping factor that the fit has not seen: "error" raises UnknownLevelError (when the plan is
        collected) naming column and levels; "zero" sets its random effect to zero, where for nested a/b the effect of a
        known a stays; "null" gives null. An unseen level of a *fixed* factor always raises.
    std_error, interval, conf_level
        `std_error=True` adds `<name>_std_error` on the scale of `kind` (delta method). `interval="confidence"` adds
        `<name>_low`, `<name>_high`: an interval on the link scale, transformed back. The variance v of the linear
        predictor is Σ_factors z'Var(b|y)z + a'Var(β̂)a, a = x + Σ_factors (∂b̂/∂β)'z: the modes move against the fixed
        effects. Var(b|y) is given the parameters; an unseen level has Σ, and a mode that does not move. The covariance
        of the modes of different factors with each other is not included. The reference is that of fixef(): t with
        Satterthwaite's degrees of freedom for gaussian REML (2v²/(g'Ag) of each row, g_k = a'(∂Var(β̂)/∂k)a; Var(b|y)
        counts as known), t with n − p without random effects, else normal.
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
    request = Request(kind, random, new_levels, interval, conf_level, std_error, name)
    if isinstance(fit, Answers):
        remedy = 'Use new_levels="null" for no prediction.' if new_levels == "error" else None
        verb = KeyedVerb("predict", lambda rows, own: predict_from(rows, own, request), lambda _: request.names, remedy)
        return apply_by_key(frame, fit, verb)
    return predict_from(frame, of_fit(fit), request)


def predict_from(frame: FrameT, fitted: Parameters, request: Request) -> FrameT:
    """`predict` from the parameters of one fit or of many."""
    _check_kind(fitted.recipe.spec.family, request.kind)
    _check_choice("new_levels", request.new_levels, get_args(NewLevels))
    _check_interval(request.interval, request.conf_level)
    chosen(fitted.factors, request.random)  # refused before the frame is looked at
    return apply_plan(frame, "predict", lambda lazy, schema: _plan(lazy, schema, fitted, request))


def _plan(frame: pl.LazyFrame, schema: pl.Schema, fitted: Parameters, request: Request) -> pl.LazyFrame:
    refuse_clash(schema, request.names, "choose another with name=.")
    half_width = _normal_quantile(request.conf_level)
    of_phi = request.kind == "phi"
    link = "log" if of_phi else fitted.recipe.spec.family.link.name if request.kind == "response" else "identity"
    if of_phi and not fitted.models_phi:
        frame = add_constant_dispersion(frame, fitted, std_error=request.uncertain)
    else:
        factors = chosen(fitted.factors, request.random)
        purpose = Purpose(
            "predict", factors, request.new_levels, std_error=request.uncertain, interval=request.interval is not None,
            parts=(int(of_phi),),
        )  # fmt: skip
        frame = add_linear_predictor(frame, schema, fitted, purpose)
        if purpose.interval and fitted.freedom is not None and not of_phi:
            half_width = _t_quantile(request.conf_level)
    outputs = [
        pl.when(~pl.col(MISSING)).then(value).alias(name)
        for name, value in zip(request.names, _values(request, link, half_width), strict=True)
    ]
    return frame.select(*columns(schema), *outputs)


def _values(request: Request, link: str, half_width: pl.Expr) -> list[pl.Expr]:
    """Prediction, standard error and limits as far as they are asked for, from ETA and STD_ERROR.

    half_width   of an interval in standard errors
    """
    eta = pl.col(ETA)
    values = [mean_of(link, eta)]
    std_error = pl.col(STD_ERROR).fill_nan(None)  # NaN: the fit has none, at a boundary or without a Hessian
    if request.std_error:
        values.append(slope_of(link, eta).abs() * std_error)
    if request.interval:
        margin = std_error * half_width
        ends = [mean_of(link, clip_to_domain(link, end, eta)) for end in (eta - margin, eta + margin)]
        # some inverse links fall: the smaller end is the lower limit
        limits = pl.min_horizontal(ends), pl.max_horizontal(ends)
        values += [pl.when(margin.is_not_null()).then(limit) for limit in limits]
    return values


def _normal_quantile(conf_level: float) -> pl.Expr:
    from scipy.special import ndtri  # noqa: PLC0415  scipy stays out of plain imports

    return pl.lit(float(ndtri(0.5 + conf_level / 2.0)))


def _t_quantile(conf_level: float) -> pl.Expr:
    """Half-widths for the degrees of freedom of each row, inf being normal."""

    def quantiles(freedom: pl.Series) -> pl.Series:
        from scipy.special import ndtri, stdtrit  # noqa: PLC0415  scipy stays out of plain imports

        upper, df = 0.5 + conf_level / 2.0, freedom.to_numpy()
        finite = np.isfinite(df)
        values = np.where(finite, stdtrit(np.where(finite, df, 1.0), upper), ndtri(upper))
        return pl.Series(freedom.name, values)

    return pl.col(FREEDOM).map_batches(quantiles, return_dtype=pl.Float64, is_elementwise=True)


def _check_kind(family: Family, kind: str) -> None:
    kinds = ["response", "link", *(["phi"] if family.has_phi else [])]
    if kind not in kinds:
        hint = " The mean is kind='response'." if kind == "mu" else suggest(kind, kinds, listed=True)
        msg = f"kind={kind!r} is not something {family!r} predicts: use {enumerate_names(kinds, 'or')}.{hint}"
        raise ModelError(msg)


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = suggest(str(value), choices, listed=True)
        msg = f"{argument}={value!r} is not known: use {enumerate_names(choices, 'or')}.{hint}"
        raise ModelError(msg)


def _check_interval(interval: str | None, conf_level: float) -> None:
    if interval == "prediction":
        msg = "interval='prediction' is not available: use interval='confidence', or simulate() for new responses."
        raise ModelError(msg)
    if interval is not None:
        _check_choice("interval", interval, get_args(Interval))
    if not 0.0 < conf_level < 1.0:
        msg = f"conf_level={conf_level!r} is not a probability strictly between 0 and 1."
        raise ModelError(msg)
