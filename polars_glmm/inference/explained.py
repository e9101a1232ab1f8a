"""How much a model explains: R², intraclass correlations, and the principal components of the random effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from polars_glmm.families.latent import Null, residual_variances
from polars_glmm.inference.schemas import ICC, R2, REPCA, table
from polars_glmm.likelihood.refits.resample import is_nested

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.design.records import Design
    from polars_glmm.typing import Vec


class VarianceParts(NamedTuple):
    """Variances on the scale of the linear predictor: of x'β, and of z'b over the rows, per grouping factor."""

    fixed: float
    random: tuple[float, ...]


def parts_of(fit: Answer, design: Design, place: int | None = None) -> VarianceParts:
    """The variance of x'β over the rows (n − 1), offsets left out, and the mean of z'Σz (Johnson 2014).

    place   of one of several predictors, with the random effects on it; None: the first, and all effects
    """
    f = np.ones(design.n_rows) if design.frequency is None else design.frequency
    found, part = list(fit.estimate.coefficients.values())[place or 0], design.predictors[place or 0]
    eta = found @ part.x
    away = eta - (f @ eta) / f.sum()
    return VarianceParts(float(f @ away**2 / max(f.sum() - 1.0, 1.0)), random_parts(fit, design, place))


def random_parts(fit: Answer, design: Design, place: int | None = None) -> tuple[float, ...]:
    """The mean of z'Σz over the rows, per grouping factor: of all effects, or of those on the predictor at a place."""
    f = np.ones(design.n_rows) if design.frequency is None else design.frequency
    random = []
    for factor, estimate in zip(design.factors, fit.estimate.factors, strict=True):
        on = np.array([part for term in factor.terms for part in term.part_of])
        total = np.zeros(design.n_rows)
        start = 0
        for sigma in estimate.covariances:
            z = factor.z[start : start + len(sigma)]
            if place is not None:
                z = np.where(on[start : start + len(sigma), None] == place, z, 0.0)
            total += np.einsum("rn,rs,sn->n", z, sigma, z)
            start += len(sigma)
        if factor.prior is not None:  # levels have variances of their own
            total = total * factor.prior.variances[factor.codes]
        if factor.sets is not None:  # rows have shares of several
            total = total * factor.sets.sizes[factor.codes]
        random.append(float(f @ total / f.sum()))
    return tuple(random)


def null_of(fit: Answer, design: Design) -> Null:
    """What the residual variances of counts and of probabilities are taken at."""
    return Null(float(fit.estimate.beta[0]), sum(parts_of(fit, design).random))


def r2_table(fit: Answer, parts: VarianceParts, null: Null | None, mean: float) -> pl.DataFrame:
    """R² of the fixed effects, and of fixed and random effects together, a row per residual variance."""
    rows = []
    v = sum(parts.random)
    for method, residual in residual_variances(fit.spec.family, fit.estimate.constants, null, mean):
        total = parts.fixed + v + residual
        rows.append(
            (
                method,
                parts.fixed,
                v,
                residual,
                parts.fixed / total,
                (parts.fixed + v) / total,
                v / (v + residual),
                v / total,
            )
        )
    return table(R2, dict(zip(R2, zip(*rows, strict=True), strict=True)))


def icc_table(design: Design, random: tuple[float, ...], residual: tuple[str, float]) -> pl.DataFrame:
    """Correlation of two observations of one level, per grouping factor, and the design effect 1 + (n̄_w − 1) icc.

    Levels of a nested factor share the levels of those around it too; of rows in several levels it is that of two with
    the same ones. n̄_w = Σn²/Σn weighs levels by their size.
    """
    total = sum(random) + residual[1]
    f = np.ones(design.n_rows) if design.frequency is None else design.frequency
    rows = []
    for factor, own in zip(design.factors, random, strict=True):
        around = [
            v
            for other, v in zip(design.factors, random, strict=True)
            if other is not factor and factor.sets is other.sets is None and is_nested(factor.codes, other.codes)
        ]
        icc = (own + sum(around)) / total
        sizes = factor.level_rows(f)
        mean = float((sizes**2).sum() / sizes.sum())
        rows.append((factor.name, factor.n_levels, own, icc, mean, 1.0 + (mean - 1.0) * icc, residual[0]))
    return table(ICC, {name: [row[k] for row in rows] for k, name in enumerate(ICC)})


def repca(fit: Answer) -> pl.DataFrame:
    """Principal components of the covariance matrices of the random effects (Bates et al. 2015, "Parsimonious").

    std_dev_relative is relative to the residual standard deviation of a gaussian model, as lme4's rePCA.
    """
    rows: list[dict[str, Any]] = []
    sigma = fit.estimate.phi if fit.spec.family.residual else None
    for factor in fit.estimate.factors:
        r = len(factor.term_names)
        whole, start = np.zeros((r, r)), 0
        for part in factor.covariances:
            whole[start : start + len(part), start : start + len(part)] = part
            start += len(part)
        values, vectors = np.linalg.eigh(whole)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        total, sum_so_far = float(values.sum()), np.cumsum(values)
        for k, (value, vector) in enumerate(zip(values.tolist(), vectors.T, strict=True)):
            sign = -1.0 if vector[np.argmax(np.abs(vector))] < 0.0 else 1.0
            rows.append(
                {
                    "group": factor.name,
                    "component": k + 1,
                    "std_dev": value**0.5,
                    "std_dev_relative": None if sigma is None else value**0.5 / sigma,
                    "proportion": value / total if total else None,
                    "cumulative": float(sum_so_far[k]) / total if total else None,
                    "loading": [
                        {"term": name, "value": float(sign * one)}
                        for name, one in zip(factor.labels, vector, strict=True)
                    ],
                }
            )
    return table(REPCA, {name: [row[name] for row in rows] for name in REPCA})


def mean_fitted(fit: Answer, design: Design) -> float:
    """The mean of the fitted values at the modes, rows weighted by their frequency; NaN where it would not be used."""
    if fit.spec.family.mean_range != "unit":
        return np.nan
    eta: Vec = fit.estimate.beta @ design.mu.x
    if design.mu.offset is not None:
        eta = eta + design.mu.offset
    for factor, estimate in zip(design.factors, fit.estimate.factors, strict=True):
        eta = eta + np.einsum("rn,rn->n", factor.z, factor.on_rows(estimate.modes))
    return float(np.average(fit.spec.family.mean(eta), weights=design.frequency))
