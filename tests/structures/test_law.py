"""Laws of every covariance structure: slopes by differences, all matrices positive semidefinite, and back again."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.covariance.correlations import CORRELATIONS
from polars_glmm.covariance.structures import STRUCTURES, natural_slopes, placed, plain_name

CASES = (
    *((name, r) for name in STRUCTURES if name != "rr" for r in (2, 4)),
    ("rr(1)", 3), ("rr(2)", 4), ("rr(3)", 3),
    ("exp(0.0 0.0, 1.0 0.5, 3.0 0.2)", 3), ("mat(0.8; 0.0 0.0, 1.0 0.5, 3.0 0.2)", 3), ("gau(0.0, 0.1, 2.0)", 3),
    ("ar1(0.0, 1.0, 4.0, 6.0)", 4), ("hetar1(0.0, 2.0, 3.0)", 3), ("ou(0.0, 0.3, 1.0, 2.7)", 4),
)  # fmt: skip
IDS = [f"{name}-{r}" for name, r in CASES]


def inside(name, r, seed=0):
    """Parameters away from limits."""
    rng = np.random.default_rng(seed)
    structure = STRUCTURES[name]
    theta = rng.uniform(0.4, 1.3, structure.size(r))
    return theta * (1.0 if structure.bends else rng.choice([-1.0, 1.0], len(theta)))


def test_every_structure_that_a_formula_writes_is_a_case():
    assert {plain_name(name) for name, _ in CASES} == set(STRUCTURES)


@pytest.mark.parametrize(("name", "r"), CASES, ids=IDS)
def test_tangents_are_the_slopes_of_the_factor_and_pull_is_their_transpose(name, r):
    structure, theta = STRUCTURES[name], inside(name, r)
    tangent = structure.tangent(theta, r)
    assert tangent.shape == (structure.size(r), r, r)
    for j, step in enumerate(1e-6 * np.eye(len(theta))):
        slope = (structure.factor(theta + step, r) - structure.factor(theta - step, r)) / 2e-6
        assert_allclose(tangent[j], slope, atol=2e-9)
    gradient = np.random.default_rng(1).normal(size=(r, r))
    assert_allclose(structure.pull(theta, r, gradient), np.tensordot(tangent, gradient, 2), rtol=1e-12)


@pytest.mark.parametrize(("name", "r"), CASES, ids=IDS)
def test_a_covariance_matrix_gives_its_parameters_back(name, r):
    structure = STRUCTURES[name]
    for seed in range(3):
        factor = structure.factor(3.0 * inside(name, r, seed) if seed else inside(name, r), r)
        sigma = factor @ factor.T
        again = structure.factor(structure.of(sigma), r)
        assert_allclose(again @ again.T, sigma, atol=1e-9 * np.trace(sigma))
        assert np.linalg.matrix_rank(sigma, tol=1e-9 * np.trace(sigma)) <= structure.rank(r)


@pytest.mark.parametrize(("name", "r"), CASES, ids=IDS)
def test_no_parameters_lead_out_of_the_family(name, r):
    """A search knows no bounds, so wherever it goes is a matrix of the family: its reported entries determine it."""
    structure, rng = STRUCTURES[name], np.random.default_rng(3)
    for _ in range(5):
        factor = structure.factor(rng.normal(size=structure.size(r)), r)
        sigma = factor @ factor.T
        again = structure.factor(structure.of(sigma), r)
        assert_allclose(again @ again.T, sigma, atol=1e-7 * np.trace(sigma))


@pytest.mark.parametrize(("name", "r"), [case for case in CASES if STRUCTURES[case[0]].bends], ids=str)
def test_the_reported_entries_determine_the_matrix(name, r):
    structure, theta = STRUCTURES[name], inside(name, r)
    rows, columns = structure.vech(r)
    assert len(rows) == structure.size(r)

    def sigma(at):
        factor = structure.factor(at, r)
        return factor @ factor.T

    slopes = natural_slopes(structure, sigma(theta))
    for step in 1e-6 * np.eye(len(theta)):
        change = (sigma(theta + step) - sigma(theta - step)) / 2e-6
        assert_allclose(np.tensordot(change[rows, columns], slopes, 1), change, atol=1e-7)
    gradient = np.random.default_rng(2).normal(size=(r, r))
    sd = np.sqrt(np.diag(sigma(theta)))
    k = structure.scales(r)
    pairs = structure.root.pairs(r)
    natural = np.array([*sd[:k], *(sigma(theta)[i, j] / (sd[i] * sd[j]) for i, j in pairs)])
    if structure.field is not None:
        natural[k] = structure.length(sigma(theta))
    assert_allclose(structure.natural(natural[:k], natural[k:], r), structure.of(sigma(theta)), atol=1e-9)
    got = structure.natural_gradient(structure.of(sigma(theta)), r, gradient)

    def value(at):
        return float(np.vdot(gradient, structure.factor(structure.natural(at[:k], at[k:], r), r)))

    expected = [(value(natural + h) - value(natural - h)) / 2e-6 for h in 1e-6 * np.eye(len(natural))]
    assert_allclose(got, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "r"), [case for case in CASES if STRUCTURES[case[0]].bends], ids=str)
def test_at_a_limit_the_matrix_is_even_in_what_is_held_there(name, r):
    structure = STRUCTURES[name]
    k = structure.scales(r)
    for place in range(k, structure.size(r)):
        for limit in (0.0, 0.5 * np.pi, -0.5 * np.pi):
            theta = inside(name, r)
            theta[place] = limit
            settled, held = structure.settled(theta, r, 1e-8)
            if not held[place]:
                continue
            step = np.zeros_like(theta)
            step[place] = 0.3
            one, other = (structure.factor(settled + sign * step, r) for sign in (1.0, -1.0))
            assert_allclose(one @ one.T, other @ other.T, atol=1e-12)
    nothing = np.append(np.zeros(k), np.full(structure.size(r) - k, 0.4))
    settled, held = structure.settled(nothing, r, 1e-8)
    assert held.all()
    assert not structure.factor(settled, r).any()


def test_compound_symmetry_reaches_from_its_lower_bound_to_one():
    for r in (2, 3, 7):
        structure = STRUCTURES["homcs"]
        for rho in (-1.0 / (r - 1.0), -0.3 / (r - 1.0), 0.0, 0.5, 1.0):
            factor = structure.factor(structure.natural(np.ones(1), np.array([rho]), r), r)
            assert_allclose(factor @ factor.T, np.where(np.eye(r) > 0, 1.0, rho), atol=1e-12)
        assert np.isnan(structure.natural(np.ones(1), np.array([-1.01 / (r - 1.0)]), r)[1])


@pytest.mark.parametrize(("name", "other"), [("homcs", "cs"), ("ar1", "ar1"), ("homtoep", "toep")])
def test_correlations_are_those_that_residuals_have(name, other):
    r, structure = 5, STRUCTURES[name]
    theta = inside(name, r)
    theta[0] = 1.0
    factor = structure.factor(theta, r)
    sigma = factor @ factor.T
    i, j = np.array(structure.root.pairs(r)).T
    same = CORRELATIONS[other]
    places = np.arange(r, dtype=float)[:, None]
    assert_allclose(sigma, same.matrix(same.working(sigma[i, j], r), places, r), atol=1e-10)


def test_places_without_gaps_need_no_words():
    assert placed("ar1", (3.0, 4.0, 5.0)) == "ar1"
    assert placed("ar1", (3.0, 4.0, 6.0)) == "ar1(0.0, 1.0, 3.0)"
    gaps, whole = STRUCTURES["ar1(0.0, 1.0, 3.0)"], STRUCTURES["ar1"]
    theta = np.array([1.2, -0.7])
    full = whole.factor(theta, 4)
    some = gaps.factor(theta, 3)
    keep = np.ix_([0, 1, 3], [0, 1, 3])
    assert_allclose(some @ some.T, (full @ full.T)[keep], atol=1e-12)


def test_times_one_step_apart_are_an_order():
    chain, order = STRUCTURES["ou(0.0, 2.0, 4.0)"], STRUCTURES["ar1"]
    one = chain.factor(chain.natural(np.ones(1), np.array([0.6]), 3), 3)
    other = order.factor(order.natural(np.ones(1), np.array([0.6]), 3), 3)
    assert_allclose(one @ one.T, other @ other.T, atol=1e-12)


NOTHING = (
    "nothing", "ar1(2.0, 1.0)", "ar1(0.0, 0.5)", "rr(0)", "rr(1.5)", "ou(inf)", "cs(1)", "us(", "exp(1.0)",
    "exp(0.0, 0.0)", "gau(0.0 1.0, 2.0)", "mat(0; 0.0, 1.0)", "exp(nan, 1.0)",
)  # fmt: skip


@pytest.mark.parametrize("text", NOTHING)
def test_a_spelling_that_is_no_structure_is_none(text):
    assert text not in STRUCTURES
