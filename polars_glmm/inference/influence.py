"""What each group, or each row, does to a fit: the estimates without it, and how far they are from those with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from polars_glmm.columns.named import columns
from polars_glmm.covariance.correlations import CORRELATIONS
from polars_glmm.covariance.fields import coordinates
from polars_glmm.covariance.structures import STRUCTURES, range_of
from polars_glmm.design.known import read_known
from polars_glmm.design.relation import refuse_known, refuse_shared
from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.families.base import n_mean
from polars_glmm.fitting.again import rows_of, rows_with
from polars_glmm.frames.levels import codes_of, in_order
from polars_glmm.inference.ranef import label_of, level_labels
from polars_glmm.inference.schemas import Schema, table
from polars_glmm.inference.varcorr import RESIDUAL
from polars_glmm.likelihood.known.left_out import Rest, Whole, fixed_of, one_step, refitted
from polars_glmm.likelihood.parameters.parts import label
from polars_glmm.prediction.categories import refuse_unordered
from polars_glmm.prediction.leverage import leverage_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polars_glmm.answer.record import Answer
    from polars_glmm.design.records import Design
    from polars_glmm.typing import BoolVec, IntVec, Mat, Vec

Method = Literal["one_step", "exact", "case"]
_REAL, _TEXT = pl.Float64(), pl.String()
INFLUENCE: Schema = {
    "group": _TEXT, "level": _TEXT, "n_obs": _REAL, "cooks_distance": _REAL, "mdffits": _REAL, "covratio": _REAL,
    "covtrace": _REAL, "dloglik": _REAL, "elpd": _REAL, "loglik": _REAL, "status": _TEXT,
}  # fmt: skip
TERMS: Schema = {
    "group": _TEXT, "level": _TEXT, "parameter": _TEXT, "factor": _TEXT, "term": _TEXT, "other_term": _TEXT,
    "estimate": _REAL, "std_error": _REAL, "change": _REAL, "dfbetas": _REAL,
}  # fmt: skip
CASES: Schema = {"row": pl.Int64(), "leverage": _REAL, "leverage_fixed": _REAL, "cooks_distance": _REAL}


def influence(fit: Answer, group: str | None = None, method: Method = "exact") -> pl.DataFrame:
    """One row per level of `group`, left out in turn; method="case" one row per row of the fit.

    cooks_distance   δ'V⁻¹δ/p, δ = β̂ − β̂₍g₎, V of all rows (Cook 1977; lme4's carries a further (G − p)/G)
    mdffits          the same with V of the rest;  covratio   |V₍g₎|/|V|;  covtrace   |tr V⁻¹V₍g₎ − p|
    dloglik          ℓ(ψ̂) − ℓ(ψ̂₍g₎) over all rows;  loglik   of the rest
    elpd             log density of the group's rows at the estimates of the rest, random effects integrated out; given
                     the rest where known= relates levels (relatives foretell the group), residual= relates the group's
                     rows and others, or rows have several levels: such a level goes with all rows that it takes part in

    method   "exact": a refit without each level, its columns those of the fit; "one_step": one Newton step from the
             fit (one grouping factor, `group` being it); "case": a row left out given the variances, by leverage:
             row, leverage, leverage_fixed and cooks_distance

    A refit that fails is a row of nulls with its `status`; without a level of a factor of the formula its coefficient
    is lost, distances are null and the status says "coefficient_lost". `group` may be any grouping factor or column of
    the data; it may be omitted where the model has one factor. Raises ModelError where the rows of the fit are gone.
    """
    if method == "case":
        return _cases(fit)
    levels, rests = _left_out(fit, group, method)
    e = fit.estimate
    beta = _coefficients(fit)
    p = len(beta)
    v = e.vcov_fixed[:p, :p]
    out: dict[str, list[object]] = {name: [] for name in INFLUENCE}
    for level, rest in zip(levels[1], rests, strict=True):
        change = beta - rest.beta
        own = [levels[0], level, rest.n_obs, *_distances(change, v, rest.vcov)]
        values = [*own, rest.displacement, rest.elpd, rest.loglik, rest.status]
        for name, value in zip(INFLUENCE, values, strict=True):
            out[name].append(value)
    return table(INFLUENCE, out)


def influence_terms(fit: Answer, group: str | None = None, method: Method = "exact") -> pl.DataFrame:
    """Estimates without each level, by parameter (predictor, "sd", "correlation", "range", "phi"), factor and terms.

    change is the estimate of all rows less that without the level; dfbetas is it over std_error, the standard error
    without the level (Belsley, Kuh & Welsch 1980), for fixed effects.
    """
    if method == "case":
        msg = "influence_terms() is of groups: use method='exact' or 'one_step'."
        raise ModelError(msg)
    (name, labels), rests = _left_out(fit, group, method)
    e = fit.estimate
    beta = _coefficients(fit)
    of_residual = np.empty(0) if e.residual is None else e.residual.values
    full = _parameters(fit, beta, tuple(factor.covariances for factor in e.factors), e.phi, of_residual)
    p = len(beta)
    out: dict[str, list[object]] = {column: [] for column in TERMS}
    for level, rest in zip(labels, rests, strict=True):
        found = _parameters(fit, rest.beta, rest.covariances, rest.phi, rest.residual)
        errors = np.sqrt(np.diag(rest.vcov))
        for k, ((*key, value), (*_, all_rows)) in enumerate(zip(found, full, strict=True)):
            error = float(errors[k]) if k < p else np.nan
            change = all_rows - value
            row = [name, level, *key, value, error, change, change / error]
            for column, one in zip(TERMS, row, strict=True):
                out[column].append(one)
    return table(TERMS, out)


def _parameters(
    fit: Answer, beta: Vec, covariances: tuple[tuple[Mat, ...], ...], phi: float | None, residual: Vec
) -> list[tuple[str, str | None, str, str | None, float]]:
    """Parameter, factor, term, other term and value of everything that is estimated once."""
    family = fit.recipe.spec.family
    parts = fit.recipe.predictors if family.unordered else fit.recipe.predictors[: n_mean(family)]
    names = [
        (part.parameter, column.name)
        for part in parts
        for column, kept in zip(part.columns, part.kept, strict=True)
        if kept
    ]
    out: list[tuple[str, str | None, str, str | None, float]] = [
        (parameter, None, name, None, float(b)) for (parameter, name), b in zip(names, beta, strict=True)
    ]
    for factor, sigmas in zip(fit.recipe.factors, covariances, strict=True):
        for term, sigma in zip(factor.terms, sigmas, strict=True):
            own = [label(c.name, on) for c, on in zip(term.columns, term.parameter_of, strict=True)]
            sd = np.sqrt(np.diag(sigma))
            rows, columns = (part.tolist() for part in STRUCTURES[term.structure].vech(len(own)))
            pairs = list(zip(rows, columns, strict=True))
            out += [("sd", factor.name, own[i], None, float(sd[i])) for i, j in pairs if i == j]
            length = range_of(term.structure, sigma)
            if length is not None:
                out.append(("range", factor.name, coordinates(own[0]), None, length))
                continue
            for j, i in pairs:
                if i != j:
                    size = sd[i] * sd[j]
                    rho = float(sigma[i, j] / size) if size > 0.0 else np.nan
                    out.append(("correlation", factor.name, own[i], own[j], rho))
    if fit.estimate.residual is not None:
        found = fit.estimate.residual
        kind = "range" if CORRELATIONS[found.structure].lengths else "correlation"
        out += [(kind, RESIDUAL, name, None, v) for name, v in zip(found.names, residual.tolist(), strict=True)]
    if phi is not None:
        out.append(("phi", None, "phi", None, phi))
    return out


def _coefficients(fit: Answer) -> Vec:
    return fixed_of(fit.estimate, fit.recipe.spec.family)


def _distances(change: Vec, v: Mat, rest: Mat) -> list[float]:
    """Cook's distance, MDFFITS, the ratio of determinants and the trace; NaN where a coefficient is lost."""
    p = len(change)
    fine = np.isfinite(change).all() and np.isfinite(v).all() and np.isfinite(rest).all()
    if not fine or not p:
        return [np.nan] * 4
    return [
        float(change @ np.linalg.solve(v, change)) / p,
        float(change @ np.linalg.solve(rest, change)) / p,
        float(np.exp(np.linalg.slogdet(rest)[1] - np.linalg.slogdet(v)[1])),
        abs(float(np.trace(np.linalg.solve(v, rest))) - p),
    ]


def _left_out(fit: Answer, group: str | None, method: str) -> tuple[tuple[str, list[str]], list[Rest]]:
    """The name of the group with the labels of its levels, and the fit without each."""
    if method not in ("exact", "one_step"):
        msg = f"method={method!r} is not known: use 'exact', 'one_step' or 'case'."
        raise ModelError(msg)
    factors = {factor.name: factor for factor in fit.recipe.factors}
    if group is None:
        if len(factors) != 1:
            names = enumerate_names(list(factors), "or") or "a column of the data"
            msg = f"influence() needs the name of what is left out: group={names}."
            raise ModelError(msg)
        group = next(iter(factors))
    if method == "one_step":
        instead = "Use method='exact', which fits again."
        refuse_shared(fit.recipe, "method='one_step' adds up what each level says alone: it", instead)
        refuse_known(fit.recipe, "method='one_step' adds up what each level says alone: it", instead)
        refuse_unordered(fit.recipe, "method='one_step'", "use method='exact', which fits again")
    factor = factors.get(group)
    keys = (group,) if factor is None else factor.keys
    rows = rows_with(fit, (group,) if factor is None else factor.columns, "influence()")
    known = read_known(fit.recipe, rows, own_levels=False)
    spec = fit.recipe.spec
    full = Whole(known.design, spec.family, spec.method, fit.control, fit.estimate, fit.call.fixed or {})
    if factor is not None and factor.members is not None:
        return (group, level_labels(factor).to_list()), refitted(full, _each_level(known.design, group))
    used = rows[known.places].select(columns(keys))
    levels = in_order(used.unique(), keys)
    labels = levels.select(label_of(keys, levels.schema).alias("level"))["level"].to_list()
    if method == "exact":
        codes = codes_of(used, levels)
        return (group, labels), refitted(full, (codes == g for g in range(levels.height)))
    if list(factors) != [group]:
        msg = f"method='one_step' leaves out the levels of the only grouping factor: use method='exact' for {group!r}."
        raise ModelError(msg)
    order: IntVec = codes_of(levels, fit.recipe.factors[0].levels)
    found = one_step(full)
    return (group, labels), [found[int(place)] for place in order]


def _each_level(design: Design, group: str) -> Iterator[BoolVec]:
    """The rows (n,) that a level takes part in, of each level of a factor of which rows have several."""
    factor = next(factor for factor in design.factors if factor.name == group)
    rows, levels = factor.incidence
    for g in range(factor.n_levels):
        gone = np.zeros(design.n_rows, dtype=np.bool_)
        gone[rows[levels == g]] = True
        yield gone


def _cases(fit: Answer) -> pl.DataFrame:
    """Rows left out one at a time, given the variances: Cook's distance from leverage (Christensen et al. 1992).

    With a = x + Σ s'z, β̂ − β̂₍i₎ = S⁻¹a w e/(1 − h) for the conditional residual e = gradient/w.
    """
    found = leverage_of(fit, rows_of(fit, "influence()"))
    lever, p = found.found, max(len(_coefficients(fit)), 1)
    return table(
        CASES,
        {
            "row": found.places,
            "leverage": lever.value,
            "leverage_fixed": lever.fixed,
            "cooks_distance": lever.distance / p,
        },
    )
