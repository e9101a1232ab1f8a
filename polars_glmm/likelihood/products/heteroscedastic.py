"""Fitting gaussian models with few residual variances, exact from cross-products per stratum, by ML or REML."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import numpy as np

from polars_glmm.likelihood.dense_limit import refuse_beyond_memory
from polars_glmm.likelihood.estimate import Certificate, Estimate, Working
from polars_glmm.likelihood.given import Given, Placed, place
from polars_glmm.likelihood.identify import Findings
from polars_glmm.likelihood.model import NO_EFFECTS, Model
from polars_glmm.likelihood.optimum.newton import Inverted, invert, widen
from polars_glmm.likelihood.optimum.notes import CONVERGED, convergence_notes, flat_note, singular_notes
from polars_glmm.likelihood.optimum.report import (
    SLOPES_KEPT,
    covariances,
    factor_estimates,
    propagate,
    seconds,
    unidentified_rows,
)
from polars_glmm.likelihood.optimum.satterthwaite import Satterthwaite, satterthwaite
from polars_glmm.likelihood.parameters.names import parameter_names
from polars_glmm.likelihood.parameters.state import lost_rank
from polars_glmm.likelihood.products.absolute import AbsoluteOptimum, Start, optimum, search
from polars_glmm.likelihood.products.profile import Profile
from polars_glmm.likelihood.products.strata import LostDigits, Strata, StrataEngine
from polars_glmm.optimize.search import Found
from polars_glmm.typing import Cube, Mat, Vec

TOLERANCE = 1e-10
_SIZES = (1.0, 0.1, 10.0)
"""Sizes of random effects to begin with, relative to the residual, until one has a finite likelihood."""
_LOST = 1e-9
"""Share of the response's weighted sum of squares below which differences of sums have lost what the model leaves."""


class _StrataOptimum(NamedTuple):
    """An optimum, its profile, and the covariance matrix of (β_c, free entries of Λ, γ), NaN where there is none."""

    done: AbsoluteOptimum
    pieces: Profile
    vcov: Mat
    inverted: Inverted | None
    denominator: Satterthwaite | None


def estimate_strata(model: Model, strata: Strata, findings: Findings, given: Given) -> Estimate | None:
    """The estimate from sums per stratum; None where these hold too few digits of it, and rows must be asked."""
    try:
        return _estimate(model, strata, findings, given)
    except LostDigits:
        return None


def _estimate(model: Model, strata: Strata, findings: Findings, given: Given) -> Estimate | None:
    clock = {"start": perf_counter()}
    engine = _engine(model, strata)
    placed = _placed(model, given)
    bare = StrataEngine(NO_EFFECTS, strata, engine.reml, engine.p)
    null = _null(model, bare, placed)
    clock["glm"] = perf_counter()
    if not np.isfinite(null.evaluation.value):
        return None
    held = placed.held
    most, tolerance = model.control.search.max_evaluations, min(TOLERANCE, model.control.search.decrement)
    found = null if not model.effects.factors else _search(model, engine, placed, null)
    clock["search"] = perf_counter()
    if not np.isfinite(found.evaluation.value) or _share(engine, found) < _LOST:
        return None
    done = optimum(engine, found, held, tolerance, most)
    clock["hessian"] = perf_counter()
    if done.point.pieces is None:
        return None
    null_loglik = _loglik(model, strata, -null.evaluation.value) if model.effects.factors else None
    return _reported(model, engine, _understood(model, engine, done, done.point.pieces), findings, null_loglik, clock)


def _engine(model: Model, strata: Strata) -> StrataEngine:
    if strata.eliminator is not None:
        refuse_beyond_memory(strata.eliminator, model.effects, model.control)
    return StrataEngine(model.effects, strata, model.restricted, len(model.x.a))


def _placed(model: Model, given: Given) -> Placed:
    """Values for [θ, γ]; β is profiled out."""
    values, held = place(model, given)
    own = model.parts[1].own
    return Placed(np.append(values[own.stop :], values[own]), np.append(held[own.stop :], held[own]))


def _null(model: Model, bare: StrataEngine, placed: Placed) -> Found:
    """The model without random effects: where the search starts, and the null of the likelihood-ratio test."""
    basis = model.bases[1]
    s = len(basis.a)
    values, held = placed.values[-s:], placed.held[-s:]
    gamma = np.zeros(s)
    pieces = bare.pieces([], gamma, gradient=False)
    if pieces is not None and basis.constant is not None:
        gamma = basis.inward(basis.constant * 0.5 * np.log(pieces.rss / max(bare.nu, 1)))
    x = np.where(np.isnan(values), gamma, values)
    return search(bare, Start(x, held), TOLERANCE, model.control.search.max_evaluations)


def _search(model: Model, engine: StrataEngine, placed: Placed, null: Found) -> Found:
    """The search over [θ, γ] from random effects as large as the residual."""
    gamma = null.x
    noise = engine.point(model.effects.lambdas(model.effects.start(0.0)), gamma).noise
    for size in _SIZES:
        x = np.concatenate([model.effects.start(size * noise), gamma])
        x = np.where(np.isnan(placed.values), x, placed.values)
        found = search(engine, Start(x, placed.held), TOLERANCE, model.control.search.max_evaluations)
        if np.isfinite(found.evaluation.value):
            break
    return found


def _share(engine: StrataEngine, found: Found) -> float:
    """Share of the weighted sum of squares of y that the model leaves."""
    gamma = found.x[engine.effects.n_theta :]
    w = np.exp(-2.0 * engine.log_phi(gamma))
    total = sum(a * float(part.ww[-1, -1]) for a, part in zip(w, engine.strata.parts, strict=True))
    pieces = found.evaluation.state.pieces
    return float(pieces.rss) / total if total > 0.0 else 0.0


def _loglik(model: Model, strata: Strata, value: float) -> float:
    """ℓ with all constants from ℓ in the computing basis."""
    determinant = model.x.log_determinant if model.restricted else 0.0
    return value + 0.5 * strata.log_weights + determinant


def _understood(model: Model, engine: StrataEngine, done: AbsoluteOptimum, pieces: Profile) -> _StrataOptimum:
    """Covariances: of β by (X'V⁻¹X)⁻¹ under REML; under ML of the joint Hessian, by ∂β̂/∂(Λ, γ)."""
    p, width = engine.p, len(done.state.vector()) + len(done.gamma)
    vcov = np.full((width, width), np.nan)
    vcov[:p, p:] = vcov[p:, :p] = 0.0
    vcov[:p, :p] = pieces.m_inverse
    if done.hessian is None or not model.control.search.hessian:
        return _StrataOptimum(done, pieces, vcov, None, None)
    inverted = widen(invert(done.hessian), done.held)
    vcov[p:, p:] = inverted.vcov
    denominator = None
    if model.restricted:
        slopes = _vcov_slopes(engine, done, pieces)
        denominator = satterthwaite(slopes, pieces.m_inverse, model.x.a.T, inverted.vcov)
    else:
        moves = np.zeros((width - p, p))
        moves[~done.held] = done.slopes
        known = np.nan_to_num(inverted.vcov, nan=0.0)
        cross = known @ moves
        vcov[:p, :p] += moves.T @ cross
        vcov[p:, :p] = cross
        vcov[:p, p:] = cross.T
    return _StrataOptimum(done, pieces, vcov, inverted, denominator)


def _vcov_slopes(engine: StrataEngine, done: AbsoluteOptimum, pieces: Profile) -> Cube:
    """∂vcov(β_c)/∂(free entries of Λ, γ), (K, p, p)."""
    by_factor, by_phi = engine.vcov_slopes(pieces, list(done.state.factors), done.gamma)
    entries = [one for free, change in zip(done.state.free, by_factor, strict=True) for one in free.pull(change)]
    p = engine.p
    return np.array([*entries, *by_phi]).reshape(len(entries) + len(by_phi), p, p)


def _reported(
    model: Model, engine: StrataEngine, found: _StrataOptimum, findings: Findings, null_loglik: float | None,
    clock: dict[str, float],
) -> Estimate:  # fmt: skip
    """The estimate on the scales people report."""
    done, pieces, state = found.done, found.pieces, found.done.state
    effects, p, s = model.effects, engine.p, len(done.gamma)
    outward, outward_phi, cov = model.x.a.T, model.bases[1].a.T, covariances(effects, state, None)
    beta = outward @ pieces.beta
    if model.x.constant is not None:
        beta = beta + engine.strata.y_shift * model.x.constant
    gamma = outward_phi @ done.gamma
    width = len(found.vcov)
    jac = np.zeros((p + s + len(cov.values), width))
    jac[:p, :p] = outward
    jac[p : p + s, width - s :] = outward_phi
    jac[p + s :, : width - s] = cov.jacobian
    null = np.concatenate([np.zeros(p + s, dtype=bool), cov.null | unidentified_rows(effects, findings.unidentified)])
    report_vcov = propagate(jac, found.vcov, null)
    df_model = p + effects.n_theta + s - int(done.held.sum())
    notes = [
        *findings.notes,
        *convergence_notes(done.decrement),
        *singular_notes(effects, state.factors, done.ranks),
    ]
    if found.inverted is not None and not findings.notes:
        notes += flat_note(_flat_names(model, found))
    fixed = np.concatenate([np.arange(p), np.arange(width - s, width)])
    inner = found.vcov[np.ix_(fixed, fixed)]
    degrees, c = found.denominator, np.append(-pieces.beta, 1.0)
    return Estimate(
        beta=beta,
        gamma=gamma,
        vcov_fixed=report_vcov[: p + s, : p + s],
        phi=None,
        factors=factor_estimates(
            effects, state.factors, [np.einsum("rwG,w->rG", b, c) for b in pieces.b], pieces.h_inverse,
            _mode_slopes(pieces, outward), None,
        ),
        report=np.concatenate([beta, gamma, cov.values]),
        report_vcov=report_vcov,
        loglik=_loglik(model, engine.strata, -done.point.value),
        loglik_saturated=None,
        n_obs=model.n_obs,
        df_model=df_model,
        df_resid=model.n_obs - df_model,
        singular=any(lost_rank(effects, rank) for rank in done.ranks),
        converged=done.decrement < CONVERGED,
        df_satterthwaite=None if degrees is None else degrees.df,
        vcov_derivative=None if degrees is None else degrees.derivative,
        covariance_vcov=None if degrees is None else degrees.covariance,
        null_loglik=null_loglik,
        null_df=p + s,
        certificate=Certificate(
            done.decrement,
            None if found.inverted is None else found.inverted.smallest,
            found.inverted is not None,
            engine.evaluations,
            0.0,
            seconds(clock),
        ),
        notes=tuple(notes),
        working=None if np.isnan(inner).any() else Working(
            _block_diagonal(outward, outward_phi), inner, None if degrees is None else degrees.inner
        ),
    )  # fmt: skip


def _mode_slopes(pieces: Profile, outward: Mat) -> list[Cube] | None:
    """∂û/∂β (r_f, p, G_f) per factor, with beta as named."""
    if sum(b.size for b in pieces.b) > SLOPES_KEPT:
        return None
    p = len(outward)
    inward = np.linalg.inv(outward) if p else outward
    return [-np.einsum("rpG,pq->rqG", b[:, :p], inward) for b in pieces.b]


def _block_diagonal(first: Mat, second: Mat) -> Mat:
    p, s = len(first), len(second)
    out = np.zeros((p + s, p + s))
    out[:p, :p], out[p:, p:] = first, second
    return out


def _flat_names(model: Model, found: _StrataOptimum) -> list[str]:
    """Parameters in whose direction the likelihood is flat."""
    assert found.inverted is not None
    blocks, names = parameter_names(model)
    flat, at, marked = found.inverted.flat, 0, []
    for entries in found.done.state.free:
        marked.append(set(entries.owners[flat[at : at + entries.size]].tolist()))
        at += entries.size
    lost = []
    for block in blocks:
        t = block.term
        lost += [names[block.start + i - t.start] for i in range(t.start, t.stop) if i in marked[block.factor]]
    gamma: Vec = np.asarray(model.bases[1].a.T @ flat[at:])
    return [*lost, *(f"phi: {name}" for name, v in zip(model.parts[1].names, gamma, strict=True) if v != 0.0)]
