"""Parameters of a fit with the uncertainty of all of them: modes move against covariances and dispersion as well.

The variance of a conditional linear predictor is z'Var(b|y)z + a'Var(ψ̂)a with a = (x, 0) + Σ (∂b̂/∂ψ)'z over all
parameters ψ (Kass & Steffey 1989; what glmmTMB gives by maximum likelihood). ∂b̂/∂ψ is read off the rows of the fit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.fitting.again import design_of
from polars_glmm.likelihood.known.joint import HeldParameters, known_model
from polars_glmm.prediction.parameters import Parameters, of_fit

if TYPE_CHECKING:
    from polars_glmm.answer.record import Answer
    from polars_glmm.likelihood.estimate import Estimate
    from polars_glmm.typing import Mat


def of_fit_jointly(fit: Answer) -> Parameters:
    """One fit whose modes move against all parameters. Raises ModelError where the rows of the fit are gone.

    A variance without a standard error, as at a boundary, counts as known.
    """
    fitted, e = of_fit(fit), fit.estimate
    if not fitted.factors:
        return fitted
    known = design_of(fit, "uncertainty='joint'")
    family = fit.recipe.spec.family
    held = HeldParameters.of(e, family)
    slopes = known_model(known.design, family, fit.control, held).mode_slopes()
    factors = tuple(replace(factor, mode_slope=slope) for factor, slope in zip(fitted.factors, slopes, strict=True))
    fixed = e.vcov_fixed if e.at_infinity is None else e.at_infinity.vcov
    joint = working_vcov(e, held, fixed)
    return replace(fitted, factors=factors, joint=joint, freedom=None, outward=None)


def working_vcov(estimate: Estimate, held: HeldParameters, fixed: Mat) -> Mat:
    """Var(ψ̂) for ψ = (beta, entries of the roots of Σ by term, coefficients of log phi), from that of the report.

    fixed (p + s, p + s)   that of beta and of a modelled phi, which stands as it is
    """
    p, s, report = len(estimate.beta), len(estimate.gamma), estimate.report_vcov
    blocks, place = [], p + s
    for factor, root in zip(estimate.factors, held.roots, strict=True):
        start = 0
        for covariance, structure in zip(factor.covariances, factor.structures, strict=True):
            r = len(covariance)
            stop = start + r
            rows = np.arange(place, place + len(STRUCTURES[structure].vech(r)[0]))
            blocks.append((rows, _inward(root[start:stop, start:stop], structure, report[np.ix_(rows, rows)])))
            place += len(rows)
            start = stop
    if held.gamma is not None and not s:
        rows = np.array([place])
        known = np.isnan(report[place, place]) or not np.isfinite(estimate.report[place])
        blocks.append((rows, np.zeros((1, 1)) if known else np.array([[1.0 / estimate.report[place]]])))
    theta = sum(len(rows) for rows, _ in blocks) - (1 if held.gamma is not None and not s else 0)
    size = p + theta + (0 if held.gamma is None else len(held.gamma))
    jacobian = np.zeros((size, len(report)))
    jacobian[:p, :p] = np.eye(p)
    if s:
        jacobian[p + theta :, p : p + s] = np.eye(s)
    at = p
    for rows, inward in blocks:
        jacobian[at : at + len(inward), rows] = inward
        at += len(inward)
    out = np.asarray(jacobian @ np.nan_to_num(report) @ jacobian.T)
    own = np.concatenate([np.arange(p), np.arange(p + theta, size)]) if s else np.arange(p)
    out[np.ix_(own, own)] = fixed[: len(own), : len(own)]
    return out


def _inward(root: Mat, structure: str, vcov: Mat) -> Mat:
    """∂(entries of the root)/∂(vech Σ) for Σ = root·root'; zero for a term whose variances have no standard errors.

    Those of a matrix of lower rank count as known: its entries do not move one by one.
    """
    found = STRUCTURES[structure]
    vech = found.vech(len(root))
    if found.bends:  # its parameters are those entries themselves
        return np.where(np.isnan(np.diag(vcov))[:, None], 0.0, np.eye(len(vech[0])))
    entries = found.entries(len(root))
    if np.isnan(vcov).any() or len(entries[0]) != len(vech[0]):
        return np.zeros((len(entries[0]), len(vech[0])))
    outward = np.empty((len(vech[0]), len(entries[0])))
    for k, (i, j) in enumerate(zip(*entries, strict=True)):
        change = np.zeros_like(root)
        change[i] += root[:, j]
        change[:, i] += root[:, j]
        outward[:, k] = change[vech]
    return np.asarray(np.linalg.inv(outward))
