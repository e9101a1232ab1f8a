"""Whether ℓ rises from a boundary is a question to the whole null space, not to single directions of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from polars_glmm.covariance.structures import STRUCTURES
from polars_glmm.likelihood.optimum.boundary import leaving
from polars_glmm.likelihood.parameters.curvature import Gradient
from polars_glmm.likelihood.parameters.effects import Effects, FactorMap, TermMap
from polars_glmm.likelihood.parameters.state import FreeEntries, Rank, State, settle

NONE_FREE = FreeEntries(np.empty(0, np.intp), np.empty(0, np.intp))


def one_term(structure: str, r: int) -> Effects:
    names = tuple(f"z{k}" for k in range(r))
    n_theta = STRUCTURES[structure].size(r)
    term = TermMap(0, r, structure, slice(0, n_theta), names, (0,) * r, ("mu",) * r)
    factor = FactorMap("g", np.eye(r), np.eye(r), (term,), 1, np.zeros(1, np.intp), 0)
    return Effects((factor,), None, n_theta)


def linear_in_sigma(slope: np.ndarray) -> Callable[[State], Gradient]:
    """ℓ = tr(S Σ), with ∂ℓ/∂F = 2SF."""

    def gradient(state: State) -> Gradient:
        f = state.factors[0]
        return Gradient(float(np.trace(slope @ f @ f.T)), state.beta, [2.0 * slope @ f], None, 0.0)

    return gradient


def at_zero(r: int) -> State:
    return State(np.zeros(1), (np.zeros((r, r)),), (NONE_FREE,))


def test_a_boundary_is_left_along_the_steepest_variance_though_each_axis_falls() -> None:
    slope = np.array([[-1.0, 3.0], [3.0, -1.0]])
    rise = leaving(one_term("us", 2), at_zero(2), [Rank(0, 0, 0)], 1.0, linear_in_sigma(slope))
    assert rise is not None
    assert rise.score == pytest.approx(2.0)
    sigma = rise.away.factors[0] @ rise.away.factors[0].T
    assert sigma[0, 1] / np.sqrt(sigma[0, 0] * sigma[1, 1]) == pytest.approx(1.0)


def test_a_diagonal_term_can_only_leave_along_its_axes() -> None:
    slope = np.array([[-1.0, 3.0], [3.0, -1.0]])
    assert leaving(one_term("diag", 2), at_zero(2), [Rank(0, 0, 0)], 1.0, linear_in_sigma(slope)) is None
    rise = leaving(one_term("diag", 2), at_zero(2), [Rank(0, 0, 0)], 1.0, linear_in_sigma(np.diag([0.5, 2.0])))
    assert rise is not None
    assert rise.score == pytest.approx(2.0)
    assert np.flatnonzero(rise.away.factors[0]).tolist() == [3]


def test_a_matrix_of_rank_one_is_left_within_its_null_space() -> None:
    rng = np.random.default_rng(5)
    f = np.zeros((3, 3))
    f[:, 0] = rng.normal(size=3)
    null = np.linalg.svd(f)[0][:, 1:]
    half = rng.normal(size=(3, 3))
    slope = half + half.T
    expected = np.linalg.eigvalsh(null.T @ slope @ null)[-1]
    slope += (1.0 - min(expected, 0.0)) * np.eye(3)
    state = State(np.zeros(1), (f,), (NONE_FREE,))
    rise = leaving(one_term("us", 3), state, [Rank(0, 0, 1)], 1.0, linear_in_sigma(slope))
    assert rise is not None
    assert rise.score == pytest.approx(float(np.linalg.eigvalsh(null.T @ slope @ null)[-1]))
    added = rise.away.factors[0] @ rise.away.factors[0].T - f @ f.T
    assert np.abs(f[:, 0] @ added).max() < 1e-12
    assert leaving(one_term("us", 3), state, [Rank(0, 0, 1)], 1.0, linear_in_sigma(slope - 99.0 * np.eye(3))) is None


@pytest.mark.parametrize("angles", [(-0.37, -1.5707974, 1.574), (1.5707, 0.4, -2.0), (0.2, 0.3, 1.57079632)])
@pytest.mark.parametrize("structure", ["homtoep", "toep"])
def test_settling_moves_no_covariance_by_more_than_its_tolerance(structure: str, angles: tuple[float, ...]) -> None:
    """Also where a partial autocorrelation of nearly ±1 leaves the angles behind it to rounding."""
    effects, r = one_term(structure, 4), 4
    theta = np.concatenate([np.full(STRUCTURES[structure].size(r) - 3, 0.7), angles])
    (before,) = effects.lambdas(theta)
    (after,) = settle(effects, np.zeros(1), theta, [1e-8])[0].factors
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=2e-4)
