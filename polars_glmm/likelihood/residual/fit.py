"""Fitting gaussian models with correlated residuals: a search over [θ, coefficients of log φ, x], exact ML or REML."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import scipy.linalg as sl

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.records import ResidualRows
from polars_glmm.errors import ConvergenceError, IdentifiabilityError, ModelError
from polars_glmm.likelihood.dense_limit import refuse_beyond_memory
from polars_glmm.likelihood.estimate import Estimate, ResidualEstimate
from polars_glmm.likelihood.given import Given, Placed, place
from polars_glmm.likelihood.identify import Findings
from polars_glmm.likelihood.model import NO_EFFECTS, Model
from polars_glmm.likelihood.optimum.notes import CONVERGED
from polars_glmm.likelihood.products.absolute import Start, optimum, search
from polars_glmm.likelihood.products.absolute_report import Ends, GammaMeaning, loglik, reported, understood
from polars_glmm.likelihood.residual.arrangement import arrange, typical_distance
from polars_glmm.likelihood.residual.engine import ResidualEngine
from polars_glmm.likelihood.residual.series import series_rows
from polars_glmm.likelihood.residual.sums import few, summed
from polars_glmm.notes import Note
from polars_glmm.optimize.search import Found
from polars_glmm.typing import BoolVec, Vec

TOLERANCE = 1e-10
_SIZES = (1.0, 0.1, 10.0)
"""Sizes of random effects to begin with, relative to the residual, until one has a finite likelihood."""
_SMALL = 1e-2
"""The size that is next to none."""
_NOTHING = 1e-13
"""Share of the response's sum of squares below which fixed effects leave no residual."""
_EDGE = 8.0
"""Working parameter beyond which a correlation is at its limit."""


def estimate_residual(model: Model, findings: Findings, given: Given) -> Estimate:
    """The estimate of a model with correlated residuals.

    Raises ModelError where their groups lie across a grouping factor, ConvergenceError where no answer was reached.
    """
    clock = {"start": perf_counter()}
    engine = residual_engine(model)
    placed = _placed(model, given)
    bare = ResidualEngine(NO_EFFECTS, engine.rows, engine.inners, engine.reml)
    null = _null(model, bare, placed)
    clock["glm"] = perf_counter()
    found = null if not model.effects.factors else _search(model, engine, placed, null)
    clock["search"] = perf_counter()
    if not np.isfinite(found.evaluation.value):
        msg = "The likelihood is not finite anywhere the search has been: simplify the model, or hold other values."
        raise ConvergenceError(msg)
    if _singular(model, found):
        if _spikes(model):
            raise IdentifiabilityError(_singular_text(model))
        raise ConvergenceError(_singular_text(model))
    tolerance = min(TOLERANCE, model.control.search.decrement)
    done = optimum(engine, found, placed.held, tolerance, model.control.search.max_evaluations)
    clock["hessian"] = perf_counter()
    if _spikes(model) and not done.decrement < CONVERGED and (np.abs(done.gamma[engine.s :]) > _EDGE).any():
        raise IdentifiabilityError(_singular_text(model))
    if done.point.pieces is None:
        raise ConvergenceError(_singular_text(model))
    null_loglik = loglik(model, engine, -null.evaluation.value) if model.effects.factors else None
    known = understood(model, engine, done, done.point.pieces, joint=False)
    ends = Ends(null_loglik, clock, _notes(model, done.gamma))
    return reported(model, engine, known, _scale(model, done.gamma), findings, ends)


def _singular_text(model: Model) -> str:
    """Correlations that ran to where their matrix is singular, and what helps."""
    if _spikes(model):
        remedy = 'maximum likelihood has no bound there. Use method="reml", or leave out residual= or random effects.'
    elif len(model.residual_names) > 1:
        remedy = "the data do not hold so many of them. Use a simpler residual=, as ar1() or cs()."
    else:
        remedy = "leave out residual=, or random effects of the same groups."
    return f"The correlations of the residuals ran to where their matrix is singular: {remedy}"


def _spikes(model: Model) -> bool:
    """Whether maximum likelihood has no bound where the correlation matrix of the residuals loses a rank.

    Let R lose the direction d. A covariance of two or more effects can be of rank one with Z'd of one group in its null
    space, and coefficients can reproduce d'y of that group: nothing varies there, and ℓ rises with −½ log of what is
    left. By REML what is left is in |X'V⁻¹X| too, and cancels.
    """
    one = _residual(model).correlation
    loses_one = one.kind == "any" or one.of in ("lag", "pair")
    terms = [t for f in model.effects.factors for t in f.terms]
    turns = any(t.r > 1 and STRUCTURES[t.structure].correlated for t in terms)
    return not model.restricted and loses_one and turns and len(model.x.a) > 0


def _singular(model: Model, found: Found) -> bool:
    """Whether a search for several correlations, or one without bound, ended at their limits and no optimum."""
    k = len(model.residual_names)
    return (k > 1 or _spikes(model)) and not found.settled and bool((np.abs(found.x[len(found.x) - k :]) > _EDGE).any())


def residual_engine(model: Model) -> ResidualEngine:
    """The engine over a model's rows."""
    rows = series_rows(model)
    if rows.eliminator is not None:
        refuse_beyond_memory(rows.eliminator, model.effects, model.control)
    inners = summed(rows) if not model.models_phi and few(rows) else rows
    return ResidualEngine(model.effects, rows, inners, model.restricted)


def _residual(model: Model) -> ResidualRows:
    residual = model.residual
    assert residual is not None  # asked of such models only
    return residual


def _placed(model: Model, given: Given) -> Placed:
    """Values for [θ, coefficients of log φ, x]; β is profiled out."""
    values, held = place(model, given)
    own = model.parts[1].own
    x, x_held = correlations_given(_residual(model), given)
    return Placed(
        np.concatenate([values[own.stop :], values[own], x]), np.concatenate([held[own.stop :], held[own], x_held])
    )


def correlations_given(residual: ResidualRows, given: Given) -> tuple[Vec, BoolVec]:
    """Working parameters of the correlation, NaN where nothing is given, and marks on what stays.

    Raises ModelError where some of several are given, or where they make no correlation matrix.
    """
    names, asked = residual.names, given.asked
    there = [name for name in names if name in asked]
    held = np.array([name in given.fixed for name in names], dtype=np.bool_)
    if not there:
        return np.full(len(names), np.nan), held
    if len(there) < len(names) or (held.any() and not held.all()):
        lacking = next(name for name in names if name not in asked or (held.any() and name not in given.fixed))
        msg = f"{there[0]!r} is given and {lacking!r} is not: give, or hold, all correlations of residuals together."
        raise ModelError(msg)
    x = residual.correlation.working(np.array([asked[name] for name in names]), residual.size)
    if not np.isfinite(x).all():
        msg = f"The values given for {', '.join(names)} make no correlation matrix of the residuals."
        raise ModelError(msg)
    return x, held


def _begin(model: Model, engine: ResidualEngine) -> Vec:
    """γ to begin with: what fixed effects leave, and next to no correlation."""
    rows, residual = engine.rows, _residual(model)
    e, total = rows.w[-1], float(rows.w[-1] @ rows.w[-1])
    if engine.p:
        weighted = rows.w[:-1] * np.exp(-2.0 * rows.offset)
        e = e - np.linalg.lstsq(weighted @ rows.w[:-1].T, weighted @ e, rcond=None)[0] @ rows.w[:-1]
    left = float(e @ e)
    if left <= _NOTHING * total or total == 0.0:
        msg = (
            "The fixed effects reproduce the response exactly, so the residual variance is zero and the likelihood has "
            "no bound. Check for a column that is a copy of the response."
        )
        raise IdentifiabilityError(msg)
    log_phi = 0.5 * np.log(np.mean((e * np.exp(-rows.offset)) ** 2))
    gamma = np.zeros(engine.s)
    if not model.models_phi:
        gamma[0] = log_phi
    elif model.bases[1].constant is not None:
        gamma = model.bases[1].inward(model.bases[1].constant * log_phi)
    else:
        gamma = np.linalg.lstsq(rows.x_phi @ rows.x_phi.T, rows.x_phi.sum(1) * log_phi, rcond=None)[0]
    one = residual.correlation
    x = np.zeros(one.count(residual.size))
    if one.lengths:
        x[:] = np.log(typical_distance(rows.whitenings.arranged))
    elif one.kind == "any":
        x = one.working(np.array([0.1]), residual.size)
    return np.append(gamma, x)


def _null(model: Model, bare: ResidualEngine, placed: Placed) -> Found:
    """The model without random effects: where the search starts, and the null of the likelihood-ratio test."""
    begin = _begin(model, bare)
    values, held = placed.values[-len(begin) :], placed.held[-len(begin) :]
    x = np.where(np.isnan(values), begin, values)
    return search(bare, Start(x, held), TOLERANCE, model.control.search.max_evaluations)


def _search(model: Model, engine: ResidualEngine, placed: Placed, null: Found) -> Found:
    """The best of three searches: from residuals correlated as without random effects, with large ones and next to
    none, and from hardly correlated ones.

    Random effects and correlated residuals stand in for one another, so that there may be an optimum of either kind.
    A search that ran to where the likelihood has no bound is no answer while another has settled.
    """
    found: list[Found] = []
    for gamma, sizes in ((_begin(model, engine), _SIZES), (null.x, _SIZES), (null.x, (_SMALL,))):
        noise = float(np.exp(np.mean(gamma[: engine.s] @ engine.rows.x_phi)))
        for size in sizes:
            x = np.concatenate([model.effects.start(size * noise), gamma])
            x = np.where(np.isnan(placed.values), x, placed.values)
            one = search(engine, Start(x, placed.held), TOLERANCE, model.control.search.max_evaluations)
            if np.isfinite(one.evaluation.value):
                found.append(one)
                break
    if not found:
        return null._replace(evaluation=null.evaluation._replace(value=np.inf))
    return min(found, key=lambda one: (not one.settled, one.evaluation.value))


def _scale(model: Model, gamma: Vec) -> GammaMeaning:
    """What γ is to the user."""
    residual = _residual(model)
    one, size = residual.correlation, residual.size
    k = len(residual.names)
    x = gamma[len(gamma) - k :]
    found = ResidualEstimate(residual.structure, residual.names, one.natural(x, size))
    slopes = one.natural_slopes(x, size)
    if not model.models_phi:
        phi = float(np.exp(gamma[0]))
        jacobian = np.zeros((k + 1, k + 1))  # [correlations, phi] in [log phi, x]
        jacobian[:k, 1:] = slopes
        jacobian[k, 0] = phi
        return GammaMeaning(np.empty(0), found, phi, jacobian, (*residual.names, "phi"))
    outward = model.bases[1].a.T
    names = tuple(f"phi: {name}" for name in model.parts[1].names)
    jacobian = np.asarray(sl.block_diag(outward, slopes))
    return GammaMeaning(outward @ gamma[: len(outward)], found, None, jacobian, (*names, *residual.names))


def _notes(model: Model, gamma: Vec) -> tuple[Note, ...]:
    """Notes where there is no highest point, and where a correlation has run to its limit."""
    residual, notes = _residual(model), []
    if _spikes(model):
        said = (
            f"Maximum likelihood has no highest point here: it rises without bound where {residual.names[0]} makes the "
            "correlations of residuals singular and effects of rank one miss a group. Shown is an optimum beside it."
        )
        notes.append(Note("no_bound", said, 'Use method="reml", which is bounded, or leave out residual=.'))
    x = gamma[len(gamma) - len(residual.names) :]
    if residual.correlation.lengths:
        apart = np.log(typical_distance(arrange(residual)))
        out = np.abs(x - apart) > _EDGE
    else:
        out = np.abs(x) > _EDGE
    if not out.any():
        return tuple(notes)
    natural = residual.correlation.natural(x, residual.size)
    at = int(np.flatnonzero(out)[0])
    text = f"{residual.names[at]} = {natural[at]:.3g} is at the end of its range: the correlation is not estimated."
    return (*notes, Note("residual_correlation_limit", text, "Use a simpler residual=, or leave it out."))
