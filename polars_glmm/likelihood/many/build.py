"""Keyed designs → batched estimates: which questions a batch can answer, and by which engine."""

from __future__ import annotations

from polars_glmm.control import Control
from polars_glmm.covariance.structures import STRUCTURES, reduced_rank
from polars_glmm.design.by_key.records import KeyedDesign
from polars_glmm.families.base import Family
from polars_glmm.likelihood.many.estimate import BatchAnswer
from polars_glmm.likelihood.many.fit import estimate_rows_batch
from polars_glmm.likelihood.many.fit_products import estimate_products_batch
from polars_glmm.spec.method import Laplace, Method
from polars_glmm.spec.model import ModelSpec


def answers(spec: ModelSpec) -> bool:
    """Whether there is a batched engine for the family, method and structures of a question."""
    if any(STRUCTURES[term.structure].bends or reduced_rank(term.structure) for term in spec.random):
        return False
    expected = isinstance(spec.method, Laplace) and spec.method.curvature == "expected"
    return spec.family.canonical or not expected


def estimate_batch(design: KeyedDesign, family: Family, method: Method, control: Control) -> list[BatchAnswer]:
    """Estimates of the models of a design, in groups; a model that is in none wants a fit of its own."""
    if family.linear:
        return estimate_products_batch(design, family, method, control)
    return estimate_rows_batch(design, family, method, control)
