"""The basis of thresholds: that of the columns of their formula, for each of the numbers that make the thresholds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from polars_glmm.design.records import Predictor
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.typing import Mat


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
