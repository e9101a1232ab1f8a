"""A design, a family and a method → an Estimate: the one place that chooses between engines."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

from polars_glmm.control import Control
from polars_glmm.design.records import Design
from polars_glmm.errors import ConvergenceError
from polars_glmm.families.base import Family
from polars_glmm.likelihood import polish, report
from polars_glmm.likelihood.doubts import CONVERGED, convergence_notes, flat_note, separation_note, singular_notes
from polars_glmm.likelihood.engine import ProductEngine, RowEngine
from polars_glmm.likelihood.estimate import Certificate, Estimate
from polars_glmm.likelihood.identify import Findings, check
from polars_glmm.likelihood.marginal import Point
from polars_glmm.likelihood.model import NO_EFFECTS, Model, prepare
from polars_glmm.likelihood.natural import objective
from polars_glmm.likelihood.separation import separated_terms
from polars_glmm.likelihood.state import State
from polars_glmm.optimize.search import Found, minimise
from polars_glmm.spec.method import REML, Method
from polars_glmm.typing import BoolVec, Mat, Vec

__all__ = ["estimate", "objective"]

_PRODUCT_TOLERANCE = 1e-9
"""Decrement at which a search over cross-products ends: evaluations cost levels, not rows."""
_SLOWEST_GAMMA_STEP = 3.0


def estimate(design: Design, family: Family, method: Method, control: Control) -> Estimate:
    """The fitted model (exact from cross-products, or by Laplace or quadrature over rows)."""
    findings = check(design, family)
    model = prepare(design, family, method, control)
    return estimate_products(model, findings) if model.exact else estimate_rows(model, findings)


# ------------------------------------------------------------------------------------------ gaussian, exact


def estimate_products(model: Model, findings: Findings) -> Estimate:
    """Gaussian identity-link models."""
    clock = {"start": perf_counter()}
    engine = model.products()
    clock["products"] = perf_counter()
    effects = model.effects
    tolerance = min(model.control.search.decrement, _PRODUCT_TOLERANCE)
    found = _search_products(engine, model, tolerance)
    lambdas = effects.lambdas(found.x)
    clock["search"] = perf_counter()

    def loglik(state: State) -> float:
        pieces = engine.pieces(list(state.factors), gradient=False)
        return -np.inf if pieces is None else -0.5 * engine.minus_two(pieces)

    p = len(model.x.a)
    state, ranks = polish.settle_ranks(effects, np.zeros(p), lambdas, None, 1.0, loglik)
    done = polish.polish_products(engine, state, ranks, hessian=model.control.search.hessian)
    clock["hessian"] = perf_counter()
    state, pieces, sigma = done.state, done.pieces, done.sigma
    outward = model.x.a.T
    vcov_beta = sigma**2 * (outward @ pieces.m_inverse @ outward.T)
    beta = outward @ pieces.beta
    if model.x.constant is not None:
        beta = beta + engine.stats.y_shift * model.x.constant
    k = sum(len(e.rows) for e in state.free)
    inverted = polish.invert(done.hessian) if done.hessian is not None else None
    spread = np.full((k + 1, k + 1), np.nan) if inverted is None else inverted.vcov
    cov = report.covariances(effects, state, sigma)
    jac = np.zeros((p + len(cov.values) + 1, p + k + 1))
    jac[:p, :p] = np.eye(p)
    jac[p:-1] = cov.jacobian
    jac[-1, -1] = 1.0
    inner = np.zeros((p + k + 1,) * 2)
    inner[:p, :p] = vcov_beta
    inner[p:, p:] = spread
    unknown = report.unidentified_rows(effects, findings.unidentified)
    null = np.concatenate([np.zeros(p, dtype=bool), cov.null | unknown, [False]])
    report_vcov = _propagate(jac, inner, null)
    u = [b @ np.append(-pieces.beta, 1.0) if not b.size else np.einsum("rwG,w->rG", b, np.append(-pieces.beta, 1.0)) for b in pieces.b]
    u_cov = pieces.h.inverse().diagonal if pieces.h is not None else []
    satterthwaite = None
    if isinstance(model.method, REML) and effects.factors and inverted is not None:
        satterthwaite = report.satterthwaite(effects, state, pieces, sigma, outward, inverted.vcov)
    null_loglik = None
    if effects.factors:
        bare = ProductEngine(NO_EFFECTS, engine.stats, engine.reml, engine.p)
        bare_pieces = bare.pieces([], gradient=False)
        null_loglik = None if bare_pieces is None else _gaussian_loglik(bare, bare_pieces, model)
    n = model.design.n_obs
    df_model = p + effects.n_theta + 1
    converged = done.decrement < CONVERGED
    notes = [
        *findings.notes,
        *convergence_notes(done.decrement),
        *singular_notes(effects, state, done.ranks),
    ]
    return Estimate(
        beta=beta,
        gamma=np.empty(0),
        vcov_fixed=vcov_beta,
        phi=sigma,
        factors=report.factor_estimates(effects, state.factors, u, u_cov, sigma),
        report=np.concatenate([beta, cov.values, [sigma]]),
        report_vcov=report_vcov,
        loglik=_gaussian_loglik(engine, pieces, model),
        loglik_saturated=None,
        n_obs=n,
        df_model=df_model,
        df_resid=n - df_model,
        singular=any(r.rank < effects.factors[r.factor].terms[r.term].r for r in done.ranks),
        converged=converged,
        df_satterthwaite=None if satterthwaite is None else satterthwaite.df,
        vcov_derivative=None if satterthwaite is None else satterthwaite.derivative,
        covariance_vcov=None if satterthwaite is None else satterthwaite.covariance,
        null_loglik=null_loglik,
        null_df=p + 1,
        certificate=Certificate(
            done.decrement,
            None if inverted is None else inverted.smallest,
            inverted is not None,
            engine.evaluations,
            0.0,
            _seconds(clock),
        ),
        notes=tuple(notes),
    )


def _search_products(engine: ProductEngine, model: Model, tolerance: float) -> Found:
    effects = model.effects
    start = effects.start(1.0)
    limit = np.full(effects.n_theta, 10.0)
    found = minimise(
        engine.objective(),
        start,
        tolerance=tolerance,
        max_evaluations=model.control.search.max_evaluations,
        limit=limit,
    )
    if not np.isfinite(found.evaluation.value):
        msg = "the restricted likelihood cannot be computed: X'V⁻¹X is singular at the start of the search."
        raise ConvergenceError(msg)
    return found


def _gaussian_loglik(engine: ProductEngine, pieces: Any, model: Model) -> float:
    minus_two = engine.minus_two(pieces) - engine.stats.log_weights
    if engine.reml:
        minus_two -= 2.0 * model.x.log_determinant
    return -0.5 * minus_two


# ------------------------------------------------------------------------------------------ Laplace, quadrature


def estimate_rows(model: Model, findings: Findings) -> Estimate:
    """Everything that needs its rows."""
    clock = {"start": perf_counter()}
    control, effects = model.control, model.effects
    p, s, q = len(model.x.a), model.n_gamma, effects.n_theta
    glm = model.rows(NO_EFFECTS)
    base = _fit_glm(model, glm)
    clock["glm"] = perf_counter()
    constant = model.constant()
    row_variance = _row_variance(model, glm, base.x)
    held = np.zeros(p + q + s, dtype=bool)
    if effects.factors:
        engine = model.rows(effects)
        size = _start_size(model, row_variance)
        start = np.concatenate([base.x[:p], effects.start(size), base.x[p:]])
        limit = np.concatenate([np.full(p, np.inf), np.full(q, 3.0 * size), np.full(s, _SLOWEST_GAMMA_STEP)])
        found = minimise(
            engine.objective(p, s),
            start,
            tolerance=1e-3 * control.search.decrement,
            max_evaluations=control.search.max_evaluations,
            limit=limit,
        )
        if not np.isfinite(found.evaluation.value):
            msg = "the likelihood is not finite at the start of the search; see start= to begin elsewhere."
            raise ConvergenceError(msg)
        null_loglik = -base.evaluation.value + constant
    else:
        engine, found, null_loglik = glm, base, None
    clock["search"] = perf_counter()
    lambdas = effects.lambdas(found.x[p : p + q])
    gamma = found.x[p + q :] if s else None
    warm = found.evaluation.state

    def loglik(state: State) -> float:
        return engine.gradient(state.beta, list(state.factors), state.gamma, warm).value

    state, ranks = polish.settle_ranks(effects, found.x[:p], lambdas, gamma, row_variance, loglik)
    scale = min(np.sqrt(row_variance), max(1.0, float(np.abs(found.x[:p]).max(initial=0.0))))
    curvature = found.curvature if len(state.vector()) == len(found.x) else np.empty((0, 0))
    done = polish.polish_rows(
        engine, state, ranks, warm, scale=scale, n_rows=model.design.n_rows,
        hessian=control.search.hessian, curvature=curvature, held=held[: len(state.vector())],
    )  # fmt: skip
    clock["hessian"] = perf_counter()
    return _report_rows(model, engine, done, constant, null_loglik, findings, clock)


def _report_rows(
    model: Model,
    engine: RowEngine,
    done: polish.Polished,
    constant: float,
    null_loglik: float | None,
    findings: Findings,
    clock: dict[str, float],
) -> Estimate:
    effects, state = model.effects, done.state
    p, s = len(model.x.a), model.n_gamma
    at = Point(state.beta, effects.effective(list(state.factors)), state.gamma)
    conditional = engine.marginal.conditional(at, done.gradient.warm)
    width = len(state.vector())
    inverted = polish.invert(done.hessian) if done.hessian is not None else None
    spread = np.full((width, width), np.nan) if inverted is None else inverted.vcov
    cov = report.covariances(effects, state, None)
    modelled = model.x_phi is not None
    outward_phi = model.x_phi.a.T if model.x_phi is not None else np.empty((0, 0))
    beta = model.x.a.T @ state.beta
    gamma = outward_phi @ state.gamma if modelled and state.gamma is not None else np.empty(0)
    phi = float(np.exp(state.gamma[0])) if s and not modelled and state.gamma is not None else None
    n_fixed = p + len(gamma)
    size = n_fixed + len(cov.values) + (0 if phi is None else 1)
    jac = np.zeros((size, width))
    jac[:p, :p] = model.x.a.T
    if modelled:
        jac[p:n_fixed, width - s :] = outward_phi
    jac[n_fixed : n_fixed + len(cov.values)] = cov.jacobian
    if phi is not None:
        jac[-1, -1] = phi
    null = np.zeros(size, dtype=bool)
    null[n_fixed : n_fixed + len(cov.values)] = cov.null | report.unidentified_rows(effects, findings.unidentified)
    report_vcov = _propagate(jac, spread, null)
    values = np.concatenate([beta, gamma, cov.values, [] if phi is None else [phi]])
    n = model.design.n_obs
    df_model = p + effects.n_theta + s
    converged = done.decrement < CONVERGED
    std_error = np.sqrt(np.diag(spread)[:p])
    separated = separated_terms(model.design, model.family, model.x, std_error)
    notes = [
        *findings.notes,
        *convergence_notes(done.decrement),
        *singular_notes(effects, state, done.ranks),
        *separation_note(separated),
    ]
    if inverted is not None and not separated:
        fixed_flat = [name for name, flat in zip(model.design.mu.names, inverted.flat, strict=False) if flat]
        notes += flat_note(fixed_flat)
    return Estimate(
        beta=beta,
        gamma=gamma,
        vcov_fixed=report_vcov[:n_fixed, :n_fixed],
        phi=phi,
        factors=report.factor_estimates(effects, state.factors, conditional.modes, conditional.covariance, None),
        report=values,
        report_vcov=report_vcov,
        loglik=done.gradient.value + constant,
        loglik_saturated=model.saturated(),
        n_obs=n,
        df_model=df_model,
        df_resid=n - df_model,
        singular=any(r.rank < effects.factors[r.factor].terms[r.term].r for r in done.ranks),
        converged=converged,
        df_satterthwaite=None,
        vcov_derivative=None,
        covariance_vcov=None,
        null_loglik=null_loglik,
        null_df=p + s,
        certificate=Certificate(
            done.decrement,
            None if inverted is None else inverted.smallest,
            inverted is not None,
            engine.evaluations,
            engine.passes,
            _seconds(clock),
        ),
        notes=tuple(notes),
    )


def _fit_glm(model: Model, glm: RowEngine) -> Found:
    """The model without random effects: where the search starts, and the null of the likelihood-ratio test."""
    data, x = model.data, model.x.columns
    eta = model.family.start(data)
    if model.design.mu.offset is not None:
        eta = eta - model.design.mu.offset
    p = len(x)
    beta = np.linalg.lstsq(x @ x.T, x @ eta, rcond=None)[0] if p else np.empty(0)
    fitted = beta @ x if p else np.zeros(len(eta))
    if model.design.mu.offset is not None:
        fitted = fitted + model.design.mu.offset
    gamma = np.empty(0)
    if model.n_gamma:
        level = float(np.log(model.family.start_phi(data, model.family.mean(fitted))))
        gamma = _constant_gamma(model, level)
    found = _glm_search(model, glm, np.concatenate([beta, gamma]))
    if not np.isfinite(found.evaluation.value) and model.x.constant is not None:
        flat = model.x.inward(model.x.constant * float(np.mean(eta)))
        found = _glm_search(model, glm, np.concatenate([flat, gamma]))
    if not np.isfinite(found.evaluation.value):
        msg = "no starting values: the fitted means leave the link's domain. Use another link, or start=."
        raise ConvergenceError(msg)
    return found


def _glm_search(model: Model, glm: RowEngine, start: Vec) -> Found:
    p, s = len(model.x.a), model.n_gamma
    limit = np.concatenate([np.full(p, np.inf), np.full(s, _SLOWEST_GAMMA_STEP)])
    return minimise(
        glm.objective(p, s), start, tolerance=1e-10, max_evaluations=model.control.search.max_evaluations, limit=limit
    )


def _constant_gamma(model: Model, level: float) -> Vec:
    if model.x_phi is None:
        return np.array([level])
    constant = model.x_phi.constant
    if constant is None:
        return np.zeros(len(model.x_phi.a))
    return model.x_phi.inward(constant * level)


def _row_variance(model: Model, glm: RowEngine, x: Vec) -> float:
    """1 / mean expected curvature: the variance of a row on the scale of the linear predictor."""
    p, s = len(model.x.a), model.n_gamma
    at = Point(x[:p], [], x[p:] if s else None)
    w, n = 0.0, 0
    for unit in glm.marginal.rows.units:
        conditional = at.beta @ unit.blocks[0].x
        block = unit.blocks[0]
        if block.offset is not None:
            conditional = conditional + block.offset
        zeta = None
        if at.gamma is not None:
            zeta = float(at.gamma[0]) if block.x_phi is None else at.gamma @ block.x_phi
            if block.offset_phi is not None:
                zeta = zeta + block.offset_phi
        with np.errstate(all="ignore"):
            expected = model.family.expected(block.data, conditional, zeta).w
        good = np.isfinite(expected)
        w += float(expected[good].sum())
        n += int(good.sum())
    return n / w if w > 0 else 1.0


def _start_size(model: Model, row_variance: float) -> float:
    """Standard deviation from which the search for random effects starts, in units of the linear predictor."""
    if model.family.link.name in ("log", "logit", "probit", "cloglog", "cauchit"):
        return 1.0 if model.family.name == "binomial" else 0.5
    return 0.5 * float(np.sqrt(row_variance))


def _propagate(jac: Mat, inner: Mat, null: BoolVec) -> Mat:
    """jac · inner · jac', with NaN only where a parameter that matters is NaN, and where `null` says so."""
    missing = np.isnan(np.diag(inner))
    known = np.where(np.isnan(inner), 0.0, inner)
    out = jac @ known @ jac.T
    affected = null | (np.abs(jac[:, missing]) > 0).any(1)
    out[affected] = np.nan
    out[:, affected] = np.nan
    return out


def _seconds(clock: dict[str, float]) -> dict[str, float]:
    names = list(clock)
    return {b: clock[b] - clock[a] for a, b in zip(names, names[1:], strict=False)}
