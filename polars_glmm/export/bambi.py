"""The same question to bambi: a Bayesian model with the formula, family and data of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from polars_glmm.answer.record import Answer
from polars_glmm.columns.named import columns
from polars_glmm.design.known import used_columns
from polars_glmm.errors import ColumnError, ModelError, enumerate_names
from polars_glmm.export.foreign_package import package
from polars_glmm.fitting.again import rows_of
from polars_glmm.spec.members import shared
from polars_glmm.spec.syntax import render

_TRIALS, _STATUS = "trials_", "status_"
_SIGHT = {0: "right", 1: "none", 2: "left"}
"""bambi's words for how much of a response is seen."""
_STRUCTURES = {"us": "(x | g)", "diag": "(x || g)"}
"""bambi's words for covariance structures."""


class _Word(NamedTuple):
    """bambi's name of a family and of its parameters.

    further   by parameter of ours, that of bambi;  same: those that may have a formula, as they are one quantity, or
              its complement on the logit, on one link
    parent    of the linear predictor;  one: the family of a response without trials
    moved     its mean is mu times a constant of phi: an intercept takes it up
    """

    name: str
    further: Mapping[str, str] = {}
    same: tuple[str, ...] = ()
    parent: str = "mu"
    one: str = ""
    moved: bool = False


_WORDS = {
    "gaussian": _Word("gaussian", {"phi": "sigma"}, ("phi",)),
    "student_t": _Word("t", {"phi": "sigma"}, ("phi",)),
    "binomial": _Word("binomial", parent="p", one="bernoulli"),
    "poisson": _Word("poisson"),
    "gamma": _Word("gamma", {"phi": "alpha"}),
    "inverse_gaussian": _Word("wald", {"phi": "lam"}),
    "negative_binomial": _Word("negativebinomial", {"phi": "alpha"}, ("phi",)),
    "beta": _Word("beta", {"phi": "kappa"}, ("phi",)),
    "beta_binomial": _Word("beta_binomial", {"phi": "kappa"}, ("phi",)),
    "exponential": _Word("exponential"),
    "weibull": _Word("weibull", {"phi": "alpha"}, moved=True),
    "cumulative": _Word("cumulative", parent="p"),
    "categorical": _Word("categorical", parent="p"),
    "zero_inflated_poisson": _Word("zero_inflated_poisson", {"zi": "psi"}, ("zi",)),
    "zero_inflated_negative_binomial": _Word(
        "zero_inflated_negativebinomial", {"phi": "alpha", "zi": "psi"}, ("phi", "zi")
    ),
    "hurdle_poisson": _Word("hurdle_poisson", {"zi": "psi"}, ("zi",)),
    "hurdle_negative_binomial": _Word("hurdle_negativebinomial", {"phi": "alpha", "zi": "psi"}, ("phi", "zi")),
    "hurdle_gamma": _Word("hurdle_gamma", {"phi": "alpha", "zi": "psi"}, ("zi",)),
    "hurdle_lognormal": _Word("hurdle_lognormal", {"phi": "sigma", "zi": "psi"}, ("phi", "zi")),
}


def to_bambi(fit: Answer, frame: pl.DataFrame | None = None, **options: Any) -> Any:
    """A bambi.Model, not built nor sampled, of the rows of the fit or of `frame`; `options` go to bambi.Model.

    The formula is that of the fit, in bambi's grammar: trials as p(y, n), offset() for offset=, events as censored(),
    formulas of phi and zi as those of bambi's parameters. psi is 1 − zi: its coefficients have the opposite sign; mu of
    weibull times is their mean: its intercept is higher by log Γ(1 + 1/phi). Priors are bambi's, weakly informative.
    bambi takes random effects of one group for independent a priori, written (x | g) or (x || g).

    Raises ModelError for what bambi has no word for: families it lacks, precision=, frequency=, residual=, known=,
    held parameters, effects correlated across predictors, proportional hazards, intervals.
    """
    spec = fit.spec
    lacking = {"precision": spec.precision, "frequency": spec.frequency, "residual": spec.residual,
               "known": spec.relations}  # fmt: skip
    for name, value in {**lacking, "fixed": fit.call.fixed}.items():
        if value:
            msg = f"bambi has no {name}=, so that its model would be another one: fit without, or use PyMC itself."
            raise ModelError(msg)
    if name := shared(spec.random):
        msg = f"bambi has no rows in several levels, as they are in {name!r}: use PyMC itself, which bambi stands on."
        raise ModelError(msg)
    known = _WORDS.get(fit.family)
    if known is None or spec.family.curve is not None:
        what = f"family {fit.family!r}" if known is None else "nonlinear formulas"
        msg = f"bambi has no {what}: use PyMC itself, which bambi stands on."
        raise ModelError(msg)
    _refuse_different(fit, known)
    library, pandas = package(("bambi",), "to_bambi()", "bayes"), package(("pandas",), "to_bambi()", "bayes")
    rows = rows_of(fit, "to_bambi()") if frame is None else _of(frame, fit)
    rows, response = _response(fit, rows)
    right = _right(spec.formulas[0]) + (f" + offset({spec.offset})" if spec.offset is not None else "")
    further = {_left(formula): _right(formula) for formula in spec.formulas[1:]}
    formulas = [f"{response} ~ {right}", *(f"{known.further[name]} ~ {own}" for name, own in further.items())]
    name = known.one if fit.recipe.response.trials is None and known.one else known.name
    data = pandas.DataFrame({one.name: _column(one, pandas) for one in rows.drop_nulls().iter_columns()})
    if spec.family.response == "category":
        data[response] = _categories(fit, rows.drop_nulls(), response, pandas)
    links = {one.name: one.link.name for one in spec.family.parameters}
    link: Any = {known.parent: fit.link, **{known.further[name]: links[name] for name in further}}
    asked: dict[str, Any] = {} if spec.family.unordered else {"link": link if further else fit.link}
    held = getattr(spec.family, "df", None)
    if held is not None:
        options = {**options, "priors": {"nu": float(held), **options.get("priors", {})}}
    return library.Model(library.Formula(*formulas), data, family=name, **asked, **options)


def _refuse_different(fit: Answer, known: _Word) -> None:
    """Raise ModelError where the model of that name would be another one."""
    spec, family = fit.spec, fit.spec.family
    seen, mu = spec.response.observation, fit.recipe.predictors[0]
    formulas = [name for name in map(_left, spec.formulas[1:]) if name not in known.same]
    columns = [column.name for column, kept in zip(mu.columns, mu.kept, strict=True) if kept]
    wrong = None
    if formulas:
        wrong = f"a formula of {formulas[0]}, where its parameter is not ours: fit {formulas[0]} as a constant"
    elif any(term.label for term in spec.random):
        wrong = "effects correlated across predictors: fit them without a label, as in (1 | g)"
    elif any(_STRUCTURES.get(term.structure) is None for term in spec.random):
        wrong = "covariance structures: fit (x | g)"
    elif getattr(family, "metric", "aft") != "aft":
        wrong = "proportional hazards: fit with metric='aft'"
    elif seen is not None and seen.sight not in ("right", "left"):
        wrong = "intervals and entries: fit surv(time, event)"
    elif known.moved and "Intercept" not in columns:
        wrong = "the scale of these times, but their mean: fit with an intercept"
    elif family.response == "category" and family.options.keys() - {"baseline"}:
        wrong = "thresholds with a pattern: fit thresholds='flexible'"
    if wrong is not None:
        msg = f"bambi has no {wrong}, or use PyMC itself, which bambi stands on."
        raise ModelError(msg)


def _categories(fit: Answer, rows: pl.DataFrame, response: str, pandas: Any) -> Any:
    """The response as a column of pandas: the baseline first, or in their order. What has no order is sorted there."""
    labels = fit.recipe.response.labels
    assert labels is not None  # a response of categories has them
    if response not in rows.columns:
        msg = f"bambi takes a column of categories, and {response!r} is computed: make it a column, and fit that."
        raise ModelError(msg)
    return pandas.Categorical(rows[response].cast(pl.String).to_list(), categories=list(labels), ordered=True)


def _of(frame: pl.DataFrame, fit: Answer) -> pl.DataFrame:
    needed = used_columns(fit.recipe)
    absent = [name for name in needed if name not in frame.columns]
    if absent:
        msg = f"The frame has no {enumerate_names(absent)}, which the model uses."
        raise ColumnError(msg)
    return frame.select(columns(needed))


def _left(formula: str) -> str:
    """The parameter that a formula is of."""
    return formula.partition("~")[0].strip()


def _right(formula: str) -> str:
    """The right side, with the bars of bambi."""
    return formula.partition("~")[2].strip().replace("||", "|")


def _response(fit: Answer, rows: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """Rows with the trials, or how much is seen, as a column, and how bambi writes the response."""
    response, spec = fit.recipe.response, fit.spec
    if response.status is not None:
        status = response.status.to_expr().cast(pl.Int64).replace_strict(_SIGHT, default=None, return_dtype=pl.String)
        return rows.with_columns(status.alias(_STATUS)), f"censored({render(spec.response.success)}, {_STATUS})"
    if response.trials is None:
        return rows, spec.response.text
    if response.proportion:
        msg = "bambi takes numbers of successes, and the response of this fit is a share of its trials."
        raise ModelError(msg)
    name = spec.trials
    if name is None:
        name = _TRIALS
        rows = rows.with_columns(response.trials.to_expr().alias(name))
    return rows, f"p({spec.response.text.removeprefix('cbind(').partition(',')[0]}, {name})"


def _column(values: pl.Series, pandas: Any) -> Any:
    """A column of pandas; labels in the order of the fit, which they have to be said to have."""
    if isinstance(values.dtype, pl.Enum):
        levels = values.dtype.categories.to_list()
        return pandas.Categorical(values.cast(pl.String).to_list(), categories=levels, ordered=True)
    return (values.cast(pl.String) if isinstance(values.dtype, pl.Categorical) else values).to_list()
