"""What is asked of many models with rows, and the answer in arrays: likelihood.marginal.fit' report for batches."""

from __future__ import annotations

from collections.abc import Sequence
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
from polars_glmm.likelihood.many.report import covariance_matrices, covariance_report, inverted, without_errors
from polars_glmm.likelihood.marginal.hills import doubtful, unit_of
from polars_glmm.likelihood.marginal.modes import RowDensity
from polars_glmm.likelihood.marginal.separation import LOOSE
from polars_glmm.likelihood.optimum import report
from polars_glmm.likelihood.optimum.notes import CONVERGED
from polars_glmm.spec.method import Method
from polars_glmm.typing import BoolVec, Cube, Vec


class Question(NamedTuple):
    """Models, family and method; how to compute; the workers; the name of the grouping factor."""

    model: BatchModel
    family: Family
    method: Method
    control: Control
    pool: Executor | None
    group: str | None

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


def _stands(question: Question, done: BatchPolished, lam: Cube, factors: tuple[slice, ...]) -> tuple[BoolVec, Vec]:
    """Which optima need no second look, and the parameter-free part of ℓ of every model."""
    family, model = question.family, question.model
    fine = done.regular & np.isfinite(done.value.value) & (done.decrement < CONVERGED)
    constant, unit = model.rows.totals(family.constant(model.rows.data)), unit_of(family)
    if unit is not None:
        for own in factors or (slice(0, len(lam)),):
            fine &= ~doubtful(np.linalg.norm(lam[own, own], axis=(0, 1)), unit, model.lone)
        fine &= done.value.value + constant <= 0.0  # of counts
    return fine, constant


def bare_optima(
    question: Question, engine: BatchRowEngine, done: BatchPolished, rank: int, order: Sequence[int]
) -> tuple[BatchOptima, BoolVec]:
    """The optima of a question's models, and which of them stand; order: places of the terms as in the formula."""
    model, at = question.model, engine.layout
    lam = at.lam(done.x[:, at.p : at.p + at.q])
    fine, constant = _stands(question, done, lam, at.factors)
    matrices = covariance_matrices(model.terms, lam, model.outward)
    optima = BatchOptima(
        beta=np.einsum("mpq,mp->mq", model.a, done.x[:, : at.p]),
        phi=np.exp(done.x[:, -1]) if at.s else None,
        covariances=tuple(matrices[k] for k in order),
        structures=tuple(model.terms[k].structure for k in order),
        loglik=done.value.value + constant,
        decrement=done.decrement,
        singular=rank < at.r,
    )
    return optima, fine


def report_rows(
    question: Question,
    engine: BatchRowEngine,
    done: BatchPolished,
    null_value: Vec,
    sizes: tuple[int, int],
    clock: dict[str, float],
) -> tuple[BatchEstimate, BoolVec]:
    """Estimates of all models of a question, and which of them stand.

    null_value (M,)   −ℓ without random effects;  sizes: covariance parameters, on the boundary or not, and the rank
    """
    model, family, at = question.model, question.family, engine.layout
    rows, p, s = model.rows, at.p, at.s
    n_theta, rank = sizes
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
    cov = covariance_report(at, model.terms, lam, model.outward)
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
    to_b = np.einsum("mij,jkm->ikm", model.outward, lam)[..., rows.of_level]
    clock["report"] = perf_counter()
    estimate = BatchEstimate(
        beta=beta,
        phi=phi,
        report=values,
        report_vcov=without_errors(jac @ spread @ jac.swapaxes(1, 2), null),
        covariances=cov.matrices,
        factor=question.group,
        term_names=tuple(name for t in model.terms for name in t.names),
        structures=tuple(t.structure for t in model.terms),
        modes=np.einsum("irG,rG->iG", to_b, conditional.modes),
        mode_covariance=np.einsum("irG,rsG,jsG->ijG", to_b, conditional.covariance, to_b, optimize=True),
        mode_slope=_slopes(model, to_b, done.slopes),
        model_levels=rows.model_levels,
        loglik=done.value.value + constant,
        loglik_saturated=None if saturated is None else rows.totals(saturated),
        n_obs=rows.observations(),
        df_model=p + n_theta + s,
        null_df=p + s,
        null_loglik=constant - null_value,
        rank=rank,
        notes=(),
        decrement=done.decrement,
        smallest=smallest,
        evaluations=done.evaluations,
        row_passes=engine.passes,
        seconds={name: each / len(beta) for name, each in report.seconds(clock).items()},
    )
    return estimate, fine


def _slopes(model: BatchModel, to_b: Cube, slopes: Cube | None) -> Cube | None:
    """∂b̂/∂β (r, p, G) with beta as named, from ∂û/∂β_c (p, r, G)."""
    if slopes is None or slopes.size > report.SLOPES_KEPT:
        return None
    inward = np.linalg.inv(model.a.swapaxes(1, 2)).transpose(1, 2, 0)[..., model.rows.of_level]
    return np.asarray(np.einsum("irG,krG,kqG->iqG", to_b, slopes, inward, optimize=True))
