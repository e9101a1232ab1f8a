"""The batched search is the search: the same points, the same evaluations, function by function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.likelihood.many.plain import NoModes
from polars_glmm.optimize.many import BatchEvaluation, minimise_all
from polars_glmm.optimize.search import Evaluation, minimise
from polars_glmm.typing import BoolVec, Mat, Vec

M, P, N = 9, 3, 40


class Logistic:
    """−ℓ of M logistic regressions with a quartic penalty; `wrong` scales the curvature they offer."""

    def __init__(self, x: np.ndarray, y: Mat, wrong: float) -> None:  # type: ignore[type-arg]
        self.x, self.y, self.wrong = x, y, wrong

    def take(self, keep: BoolVec) -> Logistic:
        return Logistic(self.x[keep], self.y[keep], self.wrong)

    def __call__(self, b: Mat, warm: Any, *, curvature: bool) -> BatchEvaluation:
        eta = np.einsum("mnp,mp->mn", self.x, b)
        mu = 1.0 / (1.0 + np.exp(-eta))
        value = np.logaddexp(0.0, eta).sum(1) - (self.y * eta).sum(1) + 0.01 * (b**4).sum(1)
        value = np.where(np.abs(b).max(1) > 50.0, np.inf, value)
        gradient = np.einsum("mnp,mn->mp", self.x, mu - self.y) + 0.04 * b**3
        h = self.wrong * np.einsum("mnp,mn,mnq->mpq", self.x, mu * (1.0 - mu), self.x) if curvature else None
        return BatchEvaluation(value, gradient, h, NoModes())


@pytest.mark.parametrize("wrong", [1.0, 0.02, 30.0])
def test_functions_together_are_searched_as_alone(wrong: float) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((M, N, P)) * np.array([1.0, 3.0, 0.2])
    y = (rng.random((M, N)) < 0.7).astype(float)
    start, limit = rng.standard_normal((M, P)) * 3.0, np.full((M, P), 4.0)
    together, _ = minimise_all(Logistic(x, y, wrong), start, tolerance=1e-10, max_evaluations=200, limit=limit)
    for m in range(M):
        own = Logistic(x[m : m + 1], y[m : m + 1], wrong)

        def one(b: Vec, warm: Any, *, curvature: bool, own: Logistic = own) -> Evaluation:
            e = own(b[None], None, curvature=curvature)
            h = None if e.curvature is None else e.curvature[0]
            return Evaluation(float(e.value[0]), e.gradient[0], h, None)

        alone = minimise(one, start[m], tolerance=1e-10, max_evaluations=200, limit=limit[m])
        assert together.settled[m]
        assert together.evaluations[m] == alone.evaluations
        assert_allclose(together.x[m], alone.x, atol=1e-9)
        assert_allclose(together.curvature[m], alone.curvature, rtol=1e-6, atol=1e-9)
        assert_allclose(together.decrement[m], alone.decrement, rtol=1e-3, atol=1e-14)
