"""Leverage of curves, and what is made of it: every parameter of the curve counts."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import least_squares

import polars_glmm
from polars_glmm.control import Control
from polars_glmm.design.known import read_known
from polars_glmm.likelihood.known.joint import HeldParameters, known_model

TREES, TIMES = 6, np.array([1.0, 4.0, 6.0, 9.0, 11.0, 14.0, 18.0])


@cache
def growth() -> pl.DataFrame:
    rng = np.random.default_rng(2)
    tree, t = np.repeat(np.arange(TREES), len(TIMES)), np.tile(TIMES, TREES)
    top, middle = 20.0 + 3.0 * rng.standard_normal(TREES), 7.0 + rng.standard_normal(TREES)
    y = top[tree] / (1.0 + np.exp(-(t - middle[tree]) / 3.5)) + 0.6 * rng.standard_normal(len(t))
    return pl.DataFrame({"tree": [f"t{k}" for k in tree], "t": t, "old": (tree % 2).astype(float), "y": y})


@cache
def logistic() -> Any:
    formulas = ("y ~ SSlogis(t, Asym, xmid, scal)", "Asym ~ old + (1 | tree)", "xmid ~ 1 + (1 | tree)")
    return polars_glmm.fit(growth(), *formulas)


def curve(at: np.ndarray) -> np.ndarray:
    """ŷ of (β, b) = (Asym: 2, xmid, scal; b of Asym, b of xmid)."""
    frame = growth()
    tree = np.repeat(np.arange(TREES), len(TIMES))
    top = at[0] + at[1] * frame["old"].to_numpy() + at[4 : 4 + TREES][tree]
    middle = at[2] + at[4 + TREES :][tree]
    return np.asarray(top / (1.0 + np.exp((middle - frame["t"].to_numpy()) / at[3])))


def test_leverage_is_how_fitted_values_follow_the_responses() -> None:
    """∂ŷ/∂y by differences, ŷ at the joint mode of coefficients and effects given the variances."""
    fit, frame = logistic(), growth()
    family = fit.recipe.spec.family
    held = HeldParameters.of(fit.estimate, family)
    phi, sds = float(fit.estimate.phi), np.concatenate([np.diag(root) for root in held.roots])
    y, spread = frame["y"].to_numpy(), np.repeat(sds, TREES)
    start = np.concatenate([held.beta, held.gamma[:2], np.zeros(2 * TREES)])

    def mode(y: np.ndarray, start: np.ndarray) -> np.ndarray:
        found = least_squares(
            lambda at: np.append((y - curve(at)) / phi, at[4:] / spread), start, xtol=1e-15, ftol=1e-15, gtol=1e-14
        )
        return np.asarray(found.x)

    at = mode(y, start)
    here = replace(held, beta=at[:2], gamma=np.append(at[2:4], held.gamma[2:]))
    known = known_model(read_known(fit.recipe, frame, own_levels=False).design, family, Control(), here)
    assert_allclose(np.concatenate([one.modes.ravel() for one in known.modes()]), at[4:], rtol=1e-5, atol=1e-5)
    leverage = known.leverage()
    h = 0.03  # modes are found to some 1e-7, of responses that range over 22
    for i in (0, 3, 13, 24, 41):
        ends = [curve(mode(y + s * h * np.eye(len(y))[i], at))[i] for s in (1.0, -1.0)]
        assert leverage.value[i] == pytest.approx((ends[0] - ends[1]) / (2.0 * h), rel=2e-5)


def test_effective_parameters_count_the_whole_curve() -> None:
    """Without random effects every coefficient is one, about, and the conditional AIC is near the AIC."""
    fit = polars_glmm.fit(growth(), "y ~ SSlogis(t, Asym, xmid, scal)")
    row = fit.glance(conditional=True).row(0, named=True)
    assert row["df_effective"] == pytest.approx(3.0, abs=0.1)
    assert row["caic"] == pytest.approx(row["aic"], abs=0.2)
    cases = fit.influence(method="case")
    assert cases["leverage"].to_list() == pytest.approx(cases["leverage_fixed"].to_list())
    mixed = logistic().glance(conditional=True)["df_effective"][0]
    assert 4.0 < mixed < 4.0 + 2 * TREES


@cache
def lines() -> tuple[Any, Any]:
    """A line, and a curve that is that line."""
    line, curved = (
        polars_glmm.fit(growth(), *formulas, **options)
        for formulas, options in (
            (("y ~ t + old + (1 | tree)",), {"method": "ml"}),
            (("y ~ a + b * t", "a ~ old + (1 | tree)", "b ~ 1"), {"start": {"a": 5.0, "b": 1.0}}),
        )
    )
    return line, curved


def test_a_curve_that_is_a_line_has_the_leverage_of_the_line() -> None:
    for column in ("leverage", "leverage_fixed"):
        found = [fit.influence(method="case")[column] for fit in lines()]
        assert_allclose(found[1], found[0], rtol=1e-4)


@pytest.mark.slow
def test_a_curve_that_is_a_line_has_the_influence_of_the_line() -> None:
    line, curved = lines()
    levels = [fit.influence() for fit in (line, curved)]
    for column in ("cooks_distance", "mdffits", "covratio", "elpd"):
        assert_allclose(levels[1][column], levels[0][column], rtol=1e-3)
    terms = [fit.influence_terms().filter(parameter=name) for fit, name in ((line, "mu"), (curved, "b"))]
    assert_allclose(terms[1]["change"], terms[0].filter(term="t")["change"], rtol=1e-3, atol=1e-6)
