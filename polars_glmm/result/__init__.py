"""The records with verbs: a fit, a collection of fits, products, an explanation."""

from polars_glmm.result.collection import FitCollection
from polars_glmm.result.fitted import Fit

__all__ = ["Fit", "FitCollection"]
