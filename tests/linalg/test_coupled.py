"""The elimination of levels that know each other: the dense matrix it stands for, and independent levels as a case."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.linalg.coupled import CoupledLevels, Prior, level_by_level, prior_times
from polars_glmm.linalg.elimination import OneFactor
from polars_glmm.linalg.pattern import find_pattern, gather_blocks
from polars_glmm.linalg.scaling import scaled_plus_identity

LEVELS, SIZES, CELLS = (7, 4), (2, 1), 15


def problem(seed=0):
    """Pattern, Λ'Z'WZΛ + I in blocks, and Z'WZ as a dense matrix, effect by effect and level by level."""
    rng = np.random.default_rng(seed)
    codes = (np.sort(rng.integers(0, LEVELS[0] - 1, CELLS)), rng.integers(0, LEVELS[1], CELLS))  # one is not met
    pairs = np.unique(np.stack(codes), axis=1)
    codes = tuple(pairs)
    pattern = find_pattern(codes, LEVELS, SIZES)
    root = rng.normal(size=(2, 2, pairs.shape[1]))
    cells = np.einsum("abC,cbC->acC", root, root)
    factors = [rng.normal(size=(2, r)) for r in SIZES]
    whole = np.zeros((sum(r * g for r, g in zip(SIZES, LEVELS, strict=True)),) * 2)
    for c in range(pairs.shape[1]):
        z = np.zeros((2, len(whole)))
        for f, start in enumerate((0, SIZES[0] * LEVELS[0])):
            for i in range(SIZES[f]):
                z[:, start + i * LEVELS[f] + codes[f][c]] = factors[f][:, i]
        whole += z.T @ cells[..., c] @ z
    return pattern, scaled_plus_identity(gather_blocks(pattern, cells), factors), whole


def covariance(n, seed):
    root = np.random.default_rng(seed).normal(size=(n, n + 2))
    return root @ root.T / n


@pytest.mark.parametrize("known", [(True, False), (False, True), (True, True), (False, False)])
def test_the_factorised_matrix_is_the_dense_one(known):
    pattern, h, whole = problem()
    covariances = [covariance(g, g) if is_known else np.eye(g) for g, is_known in zip(LEVELS, known, strict=True)]
    priors = tuple(Prior.of(a) if is_known else None for a, is_known in zip(covariances, known, strict=True))
    inverses = [np.kron(np.eye(r), np.linalg.inv(a)) for r, a in zip(SIZES, covariances, strict=True)]
    cut = SIZES[0] * LEVELS[0]
    whole[:cut, :cut] += inverses[0]
    whole[cut:, cut:] += inverses[1]
    solver = CoupledLevels(pattern, priors)
    found = solver.factorise(h)
    assert found is not None
    log_prior = sum(r * np.linalg.slogdet(a)[1] for r, a in zip(SIZES, covariances, strict=True))
    assert found.log_determinant == pytest.approx(np.linalg.slogdet(whole)[1] + log_prior, rel=1e-12)
    rng, inverse = np.random.default_rng(1), np.linalg.inv(whole)
    b = [rng.normal(size=(r, 3, g)) for r, g in zip(SIZES, LEVELS, strict=True)]
    flat = np.concatenate([one.transpose(0, 2, 1).reshape(-1, 3) for one in b])
    x = found.solve(b)
    assert_allclose(np.concatenate([one.transpose(0, 2, 1).reshape(-1, 3) for one in x]), inverse @ flat, atol=1e-10)
    blocks = found.inverse()
    for f, start in enumerate((0, cut)):
        for i in range(SIZES[f]):
            for j in range(SIZES[f]):
                rows, columns = (start + k * LEVELS[f] + np.arange(LEVELS[f]) for k in (i, j))
                assert_allclose(blocks.diagonal[f][i, j], inverse[rows, columns], atol=1e-10)
    pair = pattern.pairs[0, 1]
    for i in range(SIZES[0]):
        assert_allclose(blocks.cross[0, 1][i, 0], inverse[i * LEVELS[0] + pair.left, cut + pair.right], atol=1e-10)
    squares = sum(float(np.vdot(v, q)) for v, q in zip(b, prior_times(solver, b), strict=True))
    assert squares == pytest.approx(float(np.einsum("iw,ij,jw->", flat, whole_prior(inverses), flat)), rel=1e-12)


def whole_prior(inverses):
    return np.block([
        [inverses[0], np.zeros((len(inverses[0]), len(inverses[1])))],
        [np.zeros((len(inverses[1]), len(inverses[0]))), inverses[1]],
    ])  # fmt: skip


def test_a_prior_and_its_inverse():
    a = covariance(6, 3)
    prior = Prior.of(a)
    assert prior is not None
    back = prior.inverse()
    assert back is not None
    assert_allclose(back.precision, a, atol=1e-10)
    assert back.log_determinant == pytest.approx(-prior.log_determinant)
    assert Prior.of(-a) is None
    assert not prior.independent(np.arange(6))
    assert Prior(2.0 * np.eye(6), np.eye(6), np.eye(6), 0.0).independent(np.arange(4))
    assert level_by_level(OneFactor(), 1)
    assert not level_by_level(OneFactor(), 2)
