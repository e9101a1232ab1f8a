"""Fitting by Laplace or quadrature: a joint search over fixed effects, factors and dispersion."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from time import perf_counter

import numpy as np

from polars_glmm.errors import ConvergenceError, IdentifiabilityError
from polars_glmm.families.base import has_edge, spread_name, towards_limit
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.given import Given, Placed, place
from polars_glmm.likelihood.identify import Findings
from polars_glmm.likelihood.marginal import dispersion_limit as limits
from polars_glmm.likelihood.marginal import edge, hills, peaks
from polars_glmm.likelihood.marginal.curve_starts import curve_starts
from polars_glmm.likelihood.marginal.dispersion_floor import floor_of
from polars_glmm.likelihood.marginal.dispersion_range import confined, size_cap, with_phi
from polars_glmm.likelihood.marginal.divided import divided
from polars_glmm.likelihood.marginal.engine import RowEngine, bare_engine, row_engine
from polars_glmm.likelihood.marginal.polish import Polished, Settled, polish_rows
from polars_glmm.likelihood.marginal.report import LogLevels, report_rows
from polars_glmm.likelihood.marginal.sample import subsample
from polars_glmm.likelihood.marginal.searching import Searched, StepBounds, search_free
from polars_glmm.likelihood.marginal.separation import OfPredictor, ended_constants, faded_rows
from polars_glmm.likelihood.marginal.starts import (
    bending_scale,
    linear_starts,
    row_variance_of,
    start_size,
    thinned,
    units_of,
)
from polars_glmm.likelihood.model import NO_EFFECTS, Model
from polars_glmm.likelihood.optimum.boundary import SNAP_LOSS, Unsettled, leaving, settle_ranks
from polars_glmm.likelihood.optimum.elsewhere import Ended, highest
from polars_glmm.likelihood.optimum.newton import Scale, invert
from polars_glmm.likelihood.optimum.notes import CONVERGED, no_overdispersion_note, reproduced_text
from polars_glmm.likelihood.parameters.curvature import Gradient
from polars_glmm.likelihood.parameters.state import State
from polars_glmm.optimize.search import Found, minimise
from polars_glmm.typing import BoolVec, Mat, Vec

SLOWEST_GAMMA_STEP = 3.0
SEARCH_SHARE = 1e-3
"""The search goes on to this share of the decrement that is asked for, so that the Hessian is taken at the optimum."""
_SAMPLE_TOLERANCE = 1e-4
_LARGE_SHARE = 1e3
"""With many rows the search may stop this much earlier: the Hessian varies less and its Newton step is sure."""
GLM_TOLERANCE = 1e-10
_THIN_TOLERANCE = 1e-2
LIMIT_LOSS = 1e-6
"""Log-likelihood by which the Poisson limit may fall short of the negative binomial found."""
_START_SHARES = (1.0, 0.1, 0.01)
"""Shares of the first size of random effects: modes of large ones may lie outside the domain of a link."""
_MOST_LEAVINGS = 3
_EXPLORING = 100
"""Evaluations of a search that looks for other optima, and after which a search that runs away is stopped."""
_AT_EDGE = 40
"""The same where modes may be lost, at the edge of the link's domain or with their peak, which takes long."""
_NODES = {1: 21, 2: 9, 3: 5}
"""Nodes per dimension, by the number of effects, of the quadrature that an approximation is compared with."""
_MOST_NODE_ROWS = 3_000_000
_DOUBTED = float(np.log(1e-8))
"""log of the relative dispersion that counts as none where the certificate fails."""


def estimate_rows(model: Model, findings: Findings, given: Given) -> Estimate:
    """Everything that needs its rows; a negative binomial without overdispersion ends as the Poisson it tends to."""
    clock = {"start": perf_counter()}
    with divided(model) as engine:
        return _estimate(model, engine, findings, given, clock)


def _estimate(
    model: Model, engine: RowEngine, findings: Findings, given: Given, clock: dict[str, float]
) -> Estimate:
    constant = model.constant()
    placed = place(model, given)
    engine.floor = floor_of(model)
    base = _fit_glm(model, bare_engine(engine), placed)
    row_variance = row_variance_of(base.engine.marginal, base.found.x)
    if model.effects.moving != NO_EFFECTS.moving:  # what is in several predictors is measured in rows of each
        units = units_of(base.engine.marginal, base.found.x, len(model.parts))
        model = replace(model, effects=model.effects.in_units(units))
        engine, placed = replace(engine, effects=model.effects), place(model, given)
    clock["glm"] = perf_counter()
    found = _search(model, engine, base.found.x, row_variance, placed) if model.effects.factors else base
    clock["search"] = perf_counter()
    given_findings = findings
    found, limit_of_phi = _dispersion_limit(model, found, placed)
    if limit_of_phi is None:
        found, findings = _second_look(model, found, base, constant, placed, findings)
    found = _with_zeros(model, _inside(model, found, base, placed), placed)
    if _at_limit(model, found, placed):
        limit = _limit_fit(model, given_findings, given, found, constant)
        if limit is not None:
            return limit
    try:
        done = _polish(model, found, row_variance, placed)
    except ConvergenceError as error:
        lost = peaks.lost(found.engine, found.found, model.n_coefficients)
        said = edge.message(model) or (peaks.TEXT if lost else str(error))
        raise ConvergenceError(said) from error
    _refuse_lost(model, done)
    clock["hessian"] = perf_counter()
    null = constant - base.found.evaluation.value if model.effects.factors else None
    return report_rows(model, found.engine, done, LogLevels(constant, null, limit_of_phi), findings, clock)


def _second_look(
    model: Model, searched: Searched, base: Searched, constant: float, placed: Placed, findings: Findings
) -> tuple[Searched, Findings]:
    """The search's answer, or a better one where its random effects are out of proportion, and what there is to say."""
    unit, at = hills.unit_of(model.family), hills.coordinates(model)
    spread = placed.held[at.p :]
    judged = model.effects.factors and not model.effects.coupled  # by integrals of levels one by one
    on_the_mean = model.family.unordered or model.effects.moving == (0,)
    if unit is None or spread.any() or not judged or not on_the_mean:
        return searched, findings
    lone = np.array(findings.lone, dtype=bool) if findings.lone else np.zeros(len(model.effects.factors), dtype=bool)
    lost = not searched.found.settled and model.control.search.max_evaluations >= _EXPLORING
    impossible = constant > searched.found.evaluation.value  # probabilities above one
    if lost and peaks.lost(searched.engine, searched.found, at.p):
        return searched, findings  # nor do other searches by an approximation without a bound lead anywhere
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
        longer = search_free(model, engine, found.x, StepBounds(np.full(len(found.x), np.inf), placed.held), tolerance)
        found = longer if np.isfinite(longer.evaluation.value) else found
    return Searched(engine, found), findings


def _search(model: Model, engine: RowEngine, base: Vec, row_variance: float, placed: Placed) -> Searched:
    """The joint search over [β_c, θ], from the estimates without random effects."""
    size = start_size(model, row_variance)
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
    x = np.concatenate([base, model.effects.start(size)])
    x = np.where(np.isnan(placed.values), x, placed.values)
    bounds = StepBounds(_longest_steps(model, 3.0 * size), placed.held)
    tolerance, bend = SEARCH_SHARE * model.control.search.decrement, None
    part = None if placed.held.any() else subsample(model)
    if part is not None:
        sampled = search_free(part.model, row_engine(part.model), x, bounds, _SAMPLE_TOLERANCE)
        if np.isfinite(sampled.evaluation.value):
            x, bend = sampled.x, sampled.curvature * part.scale
            tolerance *= _LARGE_SHARE
    first = _AT_EDGE if has_edge(model.family) or peaks.may_vanish(engine) else _EXPLORING
    found = search_free(model, engine, x, bounds._replace(most=first), tolerance, bend)
    unit, at = hills.unit_of(model.family), hills.coordinates(model)
    if found.settled or (unit is not None and hills.far(at.sizes(found.x), unit)):
        return found  # what runs away need not run on
    ceiling = engine.marginal.density.ceiling
    if ceiling < np.inf:
        rows = limits.TurnedRows(engine.marginal.rows, model.family)
        if limits.suspicious(rows, found.x[model.parts[1].own], ceiling):
            return found
    return peaks.search_on(model, engine, found, bounds, tolerance)


def _longest_steps(model: Model, of_effects: float) -> Vec:
    """How far one step of a search may go in each coordinate: log phi and sizes of random effects not too far."""
    limit = np.full(model.n_coefficients + model.effects.n_theta, np.inf)
    for part in model.parts[1:]:
        limit[part.own] = SLOWEST_GAMMA_STEP
    limit[model.n_coefficients :] = of_effects
    return limit


def _quadrature(model: Model, engine: RowEngine) -> RowEngine | None:
    """The engine with quadrature instead of Laplace, where that is possible at bearable cost."""
    effects, marginal = model.effects, engine.marginal
    nodes = _NODES.get(effects.factors[0].r) if len(effects.factors) == 1 and marginal.nodes == 1 else None
    if nodes is None or nodes ** effects.factors[0].r * marginal.rows.n_rows > _MOST_NODE_ROWS:
        return None
    return RowEngine(effects, replace(marginal, nodes=nodes, expected=False))


def _search_near(model: Model, engine: RowEngine, x: Vec, unit: float, placed: Placed) -> Found:
    """A short search from a given vector, held parameters in their places."""
    x = np.where(placed.held, placed.values, x)
    tolerance = SEARCH_SHARE * model.control.search.decrement
    bounds = StepBounds(_longest_steps(model, 3.0 * unit), placed.held, _EXPLORING)
    return search_free(model, engine, x, bounds, tolerance)


def _polish(model: Model, searched: Searched, row_variance: float, placed: Placed) -> Polished:
    """The optimum with its ranks settled; leaves the boundary where the likelihood rises from it."""
    effects, p = model.effects, model.n_coefficients
    (engine, found), of_effects = searched, 1.0 if effects.measured else row_variance
    size, tolerance = start_size(model, row_variance), SEARCH_SHARE * model.control.search.decrement

    def search(x: Vec, stays: BoolVec, longest: float = 3.0 * size, most: int | None = _EXPLORING) -> Found:
        held = placed.held | np.append(np.zeros(p, dtype=bool), stays)
        return search_free(model, engine, x, StepBounds(_longest_steps(model, longest), held, most), tolerance)

    found = highest(effects, Ended(found, slice(p, None), placed.held[p:], size, of_effects), search)
    for left in reversed(range(_MOST_LEAVINGS + 1)):
        warm = found.evaluation.state

        def at(state: State, warm: object = warm) -> Gradient:
            return engine.gradient(state.beta, list(state.factors), warm)

        held = placed.held[p:]
        here = Unsettled(found.x[:p], found.x[p:], held if held.any() else None)
        state, ranks = settle_ranks(effects, here, of_effects, lambda s: at(s).value)
        rise = leaving(effects, state, ranks, of_effects, at) if not placed.held.any() else None
        if rise is None or not left:
            break
        most = _EXPLORING if peaks.may_vanish(engine) else None
        beyond = search(np.append(found.x[:p], rise.away.theta(effects)), placed.held[p:], np.inf, most)
        if at(state).value > -beyond.evaluation.value - SNAP_LOSS:
            rise = None  # to nothing that would not be set to zero again
            break
        found = beyond
    scale = Scale(float(np.sqrt(row_variance)), bending_scale(model, found.x), len(model.x.a), effects.measured)
    held = state.held(effects, placed.held[:p], placed.held[p:])
    curvature = found.curvature if len(state.vector()) == len(found.x) else np.empty((0, 0))
    ended = [part.own.start for part, *_ in ended_constants(model, state.beta)]
    settled = Settled(state, ranks, found.evaluation.state, curvature, held, ended)
    done = polish_rows(engine, settled, scale, hessian=model.control.search.hessian)
    return done if rise is None else done._replace(decrement=max(done.decrement, rise.score))


def _refuse_lost(model: Model, done: Polished) -> None:
    """Raise IdentifiabilityError where rounding hides the optimum: next to no dispersion, and no certificate."""
    small = confined(model, _DOUBTED)
    if small is None or not model.effects.factors or not small.lost(done.state.beta[small.place]):
        return
    if done.decrement < CONVERGED and (done.hessian is None or not invert(done.hessian).flat.any()):
        return
    raise IdentifiabilityError(reproduced_text(model.effects, spread_name(model.family)))


def _at_limit(model: Model, searched: Searched, placed: Placed) -> bool:
    cap = size_cap(model)
    if cap is None:
        return False
    place = model.parts[1].own.start
    return bool(not placed.held[place] and towards_limit(model.family) * searched.found.x[place] > 0.5 * cap)


def _inside(model: Model, searched: Searched, base: Searched, placed: Placed) -> Searched:
    """The search's answer, or, where that is the limit of phi, a higher one inside: there may be a hill at either."""
    at_limit, engine = searched.found, searched.engine
    if not _at_limit(model, searched, placed) or not model.effects.factors or _at_limit(model, base, placed):
        return searched
    objective = engine.objective(model.n_coefficients)
    trials = with_phi(model, at_limit.x, base.found.x)
    with np.errstate(all="ignore"):
        values = [objective(x, at_limit.evaluation.state, curvature=False).value for x in trials]
    bounds = StepBounds(np.full(len(at_limit.x), np.inf), placed.held)
    tolerance = SEARCH_SHARE * model.control.search.decrement
    found = search_free(model, engine, trials[int(np.argmin(values))], bounds, tolerance)
    higher = found.settled and found.evaluation.value < at_limit.evaluation.value - LIMIT_LOSS
    return Searched(engine, found) if higher else searched


def _with_zeros(model: Model, searched: Searched, placed: Placed) -> Searched:
    """The search's answer, or, where that has no further zeros, a higher one that has some: there may be two hills."""
    engine, found = searched.engine, searched.found
    if not (model.family.zeros_beside and model.effects.factors):
        return searched  # without random effects the search came from inside
    for k, part in enumerate(model.parts):
        if part.parameter != model.family.zeros or part.basis is None or placed.held[part.own].any():
            continue
        gone = faded_rows(OfPredictor(part, model.family, k, engine.marginal.rows), found.x[part.own])
        if gone is None or gone.n < gone.n_rows:
            continue
        x = found.x.copy()
        x[part.own] = linear_starts(model, None)[0][part.own]
        bounds = StepBounds(np.full(len(x), np.inf), placed.held)
        other = search_free(model, engine, x, bounds, SEARCH_SHARE * model.control.search.decrement)
        if other.settled and other.evaluation.value < found.evaluation.value - LIMIT_LOSS:
            return Searched(engine, other)
    return searched


def _limit_fit(model: Model, findings: Findings, given: Given, searched: Searched, constant: float) -> Estimate | None:
    """The fit of the limit, as Poisson's with phi = inf, if it is as good as that of the family."""
    family = model.family
    assert family.limit is not None
    poisson = estimate_rows(model.without_phi(family.limit), findings, given)
    if poisson.loglik < constant - searched.found.evaluation.value - LIMIT_LOSS:
        return None
    size = len(poisson.report) + 1
    place = size - 1 - len(poisson.others)
    rest = np.delete(np.arange(size), place)
    spread = np.full((size, size), np.nan)
    spread[np.ix_(rest, rest)] = poisson.report_vcov
    return replace(
        poisson,
        phi=family.limit_phi,
        report=np.insert(poisson.report, place, family.limit_phi),
        report_vcov=spread,
        loglik_saturated=None,
        df_model=poisson.df_model + 1,
        df_resid=poisson.df_resid - 1,
        null_df=poisson.null_df + 1,
        notes=(*poisson.notes, no_overdispersion_note(family)),
    )


def _dispersion_limit(model: Model, searched: Searched, placed: Placed) -> tuple[Searched, limits.Limit | None]:
    """The search's answer, or the limit of a formula of phi that is as good where the answer is near one."""
    engine, ceiling = searched.engine, searched.engine.marginal.density.ceiling
    if ceiling == np.inf or placed.held[model.parts[1].own].any():
        return searched, None
    own, basis = model.parts[1].own, model.bases[1]
    rows = limits.TurnedRows(engine.marginal.rows, model.family)
    if searched.found.settled and not limits.suspicious(rows, searched.found.x[own], ceiling):
        return searched, None
    objective = engine.objective(model.n_coefficients)
    level = None if basis.constant is None else towards_limit(model.family) * basis.inward(basis.constant)
    of_phi = _of_phi_alone(model)
    rest = ~placed.held & ~of_phi
    rest[own] = False
    others, longest = np.eye(len(placed.held))[:, rest], _longest_steps(model, np.inf)
    tolerance, most = SEARCH_SHARE * model.control.search.decrement, model.control.search.max_evaluations

    def near(x: Vec, span: Mat) -> Found:
        """The optimum with γ moving along a span (s, r) only."""
        moving = np.zeros((len(x), others.shape[1] + span.shape[1]))
        moving[:, : others.shape[1]] = others
        moving[own, others.shape[1] :] = span
        limit = np.append(longest[rest], np.full(span.shape[1], SLOWEST_GAMMA_STEP))
        within = limits.along(objective, x, moving)
        start = np.zeros(moving.shape[1])
        return limits.whole(minimise(within, start, tolerance=tolerance, max_evaluations=most, limit=limit), x, moving)

    if model.effects.moving != NO_EFFECTS.moving:  # only the limit of all rows, in which effects on phi mean nothing
        found, most = searched.found, min(most, _EXPLORING)
        if level is not None and not placed.held[of_phi].any():
            start = found._replace(x=np.where(of_phi, 0.0, found.x))
            there = limits.constant_limit(rows, start, near, own, level, ceiling)
            found = found if there is start else there
        return Searched(engine, found), limits.limit_at(rows, found.x[own], ceiling)
    found = limits.best_limit(rows, searched.found, near, own, level, ceiling)
    return Searched(engine, found), limits.limit_at(rows, found.x[own], ceiling)


def _of_phi_alone(model: Model) -> BoolVec:
    """Entries of a search vector that are covariances of random effects on phi only."""
    marks = np.zeros(model.n_coefficients + model.effects.n_theta, dtype=bool)
    for f in model.effects.factors:
        for t in f.terms:
            marks[model.n_coefficients :][t.theta] = 0 not in t.part_of
    return marks


def _fit_glm(model: Model, engine: RowEngine, placed: Placed) -> Searched:
    """The model without random effects: where the search starts, and the null of the likelihood-ratio test."""
    rows = engine.marginal.rows
    thin = thinned(rows)
    if model.family.curve is None:
        starts = linear_starts(model, thin)
    else:
        starts = curve_starts(model, thin or rows, placed.values)
    at, held = placed.values[: model.n_coefficients], placed.held[: model.n_coefficients]
    limit = _longest_steps(model, 0.0)[: model.n_coefficients]
    bounds = StepBounds(limit, held, _EXPLORING if engine.marginal.density.ceiling < np.inf else None)
    for start in starts:
        x = np.where(np.isnan(at), start, at)
        if thin is not None:
            part = RowEngine(NO_EFFECTS, replace(engine.marginal, rows=thin))
            near = search_free(model, part, x, bounds, _THIN_TOLERANCE)
            x = near.x if np.isfinite(near.evaluation.value) else x
        found = search_free(model, engine, x, bounds, GLM_TOLERANCE)
        if np.isfinite(found.evaluation.value):
            return Searched(engine, found)
    msg = (
        f"No starting values: with the {model.family.link.name} link the fitted means leave the range of the "
        f"{model.family.name} family. Use another link, or give start=."
    )
    raise ConvergenceError(msg)
