"""The linear predictors of a model, and the one vector of coefficients that they share out among themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg as sl

from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.typing import Mat

PARAMETERS = ("mu", "phi")
"""Parameters of a family by the place of their linear predictor."""


def label(name: str, parameter: str, between: str = " ") -> str:
    """What a random effect is called where those of several predictors stand together: "Intercept", "phi Intercept"."""
    return name if parameter == PARAMETERS[0] else f"{parameter}{between}{name}"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One linear predictor: that of the mean, or of log phi.

    parameter   of the family: "mu", "phi"
    names       of its coefficients, as the user named the columns; of a constant the parameter's own
    basis       its columns, or None for a constant: one coefficient and no column
    own         its coefficients in the vector of all
    """

    parameter: str
    names: tuple[str, ...]
    basis: Basis | None
    own: slice

    @property
    def constant(self) -> bool:
        """No formula: one number for all rows."""
        return self.basis is None

    @property
    def outward(self) -> Mat:
        """Coefficients as named = outward · those in the computing basis, (p, p)."""
        return np.eye(1) if self.basis is None else self.basis.a.T


def make_parts(named: Sequence[tuple[str, tuple[str, ...], Basis | None]]) -> tuple[Part, ...]:
    """Parts from parameter, names and basis of each, their coefficients one after the other."""
    found, start = [], 0
    for parameter, names, basis in named:
        size = 1 if basis is None else len(basis.a)
        found.append(Part(parameter, names, basis, slice(start, start + size)))
        start += size
    return tuple(found)


def outward(parts: Sequence[Part]) -> Mat:
    """All coefficients as named from those in the computing bases, block diagonal (P, P)."""
    return np.asarray(sl.block_diag(*(part.outward for part in parts)))
