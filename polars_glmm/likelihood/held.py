"""Fixed effects that are held: moved to the offsets of a design before it is fitted, back into the estimate after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from polars_glmm.design.apart import Apart
from polars_glmm.design.records import Design, Predictor
from polars_glmm.errors import ModelError, enumerate_names
from polars_glmm.families.base import Family
from polars_glmm.families.curve import Curve
from polars_glmm.likelihood.estimate import AtInfinity, Estimate, FactorEstimate
from polars_glmm.typing import BoolVec, Vec


def of_levels(design: Design | Apart, family: Family, fixed: Mapping[str, float]) -> Mapping[str, float]:
    """Held parameters of a curve by the names of their coefficients: {"scal": 350} holds "scal: Intercept".

    Raises ModelError for one that is more than a constant.
    """
    curve = family.curve
    if curve is None or not set(curve.parameters) & set(fixed):
        return fixed
    found = dict(fixed)
    for one in design.predictors:
        if one.parameter in found and one.parameter in curve.parameters:
            if one.names != ("Intercept",):
                msg = f"{one.parameter!r} has no single value: hold its coefficients, {enumerate_names(one.labels)}."
                raise ModelError(msg)
            found[one.labels[0]] = found.pop(one.parameter)
    return found


def hold_fixed_effects(
    design: Design | Apart, fixed: Mapping[str, float], curve: Curve | None = None
) -> Design | Apart:
    """The design with held fixed effects of all predictors moved to its offsets.

    Raises ModelError where no coefficient of a parameter beyond mu, or beyond a curve, is left.
    """
    for one in design.further:
        of_mean = curve is not None and one.parameter in curve.parameters
        if one.cuts is None and not of_mean and all(name in fixed for name in one.labels):
            msg = f"fixed= holds all coefficients of {one.parameter} ({enumerate_names(list(one.labels))}): "
            msg += (
                'known variances are precision=, one over the variance of each row, with fixed={"phi": 1}.'
                if one.parameter == "phi"
                else "leave one of them free."
            )
            raise ModelError(msg)
    if not any(name in fixed for name in labels_of(_of_columns(design.predictors))):
        return design
    if isinstance(design, Apart):
        return design.with_held(fixed)
    mu, *further = (_moved_to_offset(one, fixed, design.n_rows) for one in design.predictors)
    return replace(design, mu=mu, further=tuple(further))


def labels_of(predictors: Sequence[Predictor]) -> tuple[str, ...]:
    """Names of the coefficients of predictors among all parameters."""
    return tuple(name for one in predictors for name in one.labels)


def _of_columns(predictors: Sequence[Predictor]) -> list[Predictor]:
    """Those whose coefficients have columns, which can be added up; thresholds are held where they are."""
    return [one for one in predictors if one.cuts is None]


def _moved_to_offset(predictor: Predictor, fixed: Mapping[str, float], n_rows: int) -> Predictor:
    keep = [i for i, name in enumerate(predictor.labels) if name not in fixed]
    if len(keep) == len(predictor.labels) or predictor.cuts is not None:
        return predictor
    offset = np.zeros(n_rows) if predictor.offset is None else predictor.offset.copy()
    for i, name in enumerate(predictor.labels):
        if name in fixed:
            offset += fixed[name] * predictor.x[i]
    x = np.ascontiguousarray(predictor.x[keep])
    return replace(predictor, x=x, names=tuple(predictor.names[i] for i in keep), offset=offset)


def restore_fixed_effects(
    estimate: Estimate, names: tuple[str, ...], others: tuple[Predictor, ...], fixed: Mapping[str, float]
) -> Estimate:
    """An estimate with its held fixed effects back in place, without standard errors; names of mu, other predictors."""
    further, sizes = labels_of(others), {one.parameter: len(one.labels) for one in others}
    here = set(labels_of([one for one in others if one.cuts is not None]))  # thresholds are in the estimate
    kept = np.array([name not in fixed for name in names], dtype=bool)
    kept_further = np.array([name not in fixed or name in here for name in further], dtype=bool)
    if kept.all() and kept_further.all():
        return estimate
    beta, gamma = (np.array([fixed.get(name, np.nan) for name in own]) for own in (names, further))
    beta[kept] = estimate.beta
    gamma[kept_further] = estimate.gamma
    covariances = estimate.report[len(estimate.beta) + len(estimate.gamma) :]
    all_kept = np.concatenate([kept, kept_further, np.ones(len(covariances), dtype=bool)])
    report = np.concatenate([beta, gamma, covariances])
    n_fixed = len(names) + len(further)

    def spread(small: Vec, keep: BoolVec) -> Vec:
        out = np.full((len(keep),) * 2, np.nan)
        out[np.ix_(keep, keep)] = small
        return out

    df = None
    if estimate.df_satterthwaite is not None:
        df = np.full(len(names), np.nan)
        df[kept] = estimate.df_satterthwaite
    derivative = None
    if estimate.vcov_derivative is not None:
        small = estimate.vcov_derivative
        derivative = np.zeros((len(small), len(names), len(names)))
        derivative[:, kept[:, None] & kept] = small.reshape(len(small), -1)
    further_infinite = estimate.further_at_infinity
    if further_infinite is not None:
        directions = np.zeros((len(further), further_infinite.directions.shape[1]))
        directions[kept_further] = further_infinite.directions
        further_infinite = AtInfinity(directions, spread(further_infinite.vcov, all_kept[:n_fixed]))
    infinite = estimate.at_infinity
    if infinite is not None:
        directions = np.zeros((len(names), infinite.directions.shape[1]))
        directions[kept] = infinite.directions
        infinite = AtInfinity(directions, spread(infinite.vcov, all_kept[:n_fixed]))
    return replace(
        estimate,
        factors=tuple(_with_held(factor, kept) for factor in estimate.factors),
        beta=beta,
        gamma=gamma,
        sizes=sizes,
        report=report,
        report_vcov=spread(estimate.report_vcov, all_kept),
        vcov_fixed=spread(estimate.vcov_fixed, all_kept[:n_fixed]),
        df_satterthwaite=df,
        vcov_derivative=derivative,
        at_infinity=infinite,
        further_at_infinity=further_infinite,
        working=None,
    )


def _with_held(factor: FactorEstimate, kept: BoolVec) -> FactorEstimate:
    """The slopes of the modes with a zero for each held fixed effect: it does not move."""
    if factor.mode_slope is None:
        return factor
    n_kept, n_slopes = int(kept.sum()), factor.mode_slope.shape[1]
    kept = np.append(kept, np.ones(n_slopes - n_kept, dtype=bool))
    slope = np.zeros((len(factor.mode_slope), len(kept), factor.mode_slope.shape[2]))
    slope[:, kept] = factor.mode_slope
    return replace(factor, mode_slope=slope)
