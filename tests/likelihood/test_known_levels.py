"""Level by level at known parameters: sums are the whole, scores are differences, nodes and draws agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import datasets
from polars_glmm.design.known import read_known
from polars_glmm.errors import ModelError
from polars_glmm.likelihood.known.joint import HeldParameters
from polars_glmm.likelihood.known.levels import LevelLikelihood, importance, quadrature

CASES = {
    "sleepstudy": ("Reaction ~ Days + (Days | Subject)", {"method": "ml"}),
    "cbpp": ("cbind(incidence, size - incidence) ~ period + (1 | herd)", {"family": "binomial"}),
    "grouseticks": ("TICKS ~ YEAR + (1 | LOCATION)", {"family": "poisson"}),
    "epil2": ("y ~ Base + Age + (1 | subject)", {"family": "negative_binomial"}),
}


def made(name: str) -> tuple[Any, LevelLikelihood, np.ndarray]:
    formula, arguments = CASES[name]
    frame = datasets.load(name)
    fit = polars_glmm.fit(frame, formula, **arguments)
    family = fit.recipe.spec.family
    levels = LevelLikelihood.of(read_known(fit.recipe, frame, own_levels=False).design, family)
    return fit, levels, levels.psi(HeldParameters.of(fit.estimate, family))


@pytest.mark.parametrize("name", CASES)
def test_the_levels_make_the_likelihood_and_their_scores_cancel(name: str) -> None:
    fit, levels, psi = made(name)
    at = levels.at(psi)
    assert at.value.sum() == pytest.approx(fit.loglik, abs=1e-7)
    assert levels.n_obs.sum() == fit.n_obs
    sizes = np.sqrt(np.square(at.scores).sum(0))
    assert (np.abs(at.scores.sum(0)) < 1e-4 * sizes).all()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("nodes", [1, 7])
def test_scores_are_differences_of_the_levels(name: str, nodes: int) -> None:
    _, levels, psi = made(name)
    found = levels.at(psi, nodes).scores
    for k in range(len(psi)):
        h = 1e-5 * max(abs(psi[k]), 1e-2)
        step = h * np.eye(len(psi))[k]
        difference = (levels.at(psi + step, nodes).value - levels.at(psi - step, nodes).value) / (2 * h)
        assert_allclose(found[:, k], difference, rtol=1e-4, atol=1e-5 * max(np.abs(difference).max(), 1e-3))


def test_a_gaussian_level_is_integrated_by_laplace_itself() -> None:
    fit, levels, psi = made("sleepstudy")
    found = levels.integrals(psi, quadrature(9))
    assert_allclose(found.value, found.laplace, rtol=1e-10)
    assert_allclose(found.mean, fit.estimate.factors[0].modes, atol=1e-8)
    assert_allclose(found.covariance, fit.estimate.factors[0].mode_covariance, rtol=1e-6, atol=1e-9)


def test_draws_agree_with_nodes_within_their_error() -> None:
    _, levels, psi = made("cbpp")
    exact = levels.integrals(psi, quadrature(61))
    drawn = levels.integrals(psi, importance(4000, np.random.default_rng(2)))
    assert (np.abs(drawn.value - exact.value) < 4.0 * drawn.mc_error).all()
    assert (drawn.effective > 3000).all()
    assert_allclose(levels.at(psi, 61).value, exact.value, rtol=1e-10)


def test_every_level_may_have_parameters_of_its_own() -> None:
    _, levels, psi = made("grouseticks")
    each = psi + 0.01 * np.random.default_rng(1).normal(size=(len(levels.n_obs), len(psi)))
    whole = levels.at(each).value
    for g in (0, 7, 40):
        keep = np.arange(len(levels.n_obs)) == g
        assert levels.take(keep).at(each[g]).value[0] == pytest.approx(whole[g], rel=1e-12)


def test_two_factors_have_no_levels_of_their_own() -> None:
    frame = datasets.load("pastes")
    fit = polars_glmm.fit(frame, "strength ~ 1 + (1 | batch) + (1 | batch:cask)")
    known = read_known(fit.recipe, frame, own_levels=False)
    with pytest.raises(ModelError, match="one grouping factor"):
        LevelLikelihood.of(known.design, fit.recipe.spec.family)
