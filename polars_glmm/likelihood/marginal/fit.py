"""Fitting by Laplace or quadrature: a joint search over fixed effects, factors and dispersion."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np

from polars_glmm.errors import ConvergenceError, IdentifiabilityError
from polars_glmm.families.base import has_edge, spread_name
from polars_glmm.families.registry import resolve_family
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.given import Given, Placed, place
from polars_glmm.likelihood.identify import Findings
from polars_glmm.likelihood.marginal import dispersion_limit as limits
from polars_glmm.likelihood.marginal import edge, hills
from polars_glmm.likelihood.marginal.dispersion_range import gamma_range, size_cap
from polars_glmm.likelihood.marginal.engine import RowEngine, bare_engine, row_engine
from polars_glmm.likelihood.marginal.modes import Point
from polars_glmm.likelihood.marginal.polish import Polished, Settled, polish_rows
from polars_glmm.likelihood.marginal.report import LogLevels, report_rows
from polars_glmm.likelihood.marginal.sample import subsample
from polars_glmm.likelihood.model import NO_EFFECTS, Model
from polars_glmm.likelihood.optimum.boundary import leaving, settle_ranks
from polars_glmm.likelihood.optimum.newton import Scale, invert
from polars_glmm.likelihood.optimum.notes import CONVERGED, no_overdispersion_note, reproduced_text
from polars_glmm.likelihood.parameters.curvature import Gradient
from polars_glmm.likelihood.parameters.state import State
from polars_glmm.likelihood.rows import sums as rowsums
from polars_glmm.likelihood.rows.blocks import RowBlocks
from polars_glmm.linalg.quadrature import gauss_hermite
from polars_glmm.optimize.search import Begin, Found, minimise, restrict
from polars_glmm.typing import BoolVec, Mat, Vec

SLOWEST_GAMMA_STEP = 3.0
SEARCH_SHARE = 1e-3
"""The search goes on to this share of the decrement that is asked for, so that the Hessian is taken at the optimum."""
_SAMPLE_TOLERANCE = 1e-4
_LARGE_SHARE = 1e3
"""With many rows the search may stop this much earlier: the Hessian varies less and its Newton step is sure."""
GLM_TOLERANCE = 1e-10
_THIN_ROWS, _THIN_BEYOND, _THIN_TOLERANCE = 100_000, 4, 1e-2
"""The model without random effects begins on so many rows where there are several times as many."""
LIMIT_LOSS = 1e-6
"""Log-likelihood by which the Poisson limit may fall short of the negative binomial found."""
_START_SHARES = (1.0, 0.1, 0.01)
"""Shares of the first size of random effects: modes of large ones may lie outside the domain of a link."""
_MOST_LEAVINGS = 3
_EXPLORING = 100
"""Evaluations of a search that looks for other optima, and after which a search that runs away is stopped."""
_AT_EDGE = 40
"""The same where modes may be lost at the edge of the link's domain, which takes long."""
_NODES = {1: 21, 2: 9, 3: 5}
"""Nodes per dimension, by the number of effects, of the quadrature that an approximation is compared with."""
_MOST_NODE_ROWS = 3_000_000
_PERFECT, _LOST, _DOUBTED = float(np.log(1e-15)), float(np.log(1e-11)), float(np.log(1e-8))
"""log of the relative dispersion that counts as none; beside random effects; there, where the certificate fails.

Sums over rows have gradients that are rounded by ε/phi.
"""


def estimate_rows(model: Model, findings: Findings, given: Given) -> Estimate:
    """Everything that needs its rows; a negative binomial without overdispersion ends as the Poisson it tends to."""
    clock = {"start": perf_counter()}
    constant = model.constant()
    placed = place(model, given)
    engine = row_engine(model)
    base = _fit_glm(model, bare_engine(model, engine), placed)
    row_variance = _row_variance(model, base)
    clock["glm"] = perf_counter()
    found = _search(model, engine, base.found.x, row_variance, placed) if model.effects.factors else base
    clock["search"] = perf_counter()
    given_findings = findings
    found, limit_of_phi = _dispersion_limit(model, found, placed)
    if limit_of_phi is None:
        found, findings = _second_look(model, found, base, constant, placed, findings)
    if _at_poisson_limit(model, found, placed):
        limit = _poisson_limit(model, given_findings, given, found, constant)
        if limit is not None:
            return limit
    try:
        done = _polish(model, found, row_variance, placed)
    except ConvergenceError as error:
        if (said := edge.message(model)) is None:
            raise
        raise ConvergenceError(said) from error
    _refuse_lost(model, done)
    clock["hessian"] = perf_counter()
    null = constant - base.found.evaluation.value if model.effects.factors else None
    return report_rows(model, found.engine, done, LogLevels(constant, null, limit_of_phi), findings, clock)


def _second_look(
    model: Model, searched: Searched, base: Searched, constant: float, placed: Placed, findings: Findings
) -> tuple[Searched, Findings]:
    """The search's answer, or a better one where its random effects are out of proportion, and what there is to say."""
    unit = hills.unit_of(model.family)
    at = hills.Coordinates(model.effects, len(model.x.a), bool(model.n_gamma))
    spread = placed.held[at.p : at.p + model.effects.n_theta]
    if unit is None or spread.any() or not model.effects.factors:
        return searched, findings
    lone = np.array(findings.lone, dtype=bool) if findings.lone else np.zeros(len(model.effects.factors), dtype=bool)
    lost = not searched.found.settled and model.control.search.max_evaluations >= _EXPLORING
    impossible = constant > searched.found.evaluation.value  # of counts
    if not (lost or impossible) and not hills.doubtful(at.sizes(searched.found.x), unit, lone).any():
        return searched, findings
    engine, start = searched.engine, base.found

    def search(x: Vec, by: RowEngine = engine) -> Found:
        return _search_near(model, by, x, unit, placed)

    tolerance = SEARCH_SHARE * model.control.search.decrement
    finer = _quadrature(model, engine)
    quadrature = None if finer is None else partial(search, by=finer)
    look = hills.SecondLook(engine, at, unit, search, quadrature, start.x, -start.evaluation.value, constant)
    found, findings = hills.second_look(look, searched.found, findings)
    if found is not searched.found and not found.settled and not hills.far(at.sizes(found.x), unit):
        longer = _minimise(model, engine, found.x, _StepBounds(np.full(len(found.x), np.inf), placed.held), tolerance)
        found = longer if np.isfinite(longer.evaluation.value) else found
    return Searched(engine, found), findings


class Searched(NamedTuple):
    """A finished search and the engine it ran on."""

    engine: RowEngine
    found: Found


def _search(model: Model, engine: RowEngine, base: Vec, row_variance: float, placed: Placed) -> Searched:
    """The joint search over [β_c, θ, γ], from the estimates without random effects."""
    size = _start_size(model, row_variance)
    for shorter in _START_SHARES:
        found = _search_from(model, engine, base, shorter * size, placed)
        if np.isfinite(found.evaluation.value):
            return Searched(engine, found)
        if has_edge(model.family) and found.evaluations > 1:
            break  # a search that loses its modes at the edge loses them from everywhere
    msg = edge.message(model) or (
        "The likelihood is not finite where the search starts. Begin elsewhere with start=, or use another link."
    )
    raise ConvergenceError(msg)


def _search_from(model: Model, engine: RowEngine, base: Vec, size: float, placed: Placed) -> Found:
    """The search from random effects of a given size, in units of the linear predictor."""
    p, s, q = len(model.x.a), model.n_gamma, model.effects.n_theta
    x = np.concatenate([base[:p], model.effects.start(size), base[p:]])
    x = np.where(np.isnan(placed.values), x, placed.values)
    limit = np.concatenate([np.full(p, np.inf), np.full(q, 3.0 * size), np.full(s, SLOWEST_GAMMA_STEP)])
    bounds = _StepBounds(limit, placed.held)
    tolerance, bend = SEARCH_SHARE * model.control.search.decrement, None
    part = None if placed.held.any() else subsample(model)
    if part is not None:
        sampled = _minimise(part.model, row_engine(part.model), x, bounds, _SAMPLE_TOLERANCE)
        if np.isfinite(sampled.evaluation.value):
            x, bend = sampled.x, sampled.curvature * part.scale
            tolerance *= _LARGE_SHARE
    first = _AT_EDGE if has_edge(model.family) else _EXPLORING
    found = _minimise(model, engine, x, bounds._replace(most=first), tolerance, bend)
    unit, at = hills.unit_of(model.family), hills.Coordinates(model.effects, p, bool(s))
    left = model.control.search.max_evaluations - first
    if found.settled or left <= 0 or (unit is not None and hills.far(at.sizes(found.x), unit)):
        return found  # what runs away need not run on
    ceiling = engine.marginal.density.ceiling
    if ceiling < np.inf and limits.suspicious(engine.marginal.rows.blocks(), found.x[-s:], ceiling):
        return found
    longer = _minimise(model, engine, found.x, bounds._replace(most=left), tolerance, found.curvature)
    return longer._replace(evaluations=found.evaluations + longer.evaluations)


def _quadrature(model: Model, engine: RowEngine) -> RowEngine | None:
    """The engine with quadrature instead of Laplace, where that is possible at bearable cost."""
    effects, marginal = model.effects, engine.marginal
    nodes = _NODES.get(effects.factors[0].r) if len(effects.factors) == 1 and marginal.rule is None else None
    if nodes is None or nodes ** effects.factors[0].r * marginal.rows.n_rows > _MOST_NODE_ROWS:
        return None
    return RowEngine(effects, replace(marginal, rule=gauss_hermite(nodes, effects.factors[0].r), expected=False))


def _search_near(model: Model, engine: RowEngine, x: Vec, unit: float, placed: Placed) -> Found:
    """A short search from a given vector, held parameters in their places."""
    p, s, q = len(model.x.a), model.n_gamma, model.effects.n_theta
    limit = np.concatenate([np.full(p, np.inf), np.full(q, 3.0 * unit), np.full(s, SLOWEST_GAMMA_STEP)])
    x = np.where(placed.held, placed.values, x)
    tolerance = SEARCH_SHARE * model.control.search.decrement
    return _minimise(model, engine, x, _StepBounds(limit, placed.held, _EXPLORING), tolerance)


class _StepBounds(NamedTuple):
    """Per coordinate of a search: the longest step it takes, and whether it stays where it is; the most evaluations."""

    limit: Vec
    held: BoolVec
    most: int | None = None


def _minimise(
    model: Model, engine: RowEngine, x: Vec, bounds: _StepBounds, tolerance: float, curvature: Mat | None = None
) -> Found:
    """A search over the coordinates that are not held; x, curvature and gradient come back whole."""
    limit, held, few = bounds
    share = _LOST if engine.effects.factors else _PERFECT
    objective = engine.objective(len(model.x.a), model.n_gamma, gamma_range(model, share))
    most = model.control.search.max_evaluations if few is None else min(few, model.control.search.max_evaluations)
    if not held.any():
        begin = Begin(curvature)
        return minimise(objective, x, tolerance=tolerance, max_evaluations=most, limit=limit, begin=begin)
    free = ~held
    found = minimise(
        restrict(objective, x, free), x[free], tolerance=tolerance, max_evaluations=most, limit=limit[free]
    )
    whole = x.copy()
    whole[free] = found.x
    curvature = np.eye(len(x))
    curvature[np.ix_(free, free)] = found.curvature
    return found._replace(x=whole, curvature=curvature)


def _polish(model: Model, searched: Searched, row_variance: float, placed: Placed) -> Polished:
    """The optimum with its ranks settled; leaves the boundary where the likelihood rises from it."""
    effects, p, q = model.effects, len(model.x.a), model.effects.n_theta
    engine, found = searched
    for left in reversed(range(_MOST_LEAVINGS + 1)):
        warm = found.evaluation.state
        gamma = found.x[p + q :] if model.n_gamma else None
        lambdas = effects.lambdas(found.x[p : p + q])

        def at(state: State, warm: object = warm) -> Gradient:
            return engine.gradient(state.beta, list(state.factors), state.gamma, warm)

        state, ranks = settle_ranks(effects, found.x[:p], lambdas, gamma, row_variance, lambda s: at(s).value)
        rise = leaving(effects, state, ranks, row_variance, at) if not placed.held.any() else None
        if rise is None or not left:
            break
        theta = rise.away.theta(effects)
        x = np.concatenate([found.x[:p], theta, found.x[p + q :]])
        bounds = _StepBounds(np.full(len(x), np.inf), placed.held)
        found = _minimise(model, engine, x, bounds, SEARCH_SHARE * model.control.search.decrement)
    scale = Scale(float(np.sqrt(row_variance)), _bend(model, found.x))
    held = state.held(effects, placed.held[:p], placed.held[p : p + q], placed.held[p + q :])
    curvature = found.curvature if len(state.vector()) == len(found.x) else np.empty((0, 0))
    settled = Settled(state, ranks, found.evaluation.state, curvature, held)
    done = polish_rows(engine, settled, scale, hessian=model.control.search.hessian)
    return done if rise is None else done._replace(decrement=max(done.decrement, rise.score))


def _bend(model: Model, x: Vec) -> float:
    """Change of eta over which derivatives of the log density change by a share of themselves."""
    if model.family.unit is not None:
        return 1.0
    return rowsums.predictor_size(model.pieces(), x[: len(model.x.a)]) or 1.0


def _refuse_lost(model: Model, done: Polished) -> None:
    """Raise IdentifiabilityError where rounding hides the optimum: next to no dispersion, and no certificate."""
    small = gamma_range(model, _DOUBTED)
    if not model.effects.factors or small is None or done.state.gamma is None or done.state.gamma[0] > small[0]:
        return
    if done.decrement < CONVERGED and (done.hessian is None or not invert(done.hessian).flat.any()):
        return
    raise IdentifiabilityError(reproduced_text(model.effects, spread_name(model.family)))


def _at_poisson_limit(model: Model, searched: Searched, placed: Placed) -> bool:
    cap = size_cap(model)
    return cap is not None and not placed.held[-1] and searched.found.x[-1] > 0.5 * cap


def _poisson_limit(
    model: Model, findings: Findings, given: Given, searched: Searched, constant: float
) -> Estimate | None:
    """The Poisson fit with phi = inf, if it is as good as the negative binomial one."""
    poisson = estimate_rows(replace(model, family=resolve_family("poisson", model.family.link.name)), findings, given)
    if poisson.loglik < constant - searched.found.evaluation.value - LIMIT_LOSS:
        return None
    size = len(poisson.report)
    spread = np.full((size + 1, size + 1), np.nan)
    spread[:size, :size] = poisson.report_vcov
    return replace(
        poisson,
        phi=np.inf,
        report=np.append(poisson.report, np.inf),
        report_vcov=spread,
        loglik_saturated=None,
        df_model=poisson.df_model + 1,
        df_resid=poisson.df_resid - 1,
        null_df=poisson.null_df + 1,
        notes=(*poisson.notes, no_overdispersion_note()),
    )


def _dispersion_limit(model: Model, searched: Searched, placed: Placed) -> tuple[Searched, limits.Limit | None]:
    """The search's answer, or the limit of a formula of phi that is as good where the answer is near one."""
    engine, ceiling, s = searched.engine, searched.engine.marginal.density.ceiling, model.n_gamma
    if ceiling == np.inf or placed.held[-s:].any():
        return searched, None
    rows = engine.marginal.rows
    if searched.found.settled and not limits.suspicious(rows.blocks(), searched.found.x[-s:], ceiling):
        return searched, None
    objective = engine.objective(len(model.x.a), s)
    others = np.eye(len(placed.held))[:, ~placed.held][:, :-s]
    tolerance, most = SEARCH_SHARE * model.control.search.decrement, model.control.search.max_evaluations

    def near(x: Vec, span: Mat) -> Found:
        """The optimum with γ moving along a span (s, r) only."""
        moving = np.zeros((len(x), others.shape[1] + span.shape[1]))
        moving[:, : others.shape[1]] = others
        moving[-s:, others.shape[1] :] = span
        limit = np.full(moving.shape[1], np.inf)
        limit[others.shape[1] :] = SLOWEST_GAMMA_STEP
        within = limits.along(objective, x, moving)
        start = np.zeros(moving.shape[1])
        return limits.whole(minimise(within, start, tolerance=tolerance, max_evaluations=most, limit=limit), x, moving)

    level = None if model.x_phi is None or model.x_phi.constant is None else model.x_phi.inward(model.x_phi.constant)
    found = limits.best_limit(rows.blocks, searched.found, near, s, level, ceiling)
    return Searched(engine, found), limits.limit_at(rows.blocks(), found.x[-s:], ceiling)


def _fit_glm(model: Model, engine: RowEngine, placed: Placed) -> Searched:
    """The model without random effects: where the search starts, and the null of the likelihood-ratio test."""
    p, rows = len(model.x.a), engine.marginal.rows
    thin = _thin(rows)
    beta, level = rowsums.first_fit(model.pieces() if thin is None else thin.blocks(), model.family, p)
    gamma = np.empty(0)
    if model.n_gamma:
        gamma = _constant_gamma(model, rowsums.first_log_phi(model.pieces(), model.family, beta))
    starts = [np.concatenate([beta, gamma])]
    if model.x.constant is not None:
        flat = model.x.inward(model.x.constant * level)
        starts.append(np.concatenate([flat, gamma]))
    at = np.concatenate([placed.values[:p], placed.values[p + model.effects.n_theta :]])
    held = np.concatenate([placed.held[:p], placed.held[p + model.effects.n_theta :]])
    limit = np.concatenate([np.full(p, np.inf), np.full(model.n_gamma, SLOWEST_GAMMA_STEP)])
    bounds = _StepBounds(limit, held, _EXPLORING if engine.marginal.density.ceiling < np.inf else None)
    for start in starts:
        x = np.where(np.isnan(at), start, at)
        if thin is not None:
            part = RowEngine(NO_EFFECTS, replace(engine.marginal, rows=thin))
            near = _minimise(model, part, x, bounds, _THIN_TOLERANCE)
            x = near.x if np.isfinite(near.evaluation.value) else x
        found = _minimise(model, engine, x, bounds, GLM_TOLERANCE)
        if np.isfinite(found.evaluation.value):
            return Searched(engine, found)
    msg = (
        f"No starting values: with the {model.family.link.name} link the fitted means leave the range of the "
        f"{model.family.name} family. Use another link, or give start=."
    )
    raise ConvergenceError(msg)


def _constant_gamma(model: Model, level: float) -> Vec:
    if model.x_phi is None:
        return np.array([level])
    constant = model.x_phi.constant
    if constant is None:
        return np.zeros(len(model.x_phi.a))
    return model.x_phi.inward(constant * level)


def _thin(rows: RowBlocks) -> RowBlocks | None:
    """Some of many rows that nothing couples; None where they are few."""
    return rows.thinned(_THIN_ROWS) if rows.n_rows > _THIN_BEYOND * _THIN_ROWS else None


def _row_variance(model: Model, base: Searched) -> float:
    """1 / mean expected curvature without random effects: the variance of a row on the scale of eta.

    It is a scale, of which some rows tell enough.
    """
    p, marginal = len(model.x.a), base.engine.marginal
    gamma = base.found.x[p:] if model.n_gamma else None
    some = replace(marginal, rows=_thin(marginal.rows) or marginal.rows)
    w = some.expected_curvature(Point(base.found.x[:p], [], gamma))
    return 1.0 / w if w > 0 else 1.0


def _start_size(model: Model, row_variance: float) -> float:
    """Standard deviation from which the search for random effects starts, in units of the linear predictor."""
    if model.family.unit is not None:
        return model.family.first_size
    return 0.5 * float(np.sqrt(row_variance))
