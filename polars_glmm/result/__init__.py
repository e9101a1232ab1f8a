"""The answers: a fit, a collection of fits, and the flow from a call to them."""

from polars_glmm.result.call import Call
from polars_glmm.result.collection import FitCollection
from polars_glmm.result.fitted import Fit

__all__ = ["Call", "Fit", "FitCollection"]
