"""The covariance matrix of the fixed effects and their reference distribution: where `vcov=` and `df=` are understood.

Nobody downstream knows which it was. A further kind of covariance, such as `CR`, is an object with one method,
`covariance_of(fit)`, and serves every table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import polars as pl

from polars_glmm.errors import ModelError, counted, enumerate_names, suggest
from polars_glmm.fitting.held import with_held_known
from polars_glmm.fitting.reread import small_sample_of
from polars_glmm.inference.covariance_record import CoefficientCovariance, CovarianceKind, constant_df
from polars_glmm.inference.ddf import Denominator, Sensitivity, fai_cornelius, kenward_roger, single
from polars_glmm.inference.names import fixed_terms
from polars_glmm.inference.robust import CR, TYPES, RobustType
from polars_glmm.likelihood.estimate import exact_freedom
from polars_glmm.typing import Mat, Vec

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer

DegreesOfFreedom: TypeAlias = Literal["normal", "satterthwaite", "kenward_roger"] | float | None
KNOWN = ("normal", "satterthwaite", "kenward_roger")


CovarianceChoice: TypeAlias = Literal["kenward_roger"] | RobustType | CovarianceKind | pl.DataFrame | None


def coefficient_covariance(
    fit: Answer, vcov: CovarianceChoice = None, df: DegreesOfFreedom = None
) -> CoefficientCovariance:
    """What `vcov=` and `df=` ask for.

    vcov   None: the fit's own; "kenward_roger"; "CR0" … "CR3" or CR(cluster, type), cluster-robust; a frame shaped as
           `fit.vcov()`, or of draws as `fit.bootstrap()` and `fit.posterior()` give them: their covariance
    df     None: what goes with the covariance, and for the fit's own n − p for a gaussian model without random
           effects, Satterthwaite for gaussian REML, else normal; "satterthwaite", "kenward_roger" (with its
           covariance), "normal", or a number
    Raises ModelError for what is not known, or not defined for this fit.
    """
    if isinstance(df, str) and df not in KNOWN:
        msg = (
            f"df={df!r} is not known.{suggest(df, KNOWN)} Use 'normal', 'satterthwaite', 'kenward_roger', a number, or "
            "None."
        )
        raise ModelError(msg)
    if vcov is None:
        vcov = "kenward_roger" if df == "kenward_roger" else None
    if vcov is None:
        return _own(fit, df)
    if isinstance(vcov, str):
        if vcov == "kenward_roger":
            base = _kenward_roger(fit)
        elif vcov in TYPES:
            base = CR(type=vcov).covariance_of(fit)
        else:
            known = ["kenward_roger", *TYPES]
            msg = (
                f"vcov={vcov!r} is not known.{suggest(vcov, known)} Use None, {enumerate_names(known)}, CR(cluster, "
                "type), or a frame as fit.vcov() gives it."
            )
            raise ModelError(msg)
    elif isinstance(vcov, pl.DataFrame):
        base = _given(fit, vcov)
    elif isinstance(vcov, CovarianceKind):
        base = vcov.covariance_of(fit)
    else:
        msg = (
            "vcov= takes None, 'kenward_roger', 'CR2', CR(cluster), or a frame as fit.vcov() gives it, not a "
            f"{type(vcov).__name__}."
        )
        raise ModelError(msg)
    if df is None or df == base.df_method:
        return base
    other = _kenward_roger(fit) if df == "kenward_roger" else _own(fit, df)
    return replace(base, df_of=other.df_of, df_each=other.df_each, df_method=other.df_method)


def _own(fit: Answer, df: DegreesOfFreedom) -> CoefficientCovariance:
    """The fit's own covariance with degrees of freedom as asked."""
    e = fit.estimate
    n_mu, n_phi = len(e.beta), len(e.gamma)
    outward, inner = (None, None) if e.working is None else (e.working.outward, e.working.vcov)
    vcov = with_held_known(fit, e.vcov_fixed)
    if vcov is not e.vcov_fixed:
        outward = inner = None
    if isinstance(df, int | float) and not isinstance(df, bool):
        if not df > 0:
            msg = f"df={df!r}: degrees of freedom are a positive number."
            raise ModelError(msg)
        return CoefficientCovariance(
            vcov, *constant_df(float(df), float(df), n_mu, n_phi), "given", outward, inner
        )
    if df not in (None, *KNOWN):
        msg = f"df={df!r} is not known. Use 'normal', 'satterthwaite', 'kenward_roger', a number, or None."
        raise ModelError(msg)
    exact = exact_freedom(e, fit.spec.family)
    if df != "normal" and exact is not None:
        return CoefficientCovariance(vcov, *constant_df(exact, np.inf, n_mu, n_phi), "residual", outward, inner)
    if df == "satterthwaite" or (df is None and e.df_satterthwaite is not None):
        freedom = sensitive_df(lambda: _sensitivity(fit), fai_cornelius, e.df_satterthwaite, n_mu, n_phi)
        return CoefficientCovariance(vcov, *freedom, "satterthwaite", outward, inner)
    return CoefficientCovariance(vcov, *constant_df(np.inf, np.inf, n_mu, n_phi), "normal", outward, inner)


def sensitive_df(
    sensitivity: Callable[[], Sensitivity],
    joint: Callable[[Sensitivity, Mat], Denominator],
    alone: Vec | None,
    n_mu: int,
    n_phi: int,
) -> tuple[Callable[[Mat], Denominator], Callable[[Mat | None], Vec]]:
    """df_of by `joint` and df_each from how the covariance depends on its parameters.

    alone (n_mu,)   degrees of freedom of the coefficients themselves, where they are known already
    """
    own = single(sensitivity(), np.eye(n_mu)) if alone is None else alone
    every = np.concatenate([own, np.full(n_phi, np.inf)])

    def df_each(rows: Mat | None) -> Vec:
        if rows is None:
            return every
        out = np.full(len(rows), np.inf)
        used = rows != 0.0
        lone = used.sum(axis=1) == 1
        out[lone] = every[used[lone].argmax(axis=1)]
        rest = ~lone & ~used[:, n_mu:].any(axis=1)
        if rest.any():
            out[rest] = single(sensitivity(), rows[rest, :n_mu])
        return out

    def df_of(rows: Mat) -> Denominator:
        if len(rows) == 1:
            return Denominator(float(df_each(rows)[0]))
        return Denominator(np.inf) if (rows[:, n_mu:] != 0.0).any() else joint(sensitivity(), rows[:, :n_mu])

    return df_of, df_each


def _sensitivity(fit: Answer) -> Sensitivity:
    """That of Satterthwaite's method: by the observed information. Raises ModelError for models that have none."""
    e = fit.estimate
    if e.vcov_derivative is None or e.covariance_vcov is None:
        msg = (
            f"df='satterthwaite' is defined for gaussian models with identity link, by REML and with standard "
            f"errors; this is {fit.family} ({fit.link} link) by {fit.method}. "
            f"Use df='normal' or a number."
        )
        raise ModelError(msg)
    p, working = len(e.beta), e.working
    if working is None or working.derivative is None:
        vcov = e.vcov_fixed[:p, :p]
        return Sensitivity(np.where(np.isnan(vcov), 0.0, vcov), e.vcov_derivative, e.covariance_vcov, np.eye(p))
    return Sensitivity(working.vcov[:p, :p], working.derivative, e.covariance_vcov, working.outward[:p, :p])


def _kenward_roger(fit: Answer) -> CoefficientCovariance:
    """The adjusted covariance of Kenward & Roger (1997), from the cross-products of the fit's rows."""
    e = fit.estimate
    exact = exact_freedom(e, fit.spec.family)
    if e.residual is not None:
        other = "satterthwaite" if fit.method == "reml" else "normal"
        msg = f"Kenward and Roger's covariance is not there for models with residual=. Use df={other!r}."
        raise ModelError(msg)
    if fit.method != "reml" or len(e.gamma) or (exact is None and e.df_satterthwaite is None):
        other = "satterthwaite" if fit.method == "reml" else "normal"
        modelled = ", a formula for phi" if len(e.gamma) else ""
        refit = ' Refit with method="reml", or use' if fit.spec.family.linear and fit.method == "ml" else " Use"
        msg = (
            f"Kenward and Roger's covariance is defined for gaussian models with identity link, one residual variance "
            f"and method='reml'; this is {fit.family} ({fit.link} link{modelled}) by {fit.method}.{refit} df={other!r}."
        )
        raise ModelError(msg)
    if exact is not None:
        return _own(fit, None)
    small = small_sample_of(fit)
    at = Sensitivity(small.vcov, small.derivative, small.parameters, small.outward)
    matrix = small.outward @ small.adjusted @ small.outward.T
    n_mu, n_phi = len(e.beta), len(e.gamma)
    return CoefficientCovariance(
        matrix,
        *sensitive_df(lambda: at, kenward_roger, None, n_mu, n_phi),
        "kenward_roger",
        small.outward,
        small.adjusted,
    )


def _given(fit: Answer, frame: pl.DataFrame) -> CoefficientCovariance:
    """A frame of covariances as long as `fit.vcov()`, matched by the names of its rows, or of draws."""
    matrix = _of_draws(fit, frame) if {"draw", "quantity", "value"} <= set(frame.columns) else _named(fit, frame)
    e = fit.estimate
    exact = exact_freedom(e, fit.spec.family)
    freedom = constant_df(np.inf if exact is None else exact, np.inf, len(e.beta), len(e.gamma))
    return CoefficientCovariance(matrix, *freedom, "normal" if exact is None else "residual")


def _of_draws(fit: Answer, frame: pl.DataFrame) -> Mat:
    """The covariance of draws of the coefficients; draws that failed are left out."""
    parameters, terms, kept = fixed_terms(fit)
    names = [(parameters[j], terms[j]) for j in np.flatnonzero(kept)]
    drawn = frame.filter(pl.col("quantity") == "coefficient")
    if drawn.select("draw", "parameter", "term").is_duplicated().any():
        msg = "vcov= has a draw of one coefficient twice, as draws of several models have: keep those of this one."
        raise ModelError(msg)
    columns = []
    for parameter, term in names:
        own = drawn.filter(pl.col("parameter") == parameter, pl.col("term") == term).sort("draw")
        columns.append(own["value"].to_numpy())
    whole = len({len(one) for one in columns}) == 1
    values = np.array(columns)[:, np.isfinite(np.array(columns)).all(0)] if whole else np.empty((0, 0))
    if values.shape[1] < 2:
        msg = "vcov= has no two draws of every coefficient of the fit: give it fit.bootstrap() or fit.posterior()."
        raise ModelError(msg)
    return np.atleast_2d(np.cov(values))


def _named(fit: Answer, frame: pl.DataFrame) -> Mat:
    """The matrix that a frame of covariances holds."""
    needed = ("parameter", "term", "other_parameter", "other_term", "covariance")
    absent = [name for name in needed if name not in frame.columns]
    parameters, terms, kept = fixed_terms(fit)
    names = [(parameters[j], terms[j]) for j in np.flatnonzero(kept)]
    k = len(names)
    if absent or frame.height != k * k:
        what = f"lacks the column {absent[0]!r}" if absent else f"has {counted(frame.height, 'row')}"
        msg = (
            f"vcov= {what}: a frame of covariances has the columns and rows of fit.vcov(), one row for each pair of "
            f"the {counted(k, 'coefficient')}."
        )
        raise ModelError(msg)
    place = {name: j for j, name in enumerate(names)}
    matrix = np.full((k, k), np.nan)
    for parameter, term, other_parameter, other_term, value in frame.select(needed).iter_rows():
        for name in ((parameter, term), (other_parameter, other_term)):
            if name not in place:
                msg = f"vcov= has the term {name[1]!r}, which the fit does not.{suggest(str(name[1]), terms)}"
                raise ModelError(msg)
        matrix[place[parameter, term], place[other_parameter, other_term]] = np.nan if value is None else value
    if not np.allclose(matrix, matrix.T, rtol=1e-8, atol=0.0, equal_nan=True):
        msg = "vcov= is not symmetric: the covariance of two terms stands in two rows that differ."
        raise ModelError(msg)
    return matrix
