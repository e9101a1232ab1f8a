"""Kenward and Roger's covariance and degrees of freedom: a dense implementation of the paper, exact designs, edges."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm import Control, Memory, datasets
from polars_glmm.errors import ModelError, ResourceError
from polars_glmm.inference.covariance import coefficient_covariance
from polars_glmm.inference.ddf import scaled

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
"""Some of the designs are singular: the method is the same there."""


class Dense(NamedTuple):
    """Their section 2 with matrices of rows by rows: adjusted covariance, and (df, scale) of an L."""

    adjusted: Any
    f: Any


def dense(x: Any, parts: Sequence[Any], constant: Any = 0.0) -> Dense:
    """V = constant + Σ_k θ_k ∂V_k at the estimates of parts = [(θ_k, ∂V_k), …]."""
    v = constant + sum(theta * part for theta, part in parts)
    slopes = [part for _, part in parts]
    inverse = np.linalg.inv(v)
    phi = np.linalg.inv(x.T @ inverse @ x)
    p = [-x.T @ inverse @ s @ inverse @ x for s in slopes]
    q = [[x.T @ inverse @ s @ inverse @ t @ inverse @ x for t in slopes] for s in slopes]
    r = inverse - inverse @ x @ phi @ x.T @ inverse
    information = np.array([[0.5 * np.trace(r @ s @ r @ t) for t in slopes] for s in slopes])
    w = np.linalg.inv(information)
    k = range(len(slopes))
    inner = sum(w[i, j] * (q[i][j] - p[i] @ phi @ p[j]) for i in k for j in k)
    adjusted = phi + 2.0 * phi @ inner @ phi

    def f(rows: Any) -> tuple[float, float]:
        theta = rows.T @ np.linalg.inv(rows @ phi @ rows.T) @ rows
        moved = [theta @ phi @ one @ phi for one in p]
        a1 = sum(w[i, j] * np.trace(moved[i]) * np.trace(moved[j]) for i in k for j in k)
        a2 = sum(w[i, j] * np.trace(moved[i] @ moved[j]) for i in k for j in k)
        return tuple(scaled(a1, a2, len(rows))) if len(rows) > 1 else (2.0 / a2, 1.0)

    return Dense(adjusted, f)


def indicator(levels: Any) -> Any:
    return (np.asarray(levels)[:, None] == np.unique(levels)).astype(float)


def covariances(fit: Any, group: str) -> Any:
    return next(f.covariances for f in fit.estimate.factors if f.name == group)


def us_parts(sigma: Any, z: Sequence[Any], levels: Any) -> list[tuple[float, Any]]:
    """One part for each entry of an unstructured Σ of effects of the columns z."""
    same = indicator(levels) @ indicator(levels).T
    found = []
    for i in range(len(sigma)):
        for j in range(i + 1):
            both = np.outer(z[i], z[j])
            found.append((float(sigma[i, j]), same * (both if i == j else both + both.T)))
    return found


def simulated(seed: int, n: int = 90) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 9, n), rng.integers(0, 6, n)
    top = b // 3
    x, w = rng.normal(size=n), rng.uniform(0.5, 2.0, n)
    u = rng.normal(size=(3, 9))
    y = 1 + 0.5 * x + u[0][a] + x * u[1][a] * 0.7 + u[2][b] + 0.5 * top + rng.normal(size=n) / np.sqrt(w)
    names = {"a": a, "b": b, "top": top}
    return pl.DataFrame({"y": y, "x": x, "w": w} | {k: [f"{k}{i}" for i in v] for k, v in names.items()}).with_columns(
        f=pl.Series([f"f{i}" for i in rng.integers(0, 3, n)])
    )


def design(frame: pl.DataFrame) -> Any:
    """1, x and f in treatment coding."""
    f = frame["f"]
    return np.column_stack([np.ones(frame.height), frame["x"], f == "f1", f == "f2"]).astype(float)


def close(fit: Any, expected: Dense, rtol: float = 1e-10) -> None:
    ours = coefficient_covariance(fit, df="kenward_roger")
    size = np.sqrt(np.outer(np.diag(expected.adjusted), np.diag(expected.adjusted)))
    assert_allclose(ours.matrix / size, expected.adjusted / size, rtol=0, atol=rtol)
    for rows in (np.eye(4)[1:2], np.array([[1.0, 0.3, 0.5, 0.5]]), np.eye(4)[2:], np.eye(4)[1:]):
        assert_allclose(tuple(ours.df_of(rows)), expected.f(rows), rtol=10 * rtol)


def test_one_factor_with_slopes_equals_dense_matrices() -> None:
    frame = simulated(1)
    fit = frame.glmm.fit("y ~ x + f + (x | a)")
    z = [np.ones(frame.height), frame["x"].to_numpy()]
    parts = [*us_parts(covariances(fit, "a")[0], z, frame["a"]), (fit.estimate.phi**2, np.eye(frame.height))]
    close(fit, dense(design(frame), parts))


def test_independent_slopes_have_no_covariance_to_be_estimated() -> None:
    frame = simulated(2)
    fit = frame.glmm.fit("y ~ x + f + (x || a)")
    (sigma,) = covariances(fit, "a")
    z = [np.ones(frame.height), frame["x"].to_numpy()]
    parts = [part for k, part in enumerate(us_parts(sigma, z, frame["a"])) if k != 1]
    close(fit, dense(design(frame), [*parts, (fit.estimate.phi**2, np.eye(frame.height))]))


def test_precisions_divide_the_residual_variance() -> None:
    frame = simulated(3)
    fit = frame.glmm.fit("y ~ x + f + (1 | a)", precision="w")
    parts = us_parts(covariances(fit, "a")[0], [np.ones(frame.height)], frame["a"])
    close(fit, dense(design(frame), [*parts, (fit.estimate.phi**2, np.diag(1.0 / frame["w"].to_numpy()))]))


@pytest.mark.parametrize(
    ("formula", "groups"),
    [
        ("y ~ x + f + (1 | a) + (1 | b)", ("a", "b")),
        ("y ~ x + f + (x | a) + (1 | b)", ("a", "b")),
        ("y ~ x + f + (1 | a) + (x | b)", ("a", "b")),
        ("y ~ x + f + (1 | top) + (1 | b)", ("top", "b")),
        ("y ~ x + f + (1 | top/b) + (1 | a)", ("top", "top:b", "a")),
        ("y ~ x + f + (1 | a) + (1 | a:b)", ("a", "a:b")),
        ("y ~ x + f + (1 | top/b/a)", ("top", "top:b", "top:b:a")),
    ],
)
def test_several_factors_equal_dense_matrices(formula: str, groups: tuple[str, ...]) -> None:
    frame = simulated(4, 140)
    fit = frame.glmm.fit(formula, control=Control())
    parts = []
    for group in groups:
        keys = frame.select(pl.concat_str(group.split(":"), separator=":"))[:, 0].to_numpy()
        (sigma,) = covariances(fit, group)
        parts += us_parts(sigma, [np.ones(frame.height), frame["x"].to_numpy()][: len(sigma)], keys)
    close(fit, dense(design(frame), [*parts, (fit.estimate.phi**2, np.eye(frame.height))]))


def test_a_deviation_that_is_held_counts_as_known() -> None:
    frame = simulated(5)
    fit = frame.glmm.fit("y ~ x + f + (x || a)", fixed={"sd(a: Intercept)": 0.8})
    (sigma,) = covariances(fit, "a")
    z = [np.ones(frame.height), frame["x"].to_numpy()]
    known, _, slope = us_parts(sigma, z, frame["a"])
    residual = (fit.estimate.phi**2, np.eye(frame.height))
    expected = dense(design(frame), [slope, residual], constant=known[0] * known[1])
    close(fit, expected)


def test_a_single_row_has_scale_one_and_an_f_of_one_row_is_the_square_of_t() -> None:
    fit = simulated(6).glmm.fit("y ~ x + f + (1 | a)")
    both = fit.test(["x", "x"], joint=True, df="kenward_roger").row(0, named=True)
    row = fit.fixef(df="kenward_roger").filter(pl.col("term") == "x").row(0, named=True)
    assert both["num_df"] == 1
    assert both["statistic"] == pytest.approx(row["statistic"] ** 2)
    assert both["den_df"] == pytest.approx(row["df"])
    assert both["p_value"] == pytest.approx(row["p_value"])


def split_plot(seed: int) -> pl.DataFrame:
    """3 whole-plot treatments on 4 plots each, 4 subplot treatments in every plot."""
    rng = np.random.default_rng(seed)
    plots = np.repeat(np.arange(12), 4)
    y = rng.normal(size=48) + 2.0 * rng.normal(size=12)[plots]
    return pl.DataFrame(
        {
            "y": y,
            "plot": [f"p{i}" for i in plots],
            "whole": [f"w{i % 3}" for i in plots],
            "sub": [f"s{i}" for i in np.tile(np.arange(4), 12)],
        }
    )


@pytest.mark.parametrize("df", ["kenward_roger", "satterthwaite"])
def test_a_balanced_split_plot_has_the_f_tests_of_its_strata(df: Any) -> None:
    """Whole plots: 3·(4 − 1) = 9 df against plots; subplots and interaction: 9·3 = 27 against the residual."""
    frame = split_plot(3)
    terms = frame.glmm.fit("y ~ whole * sub + (1 | plot)").test_terms(df=df)
    assert terms["term"].to_list() == ["whole", "sub", "whole:sub"]
    assert terms["num_df"].to_list() == [2, 3, 6]
    assert_allclose(terms["den_df"], [9, 27, 27], rtol=1e-5)

    def mean_square(*by: str) -> float:
        means = frame.group_by(by).agg(pl.col("y").mean(), pl.len())
        return float(((means["y"] - frame["y"].mean()) ** 2 * means["len"]).sum())

    whole, plot = mean_square("whole"), mean_square("plot")
    expected = (whole / 2) / ((plot - whole) / 9)
    assert terms["statistic"][0] == pytest.approx(expected, rel=1e-6)


def test_balanced_one_way_kenward_roger_is_satterthwaite_and_exact() -> None:
    rng = np.random.default_rng(8)
    group = np.repeat(np.arange(10), 5)
    frame = pl.DataFrame({"y": rng.normal(size=50) + 2 * rng.normal(size=10)[group], "g": group.astype(str)})
    fit = frame.glmm.fit("y ~ 1 + (1 | g)")
    kr, own = fit.fixef(df="kenward_roger").row(0, named=True), fit.fixef().row(0, named=True)
    assert kr["df"] == pytest.approx(9.0)
    assert own["df"] == pytest.approx(9.0, rel=1e-5)
    assert kr["std_error"] == pytest.approx(own["std_error"], rel=1e-9)


def test_without_random_effects_it_is_the_linear_model() -> None:
    fit = simulated(7).glmm.fit("y ~ x + f")
    assert fit.fixef(df="kenward_roger").equals(fit.fixef())


def test_the_columns_may_have_any_scale() -> None:
    frame = simulated(9)
    one = frame.glmm.fit("y ~ x + f + (x | a) + (1 | b)").fixef(df="kenward_roger")
    scaled_x = frame.with_columns(pl.col("x") * 1e4 + 3e5, pl.col("y") + 1e6)
    other = scaled_x.glmm.fit("y ~ x + f + (x | a) + (1 | b)").fixef(df="kenward_roger")
    assert_allclose(other["p_value"][1:], one["p_value"][1:], rtol=1e-4)
    assert_allclose(other["df"][1:], one["df"][1:], rtol=1e-4)
    assert_allclose(other["std_error"][1] * 1e4, one["std_error"][1], rtol=1e-5)


def test_frequencies_are_repeated_rows() -> None:
    frame = simulated(10, 60).with_columns(n=pl.Series(np.random.default_rng(1).integers(1, 4, 60)))
    repeated = frame[np.repeat(np.arange(60), frame["n"].to_numpy())]
    counted = frame.glmm.fit("y ~ x + f + (1 | a)", frequency="n").fixef(df="kenward_roger")
    whole = repeated.glmm.fit("y ~ x + f + (1 | a)").fixef(df="kenward_roger")
    assert_allclose(counted["df"], whole["df"], rtol=1e-6)
    assert_allclose(counted["std_error"], whole["std_error"], rtol=1e-6)


def test_every_route_gives_the_same() -> None:
    """Arrays, queries of a lazy frame, a frame so long that queries are quicker, and one model among many by key."""
    frame = simulated(11, 400)
    formula = "y ~ x + f + (x | a)"
    usual = frame.glmm.fit(formula).fixef(df="kenward_roger")
    lazy = frame.lazy().glmm.fit(formula).fixef(df="kenward_roger")
    assert_allclose(lazy["df"], usual["df"], rtol=1e-5)
    assert_allclose(lazy["std_error"], usual["std_error"], rtol=1e-6)
    keyed = pl.concat([frame.with_columns(key=pl.lit(k)) for k in range(5)]).glmm.fit(formula, by="key")
    table = keyed.fixef(df="kenward_roger")
    assert table.columns == ["key", *usual.columns]
    assert_allclose(table["df"], np.tile(usual["df"], 5), rtol=1e-5)
    assert keyed.test_terms(df="kenward_roger").height == 10


def test_it_says_what_it_cannot_do() -> None:
    frame = simulated(12)
    fit = frame.glmm.fit("y ~ x + f + (1 | a)")
    with pytest.raises(ModelError, match="satterthwaite"):
        pickle.loads(pickle.dumps(fit)).fixef(df="kenward_roger")  # noqa: S301  our own
    with pytest.raises(ModelError, match="method='reml'"):
        fit.update(method="ml").fixef(df="kenward_roger")
    counts = frame.with_columns(pl.col("y").abs().round().cast(pl.Int64))
    poisson = counts.glmm.fit("y ~ x + (1 | a)", family="poisson")
    with pytest.raises(ModelError, match="poisson"):
        poisson.vcov(vcov="kenward_roger")
    held = frame.glmm.fit("y ~ x + f + (1 | a)", fixed={"x": 0.5})
    with pytest.raises(ModelError, match="satterthwaite"):
        held.fixef(df="kenward_roger")


def test_crossed_factors_beyond_memory_are_refused_with_a_remedy() -> None:
    rng = np.random.default_rng(1)
    n = 4000
    frame = pl.DataFrame({"y": rng.normal(size=n), "s": rng.integers(0, 900, n), "d": rng.integers(0, 800, n)})
    fit = frame.glmm.fit("y ~ 1 + (1 | s) + (1 | d)")
    small = fit.update(control=Control(memory=Memory(limit=30_000_000)))
    with pytest.raises(ResourceError, match="satterthwaite"):
        small.fixef(df="kenward_roger")


def test_the_matrix_and_the_standard_errors_are_the_same() -> None:
    fit = datasets.load("cake").glmm.fit("angle ~ recipe * temp + (1 | recipe:replicate)")
    matrix = fit.vcov(vcov="kenward_roger")
    own = matrix.filter(pl.col("term") == pl.col("other_term"))["covariance"].sqrt()
    assert_allclose(own, fit.fixef(df="kenward_roger")["std_error"], rtol=1e-12)
    assert_allclose(own, fit.fixef(vcov="kenward_roger", df="normal")["std_error"], rtol=1e-12)
    given = fit.fixef(vcov=matrix, df=12)
    assert_allclose(given["std_error"], own, rtol=1e-12)
    assert set(given["df"]) == {12.0}
    full = fit.vcov(full=True, vcov="kenward_roger")
    first = full.filter(pl.col("parameter") == "mu", pl.col("other_parameter") == "mu")
    assert_allclose(first["covariance"], matrix["covariance"], rtol=1e-12)
