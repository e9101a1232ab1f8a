"""The names of array types, and the letters that state their shapes.

n rows · p fixed columns · d distinct random-effect columns · r random effects per level · G levels of a factor ·
C cells (distinct combinations of levels) · Q quadrature nodes · P parameters.  Trailing axes are batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Vec: TypeAlias = npt.NDArray[np.float64]
Mat: TypeAlias = npt.NDArray[np.float64]
Cube: TypeAlias = npt.NDArray[np.float64]
IntVec: TypeAlias = npt.NDArray[np.intp]
CodeVec: TypeAlias = npt.NDArray[np.int32]
BoolVec: TypeAlias = npt.NDArray[np.bool_]
Scalar: TypeAlias = Any
"""A value of a key column: whatever Polars hands back for its dtype."""

FamilyName: TypeAlias = Literal[
    "gaussian", "binomial", "poisson", "gamma", "inverse_gaussian", "negative_binomial", "normal", "nb",
    "inverse.gaussian",
]  # fmt: skip
LinkName: TypeAlias = Literal[
    "identity", "log", "logit", "probit", "cloglog", "cauchit", "inverse", "sqrt", "inverse_squared", "1/mu^2",
]  # fmt: skip
MethodName: TypeAlias = Literal["reml", "ml", "laplace", "agq"]
Kind: TypeAlias = Literal[
    "response", "link", "mu", "phi", "zi", "zero", "df", "power", "class", "cumulative", "mean", "median", "survival",
    "hazard", "cumulative_hazard",
]  # fmt: skip
"""What a prediction is of."""
Random: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]]
"""Random effects that count: "all", "none", grouping factors, or one of these for each parameter that has some."""
Times: TypeAlias = str | Sequence[float] | float | None
"""A column of times, or times at which every row is asked: one row for each then."""
