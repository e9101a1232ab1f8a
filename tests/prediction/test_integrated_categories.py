"""Probabilities of categories averaged over random effects, ordered or not, with their errors."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.polynomial.hermite_e import hermegauss
from scipy.linalg import block_diag
from scipy.special import expit

import polars_glmm as pg
from polars_glmm import ModelError
from tests.prediction.moved import moved
from tests.streaming.same import quietly

GROUPS, EACH = 24, 10
Z, W = hermegauss(51)
W = W / W.sum()


@cache
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    n, g = GROUPS * EACH, np.repeat(np.arange(GROUPS), EACH)
    x, u = rng.uniform(-1.0, 1.0, n).round(3), rng.standard_normal((2, GROUPS))[:, g]
    eta = np.stack([np.zeros(n), 0.4 + 0.8 * x + 0.9 * u[0], -0.3 - 0.5 * x + 0.3 * u[0] + 1.3 * u[1]])
    kind = np.array(["a", "b", "c"])[(eta + rng.gumbel(size=(3, n))).argmax(0)]
    latent = eta[1] + rng.logistic(size=n)
    return pl.DataFrame(
        {
            "g": [f"g{k}" for k in g], "x": x, "f": np.array(["p", "q"])[np.arange(n) % 2], "kind": kind,
            "rank": np.digitize(latent, [-0.5, 0.9]), "up": (latent > 0.4).astype(int),
            "two": np.where(latent > 0.4, "yes", "no"),
        }
    )  # fmt: skip


MODELS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "independent": (("kind ~ x + f + (1 | g)",), {"family": "categorical"}),
    "correlated": (("kind ~ x + f + (1 |p| g)",), {"family": "categorical"}),
    "ordered": (("rank ~ x + f + (1 + x | g)",), {"family": "cumulative"}),
    "scaled": (("rank ~ x + f + (1 | g)", "disc ~ 0 + x"), {"family": "cumulative"}),
}


@cache
def fitted(model: str) -> Any:
    formulas, options = MODELS[model]
    return quietly(rows(), *formulas, **options)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("model", MODELS)
def test_errors_follow_all_that_is_estimated(model: str) -> None:
    """std_error² = g'Vg with g by differences in every coefficient, threshold and entry of Σ."""
    one, at = fitted(model), rows().head(4)
    found, e = one.predict(at, random="integrate", std_error=True), one.estimate

    def value(of: Any) -> np.ndarray:
        return of.predict(at, random="integrate").select(pl.col("^prediction_.*$")).to_numpy()

    gradient = []
    for j in range(len(e.report)):
        step = 1e-4 * max(abs(e.report[j]), 0.1)
        gradient.append((value(moved(one, j, step)) - value(moved(one, j, -step))) / (2.0 * step))
    expected = np.sqrt(np.einsum("jnc,jk,knc->nc", gradient, np.nan_to_num(e.report_vcov), gradient))
    errors = found.select(pl.col("^.*_std_error$")).to_numpy()
    assert errors == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_they_are_those_of_brute_quadrature(model: str) -> None:
    one = fitted(model)
    found = one.predict(rows(), random="integrate").select(pl.col("^prediction_.*$")).to_numpy()
    values, vectors = np.linalg.eigh(block_diag(*one.estimate.factors[0].covariances))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    z = np.array([np.broadcast_to(part, (len(Z), len(Z))) for part in (Z[:, None], Z)])
    b = np.einsum("kj,jab->kab", root, z[: len(root)])
    links = one.predict(rows(), kind="link", random="none").select(pl.col("^prediction.*$")).to_numpy().T
    if model in ("independent", "correlated"):
        size = np.exp(np.stack([eta[:, None, None] + own for eta, own in zip(links, b, strict=True)]))
        p = np.concatenate([np.ones((1, *size.shape[1:])), size]) / (1.0 + size.sum(0))
    else:
        x = rows()["x"].to_numpy()[:, None, None]
        eta = links[0][:, None, None] + b[0] + (x * b[1] if len(b) > 1 else 0.0)
        cuts, scale = one.estimate.coefficients["thresholds"], 1.0
        if model == "scaled":
            scale = np.exp(one.estimate.coefficients["disc"][0] * x)
        below = [expit((cut - eta) * scale) for cut in cuts]
        p = np.diff(np.stack([np.zeros_like(eta), *below, np.ones_like(eta)]), axis=0)
    expected = np.einsum("cnab,a,b->nc", p, W, W)
    assert found == pytest.approx(expected, rel=1e-7)
    assert found.sum(1) == pytest.approx(np.ones(len(found)), rel=1e-9)


@pytest.mark.parametrize(("response", "family"), [("two", "categorical"), ("up", "cumulative")])
def test_of_two_categories_they_are_those_of_a_probability(response: str, family: Any) -> None:
    two = quietly(rows(), f"{response} ~ x + (1 | g)", family=family)
    binomial = quietly(rows(), "up ~ x + (1 | g)", family="binomial")
    found = two.predict(rows(), random="integrate", std_error=True, interval="confidence")
    expected = binomial.predict(rows(), random="integrate", std_error=True, interval="confidence")
    last = "yes" if response == "two" else "1"
    for end in ("", "_std_error", "_low", "_high"):
        name = f"prediction_{last}{end}"
        assert found[name].to_numpy() == pytest.approx(expected[f"prediction{end}"].to_numpy(), rel=3e-3)


@pytest.mark.parametrize("model", ["correlated", "ordered"])
def test_tables_have_them(model: str) -> None:
    one, at = fitted(model), rows().head(20)
    averages = one.predictions(at, by="f", random="integrate")
    found = one.predict(at, random="integrate").group_by("f").agg(pl.col("^prediction_.*$").mean()).sort("f")
    for label in averages["category"].unique().to_list():
        own = averages.filter(category=label).sort("f")["estimate"].to_numpy()
        assert own == pytest.approx(found[f"prediction_{label}"].to_numpy(), rel=1e-9)
    points = pg.grid(one, f="levels")
    means, each = one.marginal_means("f", random="integrate"), one.predictions(points, by="f", random="integrate")
    for name in ("estimate", "std_error", "conf_low", "conf_high"):
        assert means[name].to_numpy() == pytest.approx(each[name].to_numpy(), rel=1e-9)


def test_what_has_no_average_says_so() -> None:
    with pytest.raises(ModelError, match="scale='response'"):
        fitted("ordered").predictions(random="integrate", scale="link")
    with pytest.raises(ModelError, match="kind='response'"):
        fitted("correlated").predict(rows(), kind="class", random="integrate")


def test_without_random_effects_an_average_is_the_probability() -> None:
    fit = pg.fit(rows(), "rank ~ x + f", family="cumulative")
    alone, averaged = (fit.predict(rows(), random=how, std_error=True) for how in ("none", "integrate"))
    shared = [name for name in alone.columns if name in averaged.columns and alone.schema[name].is_float()]
    assert any("prediction" in name for name in shared)
    for name in shared:
        assert averaged[name].to_numpy() == pytest.approx(alone[name].to_numpy(), rel=1e-9)
