"""Gaussian parameters held by fixed=, and residual variances that are known: exact under ML and under REML."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import Fit, IdentifiabilityError, datasets

BCG = {
    "tp": [4, 6, 3, 62, 33, 180, 8, 505, 29, 17, 186, 5, 27],
    "tn": [119, 300, 228, 13536, 5036, 1361, 2537, 87886, 7470, 1699, 50448, 2493, 16886],
    "cp": [11, 29, 11, 248, 47, 372, 10, 499, 45, 65, 141, 3, 29],
    "cn": [128, 274, 209, 12619, 5761, 1079, 619, 87892, 7232, 1600, 27197, 2338, 17825],
}
"""Trials of BCG vaccine (Colditz et al. 1994): cases and others, treated and control."""
FORMULA = "y ~ 1 + (1 | study)"


def bcg() -> pl.DataFrame:
    """Log relative risks and one over their variances."""
    t, c = pl.col("tp") + pl.col("tn"), pl.col("cp") + pl.col("cn")
    risk = (pl.col("tp") / t).log() - (pl.col("cp") / c).log()
    variance = 1 / pl.col("tp") - 1 / t + 1 / pl.col("cp") - 1 / c
    return pl.DataFrame(BCG).select(study=pl.int_range(pl.len()), y=risk, w=1 / variance)


def meta(frame: Any, method: str) -> Fit:
    return polars_glmm.fit(frame, FORMULA, precision="w", fixed={"phi": 1.0}, method=method)


@pytest.mark.parametrize(("method", "tau2", "mu"), [("ml", 0.2800282, -0.7111991), ("reml", 0.3132433, -0.7145323)])
def test_known_sampling_variances_give_the_numbers_of_meta_analysis(method: str, tau2: float, mu: float) -> None:
    """metafor, rma(yi, vi, data = dat.bcg, method = "ML" and "REML") after escalc("RR"); SE = (Σ 1/(v + τ²))^−½."""
    for frame in (bcg(), bcg().lazy()):
        fit = meta(frame, method)
        assert fit.varcorr()["estimate"][0] == pytest.approx(tau2, abs=2e-6)
        assert fit.fixef()["estimate"].item() == pytest.approx(mu, abs=2e-6)
        se = (1 / (1 / bcg()["w"] + fit.varcorr()["estimate"][0])).sum() ** -0.5
        assert fit.fixef()["std_error"].item() == pytest.approx(se, rel=1e-9)
        assert fit.dispersion()["estimate"].item() == 1.0
        assert fit.dispersion()["std_error"].item() is None
        assert fit.glance()["df_model"].item() == 2
        assert fit.converged


def test_known_variances_by_key_are_those_of_each_key() -> None:
    frame = pl.concat([bcg().with_columns(k=pl.lit(key), y=pl.col("y") * (1 + key)) for key in range(4)])
    fits = polars_glmm.fit(frame, FORMULA, precision="w", fixed={"phi": 1.0}, by="k", method="ml")
    for key, fit in fits:
        assert fit.loglik == pytest.approx(meta(frame.filter(k=key), "ml").loglik, abs=1e-10)


def test_the_likelihood_is_that_of_the_normal_distribution() -> None:
    frame = bcg()
    for method in ("ml", "reml"):
        fit = meta(frame, method)
        v = 1 / frame["w"].to_numpy() + fit.varcorr()["estimate"][0]
        r = frame["y"].to_numpy() - fit.fixef()["estimate"].item()
        reml = 0.0 if method == "ml" else -0.5 * np.log((1 / v).sum()) + 0.5 * np.log(2 * np.pi)
        exact = -0.5 * (np.log(2 * np.pi * v) + r**2 / v).sum() + reml
        assert fit.loglik == pytest.approx(exact, abs=1e-9)


def test_unequal_precisions_tell_both_variances_apart() -> None:
    """One row a level: with equal precisions only the sum of the variances is there, with unequal ones each is."""
    rng = np.random.default_rng(3)
    n = 400
    w = rng.choice([0.2, 1.0, 5.0, 25.0], n)
    frame = pl.DataFrame({"y": 1 + rng.normal(0, 1, n) + rng.normal(0, 0.7, n) / np.sqrt(w), "g": range(n), "w": w})
    for data in (frame, frame.lazy()):
        fit = polars_glmm.fit(data, "y ~ 1 + (1 | g)", precision="w")
        assert_allclose(fit.varcorr()["std_dev"], [1.0, 0.7], atol=0.12)
        with pytest.raises(IdentifiabilityError, match="cannot be told apart"):
            polars_glmm.fit(data, "y ~ 1 + (1 | g)")


HELD = ["phi", "sd(Subject: Intercept)", "sd(Subject: Days)"]


@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize("name", HELD)
def test_held_at_its_estimate_a_parameter_leaves_the_optimum_where_it_is(name: str, method: str) -> None:
    sleep, formula = datasets.load("sleepstudy"), "Reaction ~ Days + (Days || Subject)"
    free = sleep.glmm.fit(formula, method=method)
    sds = free.varcorr()["std_dev"].to_list()
    held = sleep.glmm.fit(formula, method=method, fixed={name: dict(zip([*HELD[1:], "phi"], sds, strict=True))[name]})
    assert held.loglik == pytest.approx(free.loglik, abs=1e-8)
    assert_allclose(held.varcorr()["std_dev"], sds, rtol=1e-6)
    assert_allclose(held.fixef()["std_error"], free.fixef()["std_error"], rtol=1e-6)
    table = held.varcorr().filter(pl.col("other_term").is_null())
    at = [*HELD[1:], "phi"].index(name)
    assert table["std_error"].is_null().to_list() == [i == at for i in range(3)]
    assert held.glance()["df_model"].item() == free.glance()["df_model"].item() - 1


@pytest.mark.parametrize("method", ["ml", "reml"])
@pytest.mark.parametrize(("name", "value"), [("phi", 20.0), ("phi", 60.0), ("sd(Subject: Days)", 2.0)])
def test_held_elsewhere_the_rest_is_at_its_optimum(name: str, value: float, method: str) -> None:
    """The public objective has no slope in anything that is not held, and is lower than at the free optimum."""
    sleep, formula = datasets.load("sleepstudy"), "Reaction ~ Days + (Days || Subject)"
    fit = sleep.glmm.fit(formula, method=method, fixed={name: value})
    objective = polars_glmm.objective(sleep, formula, method=method)
    sds = dict(zip([*HELD[1:], "phi"], fit.varcorr()["std_dev"], strict=True))
    assert sds[name] == pytest.approx(value, rel=1e-12)
    at = dict(zip(fit.fixef()["term"], fit.fixef()["estimate"], strict=True)) | sds
    assert objective.loglik(at) == pytest.approx(fit.loglik, abs=1e-8)
    slopes = dict(zip(objective.names, objective.gradient(at), strict=True))
    assert max(abs(slope) for free, slope in slopes.items() if free != name) < 1e-5
    assert fit.loglik < sleep.glmm.fit(formula, method=method).loglik
    moved = sleep.glmm.fit(formula, method=method, fixed={name: value * 1.0001}).loglik
    assert (moved - fit.loglik) / (1e-4 * value) == pytest.approx(slopes[name], rel=1e-2)


def test_with_all_variances_held_under_reml_degrees_of_freedom_are_without_end() -> None:
    sleep = datasets.load("sleepstudy")
    fixed = {"phi": 25.0, "sd(Subject: Intercept)": 30.0}
    fit = sleep.glmm.fit("Reaction ~ Days + (1 | Subject)", fixed=fixed)
    assert fit.fixef()["df"].to_list() == [None, None]
    assert fit.varcorr()["std_error"].to_list() == [None, None]
    assert fit.certificate.decrement == 0.0


def test_a_gaussian_model_of_the_dispersion_is_exact_by_maximum_likelihood() -> None:
    sleep, formulas = datasets.load("sleepstudy"), ("Reaction ~ Days + (1 | Subject)", "phi ~ Days")
    ml, laplace = (sleep.glmm.fit(*formulas, method=name) for name in ("ml", "laplace"))
    assert (ml.method, laplace.method) == ("ml", "laplace")
    assert ml.loglik == pytest.approx(laplace.loglik, abs=1e-9)
    gamma = ml.fixef().filter(pl.col("parameter") == "phi")["estimate"]
    x, y = sleep["Days"].to_numpy(), sleep["Reaction"].to_numpy()
    same = sleep["Subject"].to_numpy()[:, None] == sleep["Subject"].to_numpy()
    v = ml.varcorr()["estimate"][0] * same + np.diag(np.exp(2 * (gamma[0] + gamma[1] * x)))
    r = y - np.column_stack([np.ones_like(x), x]) @ ml.fixef()["estimate"][:2].to_numpy()
    exact = -0.5 * (len(y) * np.log(2 * np.pi) + np.linalg.slogdet(v)[1] + r @ np.linalg.solve(v, r))
    assert ml.loglik == pytest.approx(exact, abs=1e-8)
    assert "exact" in next(line for line in str(ml).splitlines() if line.startswith("Method"))


def correlated(method: str) -> tuple[Fit, dict[str, float]]:
    """Sleepstudy with correlated slopes, and what its covariances are."""
    sleep = datasets.load("sleepstudy")
    free = sleep.glmm.fit("Reaction ~ Days + (Days | Subject)", method=method)
    sigma = free.estimate.factors[0].covariances[0]
    sd = np.sqrt(np.diag(sigma))
    cor = float(sigma[0, 1] / sd.prod())
    return free, {HELD[1]: float(sd[0]), HELD[2]: float(sd[1]), "cor(Subject: Intercept, Days)": cor}


@pytest.mark.parametrize("method", ["ml", "reml"])
def test_a_whole_term_is_held_with_its_correlations(method: str) -> None:
    free, values = correlated(method)
    for data in (datasets.load("sleepstudy"), datasets.load("sleepstudy").lazy()):
        held = data.glmm.fit("Reaction ~ Days + (Days | Subject)", method=method, fixed=values)
        assert held.loglik == pytest.approx(free.loglik, abs=1e-8)
        assert_allclose(held.varcorr()["estimate"], free.varcorr()["estimate"], rtol=1e-6)
        assert_allclose(held.fixef()["std_error"], free.fixef()["std_error"], rtol=1e-6)
        assert held.glance()["df_model"].item() == free.glance()["df_model"].item() - 3
        assert held.varcorr()["std_error"].is_null().to_list() == [True, True, True, False]
    moved = values | {"cor(Subject: Intercept, Days)": 0.9}
    assert datasets.load("sleepstudy").glmm.fit("Reaction ~ Days + (Days | Subject)", fixed=moved).loglik < free.loglik


def test_a_search_starts_from_a_correlation_that_is_given() -> None:
    free, values = correlated("reml")
    start = values | {"phi": free.estimate.phi}
    again = datasets.load("sleepstudy").glmm.fit("Reaction ~ Days + (Days | Subject)", start=start)
    assert again.loglik == pytest.approx(free.loglik, abs=1e-9)
    assert again.certificate.evaluations < free.certificate.evaluations


@pytest.mark.parametrize(
    ("fixed", "words"),
    [
        ({"sd(Subject: Intercept)": 20.0}, "Hold all standard deviations and correlations"),
        ({"cor(Subject: Intercept, Days)": 0.1}, "Hold all standard deviations and correlations"),
        ({"cor(Subject: Intercept, Days)": 1.0}, "lies between"),
    ],
)
def test_what_cannot_be_held_is_named_with_the_remedy(fixed: dict[str, float], words: str) -> None:
    with pytest.raises(polars_glmm.ModelError, match=words):
        datasets.load("sleepstudy").glmm.fit("Reaction ~ Days + (Days | Subject)", fixed=fixed)


@pytest.mark.parametrize(
    ("family", "formula"), [("gaussian", "y ~ x + (1 | g) + (1 | h)"), ("poisson", "n ~ x + (1 | g)")]
)
def test_a_small_standard_deviation_that_is_held_stays_as_it_is(family: str, formula: str) -> None:
    """It is far below what the data can tell from zero, and no collapse of the fit."""
    rng = np.random.default_rng(4)
    g, h = np.repeat(np.arange(10), 12), np.tile(np.arange(12), 10)
    eta = rng.normal(size=10)[g]
    frame = pl.DataFrame({"g": g, "h": h, "x": rng.normal(size=120), "y": eta + rng.normal(size=120)})
    frame = frame.with_columns(n=rng.poisson(np.exp(eta)))
    group = "h" if "h" in formula else "g"
    for value in (1e-3, 1e-7):
        fit = frame.glmm.fit(formula, family=family, fixed={f"sd({group}: Intercept)": value})
        assert_allclose(fit.varcorr().filter(group=group)["std_dev"], value, rtol=1e-10)
        assert not fit.notes


def test_coefficients_of_phi_are_held_as_an_offset_of_log_phi() -> None:
    sleep, formula = datasets.load("sleepstudy"), "Reaction ~ Days + (1 | Subject)"
    moved = sleep.with_columns(o=0.1 * pl.col("Days"))
    for method in ("ml", "reml", "laplace"):
        held = sleep.glmm.fit(formula, "phi ~ Days", method=method, fixed={"phi: Days": 0.1})
        same = moved.glmm.fit(formula, "phi ~ 1 + offset(o)", method=method)
        assert held.loglik == pytest.approx(same.loglik, abs=1e-8)
        phi = held.fixef().filter(parameter="phi")
        assert phi["estimate"].to_list() == pytest.approx([same.fixef()["estimate"][2], 0.1], rel=1e-5)
        assert phi["std_error"].is_null().to_list() == [False, True]
        assert held.glance()["df_model"].item() == 4
        predicted = (fit.predict(frame, kind="phi")["prediction"] for fit, frame in ((held, sleep), (same, moved)))
        assert_allclose(*predicted, rtol=1e-5)
    disk = polars_glmm.Control(memory=polars_glmm.Memory(limit=1), rows=polars_glmm.Rows(compress=False))
    stored = sleep.lazy().glmm.fit(formula, "phi ~ Days", fixed={"phi: Days": 0.1, "Days": 10.0}, control=disk)
    there = sleep.glmm.fit(formula, "phi ~ Days", fixed={"phi: Days": 0.1, "Days": 10.0})
    assert stored.loglik == pytest.approx(there.loglik, abs=1e-8)
    with pytest.raises(polars_glmm.ModelError, match="precision="):
        sleep.glmm.fit(formula, "phi ~ Days", fixed={"phi: Days": 0.1, "phi: Intercept": 3.0})


@pytest.mark.parametrize("fixed", [{"phi": 30.0}, {"Days": 10.0}, {"Intercept": 250.0, "sd(Subject: Intercept)": 30.0}])
def test_products_hold_what_rows_hold(fixed: dict[str, float]) -> None:
    sleep, formula = datasets.load("sleepstudy"), "Reaction ~ Days + (1 | Subject)"
    for method in ("ml", "reml"):
        rows = sleep.glmm.fit(formula, fixed=fixed, method=method)
        sums = polars_glmm.products(sleep.lazy(), formula).fit(method=method, fixed=fixed)
        assert sums.loglik == pytest.approx(rows.loglik, abs=1e-8)
        assert_allclose(sums.estimate.report, rows.estimate.report, rtol=1e-6)
        assert_allclose(sums.fixef()["std_error"], rows.fixef()["std_error"], rtol=1e-5)
