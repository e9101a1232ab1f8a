"""Whether the numbers of a model file fit together: a file may hold any arrays, and no verb checks them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from polars_glmm.answer.many import Batch
from polars_glmm.answer.tally import GroupSize
from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.design.recipe import FactorRecipe, Recipe
from polars_glmm.design.residual import parameter_names
from polars_glmm.likelihood.estimate import Estimate, FactorEstimate


def check_estimate(recipe: Recipe, estimate: Estimate) -> None:
    """Raise ValueError unless the arrays of an estimate have the shapes that its recipe asks for."""
    p, s, sizes = _counts(recipe)
    reported = p + s + _entries(recipe) + len(estimate.others)
    if recipe.residual is not None and recipe.spec.residual is not None:
        names = parameter_names(recipe.spec.residual, recipe.residual.size, recipe.residual.labels)
        _equal("residual", list(() if estimate.residual is None else estimate.residual.names), list(names))
        _shaped("residual", None if estimate.residual is None else estimate.residual.values, len(names))
        reported += len(names)
    if recipe.spec.family.has_phi and "phi" not in {one.parameter for one in recipe.predictors}:
        reported += 1 if len(estimate.report) > reported else 0
    known = [one.name for one in recipe.spec.family.parameters[1:]]
    _equal("constants", [name for name in estimate.others if name not in known], [])
    k = 0 if estimate.covariance_vcov is None else len(estimate.covariance_vcov)
    if estimate.n_obs < 1 or estimate.df_model < 0 or (estimate.phi or 0.0) < 0.0:
        msg = "a number of observations or parameters, or the dispersion, is below what it can be"
        raise ValueError(msg)
    _shaped("beta", estimate.beta, p)
    _shaped("gamma", estimate.gamma, s)
    _shaped("vcov_fixed", estimate.vcov_fixed, p + s, p + s)
    _shaped("report", estimate.report, reported)
    _shaped("report_vcov", estimate.report_vcov, reported, reported)
    _shaped("df_satterthwaite", estimate.df_satterthwaite, p)
    _shaped("covariance_vcov", estimate.covariance_vcov, k, k)
    _shaped("vcov_derivative", estimate.vcov_derivative, k, p, p)
    if estimate.at_infinity is not None:
        _shaped("directions", estimate.at_infinity.directions, p, estimate.at_infinity.directions.shape[-1])
        _shaped("vcov at infinity", estimate.at_infinity.vcov, p + s, p + s)
    if estimate.further_at_infinity is not None:
        of = estimate.further_at_infinity
        _shaped("directions", of.directions, s, of.directions.shape[-1])
        _shaped("vcov at infinity", of.vcov, p + s, p + s)
    if estimate.working is not None:
        _shaped("outward", estimate.working.outward, p + s, p + s)
        _shaped("working vcov", estimate.working.vcov, p + s, p + s)
    _equal("groups", [one.name for one in estimate.factors], [one.name for one in recipe.factors])
    for factor, own, sized in zip(recipe.factors, estimate.factors, sizes, strict=True):
        _check_factor(factor, own, sized, slopes=(p, p + s))
        if own.level_covariance is not None:
            r, g = sum(sized), factor.levels.height
            _shaped("level_covariance", own.level_covariance, r, g, r, g)
    _check_between(estimate.factors)


def check_sizes(recipe: Recipe, sizes: Sequence[GroupSize]) -> None:
    """Raise ValueError unless the sizes of groups are those of the recipe's groups."""
    levels = [(factor.name, factor.levels.height) for factor in recipe.factors]
    _equal("groups", [(own.group, own.n_levels) for own in sizes], levels)


def check_batch(batch: Batch) -> None:
    """Raise ValueError unless the arrays of models that were made together have the shapes of their recipe."""
    recipe, estimate = batch.recipe, batch.estimate
    m = len(batch.keys)
    p, s, sizes = _counts(recipe)
    reported = p + _entries(recipe) + (0 if estimate.phi is None else 1)
    _equal("formulas", s, 0)
    _equal("groups", [one.name for one in estimate.factors], [one.name for one in recipe.factors])
    _equal("ranks", len(estimate.ranks), sum(map(len, sizes)))
    _equal("groups", (len(estimate.model_levels), len(batch.level_sizes)), (len(sizes), len(sizes)))
    _shaped("beta", estimate.beta, m, p)
    _shaped("phi", estimate.phi, m)
    _shaped("report", estimate.report, m, reported)
    _shaped("report_vcov", estimate.report_vcov, m, reported, reported)
    for name in ("loglik", "loglik_saturated", "n_obs", "null_loglik", "decrement", "smallest", "evaluations",
                 "row_passes"):  # fmt: skip
        _shaped(name, getattr(estimate, name), m)
    k = 0 if estimate.covariance_vcov is None else estimate.covariance_vcov.shape[-1]
    _shaped("df_satterthwaite", estimate.df_satterthwaite, m, p)
    _shaped("covariance_vcov", estimate.covariance_vcov, m, k, k)
    _shaped("vcov_derivative", estimate.vcov_derivative, m, k, p, p)
    _shaped("moments", batch.moments, m, 5)
    _shaped("paired", batch.paired.values, m, len(batch.paired.names))
    for name in ("n_rows", "missing", "untried"):
        _shaped(name, getattr(batch.dropped, name), m)
    for marks in batch.dropped.where.values():
        _shaped("missing", marks, m)
    levels = zip(recipe.factors, estimate.factors, estimate.model_levels, batch.level_sizes, sizes, strict=True)
    for factor, own, counts, observations, sized in levels:
        g = factor.levels.height
        _shaped("model_levels", counts, m)
        _equal("levels", (int(counts.sum()), int(counts.min(initial=1)) > 0), (g, True))
        _shaped("level_sizes", observations, g)
        _check_factor(factor, own, sized, slopes=(p,), models=(m,))
    _check_between(estimate.factors)


def _check_factor(
    recipe: FactorRecipe, own: FactorEstimate, sized: list[int], slopes: tuple[int, ...], models: tuple[int, ...] = ()
) -> None:
    """The numbers of a factor; slopes: for how many coefficients modes may have them."""
    r, g = sum(sized), recipe.levels.height
    _equal("terms", list(own.term_names), [c.name for term in recipe.terms for c in term.columns])
    _equal("structures", list(own.structures), [term.structure for term in recipe.terms])
    _shaped("modes", own.modes, r, g)
    _shaped("mode_covariance", own.mode_covariance, r, r, g)
    found = _slopes(own)
    _shaped("mode_slope", own.mode_slope, r, slopes[-1] if found is None or found not in slopes else found, g)
    _equal("covariances", len(own.covariances), len(sized))
    for matrix, size in zip(own.covariances, sized, strict=True):
        _shaped("covariance", matrix, *models, size, size)


def _check_between(factors: Sequence[FactorEstimate]) -> None:
    """The covariances between levels of different factors."""
    sizes = {own.name: own.modes.shape for own in factors}
    for factor in factors:
        for one in factor.between:
            _equal("another factor", [name for name in (one.other,) if name not in sizes or name == factor.name], [])
            (r, g), (other_r, other_g), n = sizes[factor.name], sizes[one.other], len(one.own)
            _shaped("covariance between factors", one.covariance, r, other_r, n)
            _shaped("levels between factors", one.its, n)
            for codes, levels in ((one.own, g), (one.its, other_g)):
                if n and not (codes.min() >= 0 and codes.max() < levels):
                    msg = "covariances between factors are of levels that these do not have"
                    raise ValueError(msg)


def _counts(recipe: Recipe) -> tuple[int, int, list[list[int]]]:
    """Columns kept of mu and of phi, and the numbers of effects of the terms of each group."""
    names = [one.parameter for one in recipe.predictors]
    p, s = (
        sum(kept for name in names if (name == names[0]) is mean for _, kept in recipe.coefficients(name))
        for mean in (True, False)
    )
    return p, s, [[len(term.columns) for term in factor.terms] for factor in recipe.factors]


def _slopes(factor: FactorEstimate) -> int | None:
    """How many coefficients the modes have slopes for: those of the mean, or of all predictors."""
    return None if factor.mode_slope is None or factor.mode_slope.ndim != 3 else factor.mode_slope.shape[1]


def _entries(recipe: Recipe) -> int:
    """Variances and covariances that are reported."""
    terms = [term for factor in recipe.factors for term in factor.terms]
    return sum(len(STRUCTURES[term.structure].vech(len(term.columns))[0]) for term in terms)


def _shaped(name: str, array: npt.NDArray[Any] | None, *shape: int) -> None:
    if array is not None and array.shape != shape:
        msg = f"{name} has the shape {array.shape} instead of {shape}"
        raise ValueError(msg)


def _equal(name: str, found: Sequence[Any] | int, wanted: Sequence[Any] | int) -> None:
    if found != wanted:
        msg = f"{name} are {str(found)[:60]} instead of {str(wanted)[:60]}"
        raise ValueError(msg)
