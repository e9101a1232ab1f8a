"""What is asked of many models with rows, and the answer in arrays: likelihood.marginal.fit' report for batches."""

from __future__ import annotations

from concurrent.futures import Executor
from time import perf_counter
from typing import NamedTuple

import numpy as np

from polars_glmm.control import Control
from polars_glmm.families.base import Family
from polars_glmm.likelihood.many.engine import BatchRowEngine
from polars_glmm.likelihood.many.estimate import BatchEstimate, BatchOptima
from polars_glmm.likelihood.many.model import BatchModel
from polars_glmm.likelihood.many.polish import BatchPolished
from polars_glmm.likelihood.many.report import (
    KnownEffects,
    covariance_matrices,
    covariance_report,
    factor_estimates,
    inverted,
    slopes_as_named,
    without_errors,
)
from polars_glmm.likelihood.marginal.hills import doubtful, unit_of
from polars_glmm.likelihood.marginal.modes import RowDensity
from polars_glmm.likelihood.marginal.separation import LOOSE
from polars_glmm.likelihood.optimum import report
from polars_glmm.likelihood.optimum.notes import CONVERGED
from polars_glmm.spec.method import Method
from polars_glmm.typing import BoolVec, Cube, Vec


class Question(NamedTuple):
    """Models, family and method; how to compute; the workers."""

    model: BatchModel
    family: Family
    method: Method
    control: Control
    pool: Executor | None

    @property
    def p(self) -> int:
        return int(self.model.a.shape[1])

    @property
    def s(self) -> int:
        """Parameters of log phi."""
        return int(self.family.has_phi)

    @property
    def density(self) -> RowDensity:
        return RowDensity(self.family)


def _stands(question: Question, done: BatchPolished, lam: Cube, each: tuple[slice, ...]) -> tuple[BoolVec, Vec]:
    """Which optima need no second look, and the parameter-free part of ℓ of every model."""
    family, model = question.family, question.model
    fine = done.regular & np.isfinite(done.value.value) & (done.decrement < CONVERGED)
    constant, unit = model.rows.totals(family.constant(model.rows.data)), unit_of(family)
    if unit is not None:
        for own in each:
            fine &= ~doubtful(np.linalg.norm(lam[own, own], axis=(0, 1)), unit, model.lone)
        fine &= done.value.value + constant <= 0.0  # of counts
    return fine, constant


def bare_optima(
    question: Question, engine: BatchRowEngine, done: BatchPolished, *, singular: bool
) -> tuple[BatchOptima, BoolVec]:
    """The optima of a question's models, and which of them stand."""
    model, at = question.model, engine.layout
    lam = at.lam(done.x[:, at.p : at.p + at.q])
    fine, constant = _stands(question, done, lam, at.factors)
    terms = model.in_formula
    optima = BatchOptima(
        beta=np.einsum("mpq,mp->mq", model.a, done.x[:, : at.p]),
        phi=np.exp(done.x[:, -1]) if at.s else None,
        covariances=tuple(covariance_matrices(terms, lam, model.outward)),
        structures=tuple(t.structure for t in terms),
        loglik=done.value.value + constant,
        decrement=done.decrement,
        singular=singular,
    )
    return optima, fine


def report_rows(
    question: Question,
    engine: BatchRowEngine,
    done: BatchPolished,
    null_value: Vec,
    sizes: tuple[int, tuple[int, ...]],
    clock: dict[str, float],
) -> tuple[BatchEstimate, BoolVec]:
    """Estimates of all models of a question, and which of them stand.

    null_value (M,)   −ℓ without random effects
    sizes             covariance parameters, on the boundary or not, and the rank of each term
    """
    model, family, at = question.model, question.family, engine.layout
    rows, p, s = model.rows, at.p, at.s
    n_theta, ranks = sizes
    conditional = engine.marginal.conditional(at.point(done.x), done.value.modes)
    lam = at.lam(done.x[:, p : p + at.q])
    fine, constant = _stands(question, done, lam, at.factors)
    spread, smallest = np.full((len(done.x), at.size, at.size), np.nan), None
    if done.hessian is not None:
        found = inverted(done.hessian)
        spread, smallest = found.vcov, found.smallest
        fine &= ~found.flat
        if family.separable:
            fine &= (np.sqrt(np.einsum("mpp->mp", spread)[:, :p]) < LOOSE).all(1)
    cov = covariance_report(at, model.in_formula, lam, model.outward)
    beta = np.einsum("mpq,mp->mq", model.a, done.x[:, :p])
    phi = np.exp(done.x[:, -1]) if s else None
    values = np.concatenate([beta, cov.values, *([] if phi is None else [phi[:, None]])], axis=1)
    jac = np.zeros((*values.shape, at.size))
    jac[:, :p, :p] = model.a.swapaxes(1, 2)
    jac[:, p : p + cov.values.shape[1], p : p + at.q] = cov.jacobian
    if phi is not None:
        jac[:, -1, -1] = phi
    null = np.zeros(values.shape, dtype=bool)
    null[:, p : p + cov.values.shape[1]] = cov.null
    saturated = family.saturated(rows.data)
    slopes: list[Cube | None] = [None] * len(model.named)
    if done.slopes is not None:
        slopes = slopes_as_named(model, [slope.swapaxes(0, 1) for slope in done.slopes])
    known = zip(conditional.modes, conditional.covariance, slopes, strict=True)
    u = [KnownEffects(*own) for own in known]
    clock["report"] = perf_counter()
    estimate = BatchEstimate(
        beta=beta,
        phi=phi,
        report=values,
        report_vcov=without_errors(jac @ spread @ jac.swapaxes(1, 2), null),
        factors=factor_estimates(model, lam, u, cov.matrices, conditional.between),
        model_levels=model.level_counts,
        loglik=done.value.value + constant,
        loglik_saturated=None if saturated is None else rows.totals(saturated),
        n_obs=rows.observations(),
        df_model=p + n_theta + s,
        null_df=p + s,
        null_loglik=constant - null_value,
        ranks=model.of_formula(ranks),
        notes=(),
        decrement=done.decrement,
        smallest=smallest,
        evaluations=done.evaluations,
        row_passes=engine.passes,
        seconds={name: each / len(beta) for name, each in report.seconds(clock).items()},
    )
    return estimate, fine
