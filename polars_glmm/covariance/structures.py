"""Covariance structures whose working parameters are the entries of the factor Λ itself.

ℓ is even in every column of Λ, so there are no bounds, and a zero variance is an interior stationary point
(Bates et al. 2015, §3.1, without the constraint on the diagonal).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from polars_glmm.typing import IntVec, Mat, Vec


class Structure(Protocol):
    """A family of covariance matrices of r effects, by a factor.

    correlated   any covariance matrix is one of them: a linear map of the effects leaves the family as it is
    """

    name: str
    correlated: bool

    def entries(self, r: int) -> tuple[IntVec, IntVec]:
        """Rows and columns of Λ (r, r) that the parameters fill, in their order."""

    def vech(self, r: int) -> tuple[IntVec, IntVec]:
        """Rows and columns of Σ that are free and therefore reported."""


@lru_cache(maxsize=64)
def _lower_triangle(r: int) -> tuple[IntVec, IntVec]:
    rows, columns = np.tril_indices(r)
    rows.setflags(write=False)
    columns.setflags(write=False)
    return rows, columns


def _diagonal(r: int) -> tuple[IntVec, IntVec]:
    rows, columns = np.diag_indices(r)
    return rows, columns


@dataclass(frozen=True, slots=True)
class Unstructured:
    """Any covariance matrix: the lower triangle of Λ by rows."""

    name = "us"
    correlated = True

    def entries(self, r: int) -> tuple[IntVec, IntVec]:
        return _lower_triangle(r)

    def vech(self, r: int) -> tuple[IntVec, IntVec]:
        return _lower_triangle(r)


@dataclass(frozen=True, slots=True)
class Diagonal:
    """Independent effects: the diagonal of Λ."""

    name = "diag"
    correlated = False

    def entries(self, r: int) -> tuple[IntVec, IntVec]:
        return _diagonal(r)

    def vech(self, r: int) -> tuple[IntVec, IntVec]:
        return _diagonal(r)


STRUCTURES: dict[str, Structure] = {"us": Unstructured(), "diag": Diagonal()}


def fill(structure: Structure, theta: Vec, r: int) -> Mat:
    """Λ (r, r) from its parameters."""
    factor = np.zeros((r, r))
    factor[structure.entries(r)] = theta
    return factor


def canonical_factor(sigma: Mat, tolerance: float) -> tuple[Mat, int]:
    """A factor F (r, k) of Σ and its rank k; eigenvalues up to `tolerance` count as zero."""
    values, vectors = np.linalg.eigh(sigma)
    keep = values > tolerance
    return vectors[:, keep] * np.sqrt(values[keep]), int(keep.sum())
