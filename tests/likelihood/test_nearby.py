"""Gradients at several points in one question are those of one point after the other, however the rows are held."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm  # noqa: F401  # registers the namespace
from polars_glmm.likelihood.marginal.modes import Point
from polars_glmm.likelihood.marginal.nearby import Nearby
from polars_glmm.likelihood.marginal.value import Evaluate
from polars_glmm.likelihood.rows import copies
from polars_glmm.likelihood.rows.blocks import at_hand
from polars_glmm.likelihood.rows.shards import AtHand, Shard, Shards, cut
from polars_glmm.spec.method import AGQ, REML, Laplace
from tests.likelihood.models import draw
from tests.likelihood.test_marginal import engine_of, point


def _asked(model, engine, m=4):
    """Points near one, the evaluation there, and slopes of modes that lead to none of them exactly."""
    rng = np.random.default_rng(3)
    x = point(model)
    p = model.n_coefficients
    points = []
    for step in rng.normal(scale=0.02, size=(m, len(x))):
        moved = x + step
        points.append(Point(moved[:p], engine.effects.effective(engine.effects.lambdas(moved[p:]))))
    here = Point(x[:p], engine.effects.effective(engine.effects.lambdas(x[p:])))
    return here, points


def _same(found, alone, reml):
    for one, other in zip(found, alone, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-11)
        assert_allclose(one.beta, other.beta, rtol=1e-7, atol=1e-8)
        for own, its in zip(one.factors, other.factors, strict=True):
            assert_allclose(own, its, rtol=1e-7, atol=1e-8)
        assert (one.restricted is None) is not reml


@pytest.mark.parametrize(
    ("family", "link", "method", "structure"),
    [
        ("binomial", "logit", Laplace(), {"r": 1}),
        ("binomial", "cloglog", AGQ(5), {"r": 2}),
        ("poisson", "log", AGQ(4), {"r": 1}),
        ("gamma", "inverse", Laplace(curvature="expected"), {"r": 1}),
        ("negative_binomial", "log", Laplace(), {"r": 2}),
        ("gaussian", "identity", REML(), {"r": 1}),
        ("poisson", "log", Laplace(), {"r": 1, "others": ((7, 1, False),)}),
    ],
)
def test_one_question_about_several_points_has_the_answers_of_one_each(family, link, method, structure):
    design, made = draw(family, link, seed=5, **structure)
    for block in (10_000, 16):  # one unit that is repeated; several, of which each is
        model, engine = engine_of(design, made, method, block=block)
        rows = at_hand(engine.marginal.rows)
        here, points = _asked(model, engine)
        how = engine.marginal.how
        warm = Evaluate(how, here, None, gradient=True, information=None).of(rows).warm
        found = Nearby(how, points, warm, None, np.zeros(len(points))).of(rows)
        alone = [Evaluate(how, at, None, gradient=True, information=None).of(rows) for at in points]
        _same(found, alone, reml=isinstance(method, REML))
        if len(structure) == 1:
            own, whole = cut(rows, 3)
            spread = Shards(AtHand([Shard(part) for part in own]), whole)
            kept = spread.ask(Evaluate(how, here, None, gradient=True, information=None)).warm
            _same(spread.ask(Nearby(how, points, kept, None, np.zeros(len(points)))), alone, isinstance(method, REML))


RNG = np.random.default_rng(11)
G, N = 12, 8
X = RNG.normal(size=G * N)
ETA = 0.4 + 0.5 * X + np.repeat(RNG.normal(size=G), N)
MU = np.exp(ETA)
FRAME = pl.DataFrame({
    "g": np.repeat([f"g{k}" for k in range(G)], N), "x": X, "y": RNG.poisson(MU) * (RNG.random(G * N) > 0.3),
    "c": RNG.poisson(MU * RNG.gamma(np.repeat(RNG.gamma(3, size=G), N))),
    "o": np.digitize(2 * ETA + RNG.logistic(size=G * N), [-1, 2]),
    "p": RNG.beta(2 * MU * np.exp(0.8 * X * np.repeat(RNG.normal(size=G), N)), 2.0), "n": np.full(G * N, 6),
    "s": RNG.binomial(6, RNG.beta(3 * MU / (1 + MU), 3 / (1 + MU))), "w": RNG.normal(ETA, 0.5),
    "time": RNG.exponential(MU), "event": RNG.random(G * N) > 0.2,
})  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("formula", "options"),
    [
        (("y ~ x + (1 | g)", "zi ~ 1"), {"family": "poisson"}),
        (("c ~ x + (1 | g)", "phi ~ x"), {"family": "negative_binomial"}),
        (("c ~ x + (1 |p| g)", "phi ~ 1 + (1 |p| g)"), {"family": "negative_binomial"}),
        ("p ~ x + (1 + x | g)", {"family": "beta"}),
        ("s ~ x + (1 | g)", {"family": "beta_binomial", "trials": "n"}),
        ("o ~ x + (1 | g)", {"family": "cumulative"}),
        ("surv(time, event) ~ x + (1 | g)", {"family": "weibull"}),
        ("w ~ x + (1 | g)", {"family": "student_t"}),
        ("s ~ x + offset(0.1 * x) + (1 | g)", {"family": "binomial", "trials": "n", "method": AGQ(7)}),
    ],
)
def test_standard_errors_do_not_hang_on_copies(formula, options, monkeypatch):
    """A Hessian made of copies side by side is that of one point after the other."""
    both, formulas = [], (formula,) if isinstance(formula, str) else formula
    for largest in (0, 10_000):
        monkeypatch.setattr(copies, "LARGEST", largest)
        both.append(FRAME.glmm.fit(*formulas, **options))
    one, other = both
    assert one.loglik == pytest.approx(other.loglik, abs=1e-8)
    for column in ("estimate", "std_error"):
        assert_allclose(one.fixef()[column], other.fixef()[column], rtol=1e-5, atol=1e-7)
