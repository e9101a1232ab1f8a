"""What later rooms will need of an objective, each in fewer than 25 lines: the seams are where they should be."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from polars_glmm.likelihood.build import estimate
from polars_glmm.likelihood.given import Given
from polars_glmm.likelihood.marginal.divided import divide, over
from polars_glmm.likelihood.marginal.engine import row_engine
from polars_glmm.likelihood.model import prepare
from polars_glmm.likelihood.products.engine import product_engine
from polars_glmm.likelihood.rows.holder import OverLevels
from polars_glmm.likelihood.rows.shards import AtHand, Shard, Shards
from polars_glmm.linalg.differences import jacobian
from polars_glmm.spec.method import REML, Laplace
from tests.likelihood.models import control, draw

MOST_LINES = 25


def profile_interval(design, family, name):
    """95 % profile-likelihood interval of one fixed effect: where 2(ℓ̂ − ℓ_p(β)) = 3.841."""
    best = estimate(design, family, Laplace(), control())
    k = design.mu.names.index(name)
    at, se = best.beta[k], np.sqrt(best.vcov_fixed[k, k])

    def fall(value):
        held = estimate(design, family, Laplace(), control(), Given(fixed={name: value}))
        return 2.0 * (best.loglik - held.loglik) - 3.841458820694124

    ends = []
    for side in (-1.0, 1.0):
        low, high = at, at + side * 4.0 * se
        for _ in range(40):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if fall(middle) < 0 else (low, middle)
        ends.append(0.5 * (low + high))
    return ends


def bootstrap(design, family, draws, rng):
    """Refits to responses simulated at the estimate: draws of β̂."""
    best = estimate(design, family, Laplace(), control())
    out = []
    for _ in range(draws):
        eta = best.beta @ design.mu.x
        for f, e in zip(design.factors, best.factors, strict=True):
            b = np.linalg.cholesky(e.covariances[0]) @ rng.normal(size=(len(f.z), f.n_levels))
            eta = eta + (f.z * b[:, f.codes]).sum(0)
        y = rng.poisson(family.mean(eta)).astype(float)
        out.append(estimate(replace(design, y=y), family, Laplace(), control()).beta)
    return np.array(out)


def vcov_slopes(design, family, theta):
    """∂ vcov(β̂)/∂θ at σ = 1, (len(theta), p, p), by differences of a pure function of θ."""
    model = prepare(design, family, REML(), control())
    engine = product_engine(model)

    def vcov(t):
        pieces = engine.pieces(model.effects.lambdas(t))
        return model.x.outward_covariance(pieces.m_inverse).ravel()

    p = len(design.mu.names)
    return jacobian(vcov, theta, np.full(len(theta), 1e-5)).reshape(-1, p, p)


@pytest.mark.parametrize("work", [profile_interval, bootstrap, vcov_slopes], ids=lambda f: f.__name__)
def test_it_takes_few_lines(work):
    lines = [line for line in inspect.getsource(work).splitlines() if line.strip()]
    assert len(lines) < MOST_LINES


def test_a_profile_interval_brackets_the_wald_one():
    design, family = draw("poisson", n=160, groups=12)
    best = estimate(design, family, Laplace(), control())
    low, high = profile_interval(design, family, "x")
    se = np.sqrt(best.vcov_fixed[1, 1])
    assert_allclose([low, high], best.beta[1] + np.array([-1.96, 1.96]) * se, atol=0.1 * se)


@pytest.mark.slow
def test_bootstrap_spread_is_the_standard_error():
    design, family = draw("poisson", n=160, groups=12)
    best = estimate(design, family, Laplace(), control())
    spread = bootstrap(design, family, 60, np.random.default_rng(1)).std(0)
    assert_allclose(spread, np.sqrt(np.diag(best.vcov_fixed)), rtol=0.35)


def test_vcov_slopes_are_those_of_satterthwaite():
    """The analytic derivatives in the estimate are in the state's own coordinates: scalar Λ, so the same up to σ²."""
    design, family = draw("gaussian", n=160, groups=12, seed=3)
    best = estimate(design, family, REML(), control())
    assert not best.singular
    model = prepare(design, family, REML(), control())
    scale = 1.0 / model.effects.factors[0].outward[0, 0]
    theta = np.array([np.sqrt(best.factors[0].covariances[0][0, 0]) * scale / best.phi])
    assert_allclose(vcov_slopes(design, family, theta)[0] * best.phi**2, best.vcov_derivative[0], rtol=1e-4, atol=1e-9)


def response_by_level(model, parts):
    """A question to all rows: the mean response of every level, of rows together or in shards."""

    def totals(blocks):
        blocks = list(blocks)
        sums = np.concatenate([block.sums(block.data.y) for block in blocks])
        return [[sums], [np.concatenate([block.counts for block in blocks])]]

    engine = row_engine(model)
    if parts:
        made = divide(model, engine, parts)
        engine = over(engine, Shards(AtHand([Shard(rows) for rows in made.shards]), made.whole))
    (sums,), (counts,) = engine.marginal.rows.per_level(OverLevels(totals))
    return sums / counts


def test_a_pass_takes_few_lines_and_every_holder_answers_it():
    design, family = draw("poisson", n=300, groups=17)
    model = prepare(design, family, Laplace(), control())
    wanted = np.bincount(design.factors[0].codes, design.y) / np.bincount(design.factors[0].codes)
    for parts in (0, 1, 4):
        assert_allclose(response_by_level(model, parts), wanted, rtol=1e-14)
