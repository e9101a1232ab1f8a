"""Unordered categories from frame to answer: independent likelihoods, routes, invariances, what is said of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize

import polars_glmm
from polars_glmm import AGQ, Categorical, Control, FitWarning, Memory, Rows

LABELS = np.array(["cat", "dog", "emu"])
FORMULA = "y ~ x + (1 | g)"
JOINED = "y ~ x + (1 |p| g)"


@cache
def frame(n: int = 300, seed: int = 5, groups: int = 15) -> pl.DataFrame:
    """Three categories in groups, and a column `two` of two of them."""
    rng = np.random.default_rng(seed)
    g, x, f = rng.integers(0, groups, n), rng.standard_normal(n).round(1), rng.integers(0, 2, n)
    u = np.linalg.cholesky(np.array([[0.8, 0.3], [0.3, 0.5]])) @ rng.standard_normal((2, groups))
    eta = np.stack([np.zeros(n), 0.3 + 0.8 * x + u[0, g], -0.2 - 0.5 * x + u[1, g]])
    y = (eta + rng.gumbel(size=eta.shape)).argmax(0)
    return pl.DataFrame(
        {"y": LABELS[y], "x": x, "f": [f"f{k}" for k in f], "g": [f"g{k:02}" for k in g], "number": y}
    ).with_columns(two=pl.col("number") > 0)


@cache
def fitted(formula: str = FORMULA, family: Any = "categorical", **named: Any) -> Any:
    return polars_glmm.fit(frame(), formula, family=family, **named)


def arrays(data: pl.DataFrame):
    """y (n,), X (n, 2) and groups (n,) of a frame."""
    y = np.searchsorted(LABELS, data["y"].to_numpy())
    codes = data["g"].rank("dense").to_numpy() - 1
    return y, np.column_stack([np.ones(len(y)), data["x"].to_numpy()]), codes


def log_density(eta, y):
    """log softmax with a baseline of zero, as it is written down: (n,) from eta (2, n)."""
    whole = np.concatenate([np.zeros_like(eta[:1]), eta])
    return whole[y, np.arange(len(y))] - np.log(np.exp(whole).sum(0))


# independent likelihoods


def test_without_random_effects_it_is_an_independent_dense_fit():
    y, x, _ = arrays(frame())
    fit = fitted("y ~ x")
    best = minimize(lambda b: -log_density(b.reshape(2, 2) @ x.T, y).sum(), np.zeros(4), method="BFGS", tol=1e-9)
    assert fit.loglik == pytest.approx(-best.fun, abs=1e-8)
    assert_allclose(fit.fixef()["estimate"], best.x, atol=1e-5)
    eta = np.concatenate([np.zeros((1, len(y))), fit.fixef()["estimate"].to_numpy().reshape(2, 2) @ x.T])
    p = (np.exp(eta) / np.exp(eta).sum(0))[1:]
    w = np.einsum("an,ab->abn", p, np.eye(2)) - p[:, None] * p[None]
    information = np.einsum("abn,ni,nj->aibj", w, x, x).reshape(4, 4)
    assert_allclose(fit.fixef()["std_error"], np.sqrt(np.diag(np.linalg.inv(information))), rtol=1e-5)


def test_the_poisson_model_with_an_effect_for_every_row_is_the_same_model():
    """Baker (1994): counts of all categories, one parameter for each row, have the estimates of the multinomial."""
    data = frame().group_by("f", "y").len("count").sort("f", "y")
    trick = polars_glmm.fit(data.with_columns(pl.col("count").cast(pl.Int64)), "count ~ f * y", family="poisson")
    ours = fitted("y ~ f").fixef()
    theirs = trick.fixef().filter(pl.col("term").str.contains("y[T.", literal=True)).sort("term")
    for label in ("dog", "emu"):
        own = ours.filter(parameter=label)
        both = theirs.filter(pl.col("term").str.contains(f"y[T.{label}]", literal=True))
        both = both.sort(pl.col("term").str.contains(":"))
        assert_allclose(own["estimate"], both["estimate"], rtol=1e-7, atol=1e-9)
        assert_allclose(own["std_error"], both["std_error"], rtol=1e-5)


@pytest.mark.parametrize("method", ["laplace", AGQ(nodes=9)], ids=["laplace", "agq"])
def test_two_categories_are_a_binomial_model(method):
    ours = polars_glmm.fit(frame(), "two ~ x + f + (1 | g)", family="categorical", method=method)
    theirs = polars_glmm.fit(frame(), "two ~ x + f + (1 | g)", family="binomial", method=method)
    assert ours.loglik == pytest.approx(theirs.loglik, abs=1e-9)
    for name in ("estimate", "std_error"):
        assert_allclose(ours.fixef()[name], theirs.fixef()[name], rtol=1e-6)
        assert_allclose(ours.ranef()[name], theirs.ranef()[name], rtol=1e-5, atol=1e-7)
        assert_allclose(ours.varcorr()[name], theirs.varcorr()[name], rtol=1e-5)
    assert ours.fixef()["parameter"].unique().to_list() == ["true"]
    p = frame().glmm.predict(theirs, std_error=True)
    q = frame().glmm.predict(ours, std_error=True)
    assert_allclose(q["prediction_true"], p["prediction"], rtol=1e-6)
    assert_allclose(q["prediction_false"], 1.0 - p["prediction"], rtol=1e-6)
    for label in ("true", "false"):
        assert_allclose(q[f"prediction_{label}_std_error"], p["prediction_std_error"], rtol=1e-5)


def natural(fit):
    """Coefficients (2, 2) and the covariance matrix (2, 2) of the random effects."""
    return fit.fixef()["estimate"].to_numpy().reshape(2, 2), fit.estimate.factors[0].covariances[0]


def test_laplace_is_that_of_dense_matrices():
    fit = fitted(JOINED)
    (beta, sigma), (y, x, g) = natural(fit), arrays(frame())
    root, total = np.linalg.cholesky(sigma), 0.0
    for level in range(g.max() + 1):
        own = g == level
        fixed = beta @ x[own].T
        u = np.zeros(2)
        for _ in range(50):
            eta = np.concatenate([np.zeros((1, own.sum())), fixed + (root @ u)[:, None]])
            p = (np.exp(eta) / np.exp(eta).sum(0))[1:]
            score = (np.stack([y[own] == 1, y[own] == 2]) - p).sum(1)
            w = np.diag(p.sum(1)) - p @ p.T
            hessian = root.T @ w @ root + np.eye(2)
            u = u + np.linalg.solve(hessian, root.T @ score - u)
        total += log_density(fixed + (root @ u)[:, None], y[own]).sum() - 0.5 * u @ u
        total -= 0.5 * np.linalg.slogdet(hessian)[1]
    assert fit.loglik == pytest.approx(total, abs=1e-9)


def test_quadrature_of_many_nodes_is_the_integral():
    fit = fitted(JOINED, method=AGQ(nodes=15))
    (beta, sigma), (y, x, g) = natural(fit), arrays(frame())
    root, step = np.linalg.cholesky(sigma), 0.25
    points = np.arange(-7.0, 7.0 + step, step)  # the trapezoidal rule of an analytic integrand that ends in zero
    u = np.stack([one.ravel() for one in np.meshgrid(points, points)])
    prior = -0.5 * (u**2).sum(0) - np.log(2.0 * np.pi) + 2.0 * np.log(step)
    total = 0.0
    for level in range(g.max() + 1):
        own = g == level
        eta = (beta @ x[own].T)[:, None, :] + (root @ u)[:, :, None]
        whole = np.concatenate([np.zeros_like(eta[:1]), eta])
        log = np.take_along_axis(whole, np.broadcast_to(y[own], (1, *whole.shape[1:])), 0)[0]
        total += np.logaddexp.reduce((log - np.logaddexp.reduce(whole, 0)).sum(1) + prior)
    assert fit.loglik == pytest.approx(total, abs=1e-6)


def test_the_objective_is_the_fit_and_its_gradient_its_slope():
    for formula, method in ((FORMULA, "laplace"), (JOINED, "laplace"), (JOINED, AGQ(nodes=5))):
        fit = fitted(formula, method=method)
        objective = polars_glmm.objective(frame(), formula, family="categorical", method=method)
        names = objective.names
        assert names[:2] == ("dog: Intercept", "dog: x")
        assert "sd(g: emu Intercept)" in names
        rng = np.random.default_rng(2)
        at = dict(zip(names, 0.4 + 0.1 * rng.standard_normal(len(names)), strict=True))
        for name, found in zip(names, objective.gradient(at), strict=True):
            up, down = (objective.loglik({**at, name: at[name] + h}) for h in (1e-5, -1e-5))
            assert found == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-5)
        best = {one["name"]: one["value"] for one in estimates(fit)}
        assert objective.loglik(best) == pytest.approx(fit.loglik, abs=1e-9)


def estimates(fit):
    """Natural parameters of a fit by name."""
    names = polars_glmm.objective(frame(), fit.formula, family="categorical").names
    table = fit.confint()
    found = []
    for row in table.iter_rows(named=True):
        own = row["parameter"]
        if row["quantity"] == "coefficient":
            name = f"{own}: {row['term']}"
        elif row["quantity"] == "sd":
            name = f"sd(g: {own} {row['term']})"
        else:
            name = f"cor(g: {row['term']}, {row['other_term']})"
        assert name in names
        found.append({"name": name, "value": row["estimate"]})
    return found


# invariances and routes


def test_another_baseline_is_the_same_model_where_effects_are_correlated():
    for formula in ("y ~ x + f", JOINED):
        whole = fitted(formula)
        other = fitted(formula, Categorical(baseline="emu"))
        assert other.loglik == pytest.approx(whole.loglik, abs=1e-8)
        a, b = whole.fixef(), other.fixef()
        own = lambda table, label: table.filter(parameter=label)["estimate"].to_numpy()
        assert_allclose(own(b, "dog"), own(a, "dog") - own(a, "emu"), atol=1e-5)
        assert_allclose(own(b, "cat"), -own(a, "emu"), atol=1e-5)
        p, q = (frame().glmm.predict(one, std_error=True) for one in (whole, other))
        for label in LABELS:
            for end in ("", "_std_error"):
                assert_allclose(q[f"prediction_{label}{end}"], p[f"prediction_{label}{end}"], rtol=1e-4)


def test_new_labels_in_the_same_order_change_nothing():
    renamed = frame().with_columns(pl.col("y").replace_strict({"cat": "1", "dog": "2", "emu": "3"}))
    whole, other = fitted(), polars_glmm.fit(renamed, FORMULA, family="multinomial")
    assert other.loglik == pytest.approx(whole.loglik, abs=1e-12)
    assert_allclose(other.fixef()["estimate"], whole.fixef()["estimate"], rtol=1e-12)
    assert other.fixef()["parameter"].to_list() == ["2", "2", "3", "3"]


@pytest.mark.parametrize(
    "dtype", [pl.Categorical(), pl.Enum(["emu", "cat", "dog"]), pl.Int16(), pl.Boolean(), pl.String()], ids=str
)
def test_responses_of_every_dtype_come_back_from_draws(dtype):
    values = {"cat": 4, "dog": -1, "emu": 7} if dtype.is_integer() else {"cat": True, "dog": False, "emu": True}
    plain = dtype.is_integer() or dtype == pl.Boolean()
    column = pl.col("y").replace_strict(values) if plain else pl.col("y")
    data = frame().with_columns(column.cast(dtype))
    baseline = {"Boolean": True, "Int16": 4}.get(str(dtype), "dog")
    fit = polars_glmm.fit(data, FORMULA, family=Categorical(baseline=baseline))
    drawn = data.glmm.simulate(fit, 2, rng=1)
    assert drawn.schema["sim_1"] == dtype
    assert set(drawn["sim_1"].unique()) == set(data["y"].unique())
    likely = data.glmm.predict(fit, kind="class")
    assert likely.schema["prediction"] == dtype
    assert (likely["prediction"] == data["y"]).mean() > data["y"].value_counts()["count"].max() / data.height
    seen = data.glmm.augment(fit)
    names = data["y"].cast(pl.String).to_list()
    p = data.glmm.predict(fit)
    assert_allclose(seen["fitted"], [p[f"prediction_{name}"][i] for i, name in enumerate(names)], rtol=1e-12)


def test_every_route_gives_the_same_fit():
    whole = fitted()
    coarse = frame().with_columns(pl.col("x").round(0))
    counted = coarse.group_by("y", "x", "g").len("n").sample(fraction=1.0, shuffle=True, seed=1)
    uncounted = Control(rows=Rows(compress=False))
    disk = Control(memory=Memory(limit=1), rows=Rows(compress=False))
    lazy = frame().lazy()
    assert lazy.glmm.explain(FORMULA, family="categorical", control=disk).plan.route == "disk"
    for other in (
        polars_glmm.fit(lazy, FORMULA, family="categorical"),
        polars_glmm.fit(lazy, FORMULA, family="categorical", control=disk),
        polars_glmm.fit(frame(), "y ~ x", groups="g", family="categorical"),
        polars_glmm.fit(frame(), "y ~ x", groups=["g"], family="categorical", control=uncounted),
    ):
        assert other.loglik == pytest.approx(whole.loglik, abs=1e-9)
        assert_allclose(other.fixef()["estimate"], whole.fixef()["estimate"], rtol=1e-6)
        assert_allclose(other.fixef()["std_error"], whole.fixef()["std_error"], rtol=1e-4)
        assert_allclose(other.ranef()["estimate"], whole.ranef()["estimate"], atol=1e-6)
    plain = polars_glmm.fit(coarse, FORMULA, family="categorical", control=uncounted)
    other = polars_glmm.fit(counted, FORMULA, family="categorical", frequency="n")
    assert other.loglik == pytest.approx(plain.loglik, abs=1e-9)
    assert_allclose(other.fixef()["estimate"], plain.fixef()["estimate"], rtol=1e-6)


def test_equal_rows_are_counted():
    many = pl.concat([frame().with_columns(pl.col("x").round(0))] * 70)
    counted = polars_glmm.fit(many, "y ~ x", family="categorical")
    assert "rows_compressed" in counted.diagnose()["code"].to_list()
    plain = polars_glmm.fit(many, "y ~ x", family="categorical", control=Control(rows=Rows(compress=False)))
    assert counted.loglik == pytest.approx(plain.loglik, rel=1e-12)


def test_fits_by_key_have_the_categories_of_all_keys():
    both = pl.concat([frame().with_columns(k=pl.lit("a")), frame(200, 9).with_columns(k=pl.lit("b"))])
    made = polars_glmm.fit(both, FORMULA, family="categorical", by="k")
    for key, rows in (("a", frame()), ("b", frame(200, 9))):
        alone = polars_glmm.fit(rows, FORMULA, family="categorical")
        own = made.fixef().filter(k=key)
        assert own["parameter"].to_list() == ["dog", "dog", "emu", "emu"]
        assert_allclose(own["estimate"], alone.fixef()["estimate"], rtol=1e-6)
        told = both.glmm.predict(made).filter(k=key)
        assert_allclose(told["prediction_emu"], rows.glmm.predict(alone)["prediction_emu"], rtol=1e-6)
    fewer = both.filter((pl.col("k") == "a") | (pl.col("y") != "cat"))
    with pytest.warns(FitWarning, match="failed"):
        part = polars_glmm.fit(fewer, "y ~ x", family="categorical", by="k")
    assert "no row in 'cat'" in part.status().filter(k="b")["text"].item()


@pytest.mark.slow
def test_parameters_are_recovered():
    """Of 12 draws from a known law the means of the estimates lie within 4 of their standard errors of the truth."""
    rng, n, groups = np.random.default_rng(11), 4000, 200
    root = np.linalg.cholesky(np.array([[0.8, 0.3], [0.3, 0.5]]))
    truth = np.array([0.3, 0.8, -0.2, -0.5])
    found, sizes = [], []
    for _ in range(12):
        g, x = rng.integers(0, groups, n), rng.standard_normal(n)
        fixed = truth.reshape(2, 2) @ np.stack([np.ones(n), x])
        eta = np.concatenate([np.zeros((1, n)), fixed + (root @ rng.standard_normal((2, groups)))[:, g]])
        y = LABELS[(eta + rng.gumbel(size=eta.shape)).argmax(0)]
        fit = polars_glmm.fit(pl.DataFrame({"y": y, "x": x, "g": g}), JOINED, family="categorical", method=AGQ(nodes=5))
        found.append(fit.fixef()["estimate"].to_numpy())
        sizes.append(fit.estimate.factors[0].covariances[0][[0, 0, 1], [0, 1, 1]])
    for values, true in ((np.array(found), truth), (np.array(sizes), np.array([0.8, 0.3, 0.5]))):
        error = values.std(0, ddof=1) / np.sqrt(len(values))
        assert np.all(np.abs(values.mean(0) - true) < 4.0 * error)
