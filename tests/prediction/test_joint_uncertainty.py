"""uncertainty="joint" of models with several linear predictors: what moves with which parameter."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm as pg
from tests.streaming.same import quietly

GROUPS, EACH = 12, 10


@cache
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(8)
    n, g = GROUPS * EACH, np.repeat(np.arange(GROUPS), EACH)
    x, u = rng.uniform(-1.0, 1.0, n).round(3), rng.standard_normal((2, GROUPS))[:, g]
    eta = np.stack([np.zeros(n), 0.4 + 0.8 * x + 0.9 * u[0], -0.3 - 0.5 * x + 0.7 * u[1]])
    kind = np.array(["a", "b", "c"])[(eta + rng.gumbel(size=(3, n))).argmax(0)]
    count = rng.poisson(np.exp(0.7 + 0.4 * x + 0.6 * u[0])) * (rng.random(n) > 0.3)
    latent = eta[1] + rng.logistic(size=n)
    up = latent > 0.4
    return pl.DataFrame(
        {
            "g": [f"g{k}" for k in g], "x": x, "kind": kind, "count": count, "rank": np.digitize(latent, [-0.5, 0.9]),
            "up": up.astype(int), "two": np.where(up, "yes", "no"),
        }
    )  # fmt: skip


MODELS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "zero-inflated": (("count ~ x + (1 | g)", "zi ~ x"), {"family": "poisson"}),
    "with a size": (("count ~ x + (1 | g)", "zi ~ 1"), {"family": "negative_binomial"}),
    "hurdle": (("count ~ x + (1 | g)", "zi ~ x"), {"family": "truncated_poisson"}),
    "unordered": (("kind ~ x + (1 |p| g)",), {"family": "categorical"}),
    "ordered": (("rank ~ x + (1 | g)",), {"family": "cumulative"}),
    "scaled": (("rank ~ x + (1 | g)", "disc ~ 0 + x"), {"family": "cumulative"}),
}


@cache
def fitted(model: str) -> Any:
    formulas, options = MODELS[model]
    return quietly(rows(), *formulas, **options)


def errors(one: Any, **asked: Any) -> np.ndarray:
    found = one.predict(rows(), std_error=True, **asked)
    return found.select(pl.col("^.*_std_error$")).to_numpy()


@pytest.mark.parametrize("model", MODELS)
def test_without_modes_there_is_nothing_to_move(model: str) -> None:
    one = fitted(model)
    joint, given = (errors(one, random="none", uncertainty=u) for u in ("joint", "conditional"))
    assert joint == pytest.approx(given, rel=1e-7)


@pytest.mark.parametrize("model", ["unordered", "ordered"])
def test_of_two_categories_it_is_that_of_a_probability(model: str) -> None:
    binomial = quietly(rows(), "up ~ x + (1 | g)", family="binomial")
    response, family = ("two", "categorical") if model == "unordered" else ("up", "cumulative")
    two = quietly(rows(), f"{response} ~ x + (1 | g)", family=family)
    expected = errors(binomial, uncertainty="joint")[:, 0]
    assert not np.allclose(expected, errors(binomial)[:, 0], rtol=1e-3)
    assert errors(two, uncertainty="joint") == pytest.approx(np.stack([expected, expected], axis=1), rel=2e-3)


def test_the_baseline_does_not_matter() -> None:
    """With effects correlated across categories the models of all baselines are one."""
    one = fitted("unordered")
    other = quietly(rows(), "kind ~ x + (1 |p| g)", family=pg.Categorical(baseline="b"))
    expected = errors(one, uncertainty="joint")
    found = other.predict(rows(), std_error=True, uncertainty="joint")
    found = found.select(f"prediction_{k}_std_error" for k in "abc").to_numpy()
    assert found == pytest.approx(expected, rel=5e-3)
    assert (expected > errors(one) * 1.001).mean() > 0.5


@pytest.mark.parametrize("model", ["zero-inflated", "with a size", "hurdle"])
def test_a_mean_of_two_parts_moves_with_both(model: str) -> None:
    """(1 − zi)·mu has the relative variance of mu and of 1 − zi, and twice what they share."""
    one = fitted(model)
    mean = one.predict(rows(), std_error=True, uncertainty="joint")
    mu = one.predict(rows(), kind="mu", std_error=True, uncertainty="joint", name="mu")
    zi = one.predict(rows(), kind="zi", std_error=True, uncertainty="joint", name="zi")
    total = (mean["prediction_std_error"] / mean["prediction"]).to_numpy()
    first = (mu["mu_std_error"] / mu["mu"]).to_numpy()
    second = (zi["zi_std_error"] / (1.0 - zi["zi"])).to_numpy()
    if model != "hurdle":
        assert (total <= (first + second) * (1.0 + 1e-9)).all()
        assert (total >= np.abs(first - second) * (1.0 - 1e-9)).all()
    else:  # the steps share nothing, and the mean above zero moves with less than mu does
        assert (total <= np.hypot(first, second) * (1.0 + 1e-6)).all()
        assert (total >= second * (1.0 - 1e-9)).all()


def test_a_hurdle_of_two_steps_is_two_fits() -> None:
    """With independent effects in both formulas: of zi that of 0/1, of mu that of what is not zero."""
    frame = hurdles()
    both = pg.fit(frame, "y ~ x + (1 | g)", "zi ~ x + (1 | g)", family="truncated_poisson")
    above = pg.fit(frame.filter(pl.col("y") > 0), "y ~ x + (1 | g)", family="truncated_poisson")
    zero = pg.fit(frame.with_columns(y=pl.col("y") == 0), "y ~ x + (1 | g)", family="binomial")
    asked = {"std_error": True, "uncertainty": "joint"}
    for kind, fit, own in (("link", above, "link"), ("zi", zero, "response")):
        ours, theirs = both.predict(frame, kind=kind, **asked), fit.predict(frame, kind=own, **asked)
        assert_allclose(ours["prediction"], theirs["prediction"], rtol=1e-4, atol=1e-5)
        assert_allclose(ours["prediction_std_error"], theirs["prediction_std_error"], rtol=2e-4)


def hurdles() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(20), 12)
    x, b = rng.normal(size=240).round(3), 0.6 * rng.normal(size=(2, 20))
    above = 1 + rng.poisson(np.exp(0.5 + 0.4 * x + b[0, g]))
    zero = rng.random(240) < 1 / (1 + np.exp(0.5 - 2.0 * b[1, g]))
    return pl.DataFrame({"x": x, "g": g, "y": np.where(zero, 0, above)})


@pytest.mark.slow
def test_effects_on_the_mean_and_on_phi_move_together() -> None:
    """a'Va + Var(b | y) by differences of Laplace's approximation written out, ψ = (β, log σ, root of Σ)."""
    rng = np.random.default_rng(11)
    g, x, b = np.repeat(np.arange(24), 8), rng.integers(-2, 3, 192) / 2.0, rng.normal(size=(2, 24))
    y = 0.7 + 0.4 * x + 0.6 * b[0, g] + np.exp(-0.5 - 0.3 * b[0, g] + 0.6 * b[1, g]) * rng.normal(size=192)
    frame = pl.DataFrame({"y": y, "x": x, "g": g})
    fit = pg.fit(frame, "y ~ x + (1 |p| g)", "phi ~ 1 + (1 |p| g)")
    y, x = y.reshape(24, 8), x.reshape(24, 8)
    modes = np.column_stack([fit.ranef().filter(parameter=one)["estimate"] for one in ("mu", "phi")])
    v = fit.varcorr()["estimate"].to_list()
    root = np.linalg.cholesky([[v[0], v[2]], [v[2], v[1]]])
    psi = np.array([*fit.fixef()["estimate"], root[0, 0], root[1, 0], root[1, 1]])
    step = 1e-3 * np.eye(2)

    def root_of(at: Any) -> Any:
        return np.array([[at[3], 0.0], [at[4], at[5]]])

    def log_density(at: Any, u: Any) -> Any:
        moved = u @ root_of(at).T
        log_s = at[2] + moved[:, 1:]
        rows = ((y - at[0] - at[1] * x - moved[:, :1]) / np.exp(log_s)) ** 2 + 2.0 * log_s + np.log(2.0 * np.pi)
        return -0.5 * rows.sum(1) - 0.5 * (u**2).sum(1)

    def curvature(at: Any, u: Any) -> Any:
        o = lambda s: log_density(at, u + s)
        rows = [[(o(h + k) - o(h - k) - o(k - h) + o(-h - k)) / 4e-6 for k in step] for h in step]
        return -np.moveaxis(np.array(rows), -1, 0)

    def modes_at(at: Any) -> Any:
        u = np.linalg.solve(root, modes.T).T
        for _ in range(6):
            slope = np.stack([(log_density(at, u + h) - log_density(at, u - h)) / 2e-3 for h in step], 1)
            u = u + np.linalg.solve(curvature(at, u), slope[:, :, None])[:, :, 0]
        return u

    def laplace(at: Any) -> float:
        u = modes_at(at)
        return float((log_density(at, u) - 0.5 * np.log(np.linalg.det(curvature(at, u)))).sum())

    to = 2e-3 * np.eye(6)
    bend = [[laplace(psi + h + k) - laplace(psi + h - k) - laplace(psi - h + k) + laplace(psi - h - k) for k in to]
            for h in to]  # fmt: skip
    covariance = np.linalg.inv(-np.array(bend) / 1.6e-5)
    moves = np.stack([(modes_at(psi + h) @ root_of(psi + h).T - modes_at(psi - h) @ root_of(psi - h).T) / 4e-3
                      for h in to])  # fmt: skip
    given = root @ np.linalg.inv(curvature(psi, modes_at(psi))) @ root.T
    for kind, k in (("link", 0), ("phi", 1)):
        found = fit.predict(frame, kind=kind, std_error=True, uncertainty="joint")
        a = moves[:, g, k].T
        a[:, :3] += np.column_stack([np.ones(192), frame["x"], np.zeros(192)] if k == 0 else np.eye(3)[[2] * 192].T)
        expected = np.sqrt(np.einsum("ni,ij,nj->n", a, covariance, a) + given[g, k, k])
        scale = 1.0 if k == 0 else found["prediction"].to_numpy()
        assert_allclose(found["prediction_std_error"], scale * expected, rtol=2e-5)


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
@pytest.mark.parametrize(
    ("bounded", "interior"),
    [
        ("cs(0 + f | g)", "rr(0 + f | g, d=1)"),
        pytest.param("homcs(0 + f | g)", "(1 | g)", marks=pytest.mark.slow),
    ],
)
def test_at_a_correlation_of_one_errors_are_those_of_the_model_without_it(bounded: str, interior: str) -> None:
    """Effects that go together are multiples of one: another family has the same optimum in its interior."""
    rng = np.random.default_rng(8)
    g, f, x = np.repeat(np.arange(20), 12), np.tile(np.arange(3), 80), rng.normal(size=240)
    y = rng.poisson(np.exp(0.5 + 0.3 * x + 0.8 * rng.normal(size=20)[g]))
    frame = pl.DataFrame({"g": g, "f": [f"f{k}" for k in f], "x": x, "y": y})
    both = [frame.glmm.fit(f"y ~ x + f + {term}", family="poisson") for term in (bounded, interior)]
    assert both[0].singular
    assert both[0].loglik == pytest.approx(both[1].loglik, abs=1e-6)
    joint, expected = (
        one.predict(frame, kind="link", std_error=True, uncertainty="joint")["prediction_std_error"] for one in both
    )
    assert joint.to_numpy() == pytest.approx(expected.to_numpy(), rel=2e-5)
