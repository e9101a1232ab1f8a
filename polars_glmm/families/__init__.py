"""A response given its linear predictors: families, links, and their derivatives."""

from __future__ import annotations

from polars_glmm.families.base import Density, Expected, Family, Rows
from polars_glmm.families.binomial import Binomial
from polars_glmm.families.gamma import Gamma
from polars_glmm.families.gaussian import Gaussian
from polars_glmm.families.inverse_gaussian import InverseGaussian
from polars_glmm.families.negative_binomial import NegativeBinomial
from polars_glmm.families.poisson import Poisson
from polars_glmm.families.registry import resolve_family

__all__ = [
    "Binomial", "Density", "Expected", "Family", "Gamma", "Gaussian", "InverseGaussian", "NegativeBinomial",
    "Poisson", "Rows", "resolve_family",
]  # fmt: skip
