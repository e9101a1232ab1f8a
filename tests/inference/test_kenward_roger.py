"""Kenward and Roger's covariance and degrees of freedom: a dense implementation of the paper, exact designs, edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm import Control
from polars_glmm.inference.covariance import coefficient_covariance
from polars_glmm.inference.ddf import scaled

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
"""Some of the designs are singular: the method is the same there."""


class Dense(NamedTuple):
    """Their section 2 with matrices of rows by rows: adjusted covariance, and (df, scale) of an L."""

    adjusted: Any
    f: Any


def dense(fit: Any, x: Any, parts: Sequence[Any], weights: Any = None) -> Dense:
    """V = Σ_k θ_k parts_k at the estimates `theta` of `parts` = [(θ_k, ∂V_k), …]."""
    n = len(x)
    v = sum(theta * part for theta, part in parts)
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
    assert n > x.shape[1]

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
    close(fit, dense(fit, design(frame), parts))


def test_independent_slopes_have_no_covariance_to_be_estimated() -> None:
    frame = simulated(2)
    fit = frame.glmm.fit("y ~ x + f + (x || a)")
    (sigma,) = covariances(fit, "a")
    z = [np.ones(frame.height), frame["x"].to_numpy()]
    parts = [part for k, part in enumerate(us_parts(sigma, z, frame["a"])) if k != 1]
    close(fit, dense(fit, design(frame), [*parts, (fit.estimate.phi**2, np.eye(frame.height))]))


def test_precisions_divide_the_residual_variance() -> None:
    frame = simulated(3)
    fit = frame.glmm.fit("y ~ x + f + (1 | a)", precision="w")
    parts = us_parts(covariances(fit, "a")[0], [np.ones(frame.height)], frame["a"])
    close(fit, dense(fit, design(frame), [*parts, (fit.estimate.phi**2, np.diag(1.0 / frame["w"].to_numpy()))]))


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
    close(fit, dense(fit, design(frame), [*parts, (fit.estimate.phi**2, np.eye(frame.height))]))
