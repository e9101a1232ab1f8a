"""Fitting gaussian identity-link models: a search over relative factors, exact from cross-products."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

import numpy as np

from polars_glmm.errors import ConvergenceError
from polars_glmm.likelihood.estimate import Certificate, Estimate, Working
from polars_glmm.likelihood.given import Given, place
from polars_glmm.likelihood.identify import Findings
from polars_glmm.likelihood.model import NO_EFFECTS, Model
from polars_glmm.likelihood.optimum.boundary import SNAP_LOSS, Unsettled, leaving, settle_ranks
from polars_glmm.likelihood.optimum.elsewhere import Ended, highest
from polars_glmm.likelihood.optimum.newton import Inverted, invert, widen
from polars_glmm.likelihood.optimum.notes import (
    CONVERGED,
    convergence_notes,
    flat_note,
    singular_notes,
)
from polars_glmm.likelihood.optimum.report import (
    SLOPES_KEPT,
    Covariances,
    Spherical,
    covariances,
    factor_estimates,
    propagate,
    seconds,
    unidentified_rows,
)
from polars_glmm.likelihood.optimum.satterthwaite import Satterthwaite, satterthwaite
from polars_glmm.likelihood.parameters.curvature import Gradient
from polars_glmm.likelihood.parameters.names import parameter_names
from polars_glmm.likelihood.parameters.state import Rank, State, lost_rank
from polars_glmm.likelihood.products.absolute import AbsoluteOptimum
from polars_glmm.likelihood.products.absorbed import Absorbed, absorbed, beside, with_absorbed, without
from polars_glmm.likelihood.products.degenerate import (
    DOUBTED,
    lost,
    refuse_degenerate,
    refuse_endless,
    refuse_lost,
    refuse_perfect_fit,
    refuse_unbounded,
    share_left,
)
from polars_glmm.likelihood.products.engine import ProductEngine, ProductModel, product_engine
from polars_glmm.likelihood.products.held import find_held, held_vcov_slopes, sigma_of
from polars_glmm.likelihood.products.polish import PolishedProducts, polish_products
from polars_glmm.likelihood.products.precise import find_precise, no_residual_note, told_apart_by_precision
from polars_glmm.likelihood.products.profile import Profile
from polars_glmm.likelihood.products.starts import FAR_START, SMALL_START, alone, first_size, has_few_rows
from polars_glmm.likelihood.products.vcov_slopes import vcov_slopes
from polars_glmm.linalg.between import between_factors
from polars_glmm.linalg.coupled import between_levels
from polars_glmm.optimize.scoring import approach
from polars_glmm.optimize.search import Begin, Found, minimise, restrict
from polars_glmm.spec.method import REML
from polars_glmm.typing import BoolVec, Mat, Vec

TOLERANCE, _COSTLY_TOLERANCE = 1e-12, 1e-9
"""Decrement at which the search ends: evaluations cost levels, not rows; and where each takes a dense inverse."""
LONGEST_STEP = 10.0
_MANY, _GRADIENTS = 100, 10.0
"""Evaluations after which a search asks how far its gradients are rounded; decrement that is theirs, in νε²/share²."""
_MOST_LEAVINGS = 3
_NOT_DEFINITE = "V is not positive definite in floating point where the search ended. Simplify the random effects."


def estimate_products(model: Model | ProductModel, findings: Findings, given: Given) -> Estimate:
    """Gaussian identity-link models."""
    clock = {"start": perf_counter()}
    engine = product_engine(model)
    clock["products"] = perf_counter()
    effects = model.effects
    costly = engine.stats.eliminator is not None and engine.stats.eliminator.costly
    tolerance = min(model.control.search.decrement, _COSTLY_TOLERANCE if costly else TOLERANCE)
    if any(name not in model.names for name in given.fixed):
        held = find_held(engine, model, tolerance, given)
        clock["search"] = clock["hessian"] = perf_counter()
        return _reported(model, engine, _held_optimum(model, held, int(held.held.sum())), findings, clock)
    if told_apart_by_precision(engine):
        apart = find_precise(engine, model, tolerance, given)
        clock["search"] = clock["hessian"] = perf_counter()
        refuse_endless(engine, apart.done)
        refuse_unbounded(engine)
        estimate = _reported(model, engine, _held_optimum(model, apart.done, 0), findings, clock)
        return replace(estimate, notes=(*estimate.notes, *([no_residual_note()] if apart.no_residual else [])))
    gone = absorbed(engine.stats, effects) if engine.reml else ()
    findings = with_absorbed(findings, effects, gone)
    found = _search(engine, model, tolerance, given, gone)
    clock["search"] = perf_counter()
    at, ranks, known, rises = _settle(engine, model, tolerance, found)
    if model.control.search.hessian or not found.settled:
        done = polish_products(engine, at, ranks, known, hessian=model.control.search.hessian)
    else:  # the search's own curvature stands in
        sigma = float(np.sqrt(known.rss / engine.nu))
        done = PolishedProducts(replace(at, beta=known.beta), ranks, known, sigma, None, found.decrement)
    clock["hessian"] = perf_counter()
    refuse_lost(engine, model, done, max(done.decrement, rises))
    state, sigma = done.state, done.sigma
    k = state.n_free
    inverted = invert(done.hessian) if done.hessian is not None else None
    denominator = None
    if isinstance(model.method, REML) and effects.factors and inverted is not None:
        denominator = satterthwaite(
            vcov_slopes(effects, state, done.pieces, sigma), sigma**2 * done.pieces.m_inverse, model.x.a.T,
            inverted.vcov,
        )  # fmt: skip
    optimum = _Optimum(
        state.factors, done.ranks, done.pieces, sigma, covariances(effects, state, sigma), inverted,
        np.full((k + 1, k + 1), np.nan) if inverted is None else inverted.vcov, denominator,
        [] if inverted is None else _flat_names(model, state, inverted.flat), max(done.decrement, rises), 0, gone,
    )  # fmt: skip
    return _reported(model, engine, optimum, findings, clock)


class _Optimum(NamedTuple):
    """What a report needs of an optimum.

    factors        relative to sigma
    covariances    with their Jacobian in the K parameters of `spread` (K, K), σ the last
    flat           names of parameters that are not determined singly
    n_held         parameters that were not estimated
    gone           terms that the fixed effects absorb
    """

    factors: tuple[Mat, ...]
    ranks: list[Rank]
    pieces: Profile
    sigma: float
    covariances: Covariances
    inverted: Inverted | None
    spread: Mat
    denominator: Satterthwaite | None
    flat: list[str]
    decrement: float
    n_held: int
    gone: tuple[Absorbed, ...] = ()


def _held_optimum(model: Model | ProductModel, done: AbsoluteOptimum, n_held: int) -> _Optimum:
    """An optimum with parameters held: they have no variance for others, and no standard error of their own."""
    hessian = done.hessian if model.control.search.hessian else None
    inverted = None if hessian is None else widen(invert(hessian), done.held)
    cov, sigma, pieces = covariances(model.effects, done.state, None), sigma_of(done), done.point.pieces
    if pieces is None:
        raise ConvergenceError(_NOT_DEFINITE)
    jacobian = np.column_stack([cov.jacobian[:, len(done.state.beta) :], np.zeros(len(cov.values))])  # σ moves none
    k = len(done.held)
    scale = np.append(np.ones(k - 1), sigma)  # the last parameter was log σ
    spread = np.full((k, k), np.nan) if inverted is None else inverted.vcov * np.outer(scale, scale)
    denominator = None
    if isinstance(model.method, REML) and model.effects.factors and inverted is not None:
        vcov = sigma**2 * pieces.m_inverse
        denominator = satterthwaite(held_vcov_slopes(model, done), vcov, model.x.a.T, spread)
    return _Optimum(
        tuple(f / sigma for f in done.state.factors), done.ranks, pieces, sigma, cov._replace(jacobian=jacobian),
        inverted, spread,
        denominator, [] if inverted is None else _flat_names(model, done.state, inverted.flat), done.decrement,
        n_held,
    )  # fmt: skip


def _reported(
    model: Model | ProductModel, engine: ProductEngine, done: _Optimum, findings: Findings, clock: dict[str, float]
) -> Estimate:
    """The estimate of an optimum, on the scales people report."""
    effects, p, pieces, sigma = model.effects, len(model.x.a), done.pieces, done.sigma
    outward, cov, inverted = model.x.a.T, done.covariances, done.inverted
    vcov_beta = sigma**2 * (outward @ pieces.m_inverse @ outward.T)
    beta = outward @ (pieces.beta if engine.stats.start is None else pieces.beta + engine.stats.start)
    if model.x.constant is not None:
        beta = beta + engine.stats.y_shift * model.x.constant
    k = len(done.spread)
    jac = np.zeros((p + len(cov.values) + 1, p + k))
    jac[:p, :p] = np.eye(p)
    jac[p:-1, -cov.jacobian.shape[1] :] = cov.jacobian
    jac[-1, -1] = 1.0
    inner = np.zeros((p + k,) * 2)
    inner[:p, :p] = vcov_beta
    inner[p:, p:] = done.spread
    unknown = unidentified_rows(effects, findings.unidentified)
    null = np.concatenate([np.zeros(p, dtype=bool), cov.null | unknown, [False]])
    report_vcov = propagate(jac, inner, null)
    c = np.append(-pieces.beta, 1.0)
    u = [np.einsum("rwG,w->rG", b, c) for b in pieces.b]
    u_slopes = None
    if sum(b.size for b in pieces.b) <= SLOPES_KEPT:
        inward = np.linalg.inv(outward) if p else outward
        u_slopes = [-np.einsum("rpG,pq->rqG", b[:, :p], inward) for b in pieces.b]
    known_u = Spherical(u, pieces.h_inverse, u_slopes, between_levels(pieces.h), between_factors(pieces.h))
    denominator = done.denominator
    n = model.n_obs
    df_model = p + effects.n_theta + 1 - done.n_held
    notes = [
        *findings.notes,
        *convergence_notes(done.decrement),
        *singular_notes(effects, done.factors, beside(done.ranks, done.gone)),
    ]
    if not findings.notes:
        notes += flat_note(done.flat)
    return Estimate(
        beta=beta,
        gamma=np.empty(0),
        vcov_fixed=vcov_beta,
        phi=sigma,
        factors=factor_estimates(effects, done.factors, known_u, sigma),
        report=np.concatenate([beta, cov.values, [sigma]]),
        report_vcov=report_vcov,
        loglik=_gaussian_loglik(engine, pieces, model, sigma),
        loglik_saturated=None,
        n_obs=n,
        df_model=df_model,
        df_resid=n - df_model,
        singular=any(lost_rank(effects, rank) for rank in beside(done.ranks, done.gone)),
        converged=done.decrement < CONVERGED,
        df_satterthwaite=None if denominator is None else denominator.df,
        vcov_derivative=None if denominator is None else denominator.derivative,
        covariance_vcov=None if denominator is None else denominator.covariance,
        null_loglik=_null_loglik(engine, model, sigma if done.n_held and np.isnan(done.spread[-1, -1]) else None),
        null_df=p + 1,
        certificate=Certificate(
            done.decrement,
            None if inverted is None else inverted.smallest,
            inverted is not None,
            engine.evaluations,
            0.0,
            seconds(clock),
        ),
        notes=tuple(notes),
        working=Working(
            outward,
            sigma**2 * pieces.m_inverse,
            None if denominator is None else denominator.inner,
            engine.stats.ww[:p, :p],
        ),
    )


def _flat_names(model: Model | ProductModel, state: State, flat: BoolVec) -> list[str]:
    """Names of the standard deviations that the data do not determine singly, from marks on (free entries of F, σ)."""
    if not flat.any():
        return []
    blocks, names = parameter_names(model)
    at, found = 0, []
    marked = []
    for entries in state.free:
        marked.append(set(entries.owners[flat[at : at + entries.size]].tolist()))
        at += entries.size
    for block in blocks:
        t = block.term
        found += [names[block.start + i - t.start] for i in range(t.start, t.stop) if i in marked[block.factor]]
    return [*found, "phi"] if flat[-1] else found


class _Settled(NamedTuple):
    """A state, its ranks, the profile there, and the score with which ℓ still rises beyond it."""

    state: State
    ranks: list[Rank]
    pieces: Profile
    rises: float


def _settle(engine: ProductEngine, model: Model | ProductModel, tolerance: float, found: Found) -> _Settled:
    """The state with its ranks settled; leaves the boundary where the likelihood rises from it."""
    effects, beta = model.effects, np.zeros(len(model.x.a))

    def loglik(state: State) -> float:
        pieces = engine.pieces(list(state.factors), gradient=False)
        return -np.inf if pieces is None else -0.5 * engine.minus_two(pieces)

    ended = Ended(found, slice(None), np.zeros(effects.n_theta, dtype=bool), first_size(engine), 1.0)

    def search(theta: Vec, stays: BoolVec) -> Found:
        most = min(_MANY, model.control.search.max_evaluations)
        return _partly(engine, theta, stays, most) if stays.any() else _continue(engine, tolerance, theta, most)

    found = highest(effects, ended, search)
    for left in reversed(range(_MOST_LEAVINGS + 1)):
        lambdas, pieces = effects.lambdas(found.x), found.evaluation.state
        state, ranks = settle_ranks(effects, Unsettled(beta, found.x), 1.0, loglik)
        rise = leaving(effects, state, ranks, 1.0, lambda s: _gradient(engine, s))
        if rise is None or not left:
            break
        beyond = _continue(engine, tolerance, rise.away.theta(effects), model.control.search.max_evaluations)
        if loglik(state) > -beyond.evaluation.value - SNAP_LOSS:  # to nothing that would not be set to zero again
            rise = None
            break
        found = beyond
    same = all(np.array_equal(f, lam) for f, lam in zip(state.factors, lambdas, strict=True))
    there = pieces if same else engine.pieces(list(state.factors))
    if there is None:
        if share_left(engine, pieces) <= DOUBTED:
            raise lost(engine, model, pieces)
        raise ConvergenceError(_NOT_DEFINITE)
    return _Settled(state, ranks, there, 0.0 if rise is None else rise.score)


def _null_loglik(engine: ProductEngine, model: Model | ProductModel, sigma: float | None = None) -> float | None:
    """ℓ of the model without random effects, where there are any; sigma where it is held."""
    if not model.effects.factors:
        return None
    bare = ProductEngine(NO_EFFECTS, engine.stats, engine.reml, engine.p)
    pieces = bare.pieces([], gradient=False)
    return None if pieces is None else _gaussian_loglik(bare, pieces, model, sigma)


def _gradient(engine: ProductEngine, state: State) -> Gradient:
    """ℓ profiled over β and σ with its gradient in F."""
    pieces = engine.pieces(list(state.factors))
    if pieces is None:
        return Gradient(-np.inf, state.beta, [], None, 0.0)
    sigma = float(np.sqrt(pieces.rss / engine.nu))
    factors = [-0.5 * g for g in engine.gradients(pieces, sigma)]
    return Gradient(-0.5 * engine.minus_two(pieces), state.beta, factors, None, 0.0)


def _continue(engine: ProductEngine, tolerance: float, theta: Vec, most: int) -> Found:
    """The search from θ: scoring steps in the covariances, then quasi-Newton."""
    near = approach(engine.objective(scoring=True), theta, engine.effects.along)
    begin = None
    if near.evaluation.curvature is not None:
        with np.errstate(all="ignore"):
            begin = Begin(engine.nearby(near.x, near.evaluation), near.evaluation)
    found = _minimise(engine, near.x, tolerance, min(_MANY, most), begin)
    if found.settled or most <= _MANY or found.evaluation.state is None:
        return found
    rounded = np.finfo(np.float64).eps / share_left(engine, found.evaluation.state)
    tolerance = max(tolerance, _GRADIENTS * engine.nu * rounded**2)
    again = Begin(found.curvature, found.evaluation._replace(curvature=found.curvature))
    return _minimise(engine, found.x, tolerance, most - _MANY, again)


def _minimise(engine: ProductEngine, theta: Vec, tolerance: float, most: int, begin: Begin | None) -> Found:
    limit = np.maximum(LONGEST_STEP, np.abs(theta))
    return minimise(engine.objective(), theta, tolerance=tolerance, max_evaluations=most, limit=limit, begin=begin)


def _partly(engine: ProductEngine, theta: Vec, stays: BoolVec, most: int) -> Found:
    """A rough search over what of θ does not stay."""
    objective = restrict(engine.objective(scoring=True), theta, ~stays)
    found = minimise(objective, theta[~stays], tolerance=_COSTLY_TOLERANCE, max_evaluations=most)
    whole = theta.copy()
    whole[~stays] = found.x
    return found._replace(x=whole)


def _search(
    engine: ProductEngine, model: Model | ProductModel, tolerance: float, given: Given, gone: tuple[Absorbed, ...]
) -> Found:
    """The search over θ; a given start is in standard deviations and, with "phi", relative to it."""
    effects, p = model.effects, len(model.x.a)
    bare = ProductEngine(NO_EFFECTS, engine.stats, engine.reml, engine.p).pieces([], gradient=False)
    refuse_perfect_fit(engine, bare)
    theta = place(model, given).values[p : p + effects.n_theta]
    told = bool(given.start) and bare is not None and not np.isnan(theta).any()
    apart = len(effects.factors) > 1 and not told and not effects.coupled
    start = alone(engine) if apart else effects.start(first_size(engine))
    if given.start and bare is not None:
        sigma = given.start.get("phi", float(np.sqrt(bare.rss / engine.nu)))
        start = np.where(np.isnan(theta), start, effects.times(theta, 1.0 / sigma))
    most = model.control.search.max_evaluations
    found = _continue(engine, tolerance, without(effects, start, gone), most)
    sizes = []
    if model.x.constant is None and p and effects.factors:
        # without an intercept the random effects may have to bear the mean: another hill, far away
        far = 1.0 if bare is None else float(np.sqrt(engine.stats.ww[-1, -1] / bare.rss))
        sizes.append(max(far, FAR_START))
    if has_few_rows(engine.stats.n, effects.n_theta):
        sizes.append(SMALL_START)
    for size in sizes if not given.start else ():
        other = _continue(engine, tolerance, without(effects, effects.start(size), gone), most)
        if other.evaluation.value < found.evaluation.value and (other.settled or not found.settled):
            found = other
    if not np.isfinite(found.evaluation.value):
        msg = (
            "X'V⁻¹X is singular where the search starts: a fixed effect is not determined. Drop columns of the formula."
        )
        raise ConvergenceError(msg)
    refuse_degenerate(engine, found.evaluation.state)
    refuse_unbounded(engine)
    return found


def _gaussian_loglik(
    engine: ProductEngine, pieces: Profile, model: Model | ProductModel, sigma: float | None = None
) -> float:
    """ℓ with all constants, at a given σ or at its optimum."""
    minus_two = engine.minus_two(pieces, sigma) - engine.stats.log_weights
    if engine.reml:
        minus_two -= 2.0 * model.x.log_determinant
    return -0.5 * minus_two
