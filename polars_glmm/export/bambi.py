"""The same question to bambi: a Bayesian model with the formula, family and data of a fit."""

from __future__ import annotations

from typing import Any, NamedTuple

import polars as pl

from polars_glmm.answer.record import Answer
from polars_glmm.columns.named import columns
from polars_glmm.design.known import used_columns
from polars_glmm.errors import ColumnError, ModelError, enumerate_names
from polars_glmm.export.foreign_package import package
from polars_glmm.fitting.again import rows_of
from polars_glmm.spec.members import shared

_TRIALS = "trials_"


class _Word(NamedTuple):
    """bambi's name of a family, of its second parameter, and of the family of a response without trials."""

    name: str
    phi: str = ""
    one: str = ""


_WORDS = {
    "gaussian": _Word("gaussian", "sigma"),
    "binomial": _Word("binomial", one="bernoulli"),
    "poisson": _Word("poisson"),
    "gamma": _Word("gamma", "alpha"),
    "inverse_gaussian": _Word("wald", "lam"),
    "negative_binomial": _Word("negativebinomial", "alpha"),
    "beta": _Word("beta", "kappa"),
    "beta_binomial": _Word("beta_binomial", "kappa"),
}


_SAME_PHI = {"gaussian": True, "negative_binomial": True, "beta": True}
"""Families whose phi is bambi's second parameter."""


def to_bambi(fit: Answer, frame: pl.DataFrame | None = None, **options: Any) -> Any:
    """A bambi.Model, not built nor sampled, of the rows of the fit or of `frame`; `options` go to bambi.Model.

    The formula is that of the fit, in bambi's grammar: trials as p(y, n), offset() for offset=, a formula of phi as one
    of bambi's second parameter. Priors are bambi's weakly informative ones. bambi takes random effects of one group for
    independent a priori, written (x | g) or (x || g).

    Raises ModelError for what bambi has no word for: families it lacks, precision=, frequency=, residual=, known=,
    held parameters.
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
    if known is None:
        msg = f"bambi has no family {fit.family!r}: use PyMC itself, which bambi stands on."
        raise ModelError(msg)
    if any(term.part for term in spec.random) or (len(spec.formulas) > 1 and not _SAME_PHI.get(fit.family)):
        msg = "to_bambi() takes a formula of phi where bambi's second parameter is phi itself, and no effects on it."
        raise ModelError(msg)
    library, pandas = package(("bambi",), "to_bambi()", "bayes"), package(("pandas",), "to_bambi()", "bayes")
    rows = rows_of(fit, "to_bambi()") if frame is None else _of(frame, fit)
    rows, response = _response(fit, rows)
    right = _right(spec.formulas[0]) + (f" + offset({spec.offset})" if spec.offset is not None else "")
    formulas = [f"{response} ~ {right}", *(f"{known.phi} ~ {_right(formula)}" for formula in spec.formulas[1:])]
    name = known.one if fit.recipe.response.trials is None and known.one else known.name
    data = pandas.DataFrame({one.name: _column(one, pandas) for one in rows.drop_nulls().iter_columns()})
    link: Any = fit.link if len(formulas) == 1 else {"mu": fit.link, known.phi: "log"}
    return library.Model(library.Formula(*formulas), data, family=name, link=link, **options)


def _of(frame: pl.DataFrame, fit: Answer) -> pl.DataFrame:
    needed = used_columns(fit.recipe)
    absent = [name for name in needed if name not in frame.columns]
    if absent:
        msg = f"The frame has no {enumerate_names(absent)}, which the model uses."
        raise ColumnError(msg)
    return frame.select(columns(needed))


def _right(formula: str) -> str:
    """The right side, with the bars of bambi."""
    return formula.partition("~")[2].strip().replace("||", "|")


def _response(fit: Answer, rows: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """Rows with the trials as a column, and how bambi writes the response."""
    response, spec = fit.recipe.response, fit.spec
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
    """A column of pandas; labels in the order of the fit."""
    if isinstance(values.dtype, pl.Enum):
        return pandas.Categorical(values.cast(pl.String).to_list(), categories=values.dtype.categories.to_list())
    return (values.cast(pl.String) if isinstance(values.dtype, pl.Categorical) else values).to_list()
