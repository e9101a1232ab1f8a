"""Keyed designs → batched estimates: which questions a batch can answer, and by which engine."""

from __future__ import annotations

from polars_glmm.control import Control
from polars_glmm.covariance.structures import STRUCTURES, reduced_rank
from polars_glmm.design.by_key.records import KeyedDesign
from polars_glmm.families.base import Family
from polars_glmm.likelihood.many.begin import BatchStart
from polars_glmm.likelihood.many.estimate import BatchAnswer, OptimaAnswer
from polars_glmm.likelihood.many.fit import estimate_rows_batch, optima_of_rows
from polars_glmm.likelihood.many.fit_products import estimate_products_batch, optima_of_products
from polars_glmm.spec.method import AGQ, Laplace, Method
from polars_glmm.spec.model import ModelSpec


def answers(spec: ModelSpec) -> bool:
    """Whether there is a batched engine for the family, method and structures of a question."""
    if any(STRUCTURES[term.structure].bends or reduced_rank(term.structure) for term in spec.random):
        return False
    if isinstance(spec.method, AGQ) and len({frozenset(term.keys) for term in spec.random}) > 1:
        return False
    expected = isinstance(spec.method, Laplace) and spec.method.curvature == "expected"
    return spec.family.canonical or not expected


def estimate_batch(design: KeyedDesign, family: Family, method: Method, control: Control) -> list[BatchAnswer]:
    """Estimates of the models of a design, in groups; a model that is in none wants a fit of its own."""
    if family.linear:
        return estimate_products_batch(design, family, method, control)
    return estimate_rows_batch(design, family, method, control)


def optima_batch(
    design: KeyedDesign, family: Family, method: Method, control: Control, begin: BatchStart
) -> list[OptimaAnswer]:
    """Optima of the models of a design without what tables read, from where another fit ended."""
    if family.linear:
        return optima_of_products(design, family, method, control, begin)
    return optima_of_rows(design, family, method, control, begin)
