"""Integrals over the random effects of single levels, against quadrature, and against limits that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from polars_glmm.likelihood.marginal.engine import row_engine
from polars_glmm.likelihood.marginal.level_integrals import integrated
from polars_glmm.likelihood.marginal.modes import Point
from polars_glmm.likelihood.marginal.walks import changes
from polars_glmm.likelihood.model import Model, prepare
from polars_glmm.spec.method import AGQ, Laplace
from tests.likelihood.models import control, draw


def point(model: Model, *sizes: float, growth: float = 1.0) -> Point:
    """Fixed effects (0.2, 0.1), times a growth, and Λ = size · I for every factor in the order of the model."""
    beta = growth * np.array([0.2, 0.1])
    lambdas = [size * np.eye(f.r) for size, f in zip(sizes, model.effects.factors, strict=True)]
    log_phi = [0.4] * (model.n_coefficients - 2)
    return Point(np.append(beta, log_phi), model.effects.effective(lambdas))


def laplace_of(design, family, **options) -> Model:
    return prepare(design, family, Laplace(), control(**options), by_rows=True)


@pytest.mark.parametrize(("r", "nodes", "error"), [(1, 41, 0.03), (2, 21, 0.1), (3, 11, 0.3)])
@pytest.mark.parametrize(
    ("family", "link"),
    [("binomial", "logit"), ("binomial", "probit"), ("binomial", "cloglog"), ("binomial", "cauchit"),
     ("poisson", "log"), ("negative_binomial", "log")],
)  # fmt: skip
def test_integrals_are_those_of_quadrature(family: str, link: str, r: int, nodes: int, error: float) -> None:
    design, made = draw(family, link, r=r)
    model = laplace_of(design, made)
    at = point(model, 0.8)
    quadrature = row_engine(prepare(design, made, AGQ(nodes), control(), by_rows=True)).marginal
    found = integrated(row_engine(model).marginal, at)
    wanted = quadrature.evaluate(at, None, gradient=False).value
    assert abs(found.value - wanted) < error
    assert found.std_error < 2.0 * error
    assert found.laplace == row_engine(model).marginal.evaluate(at, None, gradient=False).value


@pytest.mark.parametrize(("link", "size"), [("logit", 300.0), ("probit", 300.0), ("cloglog", 300.0), ("cauchit", 1e4)])
def test_levels_with_one_response_tend_to_one_half(link: str, size: float) -> None:
    """Far out a level's rows are all on one side of zero, or all on the other: Σ log ½; Laplace's value falls on."""
    design, made = draw("binomial", link, groups=20)
    y = (np.arange(20) < 9)[design.factors[0].codes].astype(float)
    model = laplace_of(replace(design, y=y), made)
    far = integrated(row_engine(model).marginal, point(model, size))
    assert far.value == pytest.approx(20 * np.log(0.5), abs=0.3)
    if link != "cauchit":
        assert far.laplace < far.value - 2.0


@pytest.mark.parametrize("r", [1, 2])
def test_draws_that_walk_along_a_ray_have_the_change_of_the_integral(r: int) -> None:
    """Of one factor, whose levels are integrated one by one: both ways agree within their standard errors."""
    design, made = draw("binomial", "logit", r=r)
    model = laplace_of(design, made)
    marginal = row_engine(model).marginal
    places = [point(model, 1.0 * t, growth=t) for t in (1.0, 1.4, 2.0)]
    wanted = np.diff([integrated(marginal, place).value for place in places])
    steps, others = changes(marginal, places[0], [places[1:], places[1:2]])
    assert len(others) == 1
    for step, change in zip(steps, wanted, strict=True):
        assert abs(step.value - change) < 4.0 * step.std_error + 0.2
        assert step.std_error < 0.25 * abs(change) + 0.2


def test_a_level_with_both_responses_costs_the_logarithm_of_the_growth() -> None:
    design, made = draw("binomial", "logit", groups=20)
    codes = design.factors[0].codes
    y = (np.arange(20) < 9)[codes].astype(float)
    y[np.flatnonzero(codes == 3)[0]] = 0.0
    model = laplace_of(replace(design, y=y), made)
    near, far = (
        integrated(row_engine(model).marginal, point(model, size, growth=0.0)).value for size in (640.0, 10240.0)
    )
    assert far - near == pytest.approx(-np.log(16.0), abs=0.3)


def test_blocks_and_frequencies_change_nothing() -> None:
    design, made = draw("binomial", "logit", r=2, frequency=True)
    model = laplace_of(design, made)
    at = point(model, 0.9)
    value = integrated(row_engine(model).marginal, at).value
    small = row_engine(laplace_of(design, made, block=7)).marginal
    assert integrated(small, at).value == pytest.approx(value, abs=1e-9)
    places = np.repeat(np.arange(len(design.y)), design.frequency.astype(int))
    f = design.factors[0]
    rows = replace(
        design, y=design.y[places], frequency=None, mu=replace(design.mu, x=design.mu.x[:, places]),
        factors=(replace(f, z=f.z[:, places], codes=f.codes[places]),),
    )  # fmt: skip
    whole = laplace_of(rows, made)
    back = whole.effects.effective([np.linalg.solve(whole.effects.factors[0].basis, at.factors[0])])
    assert integrated(row_engine(whole).marginal, at._replace(factors=back)).value == pytest.approx(value, abs=0.05)


def test_a_second_factor_without_variance_adds_nothing() -> None:
    one, made = draw("binomial", "logit")
    two, _ = draw("binomial", "logit", others=((7, 1, False),))
    two = replace(two, y=one.y, mu=one.mu, factors=(one.factors[0], two.factors[1]))
    alone, crossed = laplace_of(one, made), laplace_of(two, made)
    assert [f.name for f in crossed.effects.factors] == ["g", "h0"]
    value = integrated(row_engine(alone).marginal, point(alone, 1.5)).value
    assert integrated(row_engine(crossed).marginal, point(crossed, 1.5, 0.0)).value == pytest.approx(value, abs=1e-6)
