"""A test for each term of the formula: Wald tests of types I, II and III, likelihood ratios, parametric bootstrap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError, suggest
from polars_glmm.inference.at_zero import at_zero_notes
from polars_glmm.inference.coefficients import coefficients
from polars_glmm.inference.covariance import (
    CoefficientCovariance,
    CovarianceChoice,
    DegreesOfFreedom,
    coefficient_covariance,
)
from polars_glmm.inference.schemas import TERMS, table
from polars_glmm.inference.term_columns import terms_of
from polars_glmm.inference.term_hypotheses import TermHypothesis, adjusted_for_all, marginal, sequential
from polars_glmm.inference.wald import Joint, combine, wald_joint
from polars_glmm.likelihood.estimate import exact_freedom
from polars_glmm.typing import Mat

if TYPE_CHECKING:
    from polars_glmm.result import Fit

TermType: TypeAlias = Literal[1, 2, 3]
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "1": 1, "2": 2, "3": 3}
_DROPPED = "columns_dropped: all columns of the term are determined by those before: nothing is left to test."
_CONFOUNDED = (
    "not_estimable: columns were dropped (empty cells, or terms that determine one another), so this term cannot be told "
    "from the others. Use type=2 or type=1, or leave the redundant terms out."
)
_NO_DF = "no_df: the approximation of the denominator degrees of freedom has no answer here."
_NO_ERRORS = "no_std_error: some coefficient of the term has no standard error."
_INTERCEPT = "Intercept"


def wald_tests(
    fit: Fit, *, kind: TermType = 3, df: DegreesOfFreedom = None, vcov: CovarianceChoice = None
) -> pl.DataFrame:
    """One row per term of every predictor but the intercept, in the order of their columns."""
    kind = checked_type(kind)
    covariance = coefficient_covariance(fit, vcov, df)
    beta = coefficients(fit)
    rows: list[dict[str, Any]] = []
    start = 0
    for predictor in fit.recipe.predictors:
        k = sum(predictor.kept)
        own = slice(start, start + k)
        start += k
        notes = at_zero_notes(fit, predictor) if kind == 3 else {}
        for one in hypotheses(fit, predictor.parameter, kind, covariance, own):
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
                    "parameter": predictor.parameter,
                    "term": name,
                    "type": kind,
                    **_numbers(found, len(one.rows)),
                    "df_method": None if found is None or not found.distribution else method,
                    "note": _note(one, found) or notes.get(name),
                }
            )
    return table(TERMS, {name: [row[name] for row in rows] for name in TERMS})


def hypotheses(
    fit: Fit, parameter: str, kind: TermType, covariance: CoefficientCovariance, own: slice
) -> list[TermHypothesis]:
    """What each term of a predictor is tested for; `own` are its coefficients among all."""
    recipe, terms = fit.recipe.predictor(parameter), terms_of(fit, parameter)
    if kind == 3:
        return adjusted_for_all(terms, recipe, fit.recipe.categoricals)
    if kind == 1 and parameter == "mu" and _least_squares(fit):
        return sequential(terms, recipe, gram(fit))
    return (sequential if kind == 1 else marginal)(terms, recipe, _precision(fit.estimate.vcov_fixed[own, own]))


def gram(fit: Fit) -> Mat:
    """X'DX (k, k) of the kept columns of mu, from the fit or, where it does not hold them, from its rows."""
    working = fit.estimate.working
    if working is not None and working.gram is not None:
        inward = np.linalg.inv(working.outward.T)
        return np.asarray(inward @ working.gram @ inward.T)
    return fit.gram()


def _least_squares(fit: Fit) -> bool:
    """Whether sums of squares of least squares are what sequential tests are about: gaussian models of one variance."""
    estimate = fit.estimate
    exact = exact_freedom(estimate, fit.spec.family) is not None
    linear = fit.spec.exact and not len(estimate.gamma)
    return linear and not exact


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


def _numbers(found: Joint | None, size: int) -> dict[str, Any]:
    if found is None:
        return {"num_df": size or None, "den_df": None, "statistic": None, "distribution": None, "p_value": None}
    return {
        "num_df": found.num_df,
        "den_df": found.den_df if np.isfinite(found.den_df) else None,
        "statistic": found.statistic,
        "distribution": found.distribution or None,
        "p_value": found.p_value,
    }


def _note(one: TermHypothesis, found: Joint | None) -> str | None:
    if not len(one.rows):
        return _DROPPED
    if not one.determined:
        return _CONFOUNDED
    assert found is not None  # it was tested
    if found.distribution:
        return None
    return _NO_DF if np.isnan(found.den_df) and np.isnan(found.p_value) and found.num_df else _NO_ERRORS
