"""Exact ML and REML of gaussian models with a formula for phi, against dense algebra and against differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import polars_glmm
from polars_glmm import ModelError
from polars_glmm.design.records import Design, Predictor
from polars_glmm.families.registry import resolve_family
from polars_glmm.likelihood.build import estimate, objective
from polars_glmm.spec.method import ML, REML
from tests.likelihood.models import control, dense_covariance, dense_rows, draw, factor

GAUSSIAN = resolve_family("gaussian")
SLEEP = ("Reaction ~ Days + (1 | Subject)", "phi ~ Days")


def between(design: Design, sigmas: list[Any]) -> Any:
    """ZΣZ' (n, n)."""
    if not design.factors:
        return np.zeros((design.n_rows, design.n_rows))
    z = dense_rows(design)
    return z @ dense_covariance(design, sigmas) @ z.T


def dense(design: Design, sigmas: list[Any], log_phi: Any, *, reml: bool, beta: Any = None) -> float:
    """−½[ν log 2π + log|V| (+ log|X'V⁻¹X|) + r'V⁻¹r], V = ZΣZ' + diag(phi²/precision), rows repeated as counted."""
    times = np.ones(design.n_rows, dtype=int) if design.frequency is None else design.frequency.astype(int)
    rows = np.repeat(np.arange(design.n_rows), times)
    x = design.mu.x.T[rows]
    w = 1.0 if design.precision is None else design.precision[rows]
    v = between(design, sigmas)[np.ix_(rows, rows)] + np.diag(np.exp(2.0 * log_phi[rows]) / w)
    y = (design.y if design.mu.offset is None else design.y - design.mu.offset)[rows]
    inverse = np.linalg.inv(v)
    m = x.T @ inverse @ x
    e = y - x @ (np.linalg.solve(m, x.T @ inverse @ y) if beta is None else beta)
    nu = len(rows) - (x.shape[1] if reml else 0)
    extra = np.linalg.slogdet(m)[1] if reml else 0.0
    return float(-0.5 * (nu * np.log(2 * np.pi) + np.linalg.slogdet(v)[1] + extra + e @ inverse @ e))


def designs() -> dict[str, Design]:
    """Models with phi of a covariate, and of a factor of three levels (with and without an offset of log phi)."""
    rng = np.random.default_rng(5)
    base, _ = draw("gaussian", n=84, groups=8, r=2, modelled_phi=True)
    n, x, one = base.n_rows, base.mu.x[1], np.ones(base.n_rows)
    codes = rng.integers(0, 8, n)
    kind = rng.integers(0, 3, n)
    kinds = Predictor(np.array([one, kind == 1, kind == 2], dtype=float), ("Intercept", "f1", "f2"), parameter="phi")
    crossed = (factor("g", codes, [one]), factor("h", rng.integers(0, 6, n), [one, x]))
    covariate = {
        "(1+x|g)": base,
        "(x||g)": replace(base, factors=(factor("g", codes, [one, x + 40.0], [("diag", 2)]),)),
        "crossed": replace(base, factors=crossed),
        "nested": replace(base, factors=(factor("g", codes // 3, [one]), factor("h", codes, [one]))),
        "none": replace(base, factors=()),
        "precision, offset": replace(base, precision=rng.uniform(0.5, 2, n), mu=replace(base.mu, offset=5 * x)),
        "frequency": replace(base, frequency=rng.integers(1, 4, n).astype(float)),
        "x·1000": replace(base, mu=replace(base.mu, x=base.mu.x * [[1.0], [1000.0]])),
    }
    of_factor = {f"{name}, by factor": replace(design, further=(kinds,)) for name, design in covariate.items()}
    moved = replace(base, further=(replace(kinds, offset=0.3 * (kind == 2)),))
    return covariate | of_factor | {"offset of log phi": moved}


def log_phi_of(design: Design, gamma: Any) -> Any:
    assert design.phi is not None
    eta = gamma @ design.phi.x
    return eta if design.phi.offset is None else eta + design.phi.offset


@pytest.mark.one_in(6)
@pytest.mark.parametrize("method", [ML(), REML()], ids=["ML", "REML"])
@pytest.mark.parametrize("name", list(designs()))
def test_the_objective_is_the_dense_formula_and_its_gradient_that_of_differences(name: str, method: ML | REML) -> None:
    design = designs()[name]
    goal = objective(design, GAUSSIAN, method, control(block=20))
    values = {"cor": 0.4, "sd(": 0.7, "phi": 0.2}
    x = np.array([values.get(n[:3], 0.3) + 0.05 * k for k, n in enumerate(goal.names)])
    at = dict(zip(goal.names, x, strict=True))
    sigmas = []
    for f in design.factors:
        names = [n for t in f.terms for n in t.names]
        whole = np.diag([at[f"sd({f.name}: {n})"] ** 2 for n in names])
        for one, other in ((0, 1),) if len(names) == 2 and f.terms[0].structure == "us" else ():
            r = at[f"cor({f.name}: {names[0]}, {names[1]})"]
            whole[one, other] = whole[other, one] = r * np.sqrt(whole[0, 0] * whole[1, 1])
        sigmas.append(whole)
    s = 0 if design.phi is None else len(design.phi.names)
    p = len(design.mu.names)
    exact = dense(design, sigmas, log_phi_of(design, x[-s:]), reml=isinstance(method, REML), beta=x[:p])
    assert goal.loglik(x) == pytest.approx(exact, abs=1e-9 * max(1.0, abs(exact)))
    steps = (
        1e-5 * np.maximum(np.abs(x), 1e-2) / np.maximum(1.0, np.abs(np.append(design.mu.x.max(1), np.ones(len(x) - p))))
    )
    slopes = [
        (goal.loglik(x + h * e) - goal.loglik(x - h * e)) / (2 * h) for h, e in zip(steps, np.eye(len(x)), strict=True)
    ]
    assert_allclose(goal.gradient(x), slopes, rtol=2e-5, atol=1e-5 * np.abs(slopes).max())


@pytest.mark.one_in(6)
@pytest.mark.parametrize("method", [ML(), REML()], ids=["ML", "REML"])
@pytest.mark.parametrize("name", list(designs()))
def test_the_estimate_is_the_dense_optimum(name: str, method: ML | REML) -> None:
    """ℓ at the estimate is the dense one, which falls to every side; by REML Var(β̂) is (X'V⁻¹X)⁻¹."""
    design, reml = designs()[name], isinstance(method, REML)
    found = estimate(design, GAUSSIAN, method, control())
    sigmas = []
    for f, e in zip(design.factors, found.factors, strict=True):
        whole, at = np.zeros((len(f.z),) * 2), 0
        for s in e.covariances:
            whole[at : at + len(s), at : at + len(s)] = s
            at += len(s)
        sigmas.append(whole)
    here = dense(design, sigmas, log_phi_of(design, found.gamma), reml=reml)
    assert found.loglik == pytest.approx(here, abs=1e-8)
    assert found.converged
    for step in 1e-2 * np.eye(len(found.gamma)):
        for sign in (-1, 1):
            assert dense(design, sigmas, log_phi_of(design, found.gamma + sign * step), reml=reml) < here + 1e-9
    for k in range(len(sigmas)):
        for share in (0.98, 1.02):
            moved = [s * share if i == k else s for i, s in enumerate(sigmas)]
            assert dense(design, moved, log_phi_of(design, found.gamma), reml=reml) < here + 1e-9
    if reml and design.frequency is None:
        w = 1.0 if design.precision is None else design.precision
        x = design.mu.x.T
        v = between(design, sigmas) + np.diag(np.exp(2 * log_phi_of(design, found.gamma)) / w)
        p = x.shape[1]
        assert_allclose(found.vcov_fixed[:p, :p], np.linalg.inv(x.T @ np.linalg.solve(v, x)), rtol=1e-6)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("method", [ML(), REML()], ids=["ML", "REML"])
@pytest.mark.parametrize("name", [name for name in designs() if "by factor" in name])
def test_sums_per_residual_variance_say_what_rows_say(name: str, method: ML | REML) -> None:
    """Two engines, one answer: estimates, covariances, degrees of freedom, modes and how they move with β."""
    design = designs()[name]
    sums, rows = (estimate(design, GAUSSIAN, method, control(), by_rows=by_rows) for by_rows in (False, True))
    assert sums.certificate.row_passes == 0.0 < rows.certificate.row_passes
    assert sums.loglik == pytest.approx(rows.loglik, abs=1e-8)
    errors = np.sqrt(np.diag(rows.report_vcov))
    known = np.isfinite(errors)
    assert_allclose((sums.report - rows.report)[known] / errors[known], 0.0, atol=1e-4)
    assert_allclose(np.sqrt(np.diag(sums.report_vcov)), errors, rtol=2e-3)
    p = len(design.mu.names)
    assert_allclose(sums.vcov_fixed, rows.vcov_fixed, rtol=1e-3, atol=1e-4 * rows.vcov_fixed.max())
    assert (sums.df_model, sums.null_df, sums.singular) == (rows.df_model, rows.null_df, rows.singular)
    if rows.null_loglik is not None:
        assert sums.null_loglik == pytest.approx(rows.null_loglik, abs=1e-8)
    if rows.df_satterthwaite is not None:
        assert_allclose(sums.df_satterthwaite, rows.df_satterthwaite, rtol=2e-3)
    for a, b in zip(sums.factors, rows.factors, strict=True):
        assert_allclose(a.modes, b.modes, atol=1e-4)
        assert_allclose(a.mode_covariance, b.mode_covariance, atol=1e-4)
        assert a.mode_slope is not None
        assert_allclose(a.mode_slope[:, :p], b.mode_slope, rtol=1e-3, atol=1e-5)


def test_with_a_constant_alone_the_formula_of_phi_changes_nothing() -> None:
    """One σ has one optimum, whichever way it is written, with the same standard errors and degrees of freedom."""
    for design in (designs()["(1+x|g)"], designs()["crossed"]):
        one = replace(design, further=(Predictor(np.ones((1, design.n_rows)), ("Intercept",), parameter="phi"),))
        for method in (ML(), REML()):
            a = estimate(replace(design, further=()), GAUSSIAN, method, control())
            b = estimate(one, GAUSSIAN, method, control())
            assert b.loglik == pytest.approx(a.loglik, abs=1e-8)
            assert np.exp(b.gamma[0]) == pytest.approx(a.phi, rel=1e-6)
            if a.df_satterthwaite is not None:
                assert_allclose(b.df_satterthwaite, a.df_satterthwaite, rtol=1e-4)
                assert_allclose(b.vcov_fixed[:2, :2], a.vcov_fixed, rtol=1e-6)


def two_groups() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    f = np.repeat(["a", "b"], [12, 25])
    return pl.DataFrame({"f": f, "y": rng.normal(np.where(f == "a", 1.0, 2.0), np.where(f == "a", 3.0, 0.5))})


def test_two_groups_with_their_own_variances_give_the_test_of_welch() -> None:
    """Welch (1947): difference, standard error and degrees of freedom; the variances are those of the samples."""
    frame = two_groups()
    fit = frame.glmm.fit("y ~ f", "phi ~ 0 + f")
    a, b = (frame.filter(pl.col("f") == name)["y"].to_numpy() for name in "ab")
    welch = stats.ttest_ind(b, a, equal_var=False)
    row = fit.fixef().filter(pl.col("parameter") == "mu").row(1, named=True)
    assert row["estimate"] == pytest.approx(b.mean() - a.mean(), rel=1e-9)
    assert row["statistic"] == pytest.approx(welch.statistic, rel=1e-7)
    assert row["df"] == pytest.approx(welch.df, rel=1e-4)
    assert row["p_value"] == pytest.approx(welch.pvalue, rel=1e-4)
    phi = fit.fixef().filter(pl.col("parameter") == "phi")["estimate"]
    assert_allclose(np.exp(phi), [a.std(ddof=1), b.std(ddof=1)], rtol=1e-7)


def test_reml_is_the_method_of_gaussian_models_with_a_formula_of_phi() -> None:
    sleep = polars_glmm.datasets.load("sleepstudy")
    fit = sleep.glmm.fit(*SLEEP)
    assert fit.method == "reml"
    assert "restricted maximum likelihood (REML)" in str(fit)
    assert fit.loglik == sleep.glmm.fit(*SLEEP, method="reml").loglik
    with pytest.raises(ModelError, match="gaussian models with identity link"):
        sleep.glmm.fit(*SLEEP, family="gamma", method="reml")


def test_anova_compares_formulas_of_phi_by_reml_and_refuses_other_means() -> None:
    sleep = polars_glmm.datasets.load("sleepstudy")
    one, two = sleep.glmm.fit(SLEEP[0]), sleep.glmm.fit(*SLEEP)
    table = polars_glmm.anova(one, two)
    assert table["chisq"][1] == pytest.approx(2 * (two.loglik - one.loglik), rel=1e-9)
    assert table["df"][1] == 1
    with pytest.raises(ModelError, match="different fixed effects"):
        polars_glmm.anova(sleep.glmm.fit("Reaction ~ 1 + (1 | Subject)", SLEEP[1]), two)
