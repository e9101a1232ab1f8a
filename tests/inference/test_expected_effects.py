"""Means that several predictors decide on: zero inflation, hurdles, times; averages, gradients, integrals."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy.linalg import block_diag
from scipy.special import expit, gamma

import polars_glmm as pg
from polars_glmm import ModelError
from polars_glmm.families.normal_nodes import nodes_of
from tests.prediction.moved import moved
from tests.streaming.same import quietly

GROUPS, EACH = 20, 8
Z, W = hermegauss(61)
W = W / W.sum()


@cache
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(11)
    n = GROUPS * EACH
    g, x = np.repeat(np.arange(GROUPS), EACH), rng.uniform(-1.0, 1.0, n).round(3)
    f = np.array(["a", "b"])[np.arange(n) % 2]
    eta = 0.8 + 0.4 * x + 0.3 * (f == "b") + 0.5 * rng.standard_normal(GROUPS)[g]
    seen = rng.random(n) > expit(-0.8 + 0.6 * x + 0.7 * rng.standard_normal(GROUPS)[g])
    count = rng.poisson(np.exp(eta)) + 0
    share = rng.beta(6.0 * expit(eta), 6.0 * expit(-eta)).clip(0.001, 0.999)
    time, end = np.exp(eta) * rng.weibull(1.6, n), rng.uniform(1.0, 9.0, n)
    return pl.DataFrame(
        {
            "g": [f"g{k}" for k in g], "key": np.array(["u", "v"])[g % 2], "x": x, "f": f, "zeros": count * seen,
            "over": rng.poisson(np.exp(eta) * rng.gamma(2.0, 0.5, n)) * seen, "share": np.where(seen, share, 0.0),
            "time": np.minimum(time, end), "event": (time <= end).astype(int),
        }
    )  # fmt: skip


TERMS = " ~ x + f + (1 | g)"
MODELS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "zero-inflated": (("zeros" + TERMS, "zi ~ x"), {"family": "poisson"}),
    "both by group": (("zeros" + TERMS, "zi ~ x + (1 | g)"), {"family": "poisson"}),
    "correlated": (("zeros ~ x + f + (1 |p| g)", "zi ~ x + (1 |p| g)"), {"family": "poisson"}),
    "phi and zi": (("over" + TERMS, "zi ~ 1"), {"family": "negative_binomial"}),
    "hurdle": (("zeros" + TERMS, "zi ~ x + (1 | g)"), {"family": "truncated_poisson"}),
    "share": (("share" + TERMS, "zi ~ x"), {"family": "beta"}),
    "weibull": (("surv(time, event)" + TERMS,), {"family": "weibull"}),
    "lognormal": (("surv(time, event)" + TERMS,), {"family": "lognormal"}),
    "shape by x": (("surv(time, event)" + TERMS, "phi ~ x"), {"family": "weibull"}),
}
RANDOM = ("none", "all", "integrate")
SOME = [
    pytest.param(name, marks=[] if name in ("correlated", "phi and zi", "weibull") else pytest.mark.slow)
    for name in MODELS
]


@cache
def fitted(model: str) -> Any:
    formulas, options = MODELS[model]
    return quietly(rows(), *formulas, **options)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("random", RANDOM)
@pytest.mark.parametrize("model", SOME)
def test_an_average_and_its_error_are_those_of_predictions(model: str, random: Any) -> None:
    """estimate = the mean of predict(), std_error² = g'Vg with g by differences of that in all that is estimated."""
    fit = fitted(model)
    at = rows().head(12) if random == "integrate" else rows()

    def average(one: Any) -> np.ndarray:
        found = one.predict(at, random=random).group_by("f").agg(pl.col("prediction").mean()).sort("f")
        return found["prediction"].to_numpy()

    found, e = fit.predictions(at, by="f", random=random), fit.estimate
    assert found["estimate"].to_numpy() == pytest.approx(average(fit), rel=1e-10)
    first, last = len(e.beta) + len(e.gamma), len(e.report) - len(e.constants)
    gradient = []
    for j in range(len(e.report)):
        if first <= j < last and random != "integrate":
            gradient.append(np.zeros(2))
            continue
        step = 1e-5 * max(abs(e.report[j]), 0.01)
        gradient.append((average(moved(fit, j, step)) - average(moved(fit, j, -step))) / (2.0 * step))
    g = np.array(gradient).T
    expected = np.sqrt(np.einsum("ij,jk,ik->i", g, np.nan_to_num(e.report_vcov), g))
    assert found["std_error"].to_numpy() == pytest.approx(expected, rel=1e-5)


def _by_quadrature(model: str, fit: Any) -> np.ndarray:
    """E over both random effects of each row's mean, by 61 × 61 nodes of Gauss and Hermite, from formulas of books."""
    e = fit.estimate
    root = np.linalg.cholesky(block_diag(*e.factors[0].covariances))
    z = [root[0, 0] * Z[:, None], 0.0 if len(root) == 1 else root[1, 0] * Z[:, None] + root[1, 1] * Z]
    eta = fit.predict(rows(), kind="link", random="none")["prediction"].to_numpy()[:, None, None]
    mu = np.exp(eta + z[0])
    if model in ("weibull", "shape by x"):
        shape = fit.predict(rows(), kind="phi", random="none")["prediction"].to_numpy()[:, None, None]
        mean = mu * gamma(1.0 + 1.0 / shape)
    elif model == "lognormal":
        mean = mu * np.exp(0.5 * e.phi**2)
    else:
        zi = fit.predict(rows(), kind="zi", random="none")["prediction"].to_numpy()[:, None, None]
        at = np.log(zi / (1.0 - zi)) + z[1]
        base = mu / (1.0 + mu) if model == "share" else mu / -np.expm1(-mu) if model == "hurdle" else mu
        mean = expit(-at) * base
    return np.einsum("nij,i,j->n", np.broadcast_to(mean, (len(mean), len(Z), len(Z))), W, W)


@pytest.mark.parametrize("model", SOME)
def test_means_over_the_population_are_those_of_brute_quadrature(model: str) -> None:
    fit = fitted(model)
    found = fit.predict(rows(), random="integrate", interval="confidence", std_error=True)
    value = found["prediction"].to_numpy()
    assert value == pytest.approx(_by_quadrature(model, fit), rel=1e-8)
    assert (found["prediction_low"] < found["prediction"]).all()
    assert (found["prediction"] < found["prediction_high"]).all()
    row = fit.predictions(rows(), average=False, random="integrate")
    assert row["estimate"].to_numpy() == pytest.approx(value, rel=1e-12)
    assert row["std_error"].to_numpy() == pytest.approx(found["prediction_std_error"].to_numpy(), rel=1e-9)


KINDS = [
    (model, kind)
    for model, kinds in {
        "both by group": ("mu", "zi", "zero"), "phi and zi": ("phi", "zero"), "lognormal": ("mu", "median", "phi"),
        "shape by x": ("phi", "median"),
    }.items()
    for kind in kinds
]  # fmt: skip


@pytest.mark.parametrize(("model", "kind"), KINDS)
def test_every_kind_of_prediction_has_its_average(model: str, kind: Any) -> None:
    fit = fitted(model)
    found = fit.predictions(rows(), kind=kind, random="all")["estimate"].item()
    assert found == pytest.approx(fit.predict(rows(), kind=kind)["prediction"].mean(), rel=1e-10)
    if fit.recipe.spec.formulas and any(part.parameter == kind for part in fit.recipe.predictors):
        alone = fit.predict(rows(), kind=kind, random="none", std_error=True)
        each = fit.predictions(rows(), kind=kind, random="none", average=False)
        assert each["std_error"].to_numpy() == pytest.approx(alone["prediction_std_error"].to_numpy(), rel=1e-7)


@pytest.mark.parametrize("random", ["none", "integrate"])
@pytest.mark.parametrize("model", ["both by group", "weibull"])
def test_means_of_a_grid_are_those_of_its_points(model: str, random: Any) -> None:
    fit = fitted(model)
    found = fit.marginal_means("f", random=random)
    points = pg.grid(fit, f="levels")
    each = fit.predictions(points, by="f", random=random)
    for name in ("estimate", "std_error", "conf_low", "conf_high"):
        assert found[name].to_numpy() == pytest.approx(each[name].to_numpy(), rel=1e-9)
    contrast = fit.marginal_means("f", contrast="pairwise", random=random)
    compared = fit.comparisons(points, variables="f", random=random)
    assert abs(contrast["estimate"].item()) == pytest.approx(abs(compared["estimate"].item()), rel=1e-9)
    assert contrast["std_error"].item() == pytest.approx(compared["std_error"].item(), rel=1e-8)


def test_a_parameter_is_averaged_as_a_mean_is() -> None:
    """On the scale of its link, and shown through it: odds of zi have ratios."""
    fit = fitted("zero-inflated")
    on_link, shown = (fit.marginal_means("x", at={"x": [0.0, 1.0]}, kind="zi", scale=s) for s in ("link", "response"))
    intercept, slope = fit.estimate.gamma
    assert on_link["estimate"].to_numpy() == pytest.approx([intercept, intercept + slope], rel=1e-10)
    assert shown["estimate"].to_numpy() == pytest.approx(expit(on_link["estimate"].to_numpy()), rel=1e-10)
    assert shown["averaged_on"].to_list() == ["link", "link"]
    odds = fit.marginal_means("x", at={"x": [0.0, 1.0]}, kind="zi", contrast="pairwise")
    assert abs(np.log(odds["estimate"].item())) == pytest.approx(abs(slope), rel=1e-10)


def test_slopes_are_the_derivatives_of_means() -> None:
    """(1 − pi) mu moves with both predictors: its slope in x is mu(1 − pi)(b − pi c)."""
    fit = fitted("zero-inflated")
    found = fit.slopes(rows(), "x", average=False)["estimate"].to_numpy()
    mu, zi = (fit.predict(rows(), kind=kind, random="none")["prediction"].to_numpy() for kind in ("mu", "zi"))
    b, c = fit.estimate.beta[1], fit.estimate.gamma[1]
    assert found == pytest.approx(mu * (1.0 - zi) * (b - zi * c), rel=1e-6)


def test_many_fits_average_over_their_own_populations() -> None:
    formulas, options = MODELS["zero-inflated"]
    many: Any = quietly(rows(), *formulas, **options, by="key")
    found = many.predict(rows(), random="integrate", std_error=True)
    for key in ("u", "v"):
        own = many[key].predict(rows().filter(key=key), random="integrate", std_error=True)
        for name in ("prediction", "prediction_std_error"):
            assert found.filter(key=key)[name].to_numpy() == pytest.approx(own[name].to_numpy(), rel=1e-9)


def test_nodes_know_correlated_predictors_and_growth() -> None:
    """E exp(c'eta) = exp(c'Vc/2) whatever V, singular too; E of a softmax in three predictors as by brute force."""
    v = np.array([[25.0, -4.0], [-4.0, 0.64]])[:, :, None]
    nodes = nodes_of((0, 2), v, of := lambda at: np.exp(at.get(0, 0.0) + 2.0 * at.get(2, 0.0)) * np.ones(1))
    assert nodes.averaged(of)({}) == pytest.approx(np.exp(0.5 * (25.0 - 16.0 + 4.0 * 0.64)), rel=1e-10)
    root = np.array([[1.2, 0.0, 0.0], [0.5, 0.9, 0.0], [-0.3, 0.2, 0.7]])
    z, w = hermegauss(24)
    at = root @ np.array([one.ravel() for one in np.meshgrid(z, z, z, indexing="ij")])
    brute = (w[:, None, None] * w[:, None] * w).ravel() / w.sum() ** 3 @ (np.exp(at[1]) / (1.0 + np.exp(at).sum(0)))
    nodes = nodes_of((0, 1, 2), (root @ root.T)[:, :, None])
    found = nodes.mean(np.exp(nodes.moves[1]) / (1.0 + sum(np.exp(one) for one in nodes.moves.values())))
    assert found == pytest.approx([brute], abs=2e-6)


def test_what_is_no_kind_says_what_is() -> None:
    with pytest.raises(ModelError, match="'response', 'mu', 'zi', 'zero'"):
        fitted("zero-inflated").predictions(kind="median")
    with pytest.raises(ModelError, match="use scale='response'"):
        fitted("zero-inflated").slopes(kind="zero", scale="link")
    with pytest.raises(ModelError, match=r"simulate\(random='new'\)"):
        fitted("hurdle").predict(rows(), random="integrate", interval="prediction")


@pytest.mark.parametrize("family", ["beta", "beta_binomial"])
def test_limits_of_phi_are_not_held_to_the_range_of_the_mean(family: Any) -> None:
    """Of one dispersion for all rows `predictions` and `dispersion` say the same; a mean stays between 0 and 1."""
    rng, data = np.random.default_rng(3), rows()
    share = rng.beta(4.0, 6.0, data.height)
    data = data.with_columns(share=pl.Series(share), seen=pl.Series(rng.binomial(9, share)), n=pl.lit(9))
    response, trials = ("share", None) if family == "beta" else ("seen", "n")
    fit = pg.fit(data, f"{response} ~ x", family=family, trials=trials)
    found = fit.predictions(data, kind="phi")
    wanted = fit.predict(data, kind="phi", interval="confidence").row(0, named=True)
    assert found["estimate"].item() > 1.0
    for name, other in (("estimate", ""), ("conf_low", "_low"), ("conf_high", "_high")):
        assert found[name].item() == pytest.approx(wanted[f"prediction{other}"], rel=1e-6)
    assert fit.predictions(data)["conf_high"].item() < 1.0
