"""The basis of thresholds: that of the columns of their formula, for each of the numbers that make the thresholds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from polars_glmm.design.records import Predictor
from polars_glmm.errors import ModelError
from polars_glmm.likelihood.parameters.basis import Basis
from polars_glmm.likelihood.parameters.parts import Part
from polars_glmm.typing import BoolVec, Mat, Vec

_SAME = 1e-9
"""How near to equal thresholds are that are one number."""


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds(Basis):
    """Columns (q, n) as in their own basis; coefficients τ (q·p₀,), one column after the other, with α = Jτ of each.

    a (q·p₀, q·p₀)   acts on them;  jacobian   J (C − 1, p₀)
    """

    jacobian: Mat = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def n_categories(self) -> int:
        return len(self.jacobian) + 1


def thresholds(columns: Basis, jacobian: Mat, mean: Basis | None = None) -> Thresholds:
    """The basis of thresholds in each column of a basis; they take up what the columns of the mean are centred on."""
    each = np.eye(jacobian.shape[1])
    a = np.asarray(np.kron(columns.a, each), dtype=np.float64)
    constant, carried = constant_threshold(columns, jacobian), None if mean is None else mean.carried
    beside = None if carried is None or constant is None else np.outer(constant, carried)
    return Thresholds(columns.x, columns.shift, columns.scale, a, None, columns.mix, beside=beside, jacobian=jacobian)


def constant_threshold(columns: Basis, jacobian: Mat) -> Vec | None:
    """The coefficients (q·p₀,) that make all thresholds of all rows 1, or None where none do."""
    same = np.linalg.lstsq(jacobian, np.ones(len(jacobian)), rcond=None)[0]
    if columns.constant is None or not np.allclose(jacobian @ same, 1.0, rtol=0.0, atol=_SAME):
        return None
    return np.kron(columns.constant, same)


def bases_of(
    predictors: Sequence[Predictor], made: Callable[..., Basis], held: Collection[str]
) -> tuple[tuple[Basis, ...], tuple[Basis, ...]]:
    """The bases of the columns of predictors, that of the mean first, and of their coefficients.

    Columns of a mean beside thresholds have no constant: thresholds take up their means, so that columns far from
    zero are not nearly that constant. Where a threshold is held it stays a coordinate, and they stand as they are.

    made   the basis of a predictor's columns, elsewhere= whether the constant is made there
    """
    further, elsewhere = [made(one, elsewhere=False) for one in predictors[1:]], False
    for basis, one in zip(further, predictors[1:], strict=True):
        if one.cuts is not None and not any(name in held for name in one.labels):
            elsewhere = constant_threshold(basis, one.cuts.jacobian) is not None
    mean = made(predictors[0], elsewhere=elsewhere)
    of_coefficients = [
        basis if one.cuts is None else thresholds(basis, one.cuts.jacobian, mean)
        for basis, one in zip(further, predictors[1:], strict=True)
    ]
    return (mean, *further), (mean, *of_coefficients)


def place_thresholds(
    part: Part, mean: Part, asked: Mapping[str, float], fixed: Mapping[str, float], values: Vec, held: BoolVec
) -> None:
    """Given thresholds in the search vector: all of them, or, without a formula of their own, any.

    Where they take up the centres of the columns of the mean, they are nothing without its coefficients.

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
    if basis.beside is not None:
        whole = whole - basis.beside @ np.array([asked.get(name, np.nan) for name in mean.labels])
    values[part.own] = whole if plain else basis.inward(whole)
    held[part.own] = [name in fixed for name in part.labels]
