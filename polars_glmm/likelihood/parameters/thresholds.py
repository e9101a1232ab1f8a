"""The basis of thresholds: that of the columns of their formula, for each of the numbers that make the thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from polars_glmm.design.records import Predictor
from polars_glmm.errors import ModelError
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.likelihood.parameters.parts import Part
from polars_glmm.typing import BoolVec, Mat, Vec


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds(Basis):
    """Columns (q, n) as in their own basis; coefficients τ (q·p₀,), one column after the other, with α = Jτ of each.

    a (q·p₀, q·p₀)   acts on them;  jacobian   J (C − 1, p₀)
    """

    jacobian: Mat = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def n_categories(self) -> int:
        return len(self.jacobian) + 1


def thresholds(columns: Basis, jacobian: Mat) -> Thresholds:
    """The basis of thresholds in each column of a basis."""
    each = np.eye(jacobian.shape[1])
    a = np.asarray(np.kron(columns.a, each), dtype=np.float64)
    return Thresholds(columns.x, columns.shift, columns.scale, a, None, columns.mix, jacobian=jacobian)


def cut(basis: Basis, predictor: Predictor) -> Basis:
    """The basis of a predictor's coefficients from that of its columns."""
    return basis if predictor.cuts is None else thresholds(basis, predictor.cuts.jacobian)


def place_thresholds(
    part: Part, asked: Mapping[str, float], fixed: Mapping[str, float], values: Vec, held: BoolVec
) -> None:
    """Given thresholds in the search vector: all of them, or, without a formula of their own, any.

    Raises ModelError for some of those with a formula.
    """
    basis = part.basis
    assert basis is not None  # thresholds have one
    there = [name for name in part.labels if name in asked]
    whole = np.array([asked.get(name, np.nan) for name in part.labels])
    plain = bool((basis.a == np.eye(len(basis.a))).all())
    if there and not plain and (len(there) < len(part.labels) or any(name in fixed for name in there)):
        msg = "With a formula of their own all thresholds are given in start=, or none, and none is held."
        raise ModelError(msg)
    values[part.own] = whole if plain else basis.inward(whole)
    held[part.own] = [name in fixed for name in part.labels]
