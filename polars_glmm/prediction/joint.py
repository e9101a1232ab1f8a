"""Parameters of a fit with the uncertainty of all of them: modes move against covariances and dispersion as well.

The variance of a conditional linear predictor is z'Var(b|y)z + a'Var(ψ̂)a with a = (x, 0) + Σ (∂b̂/∂ψ)'z over all
parameters ψ (Kass & Steffey 1989; what glmmTMB gives by maximum likelihood). ∂b̂/∂ψ is read off the rows of the fit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from polars_glmm.covariance.correlations import CORRELATIONS
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.known import refuse_effects_elsewhere
from polars_glmm.fitting.again import design_of
from polars_glmm.fitting.held import with_held_known
from polars_glmm.likelihood.known.joint import HeldParameters, known_model
from polars_glmm.prediction.parameters import Parameters, of_fit

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.families.base import Family
    from polars_glmm.likelihood.estimate import Estimate
    from polars_glmm.typing import Mat


def of_fit_jointly(fit: Answer) -> Parameters:
    """One fit whose modes move against all parameters. Raises ModelError where the rows of the fit are gone.

    A variance without a standard error, as at a boundary, counts as known.
    """
    if fit.recipe.spec.family.curve is not None:
        refuse_effects_elsewhere(fit.recipe, "uncertainty='joint' of a curve")
    fitted, e = of_fit(fit), fit.estimate
    if not fitted.factors:
        return fitted  # nothing is given that could move
    known = design_of(fit, "uncertainty='joint'")
    family = fit.recipe.spec.family
    held = HeldParameters.of(e, family)
    slopes = known_model(known.design, family, fit.control, held).mode_slopes()
    factors = tuple(replace(factor, mode_slope=slope) for factor, slope in zip(fitted.factors, slopes, strict=True))
    infinite = e.further_at_infinity or e.at_infinity
    fixed = with_held_known(fit, e.vcov_fixed) if infinite is None else infinite.vcov
    joint, spots = working_vcov(e, family, held, fixed, _residual_slopes(fit))
    # vcov is of the coefficients themselves, as joint is: what the modes do not move with is read off it
    return replace(
        fitted, factors=factors, joint=joint, spots=spots, freedom=None, outward=None, vcov=fixed[None]
    )  # fmt: skip


def _residual_slopes(fit: Answer) -> Mat | None:
    """∂natural/∂x (k, k) of the correlation of residuals."""
    found, learned = fit.estimate.residual, fit.recipe.residual
    if found is None or learned is None:
        return None
    one = CORRELATIONS[found.structure]
    return one.natural_slopes(one.working(found.values, learned.size), learned.size)


def working_vcov(
    estimate: Estimate, family: Family, held: HeldParameters, fixed: Mat, of_residual: Mat | None = None
) -> tuple[Mat, dict[str, slice]]:
    """Var(ψ̂) for ψ = (beta, entries of the roots of Σ by term, predictors beyond the mean), from that of the report.

    And where the coefficients of each formula beyond the mean, and constants, stand in ψ.

    fixed (p + s, p + s)   that of the coefficients of all formulas, which stands as it is
    of_residual (k, k)     ∂natural/∂x of the correlation of residuals, whose x stand last
    """
    p, report = len(estimate.beta), estimate.report_vcov
    blocks, place = [], p + len(estimate.gamma)
    for factor, root in zip(estimate.factors, held.roots, strict=True):
        start = 0
        for covariance, structure in zip(factor.covariances, factor.structures, strict=True):
            r = len(covariance)
            stop = start + r
            rows = np.arange(place, place + len(STRUCTURES[structure].vech(r)[0]))
            blocks.append((rows, _inward(root[start:stop, start:stop], structure, report[np.ix_(rows, rows)])))
            place += len(rows)
            start = stop
    theta = sum(len(inward) for _, inward in blocks)
    behind = 0 if of_residual is None else len(of_residual)
    size = p + theta + (0 if held.gamma is None else len(held.gamma)) + behind
    jacobian = np.zeros((size, len(report)))
    jacobian[:p, :p] = np.eye(p)
    at = p
    for rows, inward in blocks:
        jacobian[at : at + len(inward), rows] = inward
        at += len(inward)
    own, of_formulas, spots = list(range(p)), list(range(p)), {}
    constants = dict(zip(estimate.constants, range(len(report) - len(estimate.constants), len(report)), strict=True))
    starts = dict(zip(estimate.coefficients, np.cumsum([0, *map(len, estimate.coefficients.values())]), strict=False))
    for one in family.parameters[1:] if held.gamma is not None else ():
        if one.name in constants:  # what is not known moves nothing
            spots[one.name] = slice(at, at + 1)
            k, slope = constants[one.name], float(one.predictor_slope(estimate.constants[one.name]))
            jacobian[at, k] = 0.0 if np.isnan(report[k, k]) or np.isnan(slope) else slope
            at += 1
            continue
        if one.optional and one.name not in starts:
            continue
        size_own, first = len(estimate.coefficients[one.name]), int(starts[one.name])
        jacobian[at : at + size_own, first : first + size_own] = np.eye(size_own)
        own += range(at, at + size_own)
        spots[one.name] = slice(at, at + size_own)
        of_formulas += range(first, first + size_own)
        at += size_own
    if of_residual is not None and np.isfinite(of_residual).all():
        jacobian[size - behind :, place : place + behind] = np.linalg.pinv(of_residual)
    out = np.asarray(jacobian @ np.nan_to_num(report) @ jacobian.T)
    out[np.ix_(own, own)] = fixed[np.ix_(of_formulas, of_formulas)]
    return out, spots


def _inward(root: Mat, structure: str, vcov: Mat) -> Mat:
    """∂(entries of the root)/∂(vech Σ) for Σ = root·root'; zero for a term whose variances have no standard errors.

    A matrix of rank d has fewer entries of its root than of its own, which move along their slopes and nowhere else:
    the pseudo-inverse of these takes Var(vech Σ) back to that of the root.
    """
    found = STRUCTURES[structure]
    vech = found.vech(len(root))
    if found.bends:  # its parameters are those entries themselves
        return np.where(np.isnan(np.diag(vcov))[:, None], 0.0, np.eye(len(vech[0])))
    entries = found.entries(len(root))
    if np.isnan(vcov).any():
        return np.zeros((len(entries[0]), len(vech[0])))
    outward = np.empty((len(vech[0]), len(entries[0])))
    for k, (i, j) in enumerate(zip(*entries, strict=True)):
        change = np.zeros_like(root)
        change[i] += root[:, j]
        change[:, i] += root[:, j]
        outward[:, k] = change[vech]
    return np.asarray(np.linalg.pinv(outward))
