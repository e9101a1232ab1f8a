"""Mixed-effects models on Polars frames: `df.glmm.fit("y ~ x + (1 | g)")`.

Importing this registers `.glmm` on DataFrame and LazyFrame and costs little more than importing Polars; numerics are
imported when they are first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polars_glmm.control import Control, Memory, Rows, Search
from polars_glmm.errors import (
    ColumnError,
    ConvergenceError,
    DataChangedError,
    DatasetError,
    FitWarning,
    FormulaError,
    GlmmError,
    IdentifiabilityError,
    ModelError,
    ModelFileError,
    ResourceError,
    ResponseError,
    UnknownLevelError,
)
from polars_glmm.namespace import glmm
from polars_glmm.notes import Note

if TYPE_CHECKING:
    from polars_glmm import datasets
    from polars_glmm.api import anova, explain, fit, objective, products, read_fit, read_products
    from polars_glmm.families import (
        Beta,
        BetaBinomial,
        Binomial,
        Categorical,
        Cumulative,
        Exponential,
        Gamma,
        Gaussian,
        GeneralizedPoisson,
        Gompertz,
        InverseGaussian,
        LogLogistic,
        Lognormal,
        NegativeBinomial,
        NegativeBinomial1,
        Poisson,
        StudentT,
        TruncatedNegativeBinomial,
        TruncatedNegativeBinomial1,
        TruncatedPoisson,
        Tweedie,
        Weibull,
    )
    from polars_glmm.frames.episodes import split_times
    from polars_glmm.inference.robust import CR
    from polars_glmm.prediction.grid import grid
    from polars_glmm.prediction.predictions import predict
    from polars_glmm.prediction.ranef_join import with_ranef
    from polars_glmm.prediction.residuals import augment
    from polars_glmm.prediction.simulations import simulate
    from polars_glmm.result import Fit, FitCollection
    from polars_glmm.result.products import Products
    from polars_glmm.result.reported import report
    from polars_glmm.result.several import average, compare, drift, pool, pool_test, power, rlrt
    from polars_glmm.spec.method import AGQ, ML, REML, Laplace
    from polars_glmm.spec.relation import KnownLevels

    __version__: str

_LAZY = {
    **dict.fromkeys(
        ("anova", "explain", "fit", "objective", "products", "read_fit", "read_products"), "polars_glmm.api"
    ),
    "CR": "polars_glmm.inference.robust",
    "split_times": "polars_glmm.frames.episodes",
    "predict": "polars_glmm.prediction.predictions",
    "with_ranef": "polars_glmm.prediction.ranef_join",
    "augment": "polars_glmm.prediction.residuals",
    "grid": "polars_glmm.prediction.grid",
    "simulate": "polars_glmm.prediction.simulations",
    **dict.fromkeys(
        (
            "Beta", "BetaBinomial", "Binomial", "Categorical", "Cumulative", "Exponential", "Gamma", "Gaussian",
            "GeneralizedPoisson", "Gompertz", "InverseGaussian", "LogLogistic", "Lognormal", "NegativeBinomial",
            "NegativeBinomial1", "Poisson", "StudentT", "TruncatedNegativeBinomial", "TruncatedNegativeBinomial1",
            "TruncatedPoisson", "Tweedie", "Weibull",
        ),
        "polars_glmm.families",
    ),
    **dict.fromkeys(("AGQ", "ML", "REML", "Laplace"), "polars_glmm.spec.method"),
    "KnownLevels": "polars_glmm.spec.relation",
    **dict.fromkeys(("Fit", "FitCollection"), "polars_glmm.result"),
    "Products": "polars_glmm.result.products",
    "report": "polars_glmm.result.reported",
    **dict.fromkeys(
        ("average", "compare", "drift", "pool", "pool_test", "power", "rlrt"), "polars_glmm.result.several"
    ),
}

__all__ = [
    "AGQ",
    "CR",
    "ML",
    "REML",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "Categorical",
    "ColumnError",
    "Control",
    "ConvergenceError",
    "Cumulative",
    "DataChangedError",
    "DatasetError",
    "Exponential",
    "Fit",
    "FitCollection",
    "FitWarning",
    "FormulaError",
    "Gamma",
    "Gaussian",
    "GeneralizedPoisson",
    "GlmmError",
    "Gompertz",
    "IdentifiabilityError",
    "InverseGaussian",
    "KnownLevels",
    "Laplace",
    "LogLogistic",
    "Lognormal",
    "Memory",
    "ModelError",
    "ModelFileError",
    "NegativeBinomial",
    "NegativeBinomial1",
    "Note",
    "Poisson",
    "Products",
    "ResourceError",
    "ResponseError",
    "Rows",
    "Search",
    "StudentT",
    "TruncatedNegativeBinomial",
    "TruncatedNegativeBinomial1",
    "TruncatedPoisson",
    "Tweedie",
    "UnknownLevelError",
    "Weibull",
    "__version__",
    "anova",
    "augment",
    "average",
    "compare",
    "datasets",
    "drift",
    "explain",
    "fit",
    "glmm",
    "grid",
    "objective",
    "pool",
    "pool_test",
    "power",
    "predict",
    "products",
    "read_fit",
    "read_products",
    "report",
    "rlrt",
    "simulate",
    "split_times",
    "with_ranef",
]


def __getattr__(name: str) -> Any:
    """Import what was asked for and keep it, so that the next look-up is an ordinary one."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("polars-glmm")
        except PackageNotFoundError:  # run from a source tree that was never installed
            value = "0+unknown"
    elif name == "datasets":
        value = import_module("polars_glmm.datasets")
    elif name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
    else:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
