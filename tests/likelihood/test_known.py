"""A likelihood at known parameters: the fit's own numbers again, derivatives against differences, dense algebra."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import datasets
from polars_glmm.control import Control
from polars_glmm.design.known import read_known
from polars_glmm.likelihood.known.joint import HeldParameters, KnownModel, known_model

CASES = {
    "sleepstudy": ("Reaction ~ Days + (Days | Subject)", {"method": "ml"}),
    "pastes": ("strength ~ 1 + (1 | batch) + (1 | batch:cask)", {}),
    "cbpp": ("cbind(incidence, size - incidence) ~ period + (1 | herd)", {"family": "binomial"}),
    "grouseticks": ("TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | LOCATION)", {"family": "poisson"}),
    "epil2": ("y ~ Base + Age + (1 | subject)", {"family": "negative_binomial"}),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest) -> tuple[Any, KnownModel]:
    """A fit, and its likelihood at the estimates."""
    formula, arguments = CASES[request.param]
    frame = datasets.load(request.param)
    fit = polars_glmm.fit(frame, formula, **arguments)
    known = read_known(fit.recipe, frame, own_levels=False)
    family = fit.recipe.spec.family
    return fit, known_model(known.design, family, Control(), HeldParameters.of(fit.estimate, family))


def test_modes_and_likelihood_are_those_of_the_fit(pair: tuple[Any, KnownModel]) -> None:
    fit, known = pair
    for found, factor in zip(known.modes(), fit.estimate.factors, strict=True):
        assert_allclose(found.modes, factor.modes, rtol=1e-5, atol=1e-6 * np.abs(factor.modes).max())
        assert_allclose(found.covariance, factor.mode_covariance, rtol=1e-5, atol=1e-9)
    if fit.method != "reml":
        assert known.loglik() == pytest.approx(fit.loglik, abs=1e-6)


def test_slopes_of_the_modes_are_their_differences(pair: tuple[Any, KnownModel]) -> None:
    _, known = pair
    held, slopes = known.held, known.mode_slopes()

    def moved(held: HeldParameters) -> list[np.ndarray]:
        return [found.modes for found in replace(known, held=held).modes()]

    k = 0
    for j in range(len(held.beta)):
        h = 1e-5 * max(abs(held.beta[j]), 1e-2)
        ends = [moved(replace(held, beta=held.beta + s * h * np.eye(len(held.beta))[j])) for s in (1, -1)]
        _same(slopes, ends, h, k)
        k += 1
    for place, root in enumerate(held.roots):
        for i, j in zip(*np.tril_indices(len(root)), strict=True):
            h = 1e-5 * max(abs(root[i, i]), 1e-2)
            ends = []
            for s in (1, -1):
                other = root.copy()
                other[i, j] += s * h
                ends.append(moved(replace(held, roots=(*held.roots[:place], other, *held.roots[place + 1 :]))))
            _same(slopes, ends, h, k)
            k += 1
    if held.gamma is not None:
        ends = [moved(replace(held, gamma=held.gamma + s * 1e-5)) for s in (1, -1)]
        _same(slopes, ends, 1e-5, k)
        k += 1
    assert all(slope.shape[1] == k for slope in slopes)


def _same(slopes: tuple[np.ndarray, ...], ends: list[list[np.ndarray]], h: float, k: int) -> None:
    for slope, up, down in zip(slopes, *ends, strict=True):
        difference = (up - down) / (2 * h)
        assert_allclose(slope[:, k], difference, rtol=1e-4, atol=1e-4 * max(np.abs(difference).max(), 1e-6))


def test_leverage_is_the_hat_matrix_of_the_mixed_model_equations(pair: tuple[Any, KnownModel]) -> None:
    """Dense: diag of A C⁻¹ A'W with A = [X, Z], C = A'WA + blockdiag(0, Σ⁻¹), W the weights at the modes."""
    _, known = pair
    design, leverage = known.model.held_in_memory(), known.leverage()
    columns = [*design.mu.x]
    blocks = []
    for factor, root in zip(design.factors, known.held.roots, strict=True):
        for level in range(factor.n_levels):
            columns += list(factor.z * (factor.codes == level))
            blocks.append(np.linalg.inv(root @ root.T))
    size, p = len(columns), len(design.mu.x)
    prior = np.zeros((size, size))
    at = p
    for block in blocks:
        prior[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    a = np.array(columns)
    weight = known.working_rows().weight[0, 0]
    c = (a * weight) @ a.T + prior
    hat = np.einsum("kn,kn->n", a, np.linalg.solve(c, a)) * weight
    assert_allclose(leverage.value, hat, rtol=1e-7)


def test_a_saturated_fixed_part_has_leverage_one() -> None:
    frame = pl.DataFrame({"y": [1.0, 2.0, 4.0, 3.0], "x": ["a", "b", "c", "c"]})
    fit = polars_glmm.fit(frame, "y ~ x")
    known = read_known(fit.recipe, frame, own_levels=False)
    held = HeldParameters.of(fit.estimate, fit.recipe.spec.family)
    found = known_model(known.design, fit.recipe.spec.family, Control(), held).leverage()
    assert_allclose(found.value, [1.0, 1.0, 0.5, 0.5], rtol=1e-12)
