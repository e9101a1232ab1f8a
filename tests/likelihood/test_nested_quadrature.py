"""Quadrature of nested factors: against integrals on a fine grid, its gradient against differences; one node."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from scipy.special import gammaln, logsumexp

from polars_glmm import AGQ, Control, Laplace, Memory, ModelError, ResourceError

GRID = np.linspace(-7.0, 7.0, 141)
LOG_WEIGHTS = -0.5 * GRID**2 - logsumexp(-0.5 * GRID**2)
pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
Model = tuple[tuple[str, ...], str]


def nested(seed: int, outer: int = 6, middle: int = 3, inner: int = 2, rows: int = 3) -> pl.DataFrame:
    """Counts and successes in three nested factors, in an order of no meaning."""
    rng = np.random.default_rng(seed)
    n = outer * middle * inner * rows
    a, b, c = (np.repeat(np.arange(m), n // m) for m in (outer, outer * middle, outer * middle * inner))
    x = rng.normal(size=n)
    eta = 0.3 + 0.5 * x + rng.normal(0, 0.9, a[-1] + 1)[a] + rng.normal(0, 0.7, b[-1] + 1)[b] * (1 + 0.3 * x)
    eta += rng.normal(0, 0.6, c[-1] + 1)[c]
    frame = pl.DataFrame({"a": a, "b": b, "c": c, "x": x, "n": rng.poisson(np.exp(eta))})
    frame = frame.with_columns(y=pl.Series(rng.random(n) < 1 / (1 + np.exp(-eta))))
    return frame.sample(fraction=1.0, shuffle=True, seed=seed)


def on_a_grid(log_density: np.ndarray, codes: list[np.ndarray]) -> float:
    """Σ over the outermost levels of the log of the integral over all of their effects, rows on a product of grids."""
    rows = log_density
    for f, code in enumerate(codes):
        levels = np.unique(code)
        summed = np.array([rows[code == level].sum(0) for level in levels])
        rows = logsumexp(summed + LOG_WEIGHTS, axis=-1)
        codes[f + 1 :] = [np.array([outer[code == level][0] for level in levels]) for outer in codes[f + 1 :]]
    return float(rows.sum())


def test_it_is_the_integral_over_two_nested_factors() -> None:
    """Its error falls with every node; 25 leave 1e-8."""
    frame = nested(1)
    eta = (0.3 + 0.5 * frame["x"].to_numpy())[:, None, None] + 1.2 * GRID[:, None] + 1.5 * GRID
    sign = np.where(frame["y"].to_numpy(), 1.0, -1.0)[:, None, None]
    exact = on_a_grid(-np.logaddexp(0.0, -sign * eta), [frame["b"].to_numpy(), frame["a"].to_numpy()])
    errors = []
    for nodes in (1, 3, 7, 15, 25):
        objective = frame.glmm.objective("y ~ x + (1 | a) + (1 | b)", family="binomial", method=AGQ(nodes))
        at = {"Intercept": 0.3, "x": 0.5, "sd(a: Intercept)": 1.2, "sd(b: Intercept)": 1.5}
        errors.append(abs(objective.loglik(np.array([at[name] for name in objective.names])) - exact))
    assert all(later < 0.5 * earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-7


def test_it_is_the_integral_over_three_nested_factors() -> None:
    frame = nested(2, outer=3, middle=2, rows=2)
    grid = np.linspace(-6.0, 6.0, 61)
    weights = -0.5 * grid**2 - logsumexp(-0.5 * grid**2)
    n, x = frame["n"].to_numpy(), frame["x"].to_numpy()
    eta = (0.3 + 0.5 * x)[:, None, None, None] + 0.7 * (grid[:, None, None] + grid[:, None] + grid)
    rows = n[:, None, None, None] * eta - np.exp(eta) - gammaln(n + 1.0)[:, None, None, None]
    codes = [frame[name].to_numpy() for name in "cba"]
    for f in range(3):
        levels = np.unique(codes[f])
        rows = np.array([rows[codes[f] == level].sum(0) for level in levels])
        rows = logsumexp(rows + weights, axis=-1)
        codes = [np.array([code[codes[f] == level][0] for level in levels]) for code in codes]
    objective = frame.glmm.objective("n ~ x + (1 | a/b/c)", family="poisson", method=AGQ(13))
    at = np.array([{"Intercept": 0.3, "x": 0.5}.get(name, 0.7) for name in objective.names])
    assert objective.loglik(at) == pytest.approx(float(rows.sum()), abs=1e-5)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("nodes", [2, 5])
@pytest.mark.parametrize(
    "model",
    [
        (("n ~ x + (1 | a/b/c)",), "poisson"),
        (("n ~ x + (1 | a) + (1 + x | b)",), "poisson"),
        (("n ~ x + (1 + x | a) + (1 | b)",), "poisson"),
        (("n ~ x + (1 | a) + (1 + x | b)", "phi ~ 1 + (1 | a)"), "negative_binomial"),
    ],
)
def test_its_gradient_is_that_of_differences(model: Model, nodes: int) -> None:
    formulas, family = model
    objective = nested(3).glmm.objective(*formulas, family=family, method=AGQ(nodes))
    at = np.array([0.3 + 0.07 * k for k in range(len(objective.names))])
    step = 1e-5
    differences = [
        (objective.loglik(at + step * e) - objective.loglik(at - step * e)) / (2 * step) for e in np.eye(len(at))
    ]
    assert objective.gradient(at) == pytest.approx(differences, abs=2e-7)


def test_one_node_is_laplace_and_a_factor_without_variance_changes_nothing() -> None:
    frame = nested(4)
    call = {"family": "binomial"}
    laplace = frame.glmm.fit("y ~ x + (1 | a/b)", **call, method=Laplace())
    assert frame.glmm.fit("y ~ x + (1 | a/b)", **call, method=AGQ(1)).loglik == pytest.approx(laplace.loglik, abs=1e-9)
    both = frame.glmm.objective("y ~ x + (1 | a) + (1 | b)", **call, method=AGQ(9))
    alone = frame.glmm.objective("y ~ x + (1 | b)", **call, method=AGQ(9))
    values = {"Intercept": 0.2, "x": 0.4, "sd(b: Intercept)": 0.8, "sd(a: Intercept)": 0.0}
    one, other = (model.loglik(np.array([values[name] for name in model.names])) for model in (both, alone))
    assert one == pytest.approx(other, abs=1e-9)


def test_a_fit_ends_at_the_optimum_of_its_own_likelihood_whatever_the_order_of_the_rows() -> None:
    frame = nested(5, outer=10)
    fit = frame.glmm.fit("y ~ x + (1 | a/b)", family="binomial", method=AGQ(5))
    other = frame.reverse().glmm.fit("y ~ x + (1 | a) + (1 | a:b)", family="binomial", method=AGQ(5))
    assert fit.converged
    assert other.loglik == pytest.approx(fit.loglik, abs=1e-8)
    assert fit.loglik > frame.glmm.fit("y ~ x + (1 | b)", family="binomial", method=AGQ(5)).loglik - 1e-8
    assert fit.fixef()["std_error"].null_count() == 0


def test_factors_that_cross_are_refused_by_name_and_so_are_points_beyond_memory() -> None:
    frame = nested(6).with_columns(k=pl.int_range(pl.len()) % 5)
    with pytest.raises(ModelError, match=r"levels of 'b' stand in several levels of 'k'.*laplace"):
        frame.glmm.fit("y ~ x + (1 | b) + (1 | k)", family="binomial", method=AGQ(3))
    small = Control(memory=Memory(limit=2_000_000))
    with pytest.raises(ResourceError, match=r"2,197 points for every row.*AGQ\(nodes=6\)"):
        frame.glmm.fit("y ~ x + (1 | a/b/c)", family="binomial", method=AGQ(13), control=small)


def test_models_by_key_are_those_of_single_fits() -> None:
    frame = pl.concat([nested(s).with_columns(key=pl.lit(s)) for s in range(7, 11)])
    fits = frame.glmm.fit("y ~ x + (1 | a/b)", family="binomial", method=AGQ(3), by="key")
    one = frame.filter(key=9).glmm.fit("y ~ x + (1 | a/b)", family="binomial", method=AGQ(3))
    assert fits[9].loglik == pytest.approx(one.loglik, abs=1e-9)
