"""From an optimum over absolute factors and γ to an estimate: one report for all that γ may be.

γ are the parameters of the residual covariance; `GammaMeaning` says what they are to the user.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import scipy.linalg as sl

from polars_glmm.likelihood.estimate import Certificate, Estimate, ResidualEstimate, Working
from polars_glmm.likelihood.identify import Findings
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.optimum.newton import Inverted, invert, widen
from polars_glmm.likelihood.optimum.notes import CONVERGED, convergence_notes, flat_note, singular_notes
from polars_glmm.likelihood.optimum.report import (
    SLOPES_KEPT,
    Spherical,
    covariances,
    factor_estimates,
    propagate,
    seconds,
    unidentified_rows,
)
from polars_glmm.likelihood.optimum.satterthwaite import Satterthwaite, satterthwaite
from polars_glmm.likelihood.parameters.names import parameter_names
from polars_glmm.likelihood.parameters.state import lost_rank
from polars_glmm.likelihood.products.absolute import AbsoluteEngine, AbsoluteOptimum
from polars_glmm.likelihood.products.profile import Profile
from polars_glmm.linalg.between import between_factors
from polars_glmm.linalg.coupled import between_levels
from polars_glmm.notes import Note
from polars_glmm.typing import Cube, Mat, Vec


class ReportedEngine(AbsoluteEngine, Protocol):
    """An engine of which an estimate can be made.

    y_shift       what was taken from y
    log_weights   Σ log of the weights where the engine's ℓ leaves them out, else 0
    """

    @property
    def p(self) -> int: ...
    @property
    def evaluations(self) -> int: ...
    @property
    def y_shift(self) -> float: ...
    @property
    def log_weights(self) -> float: ...

    def vcov_slopes(self, pieces: Profile, factors: list[Mat], gamma: Vec) -> tuple[list[Mat], Cube]:
        """∂M⁻¹/∂Λ per factor (r_f, r_f, p, p), and ∂M⁻¹/∂γ (len(γ), p, p)."""


class GammaMeaning(NamedTuple):
    """What γ is to the user.

    gamma (s,)   coefficients of log φ as named, or empty
    residual     correlation parameters, or None
    phi          the constant residual sd, or None
    jacobian     of [gamma, correlation parameters, phi] in γ
    names        of these
    """

    gamma: Vec
    residual: ResidualEstimate | None
    phi: float | None
    jacobian: Mat
    names: tuple[str, ...]


class Ends(NamedTuple):
    """What else a report takes: ℓ without random effects, the clock, and notes."""

    null_loglik: float | None
    clock: dict[str, float]
    notes: tuple[Note, ...] = ()


class Understood(NamedTuple):
    """An optimum, its profile, and the covariance matrix of (β_c, free entries of Λ, γ), NaN where there is none."""

    done: AbsoluteOptimum
    pieces: Profile
    vcov: Mat
    inverted: Inverted | None
    denominator: Satterthwaite | None


def loglik(model: Model, engine: ReportedEngine, value: float) -> float:
    """ℓ with all constants from ℓ in the computing basis."""
    determinant = model.x.log_determinant if model.restricted else 0.0
    return value + 0.5 * engine.log_weights + determinant


def understood(
    model: Model, engine: ReportedEngine, done: AbsoluteOptimum, pieces: Profile, *, joint: bool
) -> Understood:
    """Covariances: of β by (X'V⁻¹X)⁻¹; if `joint`, of the Hessian in all parameters, by ∂β̂/∂(Λ, γ)."""
    p, width = engine.p, len(done.state.vector()) + len(done.gamma)
    vcov = np.full((width, width), np.nan)
    vcov[:p, p:] = vcov[p:, :p] = 0.0
    vcov[:p, :p] = pieces.m_inverse
    if done.hessian is None or not model.control.search.hessian:
        return Understood(done, pieces, vcov, None, None)
    inverted = widen(invert(done.hessian), done.held)
    vcov[p:, p:] = inverted.vcov
    denominator = None
    if model.restricted:
        slopes = _vcov_slopes(engine, done, pieces)
        denominator = satterthwaite(slopes, pieces.m_inverse, model.x.a.T, inverted.vcov)
    if joint:
        moves = np.zeros((width - p, p))
        moves[~done.held] = done.slopes
        known = np.nan_to_num(inverted.vcov, nan=0.0)
        cross = known @ moves
        vcov[:p, :p] += moves.T @ cross
        vcov[p:, :p] = cross
        vcov[:p, p:] = cross.T
    return Understood(done, pieces, vcov, inverted, denominator)


def _vcov_slopes(engine: ReportedEngine, done: AbsoluteOptimum, pieces: Profile) -> Cube:
    """∂vcov(β_c)/∂(free entries of Λ, γ), (K, p, p)."""
    by_factor, by_phi = engine.vcov_slopes(pieces, list(done.state.factors), done.gamma)
    entries = [
        one for free, change in zip(done.state.free, by_factor, strict=True) for one in free.pull(change)
    ]
    p = engine.p
    return np.array([*entries, *by_phi]).reshape(len(entries) + len(by_phi), p, p)


def reported(
    model: Model, engine: ReportedEngine, found: Understood, scale: GammaMeaning, findings: Findings, ends: Ends
) -> Estimate:
    """The estimate on the scales people report."""
    done, pieces, state = found.done, found.pieces, found.done.state
    effects, p, s = model.effects, engine.p, len(scale.gamma)
    outward, cov = model.x.a.T, covariances(effects, state, None)
    beta = outward @ pieces.beta
    if model.x.constant is not None:
        beta = beta + engine.y_shift * model.x.constant
    width, behind = len(found.vcov), len(done.gamma)
    n_cov, n_last = len(cov.values), len(scale.jacobian) - s
    jac = np.zeros((p + s + n_cov + n_last, width))
    jac[:p, :p] = outward
    jac[p : p + s, width - behind :] = scale.jacobian[:s]
    jac[p + s : p + s + n_cov, : width - behind] = cov.jacobian
    jac[p + s + n_cov :, width - behind :] = scale.jacobian[s:]
    null = np.zeros(len(jac), dtype=bool)
    null[p + s : p + s + n_cov] = cov.null | unidentified_rows(effects, findings.unidentified)
    report_vcov = propagate(jac, found.vcov, null)
    rho = np.empty(0) if scale.residual is None else scale.residual.values
    df_model = p + effects.n_theta + behind - int(done.held.sum())
    notes = [
        *findings.notes,
        *convergence_notes(done.decrement),
        *singular_notes(effects, state.factors, done.ranks),
        *ends.notes,
    ]
    if found.inverted is not None and not findings.notes:
        notes += flat_note(_flat_names(model, found, scale))
    fixed = np.concatenate([np.arange(p), np.arange(width - behind, width - behind + s)])
    inner = found.vcov[np.ix_(fixed, fixed)]
    degrees, c = found.denominator, np.append(-pieces.beta, 1.0)
    return Estimate(
        beta=beta,
        gamma=scale.gamma,
        vcov_fixed=report_vcov[: p + s, : p + s],
        phi=scale.phi,
        factors=factor_estimates(
            effects, state.factors,
            Spherical([np.einsum("rwG,w->rG", b, c) for b in pieces.b], pieces.h_inverse,
                      _mode_slopes(pieces, outward), between_levels(pieces.h),
                      between_factors(pieces.h)), None,
        ),
        report=np.concatenate([beta, scale.gamma, cov.values, rho, [] if scale.phi is None else [scale.phi]]),
        report_vcov=report_vcov,
        loglik=loglik(model, engine, -done.point.value),
        loglik_saturated=None,
        n_obs=model.n_obs,
        df_model=df_model,
        df_resid=model.n_obs - df_model,
        singular=any(lost_rank(effects, rank) for rank in done.ranks),
        converged=done.decrement < CONVERGED,
        df_satterthwaite=None if degrees is None else degrees.df,
        vcov_derivative=None if degrees is None else degrees.derivative,
        covariance_vcov=None if degrees is None else degrees.covariance,
        null_loglik=ends.null_loglik,
        null_df=p + behind,
        certificate=Certificate(
            done.decrement,
            None if found.inverted is None else found.inverted.smallest,
            found.inverted is not None,
            engine.evaluations,
            0.0,
            seconds(ends.clock),
        ),
        notes=tuple(notes),
        working=None if np.isnan(inner).any() else Working(
            np.asarray(sl.block_diag(outward, scale.jacobian[:s, :s])) if s else outward, inner,
            None if degrees is None else degrees.inner,
        ),
        residual=scale.residual,
    )  # fmt: skip


def _mode_slopes(pieces: Profile, outward: Mat) -> list[Cube] | None:
    """∂û/∂β (r_f, p, G_f) per factor, with beta as named."""
    if sum(b.size for b in pieces.b) > SLOPES_KEPT:
        return None
    p = len(outward)
    inward = np.linalg.inv(outward) if p else outward
    return [-np.einsum("rpG,pq->rqG", b[:, :p], inward) for b in pieces.b]


def _flat_names(model: Model, found: Understood, scale: GammaMeaning) -> list[str]:
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
    seen = np.abs(scale.jacobian[: len(scale.names)]) @ flat[at:].astype(np.float64)
    return [*lost, *(name for name, v in zip(scale.names, seen, strict=True) if v != 0.0)]
