"""A design, a family and a method → an Estimate: the one place that chooses between engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from polars_glmm.control import Control
from polars_glmm.covariance.fields import Field
from polars_glmm.covariance.structures import field_of
from polars_glmm.design.apart import Apart
from polars_glmm.design.records import Design
from polars_glmm.errors import ConvergenceError
from polars_glmm.families.base import Family
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.given import NOTHING, Given, OfFit, check_names, meant, spelled_out
from polars_glmm.likelihood.held import hold_fixed_effects, labels_of, of_levels, restore_fixed_effects
from polars_glmm.likelihood.identify import Findings, Residual, RowFacts, check
from polars_glmm.likelihood.marginal.fit import estimate_rows
from polars_glmm.likelihood.model import Model, prepare
from polars_glmm.likelihood.objective import objective
from polars_glmm.likelihood.optimum.boundary import SNAP_LOSS
from polars_glmm.likelihood.parameters.effects import TermMap
from polars_glmm.likelihood.parameters.names import parameter_names
from polars_glmm.likelihood.products.absorbed import absorbed, may_absorb, with_absorbed
from polars_glmm.likelihood.products.engine import ProductModel, product_engine
from polars_glmm.likelihood.products.fit import estimate_products
from polars_glmm.likelihood.products.heteroscedastic import estimate_strata, no_bound_notes
from polars_glmm.likelihood.products.strata import strata_of
from polars_glmm.likelihood.products.structure import ProductStructure
from polars_glmm.likelihood.residual.fit import estimate_residual
from polars_glmm.likelihood.rows.structure import ApartStructure, RowStructure
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.spec.method import Method

__all__ = ["estimate", "estimate_summaries", "objective"]


def estimate(
    design: Design | Apart,
    family: Family,
    method: Method,
    control: Control,
    given: Given = NOTHING,
    *,
    by_rows: bool = False,
) -> Estimate:
    """The fitted model: exact from cross-products, of all rows or per residual variance, or by passes over rows.

    by_rows   keeps gaussian models with a formula of phi from their sums
    Raises IdentifiabilityError where the design cannot determine the model, ConvergenceError where no answer was
    reached, ModelError for given parameters that do not exist or cannot be held.
    """
    with one_blas_thread():
        given = replace(given, fixed=of_levels(design, family, given.fixed))
        reduced = hold_fixed_effects(design, given.fixed, family.curve)
        by_rows = by_rows and bool(design.further)
        model = prepare(reduced, family, method, control, by_rows=by_rows, held=given.fixed)
        residual = Residual(design.phi is None, "phi" in given.fixed, given.fixed)
        findings = check(_structure(model), family, residual=residual)
        by_other_sums = model.restricted and not model.exact and model.stored is None
        if by_other_sums and may_absorb(model.effects, len(model.names)):
            gone = absorbed(product_engine(model).stats, model.effects)
            findings = with_absorbed(findings, model.effects, gone, at_zero=False)
        given = spelled_out(model, meant(model, given))
        check_names(model, given, known=labels_of(design.predictors))
        engine = estimate_products if model.exact else _estimate_rows if model.residual is None else estimate_residual
        found = _highest(lambda start: engine(model, findings, start), model, given)
        return restore_fixed_effects(found, design.mu.labels, design.further, given.fixed)


def _highest(estimated: Callable[[Given], Estimate], model: Model | ProductModel, given: Given) -> Estimate:
    """The estimate from a start; where the likelihood may have several hills, the higher one of two.

    Smooth fields have them: their ranges begin at the distance of neighbours, and at that of the farthest points.
    """
    found = estimated(given)
    if not any(_smooth(t) for factor in model.effects.factors for t in factor.terms):
        return found
    blocks, names = parameter_names(model)
    far: dict[str, float] = {}
    for block in blocks:
        if (field := _smooth(block.term)) is not None:
            far |= dict.fromkeys(names[block.cor], field.layout(block.term.r).far)
    if isinstance(given.start, OfFit) or any(name in given.asked for name in far):
        return found
    try:
        other = estimated(replace(given, start={**given.start, **far}))
    except ConvergenceError:
        return found
    better = other.converged and (not found.converged or other.loglik > found.loglik + SNAP_LOSS)
    return other if better else found


def _smooth(term: TermMap) -> Field | None:
    """The field of a term, where that is smooth."""
    field = field_of(term.structure)
    return field if field is not None and field.powers[0] > 1.0 else None


def _estimate_rows(model: Model, findings: Findings, given: Given) -> Estimate:
    """From sums per residual variance where these are few, unless they have lost the digits; else from rows."""
    strata = strata_of(model) if model.few_variances else None
    found = None if strata is None else estimate_strata(model, strata, findings, given)
    found = estimate_rows(model, findings, given) if found is None else found
    if not model.spread_by_rows:
        return found
    return replace(found, notes=(*found.notes, *no_bound_notes(model, strata, given)))


def _structure(model: Model) -> RowFacts:
    if model.stored is not None:
        return ApartStructure(model.stored.rows(effects=True), model.n_obs, len(model.names), model.effects)
    return RowStructure(model.held_in_memory(), model.effects)


def estimate_summaries(model: ProductModel, names: tuple[str, ...], given: Given = NOTHING) -> Estimate:
    """The fitted gaussian model of cross-products alone; those of `names` that it lacks are held in them."""
    with one_blas_thread():
        residual = Residual(constant=True, held="phi" in given.fixed, fixed=given.fixed)
        findings = check(ProductStructure(model.stats, model.effects), model.family, residual=residual)
        given = spelled_out(model, meant(model, given))
        check_names(model, given, known=names)
        found = _highest(lambda start: estimate_products(model, findings, start), model, given)
        return restore_fixed_effects(found, names, (), given.fixed)
