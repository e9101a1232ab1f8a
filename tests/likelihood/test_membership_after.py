"""Rows in several levels after the fit: dense formulas, one slot as an ordinary factor, refits without a level."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm.control import Control
from polars_glmm.design.known import read_known
from polars_glmm.errors import ModelError
from polars_glmm.likelihood.known.clusters import marginal_scores
from polars_glmm.likelihood.known.draws import effect_deviations
from polars_glmm.likelihood.known.joint import HeldParameters, KnownModel, known_model
from tests.likelihood.test_membership import TERM, G, N, arrays, dense_gaussian, rows


@cache
def fitted(family: str = "gaussian", method: str | None = None) -> Any:
    more = {} if method is None else {"method": method}
    return polars_glmm.fit(rows(family=family), f"y ~ x + (1 | {TERM})", family=family, **more)


def known_of(fit: Any, frame: pl.DataFrame) -> KnownModel:
    family = fit.recipe.spec.family
    design = read_known(fit.recipe, frame, own_levels=False).design
    return known_model(design, family, Control(), HeldParameters.of(fit.estimate, family))


@pytest.mark.one_in(2)
@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_draws_and_slopes_of_effects_are_those_of_hendersons_matrix(family: str) -> None:
    """Var(b | y) = (M'WM + Σ⁻¹)⁻¹ between all levels, ∂b̂/∂β = −Var(b | y) M'WX."""
    frame, fit = rows(family=family), fitted(family)
    known = known_of(fit, frame)
    _, x, m, _ = arrays(frame)
    root = float(known.held.roots[0][0, 0])
    w = known.working_rows().weight[0, 0]
    spread = np.linalg.inv((m.T * w) @ m + np.eye(G) / root**2)
    assert_allclose(known.mode_slopes()[0][0, :2], -((x.T * w) @ m) @ spread, rtol=1e-7, atol=1e-10)
    n = 3000
    drawn = effect_deviations(known, [np.random.default_rng([1, k]) for k in range(n)])[0][:, 0]
    sd = np.sqrt(np.diag(spread))
    assert_allclose(np.cov(drawn.T) / np.outer(sd, sd), spread / np.outer(sd, sd), atol=5 * np.sqrt(2 / n))


@pytest.mark.slow
def test_spread_of_drawn_means_is_the_joint_standard_error_of_predictions() -> None:
    frame, fit = rows(), fitted()
    drawn = fit.predictive(frame, 1000, 2, of="mean").select("^sim_.*$").to_numpy()
    known = fit.predict(frame, std_error=True, uncertainty="joint")["prediction_std_error"]
    assert_allclose(drawn.std(1), known, rtol=0.12)
    other = frame.with_columns(a=pl.lit("new"), u=pl.lit(1.0), v=pl.lit(0.0))
    new = fit.predictive(other, 400, 2, of="mean", random="all").select("^sim_.*$").to_numpy()
    sd = fit.varcorr()["std_dev"][0]
    assert 0.8 * sd < new.std(1).mean() < 1.4 * sd


ASKED: dict[str, Any] = {
    "influence on terms": lambda fit, _: fit.influence_terms()["estimate"],
    "score": lambda fit, new: fit.score(new)["estimate"],
    "errors of scores": lambda fit, new: fit.score(new)["std_error"],
    "rows of scores": lambda fit, new: fit.score(new)["n_obs"],
    "robust": lambda fit, _: fit.fixef(vcov=polars_glmm.CR("a", "CR2"))["std_error"],
    "jointly": lambda fit, _: fit.predict(rows(), std_error=True, uncertainty="joint")["prediction_std_error"],
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_one_slot_says_what_an_ordinary_factor_says(family: str) -> None:
    frame = rows(family=family)
    many, one = (polars_glmm.fit(frame, f"y ~ x + (1 | {term})", family=family) for term in ("mm(a)", "a"))
    new = frame.with_columns(a="n" + pl.col("a"))
    for name, ask in ASKED.items():
        assert_allclose(ask(many, new).to_numpy(), ask(one, new).to_numpy(), rtol=2e-4, atol=1e-6, err_msg=name)


def test_a_level_left_out_takes_its_rows_with_it_and_they_are_foretold_by_the_rest() -> None:
    frame, fit = rows(), fitted(method="ml")
    found = fit.influence()
    (key,) = (factor.name for factor in fit.recipe.factors)
    assert found["group"].unique().to_list() == [key]
    assert found["level"].to_list() == sorted({*frame["a"], *frame["b"]})
    for level in ("03", "07"):
        own = found.filter(level=level)
        there = ((pl.col("a") == level) & (pl.col("u") != 0.0)) | ((pl.col("b") == level) & (pl.col("v") != 0.0))
        assert own["n_obs"][0] == frame.filter(there).height
        rest = polars_glmm.fit(frame.filter(~there), f"y ~ x + (1 | {TERM})", method="ml")
        assert own["loglik"][0] == pytest.approx(rest.loglik, abs=1e-6)
        held = HeldParameters.of(rest.estimate, rest.recipe.spec.family)
        assert own["elpd"][0] == pytest.approx(known_of(fit, frame).at(held).loglik() - rest.loglik, abs=1e-5)
    with pytest.raises(ModelError, match="Use method='exact'"):
        fit.influence(method="one_step")
    all_of_it = polars_glmm.fit(frame.with_columns(b=pl.lit("00")), "y ~ x + (1 | mm(a, b))").influence()
    assert all_of_it.filter(level="00")["status"].to_list() == ["failed (ColumnError)"]


def test_clusters_hold_all_levels_of_a_row() -> None:
    """CR0 by columns whose groups share no level; others are refused."""
    frame = rows().with_columns(s=pl.col("a").cast(pl.Int64) % 3)
    frame = frame.with_columns(b=(pl.col("b").cast(pl.Int64) // 3 * 3 + pl.col("s")).cast(pl.String).str.zfill(2))
    fit = polars_glmm.fit(frame, f"y ~ x + (1 | {TERM})")
    y, x, m, _ = arrays(frame)
    tau, sigma = fit.varcorr()["estimate"].to_list()
    v = tau * m @ m.T + sigma * np.eye(len(y))
    through = np.linalg.solve(v, x)
    bread, e = np.linalg.inv(x.T @ through), y - x @ fit.estimate.beta
    scores = np.array([through[frame["s"] == k].T @ e[frame["s"] == k] for k in range(3)])
    found = fit.fixef(vcov=polars_glmm.CR("s", "CR0"))["std_error"]
    assert_allclose(found, np.sqrt(np.diag(bread @ scores.T @ scores @ bread)), rtol=1e-6)
    for cluster in (None, "h"):
        with pytest.raises(ModelError, match=r"CR\(cluster\)"):
            fit.fixef(vcov=polars_glmm.CR(cluster))
    counts = frame.with_columns(y=pl.Series(np.random.default_rng(5).poisson(np.exp(0.3 * y))))
    of_counts = polars_glmm.fit(counts, f"y ~ x + (1 | {TERM})", family="poisson")
    known = known_of(of_counts, counts)
    design = known.model.held_in_memory()
    own = marginal_scores(known, design, frame["s"].to_numpy(), 3)
    assert_allclose(own.sum(0), 0.0, atol=1e-4)  # the estimate is where their sum vanishes
    assert np.abs(own).max() > 0.1


def test_integrals_over_levels_that_share_rows_are_made_together() -> None:
    fit = fitted("poisson")
    row = fit.laplace_error("importance", n=400, rng=1).row(0, named=True)
    assert row["loglik_laplace"] == pytest.approx(fit.loglik, abs=1e-6)
    assert abs(row["error"]) < 0.5
    with pytest.raises(ModelError, match="method='importance'"):
        fit.laplace_error()
    exact = fitted(method="ml").laplace_error().row(0, named=True)
    assert exact["error"] == 0.0
    assert exact["loglik"] == pytest.approx(fitted(method="ml").loglik, abs=1e-6)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_levels_of_another_factor_may_know_each_other(family: str, tmp_path: Any) -> None:
    """V = τMM' + ωZAZ' + σ²I; A = I is the plain model."""
    frame = rows(family=family).with_columns(h="f" + pl.col("h").cast(pl.String))
    near = np.eye(5) + 0.5 * (np.abs(np.subtract.outer(np.arange(5), np.arange(5))) == 1)

    def relation(a: np.ndarray) -> pl.DataFrame:
        pairs = [(f"f{i}", f"f{j}", a[i, j]) for i in range(5) for j in range(i + 1) if a[i, j]]
        return pl.DataFrame(pairs, schema=["level", "other_level", "value"], orient="row")

    formula = f"y ~ x + (1 | {TERM}) + (1 | h)"
    fit = polars_glmm.fit(frame, formula, family=family, known={"h": relation(near)})
    alike = polars_glmm.fit(frame, formula, family=family, known={"h": relation(np.eye(5))})
    plain = polars_glmm.fit(frame, formula, family=family)
    assert alike.loglik == pytest.approx(plain.loglik, abs=1e-8)
    assert fit.loglik != pytest.approx(plain.loglik, abs=1e-3)
    fit.write(tmp_path / "fit.zip")
    again = polars_glmm.read_fit(tmp_path / "fit.zip")
    assert_allclose(again.predict(frame)["prediction"], fit.predict(frame)["prediction"], rtol=1e-12)
    if family == "gaussian":
        y, x, m, _ = arrays(frame)
        z = np.eye(5)[frame["h"].str.slice(1).cast(pl.Int64).to_numpy()]
        tau, omega, sigma = fit.varcorr()["estimate"].to_list()
        v = tau * m @ m.T + omega * z @ near @ z.T + sigma * np.eye(N)
        assert fit.loglik == pytest.approx(dense_gaussian(v, y, x, reml=True), abs=1e-7)
