"""A test for each term of the formula: Wald tests of types I, II and III, likelihood ratios, parametric bootstrap."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError, suggest
from polars_glmm.fitting.reread import gram_of
from polars_glmm.inference.at_zero import at_zero_notes
from polars_glmm.inference.coefficients import coefficients
from polars_glmm.inference.covariance import (
    CovarianceChoice,
    DegreesOfFreedom,
    coefficient_covariance,
)
from polars_glmm.inference.estimable import FixedColumns, fixed_columns
from polars_glmm.inference.hypothesis_tests import NO_DF, NO_ERRORS
from polars_glmm.inference.schemas import TERMS, table
from polars_glmm.inference.term_columns import terms_of
from polars_glmm.inference.term_hypotheses import TermHypothesis, TermType, adjusted_for_all, marginal, sequential
from polars_glmm.inference.term_refits import bootstrap_tests, likelihood_ratio_tests
from polars_glmm.inference.wald import JointTest, combine, wald_joint
from polars_glmm.typing import Mat

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

_ROMAN = {"i": 1, "ii": 2, "iii": 3, "1": 1, "2": 2, "3": 3}
_DROPPED = "columns_dropped: all columns of the term are determined by those before: nothing is left to test."
_CONFOUNDED = (
    "not_estimable: columns were dropped (empty cells, or terms that determine one another), so this term cannot be "
    "told from the others. Use type=2 or type=1, or leave the redundant terms out."
)
_INTERCEPT = "Intercept"


class TermBootstrap(NamedTuple):
    """How many data sets are simulated, and from which seed or generator."""

    n: int = 1000
    rng: np.random.Generator | int | None = None


def terms_tested(
    fit: Answer,
    kind: object,
    df: DegreesOfFreedom,
    vcov: CovarianceChoice,
    method: str,
    bootstrap: TermBootstrap,
) -> pl.DataFrame:
    """What `Fit.test_terms` answers."""
    which = checked_type(kind)
    if checked_method(method) == "wald":
        return wald_tests(fit, kind=which, df=df, vcov=vcov)
    if df is not None or vcov is not None:
        msg = f"df= and vcov= are for Wald tests: method={method!r} compares likelihoods."
        raise ModelError(msg)
    if method == "lrt":
        return likelihood_ratio_tests(fit, which)
    return bootstrap_tests(fit, which, bootstrap.n, bootstrap.rng)


def wald_tests(
    fit: Answer, *, kind: TermType = 3, df: DegreesOfFreedom = None, vcov: CovarianceChoice = None
) -> pl.DataFrame:
    """One row per term of every predictor but the intercept, in the order of their columns.

    Of unordered categories one row per term, of its coefficients in all predictors, whose `parameter` is null.
    """
    covariance = coefficient_covariance(fit, vcov, df)
    beta = coefficients(fit)
    rows: list[dict[str, Any]] = []
    start = 0
    every = fit.recipe.spec.family.unordered
    for predictor in fit.recipe.predictors[:1] if every else fit.recipe.predictors:
        k = len(beta) if every else sum(predictor.kept)
        own = slice(start, start + k)
        start += k
        notes = at_zero_notes(fit, predictor) if kind == 3 else {}
        matrix = covariance.matrix[own, own]
        asked = over_categories if every else partial(hypotheses, parameter=predictor.parameter)
        for one in asked(fit, kind=kind, vcov=matrix):
            name = one.term.name
            if name == _INTERCEPT:
                continue
            wide = np.zeros((len(one.rows), len(beta)))
            wide[:, own] = one.rows
            found = None
            if one.determined and len(wide):
                found = wald_joint(wide, combine(wide, beta), covariance)
            method = covariance.df_method if found is not None and found.distribution == "F" else "normal"
            rows.append(
                {
                    "parameter": None if every else predictor.parameter,
                    "term": name,
                    "type": kind,
                    **_numbers(found, len(one.rows)),
                    "df_method": None if found is None or not found.distribution else method,
                    "note": _note(one, found) or notes.get(name),
                }
            )
    return table(TERMS, {name: [row[name] for row in rows] for name in TERMS})


def hypotheses(fit: Answer, parameter: str, kind: TermType, vcov: Mat) -> list[TermHypothesis]:
    """What each term of a predictor is tested for; `vcov` is the covariance of its coefficients."""
    columns, terms = fixed_columns(fit, parameter), terms_of(fit, parameter)
    if kind == 3:
        return adjusted_for_all(terms, columns, fit.recipe.categoricals)
    precision = _precision(vcov)
    if kind == 1 and parameter == "mu" and _least_squares(fit):
        return sequential(terms, columns, gram(fit))
    return (sequential if kind == 1 else marginal)(terms, columns, precision)


def over_categories(fit: Answer, kind: TermType, vcov: Mat) -> list[TermHypothesis]:
    """The same of all predictors together, which have the same terms; `vcov` (mk, mk) is that of all coefficients.

    Hypotheses of types 1 and 2 are made with the columns of a term side by side, predictor within column.
    """
    parameter, m = fit.recipe.predictors[0].parameter, len(fit.recipe.predictors)
    columns, terms = fixed_columns(fit, parameter), terms_of(fit, parameter)
    k = int(columns.kept.sum())
    if kind == 3:
        found = adjusted_for_all(terms, columns, fit.recipe.categoricals)
        return [one._replace(rows=_repeated(one.rows, m), size=m * one.size) for one in found]
    order = np.arange(m * k).reshape(m, k).T.reshape(-1)
    wide = [replace(one, places=tuple(m * j + i for j in one.places for i in range(m))) for one in terms]
    places = np.arange(m * len(columns.kept)).reshape(m, -1).T.reshape(-1)
    repeated = FixedColumns(np.repeat(columns.kept, m), _repeated(columns.null, m)[:, places])
    precision = _precision(vcov[np.ix_(order, order)])
    back = np.argsort(order)
    made = (sequential if kind == 1 else marginal)(wide, repeated, precision)
    return [one._replace(rows=one.rows[:, back]) for one in made]


def _repeated(rows: Mat, m: int) -> Mat:
    """The same rows of each of m predictors, which stand one after the other."""
    return np.asarray(np.kron(np.eye(m), rows), dtype=np.float64)


def gram(fit: Answer) -> Mat:
    """X'DX (k, k) of the kept columns of mu, from the fit or, where it does not hold them, from its rows."""
    working = fit.estimate.working
    if working is not None and working.gram is not None:
        inward = np.linalg.inv(working.outward.T)
        return np.asarray(inward @ working.gram @ inward.T)
    return gram_of(fit)


def _least_squares(fit: Answer) -> bool:
    """Whether sequential tests are those of least squares: gaussian models of one variance with random effects."""
    return fit.method in ("reml", "ml") and bool(fit.estimate.factors) and not len(fit.estimate.gamma)


def _precision(vcov: Mat) -> Mat:
    """The inverse of a covariance matrix; raises ModelError where some coefficient has no variance."""
    scale = np.sqrt(np.diag(vcov))
    if not len(vcov):
        return vcov
    if not (scale > 0.0).all() or not np.isfinite(vcov).all():
        msg = (
            "Types 1 and 2 need the covariance of all fixed effects, and some have no standard error (held, or without "
            "a finite estimate): use type=3."
        )
        raise ModelError(msg)
    return np.asarray(np.linalg.inv(vcov / np.outer(scale, scale)) / np.outer(scale, scale))


def checked_type(kind: object) -> TermType:
    """1, 2 or 3, also written "I", "II", "III". Raises ModelError for anything else."""
    found = _ROMAN.get(str(kind).lower())
    if found is None or isinstance(kind, bool):
        msg = f"type={kind!r} is not known. Use 1 (sequential), 2 (by marginality) or 3 (each adjusted for all others)."
        raise ModelError(msg)
    return found  # type: ignore[return-value]  # one of the three


def checked_method(method: object) -> str:
    """The method itself, if it is one. Raises ModelError otherwise."""
    known = ("wald", "lrt", "bootstrap")
    if method not in known:
        msg = f"method={method!r} is not known.{suggest(str(method), known)} Use 'wald', 'lrt' or 'bootstrap'."
        raise ModelError(msg)
    return str(method)


def _numbers(found: JointTest | None, size: int) -> dict[str, Any]:
    if found is None:
        return {"num_df": size or None, "den_df": None, "statistic": None, "distribution": None, "p_value": None}
    return {
        "num_df": found.num_df,
        "den_df": found.den_df if np.isfinite(found.den_df) else None,
        "statistic": found.statistic,
        "distribution": found.distribution or None,
        "p_value": found.p_value,
    }


def _note(one: TermHypothesis, found: JointTest | None) -> str | None:
    if not len(one.rows):
        return _DROPPED
    if not one.determined:
        return _CONFOUNDED
    assert found is not None  # it was tested
    return {"": None, "df": NO_DF, "std_error": NO_ERRORS}[found.lacking]
