"""A response given its linear predictors: families, links, and their derivatives."""

from __future__ import annotations

from polars_glmm.families.base import Density, Expected, Family, Rows
from polars_glmm.families.beta import Beta
from polars_glmm.families.beta_binomial import BetaBinomial
from polars_glmm.families.binomial import Binomial
from polars_glmm.families.categorical import Categorical
from polars_glmm.families.cumulative import Cumulative
from polars_glmm.families.event_times import Exponential, LogLogistic, Weibull
from polars_glmm.families.gamma import Gamma
from polars_glmm.families.gaussian import Gaussian
from polars_glmm.families.generalized_poisson import GeneralizedPoisson
from polars_glmm.families.gompertz import Gompertz
from polars_glmm.families.inverse_gaussian import InverseGaussian
from polars_glmm.families.lognormal import Lognormal
from polars_glmm.families.negative_binomial import NegativeBinomial
from polars_glmm.families.negative_binomial1 import NegativeBinomial1
from polars_glmm.families.poisson import Poisson
from polars_glmm.families.registry import resolve_family
from polars_glmm.families.student_t import StudentT
from polars_glmm.families.truncated import TruncatedNegativeBinomial, TruncatedNegativeBinomial1, TruncatedPoisson
from polars_glmm.families.tweedie import Tweedie

__all__ = [
    "Beta", "BetaBinomial", "Binomial", "Categorical", "Cumulative", "Density", "Expected", "Exponential", "Family",
    "Gamma", "Gaussian", "GeneralizedPoisson", "Gompertz", "InverseGaussian", "LogLogistic", "Lognormal",
    "NegativeBinomial", "NegativeBinomial1", "Poisson", "Rows", "StudentT", "TruncatedNegativeBinomial",
    "TruncatedNegativeBinomial1", "TruncatedPoisson", "Tweedie", "Weibull", "resolve_family",
]  # fmt: skip
