"""Sizes that searches over rows start from and are measured by: of random effects, of a row, of a constant log phi."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from polars_glmm.errors import ConvergenceError
from polars_glmm.families.links import Link
from polars_glmm.likelihood.marginal.modes import Point
from polars_glmm.likelihood.marginal.value import Marginal
from polars_glmm.likelihood.model import Model
from polars_glmm.likelihood.parameters.parts import Part
from polars_glmm.likelihood.parameters.thresholds import Thresholds
from polars_glmm.likelihood.rows import sums as rowsums
from polars_glmm.likelihood.rows.holder import Holder
from polars_glmm.typing import Vec

_OF_A_ROW = 0.5
"""First size of random effects, in units of a row's spread."""
_THIN_ROWS, _THIN_BEYOND = 100_000, 4
"""The model without random effects begins on so many rows where there are several times as many."""


def linear_starts(model: Model, thin: Holder | None) -> list[Vec]:
    """Coefficients by least squares of the predictors that the responses stand for, and those of a constant mean."""
    beta, level = rowsums.first_fit(model.rows if thin is None else thin, model.family, len(model.x.a))
    gamma = np.concatenate([np.empty(0), *further_starts(model, beta, level)])
    starts = [np.concatenate([beta, gamma])]
    if model.x.constant is not None:
        starts.append(np.concatenate([model.x.inward(model.x.constant * level), gamma]))
    return starts


def further_starts(model: Model, beta: Vec, level: float) -> list[Vec]:
    """Coefficients of the predictors beyond the mean's from which the search without random effects begins.

    level   of the first linear predictor, offset taken off: thresholds beside columns about their means make up for it
    """
    if len(model.parts) < 2:
        return []
    levels = rowsums.first_levels(model.rows, model.family, beta)
    starts = [constant_level(part, level) for part, level in zip(model.parts[1:], levels, strict=False)]
    for k, part in enumerate(model.parts[1:]):
        if isinstance(part.basis, Thresholds):
            counts = rowsums.category_counts(model.rows, part.basis.n_categories)
            if not counts.all():
                msg = "There is no response in some category, whose probability cannot be estimated."
                raise ConvergenceError(msg)
            alone = not len(model.x.a) or model.x.carried is not None
            starts[k] = first_thresholds(part.basis, model.family.link, counts, -level if alone else 0.0)
    return starts


def first_thresholds(basis: Thresholds, link: Link, counts: Vec, level: float = 0.0) -> Vec:
    """Coefficients of thresholds where only the counts (C,) are known, and the level of the linear predictor."""
    alpha = level + link.forward(np.cumsum(counts)[:-1] / counts.sum())
    tau = np.linalg.lstsq(basis.jacobian, alpha, rcond=None)[0]
    named = np.zeros(len(basis.a))
    named[: len(tau)] = tau  # the intercept of their formula comes first
    return basis.inward(named)


def constant_level(part: Part, level: float) -> Vec:
    """Coefficients of a predictor that make it a given level in all rows, or zero where none do."""
    basis = part.basis
    if basis is None:
        return np.array([level])
    return np.zeros(len(basis.a)) if basis.constant is None else basis.inward(basis.constant * level)


def thinned(rows: Holder) -> Holder | None:
    """Some of many rows that nothing couples; None where they are few."""
    return rows.thinned(_THIN_ROWS) if rows.n_rows > _THIN_BEYOND * _THIN_ROWS else None


def row_variance_of(plain: Marginal, beta: Vec) -> float:
    """1 / mean expected curvature without random effects: the variance of a row on the scale of eta.

    It is a scale, of which some rows tell enough.
    """
    some = replace(plain, rows=thinned(plain.rows) or plain.rows)
    w = some.expected_curvature(Point(beta, []))
    return 1.0 / w if w else 1.0


def units_of(plain: Marginal, beta: Vec, n: int) -> list[float]:
    """Per predictor the change that a row's spread hides: 1/√ of its mean expected curvature; 1 where none is known."""
    some = replace(plain, rows=thinned(plain.rows) or plain.rows)
    found = [some.expected_curvature(Point(beta, []), k) for k in range(n)]
    return [1.0 / np.sqrt(w) if w else 1.0 for w in found]


def start_size(model: Model, row_variance: float) -> float:
    """Standard deviation from which the search for random effects starts, in units of the linear predictor."""
    if model.effects.measured:
        return _OF_A_ROW
    if model.family.unit is not None:
        return model.family.first_size
    return _OF_A_ROW * float(np.sqrt(row_variance))


def bending_scale(model: Model, x: Vec) -> float:
    """Change of eta over which derivatives of the log density change by a share of themselves."""
    if model.family.unit is not None:
        return 1.0
    return rowsums.predictor_size(model.rows, x[: len(model.x.a)]) or 1.0
