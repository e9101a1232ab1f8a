"""Exact ML and REML against dense algebra, and their gradients against differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.families.registry import resolve_family
from polars_glmm.likelihood.build import estimate, objective
from polars_glmm.spec.method import ML, REML, Laplace
from tests.likelihood.models import control, dense_covariance, dense_rows, draw, factor

GAUSSIAN = resolve_family("gaussian")


def dense_loglik(design, sigmas, sigma, *, reml, beta=None):
    """The textbook formula with V = ZGZ' + σ²W⁻¹; β̂ by GLS unless given."""
    w = np.ones(design.n_rows) if design.precision is None else design.precision
    z, x = dense_rows(design), design.mu.x.T
    v = z @ dense_covariance(design, sigmas) @ z.T + sigma**2 * np.diag(1 / w)
    y = design.y if design.mu.offset is None else design.y - design.mu.offset
    inverse = np.linalg.inv(v)
    m = x.T @ inverse @ x
    beta = np.linalg.solve(m, x.T @ inverse @ y) if beta is None else beta
    e = y - x @ beta
    n = design.n_rows - (x.shape[1] if reml else 0)
    extra = np.linalg.slogdet(m)[1] if reml else 0.0
    return -0.5 * (n * np.log(2 * np.pi) + np.linalg.slogdet(v)[1] + extra + e @ inverse @ e), beta, np.linalg.inv(m)


def designs():
    rng = np.random.default_rng(2)
    base, _ = draw("gaussian", n=90, groups=9, r=2)
    n = base.n_rows
    x = base.mu.x[1]
    codes = rng.integers(0, 8, n)
    label = (rng.random(n) < 0.4).astype(float)
    one = np.ones(n)
    return {
        "(1+x|g)": base,
        "(x||g)": replace(base, factors=(factor("g", codes, [one, x + 40.0], [("diag", 2)]),)),
        "(0+x|g)": replace(base, factors=(factor("g", codes, [x + 1000.0]),)),
        "(0+f|g)": replace(base, factors=(factor("g", codes, [label, 1 - label]),)),
        "(1|g)+(0+x|g)": replace(base, factors=(factor("g", codes, [one, x], [("us", 1), ("us", 1)]),)),
        "crossed": replace(base, factors=(factor("g", codes, [one]), factor("h", rng.integers(0, 6, n), [one, x]))),
        "nested": replace(base, factors=(factor("g", codes // 3, [one]), factor("h", codes, [one]))),
        "precision, offset": replace(base, precision=rng.uniform(0.5, 2, n), mu=replace(base.mu, offset=5 * x)),
        "0+x": replace(base, mu=replace(base.mu, x=base.mu.x[1:], names=("x",))),
        "0+f": replace(base, mu=replace(base.mu, x=np.array([label, 1 - label, x]), names=("a", "b", "x"))),
        "x·1000": replace(base, mu=replace(base.mu, x=base.mu.x * [[1.0], [1000.0]])),
    }


@pytest.mark.parametrize("method", [ML(), REML()], ids=["ML", "REML"])
@pytest.mark.parametrize("name", list(designs()))
def test_the_estimate_is_the_dense_optimum(name, method):
    """ℓ, β̂ and vcov(β̂) at the estimate equal dense algebra there; a step in any covariance lowers the dense ℓ."""
    design = designs()[name]
    fitted = estimate(design, GAUSSIAN, method, control())
    sigmas = []
    for f, e in zip(design.factors, fitted.factors, strict=True):
        whole, at = np.zeros((len(f.z),) * 2), 0
        for s in e.covariances:
            whole[at : at + len(s), at : at + len(s)] = s
            at += len(s)
        sigmas.append(whole)
    reml = isinstance(method, REML)
    loglik, beta, vcov = dense_loglik(design, sigmas, fitted.phi, reml=reml)
    assert_allclose(fitted.loglik, loglik, rtol=1e-9)
    assert_allclose(fitted.beta, beta, rtol=1e-6, atol=1e-8)
    assert_allclose(fitted.vcov_fixed, vcov, rtol=1e-5, atol=1e-12)
    for k in range(len(sigmas)):
        for share in (0.98, 1.02):
            moved = [s * share if i == k else s for i, s in enumerate(sigmas)]
            assert dense_loglik(design, moved, fitted.phi, reml=reml)[0] <= loglik + 1e-9
    for share in (0.99, 1.01):
        assert dense_loglik(design, sigmas, fitted.phi * share, reml=reml)[0] <= loglik + 1e-9


@pytest.mark.parametrize("method", [ML(), REML()], ids=["ML", "REML"])
@pytest.mark.parametrize("name", ["(1+x|g)", "(x||g)", "crossed", "nested", "precision, offset", "x·1000"])
def test_the_objective_and_its_gradient_at_a_point(name, method):
    """ℓ at arbitrary parameters is the dense formula; its gradient is its difference quotient."""
    design = designs()[name]
    goal = objective(design, GAUSSIAN, method, control())
    rng = np.random.default_rng(0)
    x = np.array(
        [
            0.4
            if n.startswith("cor(")
            else rng.uniform(0.5, 1.0)
            if n.startswith("sd(")
            else 1.3
            if n == "phi"
            else 0.2
            for n in goal.names
        ]
    )
    steps = 1e-5 * np.maximum(np.abs(x), 1e-3)
    numeric = [
        (goal.loglik(x + h * e) - goal.loglik(x - h * e)) / (2 * h) for h, e in zip(steps, np.eye(len(x)), strict=True)
    ]
    assert_allclose(goal.gradient(x), numeric, rtol=2e-5, atol=1e-5 * np.abs(numeric).max())


@pytest.mark.parametrize("name", ["(1+x|g)", "crossed", "nested"])
def test_laplace_of_a_gaussian_is_exact(name):
    """The integrand is gaussian, so Laplace must give ML itself: two engines, one number."""
    design = designs()[name]
    exact = estimate(design, GAUSSIAN, ML(), control())
    modelled = replace(
        design, further=(replace(design.mu, x=np.ones((1, design.n_rows)), names=("Intercept",), parameter="phi"),)
    )
    laplace = estimate(modelled, GAUSSIAN, Laplace(), control())
    assert_allclose(laplace.loglik, exact.loglik, rtol=1e-9)
    assert_allclose(laplace.beta, exact.beta, rtol=1e-5, atol=1e-6)
    assert_allclose(np.exp(laplace.gamma[0]), exact.phi, rtol=1e-5)


def test_means_of_1e7_cost_no_digits():
    design = designs()["(1+x|g)"]
    far = replace(design, y=design.y + 1e7)
    near, shifted = (estimate(d, GAUSSIAN, REML(), control()) for d in (design, far))
    assert_allclose(shifted.loglik, near.loglik, rtol=1e-8)
    assert_allclose(shifted.beta - [1e7, 0.0], near.beta, atol=1e-6)


def test_a_covariate_of_1e8_plus_noise_fits_as_its_noise_does():
    design = designs()["(1+x|g)"]
    shift = 1e8
    x = design.mu.x + np.array([[0.0], [shift]])
    far = replace(design, mu=replace(design.mu, x=x), factors=(replace(design.factors[0], z=x),))
    noise = x[1] - shift
    near_x = np.array([np.ones_like(noise), noise])
    near = replace(design, mu=replace(design.mu, x=near_x), factors=(replace(design.factors[0], z=near_x),))
    a, b = estimate(far, GAUSSIAN, ML(), control()), estimate(near, GAUSSIAN, ML(), control())
    assert_allclose(a.loglik, b.loglik, rtol=1e-7)
    assert_allclose(a.beta[1], b.beta[1], rtol=1e-5)
    assert_allclose(a.factors[0].covariances[0][1, 1], b.factors[0].covariances[0][1, 1], rtol=1e-4)
