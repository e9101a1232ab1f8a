"""A model fitted without some rows, and how well it foretells them.

The log predictive density of rows that are left out, given those that are not, is the difference of two marginal
log-likelihoods at the estimates without them: ℓ(in and out) − ℓ(in). Of whole groups that is their marginal density; of
rows of known groups it is that given the rows that these have left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polars_glmm.design.records import Design
from polars_glmm.design.selection import design_of, rows_of
from polars_glmm.errors import GlmmError
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.given import Given
from polars_glmm.likelihood.held import hold_fixed_effects
from polars_glmm.likelihood.known.joint import HeldParameters, known_model
from polars_glmm.likelihood.model import prepare
from polars_glmm.likelihood.objective import NaturalObjective
from polars_glmm.likelihood.refits.law import columns_of, predicted
from polars_glmm.likelihood.refits.refit import FitStatus, RefitQuestion, natural_values
from polars_glmm.likelihood.refits.responses import NewResponses
from polars_glmm.likelihood.refits.together import full_rank
from polars_glmm.spec.method import AGQ, ML, Method
from polars_glmm.typing import BoolVec, IntVec, Vec

_NODES = {1: 41, 2: 15, 3: 7}
"""Nodes per dimension of the integral over the effects of a group, by the number of its effects."""
_LARGEST_SIZE = 1e9
"""Size of a negative binomial that stands for the Poisson limit."""


class LeftOut(NamedTuple):
    """How one fold was foretold: log predictive density of its rows, and sums of squared errors of their means.

    n   observations left out
    """

    n: int
    elpd: float
    squares: float
    status: FitStatus


@dataclass(frozen=True, slots=True, eq=False)
class Folds:
    """The rows of a design (n,) in folds 0 … n_folds − 1."""

    design: Design
    fold: IntVec

    @property
    def n_folds(self) -> int:
        return int(self.fold.max(initial=-1)) + 1


def leave_fold_out(question: RefitQuestion, folds: Folds, number: int) -> LeftOut:
    """The model fitted without a fold."""
    out = folds.fold == number
    left = rows_of(folds.design, np.flatnonzero(out))
    failed = LeftOut(left.n_obs, np.nan, np.nan, "failed")
    kept = design_of(folds.design, ~out)
    if not full_rank(kept):
        return failed
    try:
        found = NewResponses(question.spec, kept, question.control).estimate(
            kept.y, Given(question.start, question.fixed)
        )
        elpd = _log_density(question, folds.design, out, found)
    except GlmmError:
        return failed
    status: FitStatus = "singular" if found.singular else "ok" if found.converged else "not_converged"
    return LeftOut(left.n_obs, elpd, _squares(question, folds.design, out, found), status)


def _log_density(question: RefitQuestion, design: Design, out: BoolVec, found: Estimate) -> float:
    """ℓ(in and out) − ℓ(in), over the levels of rows left out where one factor makes levels independent."""
    touched = np.ones(design.n_rows, dtype=bool)
    if not design.factors and design.residual is not None:
        touched = np.isin(design.residual.codes, np.unique(design.residual.codes[out]))
    elif not design.factors:
        touched = out
    elif len(design.factors) == 1 and not design.factors[0].coupled:
        codes = design.factors[0].codes
        touched = np.isin(codes, np.unique(codes[out]))
    if question.spec.family.response == "category":
        return _held_density(question, design, (touched, touched & ~out), found)
    method = _method(question, design)
    values = natural_values(found)
    values = np.where(np.isnan(values), 0.0, np.minimum(values, _LARGEST_SIZE))
    p = len(design.mu.names)
    beta = dict(zip(design.mu.names, values[:p].tolist(), strict=True))

    def loglik(rows: BoolVec) -> float:
        if not rows.any():
            return 0.0
        # the fixed effects go to the offset: a fold may have fewer rows than there are, or rows that are all alike
        held = hold_fixed_effects(design_of(design, rows), beta)
        assert isinstance(held, Design)
        model = prepare(held, question.spec.family, method, question.control, by_rows=True)
        return NaturalObjective(model).loglik(values[p:])

    return loglik(touched) - loglik(touched & ~out)


def _held_density(
    question: RefitQuestion, design: Design, rows: tuple[BoolVec, BoolVec], found: Estimate
) -> float:
    """The same with all parameters held at once: categories have coefficients that are no columns of an offset."""
    held = HeldParameters.of(found, question.spec.family)
    both = []
    for some in rows:
        made = design_of(design, some) if some.any() else None
        known = (question.spec.family, question.control, held, question.spec.method)
        both.append(0.0 if made is None else known_model(made, *known).loglik())
    return both[0] - both[1]


def _method(question: RefitQuestion, design: Design) -> Method:
    """ML of gaussian models, quadrature of others with one factor, Laplace where that is all there is."""
    if question.spec.family.linear:
        return ML()
    one = len(design.factors) == 1 and not design.factors[0].coupled
    nodes = _NODES.get(len(design.factors[0].z)) if one else None
    return question.spec.method if nodes is None else AGQ(nodes)


def _squares(question: RefitQuestion, design: Design, out: BoolVec, found: Estimate) -> float:
    """Σ (y − μ)² over the rows left out, at the modes of known levels and at 0 of others; of shares for binomial.

    NaN of categories, which are no numbers.
    """
    if question.spec.family.response == "category":
        return np.nan
    left = rows_of(design, np.flatnonzero(out))
    eta: Vec = predicted(left.mu, found.beta)
    for factor, one, estimate in zip(design.factors, left.factors, found.factors, strict=True):
        known = np.arange(factor.n_levels) if factor.coupled else np.unique(factor.codes[~out])
        modes = np.zeros((len(factor.z), factor.n_levels))
        modes[:, known] = estimate.modes
        own = columns_of(factor, 0)
        eta = eta + np.einsum("rn,rn->n", one.z[own], one.on_rows(modes[own]))
    y = left.y if left.trials is None else left.y / left.trials
    f = np.ones(len(y)) if left.frequency is None else left.frequency
    return float(f @ (y - question.spec.family.mean(eta)) ** 2)
