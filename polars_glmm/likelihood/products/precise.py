"""Gaussian models in which it is unequal precisions that tell a variance of levels from the residual variance.

With one row a level, V = τ²I + φ²/w: two hills are usual, one where the precisions explain how far rows scatter and
one where they do not, and φ = 0 is a limit like τ = 0, with a finite likelihood. So the search, over [θ of Λ, log φ],
begins with three shares of the variance, the highest end is the answer, and a φ that runs to zero is held at a trace.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polars_glmm.errors import ConvergenceError
from polars_glmm.likelihood.given import Given, place
from polars_glmm.likelihood.model import NO_EFFECTS, Model
from polars_glmm.likelihood.optimum.boundary import SNAP_LOSS
from polars_glmm.likelihood.products.absolute import AbsoluteOptimum, Start, optimum, search
from polars_glmm.likelihood.products.degenerate import refuse_no_noise
from polars_glmm.likelihood.products.engine import ProductEngine, ProductModel
from polars_glmm.likelihood.products.held import OneSigma
from polars_glmm.linalg.cholesky import quadratic
from polars_glmm.notes import Note
from polars_glmm.optimize.search import Found
from polars_glmm.typing import BoolVec, Vec

_SHARES = (0.5, 0.02, 0.98)
"""Shares of the variance without random effects that φ² begins with."""
_FEW_ROWS = 0.5
"""Levels per observation from which there may be two hills."""
_NO_END = 1.0
"""Decrement, in log-likelihood, with which a search has not ended but run off to where values are rounding."""
_TRACE, _SUSPECT = 1e-5, 1e3
"""Share of the standard deviation without random effects at which φ counts as zero, and up to how many times that."""


class PreciseOptimum(NamedTuple):
    """The highest optimum; whether φ is zero there, and held at a trace."""

    done: AbsoluteOptimum
    no_residual: bool


def told_apart_by_precision(engine: ProductEngine) -> bool:
    """Whether levels have so few rows that it is their precisions that tell the variances apart."""
    stats = engine.stats
    most = max((f.n_levels * f.r for f in engine.effects.factors), default=0)
    return most >= stats.n or (most >= _FEW_ROWS * stats.n and stats.log_weights != 0.0)


def find_precise(engine: ProductEngine, model: Model | ProductModel, tolerance: float, given: Given) -> PreciseOptimum:
    """The highest of the optima that three searches find. Raises IdentifiabilityError where nothing varies."""
    p, q = len(model.x.a), model.effects.n_theta
    bare = ProductEngine(NO_EFFECTS, engine.stats, engine.reml, engine.p).pieces([], gradient=False)
    refuse_no_noise(engine, bare)
    total = (float(engine.stats.ww[-1, -1]) if bare is None else bare.rss) / max(engine.nu, 1)
    most, one = model.control.search.max_evaluations, OneSigma(engine)
    nothing = np.zeros(q + 1, dtype=bool)
    starts = [_start(engine, share * total, (1.0 - share) * total) for share in _SHARES]
    placed = place(model, given).values[p:]
    asked = np.append(placed, np.log(given.start["phi"]) if "phi" in given.start else np.nan)[: q + 1]
    starts[0] = np.where(np.isnan(asked), starts[0], asked)
    least = 0.5 * np.log(total) + np.log(_TRACE)
    ends = []
    for x in starts:
        end = search(one, Start(x, nothing), tolerance, most)
        if end.x[-1] < least:  # beyond a trace values are rounding, and may be of any height
            end = search(one, Start(np.append(x[:-1], least), _last(q + 1)), tolerance, most)
        ends.append(end)
    found = min(ends, key=lambda end: (not end.decrement <= _NO_END, end.evaluation.value))
    if not np.isfinite(found.evaluation.value):
        msg = (
            "X'V⁻¹X is singular where the search starts: a fixed effect is not determined. Drop columns of the formula."
        )
        raise ConvergenceError(msg)
    held = _without_residual(one, found, least)
    if held is None:
        return PreciseOptimum(optimum(one, found, nothing, tolerance, most), no_residual=False)
    return PreciseOptimum(optimum(one, held, _last(q + 1), tolerance, most), no_residual=True)


def _start(engine: ProductEngine, residual: float, between: float) -> Vec:
    """[θ, log φ] with φ² = residual and effects that add `between`, in units of a row of precision 1, on average."""
    effects, stats = engine.effects, engine.stats
    theta = np.zeros(effects.n_theta)
    for f, zz in zip(effects.factors, stats.zz.diagonal, strict=True):
        weight = float(np.einsum("rrG->", quadratic(f.basis, zz, f.basis))) / (f.r * stats.n)
        size = float(np.sqrt(between / max(weight, 1e-300) / len(effects.factors)))
        for t in f.terms:
            theta[t.theta] = effects.start(size)[t.theta]
    return np.append(theta, 0.5 * np.log(residual))


def _without_residual(engine: OneSigma, found: Found, least: float) -> Found | None:
    """The end with φ at a trace, where the likelihood does not miss it."""
    if found.x[-1] > least + np.log(_SUSPECT):
        return None
    x = np.append(found.x[:-1], least)
    at = engine.point(engine.effects.lambdas(x[:-1]), x[-1:])
    if at.pieces is None or at.value > found.evaluation.value + SNAP_LOSS:
        return None
    return found._replace(x=x, evaluation=found.evaluation._replace(value=at.value, state=at))


def _last(n: int) -> BoolVec:
    marks = np.zeros(n, dtype=bool)
    marks[-1] = True
    return marks


def no_residual_note() -> Note:
    """The variance of rows within levels is at its boundary."""
    text = "The residual variance is estimated at zero: random effects take all that varies (phi shows a trace of it)."
    return Note("no_residual", text, 'The fit stands; where phi is known, hold it by fixed={"phi": …}.')
