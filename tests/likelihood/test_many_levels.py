"""What is done where a dense remainder makes every evaluation dear: scoring in the covariances, average information."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.families.registry import resolve_family
from polars_glmm.likelihood.build import estimate
from polars_glmm.likelihood.parameters.basis import centred
from polars_glmm.likelihood.parameters.curvature import bending
from polars_glmm.likelihood.parameters.effects import map_effects
from polars_glmm.likelihood.products import starts
from polars_glmm.likelihood.products.average_information import average_information
from polars_glmm.likelihood.products.cross import cross_products
from polars_glmm.likelihood.products.engine import ProductEngine
from polars_glmm.linalg import remainder
from polars_glmm.spec.method import ML, REML
from tests.likelihood.models import control, dense_rows, draw, factor

GAUSSIAN = resolve_family("gaussian")


def crossed(structure="us", *, n=300, sizes=(0.8, 0.5), seed=4):
    """Two crossed factors, the first with an intercept and a slope; standard deviations of their effects."""
    rng = np.random.default_rng(seed)
    base, _ = draw("gaussian", n=n, groups=5, r=1)
    g, h, x = rng.integers(0, 30, n), rng.integers(0, 12, n), base.mu.x[1]
    y = 1 + x + sizes[0] * rng.normal(size=30)[g] + sizes[1] * rng.normal(size=12)[h] + rng.normal(size=n)
    first = factor("g", g, [np.ones(n), x], [(structure, 2)])
    return replace(base, y=y, factors=(first, factor("h", h, [np.ones(n)])))


def engine(design, *, reml):
    effects = map_effects(design.factors, design.n_rows)
    basis = centred(design.mu.x)
    return ProductEngine(effects, cross_products(design, basis, effects, 4096), reml, len(basis.a)), effects


@pytest.mark.parametrize("structure", ["us", "diag"])
def test_average_information_is_its_formula(structure):
    """½[y'PV_tPV_sPy/σ² − (∂_t rss)(∂_s rss)/(νσ⁴)] with dense V; V_t by differences of V."""
    design = crossed(structure)
    here, effects = engine(design, reml=True)
    theta = np.random.default_rng(1).uniform(0.3, 1.2, effects.n_theta)
    at = here.pieces(effects.lambdas(theta))
    got = average_information(effects, here.stats, theta, at, here.nu)
    z, x, y, n = dense_rows(design), design.mu.x.T, design.y, design.n_rows

    def v(theta):
        blocks = []
        factors = {f.place: lam for f, lam in zip(effects.factors, effects.lambdas(theta), strict=True)}
        for place, f in enumerate(design.factors):
            outward = next(m.outward for m in effects.factors if m.place == place)
            sigma = outward @ factors[place] @ factors[place].T @ outward.T
            blocks.append(np.kron(np.eye(f.n_levels), sigma))
        whole = np.zeros((z.shape[1],) * 2)
        start = 0
        for block in blocks:
            whole[start : start + len(block), start : start + len(block)] = block
            start += len(block)
        return np.eye(n) + z @ whole @ z.T

    inverse = np.linalg.inv(v(theta))
    p = inverse - inverse @ x @ np.linalg.solve(x.T @ inverse @ x, x.T @ inverse)
    py, nu = p @ y, n - x.shape[1]
    variance = float(y @ py) / nu
    slopes = [(v(theta + 1e-4 * e) - v(theta - 1e-4 * e)) / 2e-4 for e in np.eye(len(theta))]
    rss = np.array([-py @ s @ py for s in slopes])
    quadratic = np.array([[py @ s @ p @ t @ py for t in slopes] for s in slopes])
    assert_allclose(got, 0.5 * (quadratic / variance - np.outer(rss, rss) / (nu * variance**2)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("structure", ["us", "diag"])
def test_a_step_in_the_covariances(structure):
    """(ΛΛ') moves by Λδ' + δΛ' exactly, and a direction that would vanish keeps a share of its size."""
    effects = map_effects(crossed(structure).factors, 300)
    rng = np.random.default_rng(3)
    theta = effects.start() + 0.1 * rng.normal(size=effects.n_theta)
    step = 0.05 * rng.normal(size=effects.n_theta)
    moved = effects.along(theta, step)
    for lam, change, new in zip(effects.lambdas(theta), effects.lambdas(step), effects.lambdas(moved), strict=True):
        expected = lam @ lam.T + lam @ change.T + change @ lam.T
        if structure == "diag":
            expected = np.diag(np.diag(expected))
        assert_allclose(new @ new.T, expected, atol=1e-12)
    for lam, new in zip(effects.lambdas(theta), effects.lambdas(effects.along(theta, -9 * theta)), strict=True):
        assert_allclose(new @ new.T, 0.2**2 * lam @ lam.T, rtol=1e-9, atol=1e-15)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("method", [ML(), REML()], ids=["ML", "REML"])
@pytest.mark.parametrize("sizes", [(0.8, 0.5), (0.8, 0.0), (0.0, 0.0), (20.0, 0.3)])
@pytest.mark.parametrize("structure", ["us", "diag"])
def test_the_dear_route_ends_where_the_cheap_one_does(structure, sizes, method, monkeypatch):
    design = crossed(structure, sizes=sizes)
    cheap = estimate(design, GAUSSIAN, method, control())
    monkeypatch.setattr(remainder, "COSTLY", 0)
    dear = estimate(design, GAUSSIAN, method, control())
    assert_allclose(dear.loglik, cheap.loglik, rtol=1e-10)
    assert_allclose(dear.beta, cheap.beta, rtol=1e-5, atol=1e-7)
    assert_allclose(dear.report, cheap.report, rtol=1e-4, atol=1e-5)
    assert dear.singular == cheap.singular


def test_gradients_from_the_diagonal_of_the_inverse_are_the_others(monkeypatch):
    here, effects = engine(crossed(), reml=False)
    lambdas = effects.lambdas(effects.start(0.7))
    whole = here.pieces(lambdas)
    monkeypatch.setattr(remainder, "COSTLY", 0)
    short = here.pieces(lambdas)
    for one, other in zip(effects.inward(whole.d_log_h), effects.inward(short.d_log_h), strict=True):
        assert_allclose(other, one, rtol=1e-9)
    for one, other in zip(whole.h_inverse, short.h_inverse, strict=True):
        assert_allclose(other, one, rtol=1e-9)


@pytest.mark.parametrize("structure", ["us", "diag"])
def test_bending_is_the_hessian_of_a_linear_function_of_the_covariances(structure):
    """Of tr(SΣ), Σ = ΛΛ', S ≥ 0; nothing of −tr(SΣ), and nothing where a step stays inside the cone."""
    effects = map_effects(crossed(structure).factors, 300)
    rng = np.random.default_rng(6)
    theta = effects.start() + 0.1 * rng.normal(size=effects.n_theta)
    scores = [m @ m.T if structure == "us" else np.diag(np.diag(m) ** 2) for m in (rng.normal(size=(2, 2)), np.eye(1))]

    def value(theta):
        return sum(float(np.vdot(s, lam @ lam.T)) for s, lam in zip(scores, effects.lambdas(theta), strict=True))

    unit = 0.1 * np.eye(len(theta))
    expected = [[value(theta + a + b) - value(theta + a) - value(theta + b) + value(theta) for a in unit] for b in unit]
    lambdas = effects.lambdas(theta)
    slopes = [2.0 * s @ lam for s, lam in zip(scores, lambdas, strict=True)]
    assert_allclose(bending(effects, lambdas, slopes), np.array(expected) / 0.01, atol=1e-9)
    assert_allclose(bending(effects, lambdas, [-s for s in slopes]), 0.0, atol=1e-12)
    assert not bending(effects, lambdas, slopes, 0.1 * theta).any()
    assert_allclose(bending(effects, lambdas, slopes, -0.9 * theta), bending(effects, lambdas, slopes))


def test_standard_deviations_without_their_correlations():
    effects = map_effects(crossed("us").factors, 300)
    theta = np.array([0.8, -0.6, 0.0, 0.02])
    (first, second), (one, other) = effects.lambdas(theta), effects.lambdas(effects.apart(theta))
    assert_allclose(one, np.diag(np.sqrt(np.diag(first @ first.T))))
    assert_allclose(second, 0.02)
    assert_allclose(other, 0.1)


def test_a_factor_alone_starts_where_its_own_model_ends():
    """Of factors that do not disturb each other, as balanced ones are, each alone is nearly the answer."""
    design = crossed("diag")
    here, effects = engine(replace(design, factors=design.factors[1:]), reml=False)
    both, _ = engine(design, reml=False)
    alone = starts.alone(here)
    assert_allclose(starts.alone(both)[-1:], alone, rtol=1e-9)
    objective = here.objective()
    assert objective(alone, None, curvature=False).value < objective(effects.start(), None, curvature=False).value
