"""A design, a family and a method → an Estimate: the one place that chooses between engines."""

from __future__ import annotations

from polars_glmm.control import Control
from polars_glmm.design.records import Design
from polars_glmm.families.base import Family
from polars_glmm.likelihood.estimate import Estimate
from polars_glmm.likelihood.fit_products import estimate_products
from polars_glmm.likelihood.fit_rows import estimate_rows
from polars_glmm.likelihood.given import NOTHING, Given, check_names, hold_fixed_effects, restore_fixed_effects
from polars_glmm.likelihood.identify import check
from polars_glmm.likelihood.model import prepare
from polars_glmm.likelihood.natural import objective
from polars_glmm.linalg.threads import one_blas_thread
from polars_glmm.spec.method import Method

__all__ = ["estimate", "objective"]


def estimate(design: Design, family: Family, method: Method, control: Control, given: Given = NOTHING) -> Estimate:
    """The fitted model: exact from cross-products, or by Laplace or quadrature over rows.

    Raises IdentifiabilityError where the design cannot determine the model, ConvergenceError where no answer was
    reached, ModelError for given parameters that do not exist or cannot be held.
    """
    with one_blas_thread():
        reduced = hold_fixed_effects(design, given.fixed)
        model = prepare(reduced, family, method, control, by_rows=given.holds_spread(design))
        findings = check(reduced, family, model.effects)
        check_names(model, given, known=design.mu.names)
        engine = estimate_products if model.exact else estimate_rows
        found = engine(model, findings, given)
        return restore_fixed_effects(found, design.mu.names, given.fixed)
