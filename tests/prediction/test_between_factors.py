"""Modes of different factors are not independent given the data: their covariance counts in errors of predictions.

The law is Henderson's (1975): C = [X'WX X'WZ; Z'WX Z'WZ + G⁻¹]⁻¹ is the covariance of (β̂, b̂ − b), and t'Ct that of a
row t = (x, z). Of other than gaussian models Z'Var(b | y)z and the slopes are those of the same equations at the modes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import block_diag

import polars_glmm as pg
from polars_glmm import ModelError
from polars_glmm.linalg import between
from tests.streaming.same import quietly

A, B, C = 12, 7, 4


@cache
def rows() -> pl.DataFrame:
    """a nested in c, b crossed with both; each a meets some of b only."""
    rng = np.random.default_rng(5)
    n = 240
    a, x = rng.integers(0, A, n), rng.normal(size=n).round(3)
    b, c = (a + rng.integers(0, 4, n)) % B, a // 3
    ua, ub, uc = rng.normal(size=A) * 0.7, rng.normal(size=(2, B)) * [[0.6], [0.4]], np.array([-1.2, 0.9, 1.4, -0.7])
    eta = 0.3 + 0.5 * x + ua[a] + uc[c] + ub[0, b] + ub[1, b] * x
    return pl.DataFrame(
        {
            "a": a, "b": b, "c": c, "x": x,
            "other": (b + rng.integers(1, B, n)) % B, "key": np.where(rng.random(n) < 0.5, "l", "r"),
            "y": (eta + 0.8 * rng.normal(size=n)).round(3), "k": rng.poisson(np.exp(eta)),
        }
    )  # fmt: skip


def grid() -> pl.DataFrame:
    """All levels with all others, also with those that they never met."""
    every = [(a, b, c) for a in range(A) for b in range(B) for c in range(C)]
    return pl.DataFrame(every, schema=["a", "b", "c"], orient="row").with_columns(
        x=pl.lit(0.7), other=(pl.col("b") + 1) % B
    )


def z_of(factor: Any, new: pl.DataFrame) -> np.ndarray:
    codes = factor.levels[factor.keys[0]].to_list()
    share = np.zeros((new.height, len(codes)))
    slots = factor.members.keys if factor.members is not None else factor.keys
    for slot in slots:
        share[np.arange(new.height), [codes.index(v) for v in new[slot]]] += 1.0 / len(slots)
    columns = [column.name for term in factor.terms for column in term.columns]
    return np.hstack([share * (1.0 if name == "Intercept" else new["x"].to_numpy()[:, None]) for name in columns])


def henderson(fit: Any, new: pl.DataFrame) -> np.ndarray:
    """√(z'H⁻¹z + a'Var(β̂)a) with H = Z'WZ + G⁻¹, a = x − X'WZH⁻¹z and Var(β̂) as reported: √t'Ct where that is C's."""
    learned, frame = fit.estimate, rows()
    if fit.recipe.spec.family.name == "gaussian":
        w = np.full(frame.height, 1.0 / learned.phi**2)
    else:
        w = fit.predict(frame)["prediction"].to_numpy()  # a log link's
    x, x_new = (np.column_stack([np.ones(one.height), one["x"]]) for one in (frame, new))
    z, z_new = (np.hstack([z_of(factor, one) for factor in fit.recipe.factors]) for one in (frame, new))
    g = [np.kron(block_diag(*own.covariances), np.eye(own.modes.shape[1])) for own in learned.factors]
    root = np.linalg.cholesky(block_diag(*g))
    inner = root.T @ z.T @ (w[:, None] * z) @ root + np.eye(len(root))
    conditional = root @ np.linalg.solve(inner, root.T)
    a = x_new - z_new @ conditional @ (z.T @ (w[:, None] * x))
    own = np.einsum("ni,ij,nj->n", z_new, conditional, z_new)
    return np.asarray(np.sqrt(own + np.einsum("np,pq,nq->n", a, learned.vcov_fixed, a)))


def errors(fit: Any, new: pl.DataFrame) -> np.ndarray:
    found = new.lazy().glmm.predict(fit, kind="link", std_error=True).collect()
    return found["prediction_std_error"].to_numpy()


MODELS = {
    "nested": "x + (1 | a) + (1 | c)",
    "crossed": "x + (1 | a) + (1 | b)",
    "slopes": "x + (1 | a) + (x || b)",
    "three": "x + (1 | a) + (1 | c) + (x | b)",
    "several levels": "x + (1 | mm(b, other)) + (1 | a)",
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("y", ["y", "k"])
def test_errors_are_those_of_all_modes_together(model: str, y: str) -> None:
    fit = quietly(rows(), f"{y} ~ {MODELS[model]}", **({"family": "poisson"} if y == "k" else {}))
    for new in (rows(), grid()):
        assert_allclose(errors(fit, new), henderson(fit, new), rtol=1e-6 if y == "y" else 2e-5)


def test_of_many_levels_those_that_met_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not known is null: levels of a model with many of them that never met in a row."""
    whole = quietly(rows(), "k ~ x + (1 | a) + (1 | b)", family="poisson")
    monkeypatch.setattr(between, "PAIRS_KEPT", 0)
    fit = quietly(rows(), "k ~ x + (1 | a) + (1 | b)", family="poisson")
    assert_allclose(errors(fit, rows()), errors(whole, rows()), rtol=1e-9)
    met = grid().join(rows().select("a", "b").unique(), on=["a", "b"], how="semi")
    apart = grid().join(rows().select("a", "b").unique(), on=["a", "b"], how="anti")
    assert_allclose(errors(fit, met), errors(whole, met), rtol=1e-9)
    assert 0 < apart.height == fit.predict(apart, std_error=True)["prediction_std_error"].null_count()
    assert fit.predict(apart)["prediction"].null_count() == 0


BY_KEY = ["y ~ x + (1 | a) + (1 | b)", "y ~ x + (1 | a) + (1 | c)", "k ~ x + (1 | a) + (1 | b)"]


@pytest.mark.parametrize("formula", BY_KEY)
def test_models_by_key_have_those_of_each(formula: str) -> None:
    family = {"family": "poisson"} if formula.startswith("k") else {}
    together = quietly(rows(), formula, by="key", **family)
    found = rows().glmm.predict(together, kind="link", std_error=True)
    for key in ("l", "r"):
        own = rows().filter(pl.col("key") == key)
        alone = quietly(own, formula, **family)
        expected = errors(alone, own)
        assert_allclose(found.filter(pl.col("key") == key)["prediction_std_error"], expected, rtol=1e-5)
        assert_allclose(errors(together[key], own), expected, rtol=1e-5)


def test_a_level_that_is_new_is_independent_of_the_others() -> None:
    fit = quietly(rows(), "y ~ x + (1 | a) + (1 | b)")
    new = rows().with_columns(b=pl.lit(99))
    a_only = new.glmm.predict(fit, std_error=True, random=["a"])["prediction_std_error"].to_numpy()
    both = new.glmm.predict(fit, std_error=True, new_levels="zero")["prediction_std_error"].to_numpy()
    (of_b,) = (own.covariances[0][0, 0] for own in fit.estimate.factors if own.name == "b")
    assert_allclose(both**2, a_only**2 + of_b, rtol=1e-9)


def test_files_keep_them(tmp_path: Any) -> None:
    for options in ({}, {"by": "key"}):
        fit = quietly(rows(), "y ~ x + (1 | a) + (1 | b)", **options)
        fit.write(tmp_path / "model")
        again = pg.read_fit(tmp_path / "model")
        columns = [rows().glmm.predict(one, std_error=True)["prediction_std_error"] for one in (fit, again)]
        assert columns[0].equals(columns[1])


def test_a_fit_that_does_not_have_them_says_so() -> None:
    fit = quietly(rows(), "y ~ x + (1 | a) + (1 | b)")
    for own in fit.estimate.factors:
        object.__setattr__(own, "between", ())
    with pytest.raises(ModelError, match="covariance of the modes of 'a' and 'b'"):
        fit.predict(rows(), std_error=True)
    assert fit.predict(rows(), std_error=True, random=["a"])["prediction_std_error"].null_count() == 0
