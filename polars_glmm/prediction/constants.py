"""Constants of a fit, as phi, beside its coefficients among what numbers of rows move with.

A mean that phi takes part in (of lognormal responses, truncated counts, times) has errors of both together: those given
phi would take β̂ as it is with phi free, and phi as if it were known, which may be off in either direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from polars_glmm.families.base import beyond_parameters
from polars_glmm.prediction.effects import JoinedFactor
from polars_glmm.prediction.variances import Moving

if TYPE_CHECKING:
    from polars_glmm.prediction.parameters import Parameters
    from polars_glmm.typing import Cube, Mat, Vec


def constants_of(fitted: Parameters) -> list[tuple[int, int]]:
    """Constants that are not of the mean: place of the predictor, and place in the report."""
    assert fitted.report_vcov is not None  # every fit has one
    names = [*(() if fitted.phi is None else ("phi",)), *fitted.others]
    first, beyond_mean = fitted.report_vcov.shape[1] - len(names), beyond_parameters(fitted.recipe.spec.family)
    return [(k, first + names.index(one.name)) for k, one in beyond_mean if one.name in names]


def moving(fitted: Parameters, factors: Sequence[JoinedFactor]) -> tuple[Moving, list[JoinedFactor]]:
    """All that is estimated of the predictors, with one covariance matrix, and factors whose modes move with it."""
    family = fitted.recipe.spec.family
    if fitted.joint is None:
        vcov, outward = _with_constants(fitted)
        p = vcov.shape[1] - len(constants_of(fitted))
        constants = {k: p + i for i, (k, _) in enumerate(constants_of(fitted))}
    else:
        vcov, outward = fitted.joint[None], None
        names = [one.name for one in family.parameters]
        constants = {k: fitted.spots[names[k]].start for k, _ in constants_of(fitted) if names[k] in fitted.spots}
    endless, directions = fitted.endless(), None
    if endless is not None and endless.any():
        directions = np.zeros((vcov.shape[1], endless.shape[1]))
        for one in fitted.recipe.predictors:
            directions[fitted.spot(one.parameter)] = endless[fitted.of_all(one.parameter)]
    parts = [
        (k, replace(fitted.fixed(one.name), vcov=vcov, outward=outward, directions=directions,
                    place=fitted.spot(one.name).start))
        for k, one in enumerate(family.parameters) if fitted.models(one.name)
    ]  # fmt: skip
    return Moving(parts, constants), [_moved_by_all(factor, vcov.shape[1]) for factor in factors]


def _with_constants(fitted: Parameters) -> tuple[Cube, Mat | None]:
    """Var of (coefficients, constants as their predictors) (M, P + c, P + c), and outward (P + c, P + c) or None.

    A constant without an error, as at a limit, counts as known.
    """
    assert fitted.report_vcov is not None  # every fit has one
    infinite = fitted.further_at_infinity or fitted.at_infinity
    vcov = fitted.vcov if infinite is None else infinite.vcov[None]
    p, places = vcov.shape[1], [place for _, place in constants_of(fitted)]
    slope = np.array([_predictor_slope(fitted, k) for k, _ in constants_of(fitted)]).reshape(len(places), len(vcov)).T
    across = np.nan_to_num(fitted.report_vcov[:, :p, places]) * slope[:, None, :]
    own = np.nan_to_num(fitted.report_vcov[:, places][:, :, places]) * slope[:, :, None] * slope[:, None, :]
    outward = fitted.outward
    if outward is not None:
        across = np.linalg.solve(outward[None], across)
        outward = np.block([[outward, np.zeros((p, len(places)))], [np.zeros((len(places), p)), np.eye(len(places))]])
    above, below = np.concatenate([vcov, across], 2), np.concatenate([across.swapaxes(1, 2), own], 2)
    return np.concatenate([above, below], 1), outward


def _predictor_slope(fitted: Parameters, k: int) -> Vec:
    """∂(predictor)/∂(constant) (M,); zero at a limit."""
    one = fitted.recipe.spec.family.parameters[k]
    value = fitted.phi if one.name == "phi" else np.array([fitted.others[one.name][0]])
    return np.nan_to_num(one.predictor_slope(value))


def _moved_by_all(factor: JoinedFactor, size: int) -> JoinedFactor:
    """The factor with slopes of its modes in `size` parameters: those behind the ones it knows move none."""
    slope = factor.mode_slope
    if slope is None or slope.shape[1] == size:
        return factor
    return replace(factor, mode_slope=np.pad(slope, ((0, 0), (0, size - slope.shape[1]), (0, 0))))
