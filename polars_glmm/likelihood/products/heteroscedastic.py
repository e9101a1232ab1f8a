"""Fitting gaussian models with few residual variances, exact from cross-products per stratum, by ML or REML."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from polars_glmm.likelihood.dense_limit import refuse_beyond_memory
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.given import Given, Placed, place
from polars_glmm.likelihood.identify import Findings
from polars_glmm.likelihood.model import NO_EFFECTS, Model
from polars_glmm.likelihood.products.absolute import Start, optimum, search
from polars_glmm.likelihood.products.absolute_report import Ends, GammaMeaning, loglik, reported, understood
from polars_glmm.likelihood.products.spikes import joined, lonely_rows, spike_notes, spikes, spikes_apart
from polars_glmm.likelihood.products.strata import LostDigits, Strata, StrataEngine
from polars_glmm.likelihood.rows.holder import OverBlocks
from polars_glmm.notes import Note
from polars_glmm.optimize.search import Found

TOLERANCE = 1e-10
_SIZES = (1.0, 0.1, 10.0)
"""Sizes of random effects to begin with, relative to the residual, until one has a finite likelihood."""
_LOST = 1e-9
"""Share of the response's weighted sum of squares below which differences of sums have lost what the model leaves."""


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
    null_loglik = loglik(model, engine, -null.evaluation.value) if model.effects.factors else None
    found_all = understood(model, engine, done, done.point.pieces, joint=not model.restricted)
    outward = model.bases[1].a.T
    names = tuple(f"phi: {name}" for name in model.parts[1].names)
    scale = GammaMeaning(outward @ done.gamma, None, None, outward, names)
    return reported(model, engine, found_all, scale, findings, Ends(null_loglik, clock))


def no_bound_notes(model: Model, strata: Strata | None, given: Given) -> tuple[Note, ...]:
    """A note where a residual variance of few rows may vanish, none of them held; without strata rows are asked."""
    own = model.parts[1].own
    if model.restricted or place(model, given).held[own].any():
        return ()
    if strata is not None:
        return spike_notes(spikes(_engine(model, strata)))
    p = len(model.x.a)
    return spike_notes(lonely_rows(model.rows.ask(OverBlocks(spikes_apart, (p,), joined)), own.stop - own.start))


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
