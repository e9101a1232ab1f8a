"""Correlated residuals after the fit: what is said of rows, levels and draws, against V = ZΣZ' + R written out."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy.stats import kstest, multivariate_normal

import polars_glmm
from polars_glmm.control import Control
from polars_glmm.design.known import read_known
from polars_glmm.errors import FitWarning, ModelError
from polars_glmm.likelihood.known.joint import HeldParameters, KnownModel, known_model
from polars_glmm.likelihood.known.series_levels import SeriesLevels
from tests.likelihood.test_residual import FRAME, LONG

_SHIFTS = pl.DataFrame({"id": [f"s{g:02d}" for g in range(40)]}).with_columns(
    s=pl.Series(1.5 * np.random.default_rng(8).standard_normal(40))
)
STRONG = LONG.join(_SHIFTS, on="id", maintain_order="left").with_columns(y=pl.col("y") + pl.col("s"))
"""Series whose levels differ by more than their errors do."""
CASES: dict[str, tuple[tuple[str, ...], dict[str, Any], pl.DataFrame]] = {
    "ar1": (("y ~ x + (1 | id)",), {"residual": "ar1(t | id)", "method": "ml"}, STRONG),
    "cs": (("y ~ x + (x || region)",), {"residual": "cs(1 | id)", "precision": "w"}, FRAME),
    "car1": (("y ~ x + (1 | region) + (1 | id)", "phi ~ half"), {"residual": "car1(when | id)"}, STRONG),
    "gau": (("y ~ x",), {"residual": "gau(a + b | id)"}, FRAME),
}


@cache
def fitted(name: str) -> Any:
    formulas, options, frame = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(frame, *formulas, **options)


def known_of(fit: Any, frame: pl.DataFrame) -> KnownModel:
    family = fit.recipe.spec.family
    rows = read_known(fit.recipe, frame, own_levels=False)
    return known_model(rows.design, family, Control(), HeldParameters.of(fit.estimate, family))


class Dense(NamedTuple):
    y: np.ndarray
    x: np.ndarray
    z: np.ndarray
    spread: np.ndarray  # of all effects
    r: np.ndarray

    @property
    def v(self) -> np.ndarray:
        return self.z @ self.spread @ self.z.T + self.r


def dense(known: KnownModel, held: HeldParameters) -> Dense:
    """The arrays of a design at parameters, effects in the order factor, column, level."""
    assert known.series is not None
    design, residual = known.series.design, known.series.residual
    one, n = residual.correlation, design.n_rows
    c = np.eye(n)
    for g in range(residual.n_groups):
        own = np.flatnonzero(residual.codes == g)
        c[np.ix_(own, own)] = one.matrix(one.working(held.residual, residual.size), residual.places[own], residual.size)
    log_phi = np.full(n, held.gamma[0]) if design.phi is None else held.gamma @ design.phi.x
    scale = np.exp(log_phi) / np.sqrt(1.0 if design.precision is None else design.precision)
    z, sizes = [np.empty((n, 0))], [np.empty((0, 0))]
    for factor, root in zip(design.factors, held.roots, strict=True):
        z += [np.eye(factor.n_levels)[factor.codes] * column[:, None] for column in factor.z]
        sizes.append(np.kron(root @ root.T, np.eye(factor.n_levels)))
    size = sum(map(len, sizes))
    spread, at = np.zeros((size, size)), 0
    for block in sizes:
        spread[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return Dense(design.y, design.mu.x.T, np.hstack(z), spread, c * np.outer(scale, scale))


def modes(at: Dense, beta: np.ndarray) -> np.ndarray:
    return at.spread @ at.z.T @ np.linalg.solve(at.v, at.y - at.x @ beta)


def held_of(fit: Any) -> HeldParameters:
    return HeldParameters.of(fit.estimate, fit.recipe.spec.family)


@pytest.mark.parametrize("name", CASES)
def test_leverage_and_distance_are_those_of_the_dense_matrices(name: str) -> None:
    """H = I − RP; a row left out is generalised least squares with V without it."""
    fit = fitted(name)
    held = held_of(fit)
    known = known_of(fit, CASES[name][2])
    at, found = dense(known, held), known.leverage()
    inverse = np.linalg.inv(at.v)
    through = inverse @ at.x
    information = at.x.T @ through
    p = inverse - through @ np.linalg.solve(information, through.T)
    assert_allclose(found.value, 1.0 - np.diag(at.r @ p), rtol=0, atol=1e-9)
    assert_allclose(found.fixed, np.diag(through @ np.linalg.solve(information, through.T) @ at.r), rtol=0, atol=1e-9)
    for i in (0, 5, 17):
        rest = np.delete(np.arange(len(at.y)), i)
        inside = np.linalg.inv(at.v[np.ix_(rest, rest)])
        x = at.x[rest]
        change = held.beta - np.linalg.solve(x.T @ inside @ x, x.T @ inside @ at.y[rest])
        assert found.distance[i] == pytest.approx(change @ information @ change, rel=1e-5)
    row = fit.glance(conditional=True).row(0, named=True)
    assert row["df_effective"] == pytest.approx(np.trace(np.eye(len(p)) - at.r @ p), abs=1e-9)
    b = modes(at, held.beta)
    log_density = multivariate_normal(at.x @ held.beta + at.z @ b, at.r).logpdf(at.y)
    assert row["loglik_conditional"] == pytest.approx(log_density, abs=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_modes_their_slopes_and_the_likelihood_are_the_dense_ones(name: str) -> None:
    fit = fitted(name)
    held, known = held_of(fit), known_of(fit, CASES[name][2])
    at = dense(known, held)
    assert known.loglik() == pytest.approx(multivariate_normal(at.x @ held.beta, at.v).logpdf(at.y), abs=1e-8)
    b = modes(at, held.beta)
    spread = at.spread - at.spread @ at.z.T @ np.linalg.solve(at.v, at.z @ at.spread)
    flat = [one.modes.ravel() for one in known.modes()]
    assert_allclose(np.concatenate([np.empty(0), *flat]), b, rtol=0, atol=1e-9)
    variances = [np.einsum("kkg->kg", one.covariance).ravel() for one in known.modes()]
    assert_allclose(np.concatenate([np.empty(0), *variances]), np.diag(spread), rtol=0, atol=1e-9)
    if not flat:
        return
    slopes = [np.moveaxis(one, 1, 0).reshape(one.shape[1], -1) for one in known.mode_slopes()]
    series = known.series
    assert series is not None
    steps = np.eye(len(series.gamma) + len(series.values))
    for k, step in enumerate(steps, start=-len(steps)):
        ends = []
        for s in (1e-5, -1e-5):
            to = series.moved(s * step)
            ends.append(modes(dense(known, replace(held, gamma=to.gamma, residual=to.values)), held.beta))
        assert_allclose(np.concatenate([one[k] for one in slopes]), (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-6)


def test_levels_add_up_to_the_model() -> None:
    """Their likelihoods sum to that of the fit, their scores to zero at its optimum."""
    fit = fitted("ar1")
    design = read_known(fit.recipe, STRONG, own_levels=False).design
    held = held_of(fit)
    levels = SeriesLevels.of(design, fit.recipe.spec.family, Control(), held)
    psi = levels.psi(held)
    found = levels.at(psi)
    assert found.value.sum() == pytest.approx(fit.loglik, abs=1e-8)
    assert_allclose(found.scores.sum(0), 0.0, atol=1e-4)
    again = levels.held(psi)
    assert_allclose(again.residual, held.residual, rtol=1e-12)
    assert_allclose(levels.densities(np.tile(psi, (len(found.value), 1))), found.value, rtol=1e-9)


def test_without_correlation_every_verb_says_what_it_says_of_the_plain_model() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        held, plain = (
            polars_glmm.fit(FRAME, "y ~ x + (x || id)", **options)
            for options in ({"residual": "ar1(t | id)", "fixed": {"rho(id)": 0.0}}, {})
        )
    new = FRAME.with_columns(id="n" + pl.col("id"))
    for ask in (
        lambda fit: fit.augment(FRAME, leverage=True)["leverage"],
        lambda fit: fit.influence(method="case")["cooks_distance"],
        lambda fit: fit.influence("region")["cooks_distance"],
        lambda fit: fit.glance(conditional=True)["caic"],
        lambda fit: fit.fixef(vcov="CR2")["std_error"],
        lambda fit: fit.score(new)["estimate"],
        lambda fit: fit.score(new)["std_error"],
        lambda fit: fit.predict(FRAME, std_error=True, uncertainty="joint")["prediction_std_error"],
    ):
        assert_allclose(ask(held).to_numpy(), ask(plain).to_numpy(), rtol=2e-4, atol=1e-7)


@pytest.mark.slow
def test_a_group_left_out_is_a_fit_without_it_and_one_step_goes_there() -> None:
    fit = polars_glmm.fit(STRONG, "y ~ x + (1 | id)", residual="ar1(t | id)")
    exact, near = fit.influence(), fit.influence(method="one_step")
    assert near["level"].to_list() == exact["level"].to_list()
    assert float(np.abs(near["cooks_distance"] / exact["cooks_distance"] - 1.0).median()) < 0.05  # type: ignore[arg-type]
    assert_allclose(near["elpd"], exact["elpd"], rtol=0.05)
    moved = [fit.influence_terms(method=method).filter(factor="Residual") for method in ("exact", "one_step")]
    assert moved[0]["term"].unique().to_list() == ["rho(id)"]
    assert np.corrcoef(moved[0]["change"], moved[1]["change"])[0, 1] > 0.95
    level = exact["level"][3]
    rest = polars_glmm.fit(STRONG.filter(pl.col("id") != level), "y ~ x + (1 | id)", residual="ar1(t | id)")
    own = fit.influence_terms().filter(level=level)
    assert_allclose(own["estimate"][:2], rest.fixef()["estimate"], rtol=1e-5)
    assert moved[0].filter(level=level)["estimate"][0] == pytest.approx(rest.estimate.residual.values[0], rel=1e-3)
    assert exact.filter(level=level)["loglik"][0] == pytest.approx(rest.loglik, abs=1e-6)
    gone = read_known(rest.recipe, STRONG.filter(id=level), own_levels=True).design
    alone = known_model(gone, rest.recipe.spec.family, Control(), held_of(rest))
    assert exact.filter(level=level)["elpd"][0] == pytest.approx(alone.loglik(), abs=1e-5)


def test_rows_whose_neighbours_stay_are_foretold_by_them() -> None:
    """elpd of rows that are correlated with those of the rest is their density given these."""
    fit = polars_glmm.fit(FRAME, "y ~ x", residual="ar1(t | id)", fixed={"rho(id)": 0.5, "phi": 1.0, "x": 0.5})
    found = fit.influence("half")
    for level, elpd in found.select("level", "elpd").rows():
        beta = fit.influence_terms("half").filter(level=level)["estimate"][0]
        known = known_of(fit, FRAME)
        at = dense(known, held_of(fit))
        error = at.y - 0.5 * FRAME["x"].to_numpy() - beta
        left = FRAME["half"].to_numpy() != level
        both = multivariate_normal(np.zeros(len(error)), at.r).logpdf(error)
        rest = multivariate_normal(cov=at.r[np.ix_(left, left)]).logpdf(error[left])
        assert elpd == pytest.approx(both - rest, abs=1e-6)


def test_scores_of_the_rows_of_a_fit_are_its_effects() -> None:
    fit = fitted("car1")
    for group in ("region", "id"):
        own = next(factor for factor in fit.estimate.factors if factor.name == group)
        assert_allclose(fit.score(STRONG, group)["estimate"], own.modes.ravel(), rtol=1e-6, atol=1e-8)


def test_robust_covariances_are_sums_over_clusters_of_whole_groups() -> None:
    """CR0 = M⁻¹ Σ X_g'V_g⁻¹e_g e_g'V_g⁻¹X_g M⁻¹, by factors and without one by the groups of residual=."""
    for name, cluster in (("ar1", "id"), ("gau", None)):
        fit, frame = fitted(name), CASES[name][2]
        at = dense(known_of(fit, frame), held_of(fit))
        through = np.linalg.solve(at.v, at.x)
        bread = np.linalg.inv(at.x.T @ through)
        e = at.y - at.x @ fit.estimate.beta
        groups = frame["id"].to_numpy()
        scores = np.array([through[groups == g].T @ e[groups == g] for g in np.unique(groups)])
        want = bread @ scores.T @ scores @ bread
        found = fit.fixef(vcov=polars_glmm.CR(cluster, "CR0"))["std_error"]
        assert_allclose(found, np.sqrt(np.diag(want)), rtol=1e-7)
    with pytest.raises(ModelError, match="residual= correlates rows of several clusters of 'half'"):
        fitted("gau").fixef(vcov=polars_glmm.CR("half"))


def test_draws_of_the_posterior_are_correlation_matrices_with_the_moments_of_vcov() -> None:
    n, fit = 4000, fitted("ar1")
    draws = fit.posterior(n, 1, include=("beta", "theta"))
    assert draws.head(5)["quantity"].to_list()[2:] == ["sd", "residual_correlation", "dispersion"]
    wide = draws["value"].to_numpy().reshape(n, -1)
    scales = np.column_stack([wide[:, :2], np.log(wide[:, 2]), np.arctanh(wide[:, 3]), np.log(wide[:, 4])])
    covariance = fit.vcov(full=True)["covariance"].to_numpy().reshape(5, 5)
    sd = np.sqrt(np.diag(covariance))
    assert_allclose(np.cov(scales.T) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=4 * np.sqrt(2 / n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        us = polars_glmm.fit(LONG, "y ~ x", "phi ~ half", residual="us(t | id)")
    theta = us.posterior(200, 2, include="theta").filter(quantity="residual_correlation")["value"].to_numpy()
    rows, columns = np.tril_indices(6, -1)
    for draw in theta.reshape(200, 15):
        c = np.eye(6)
        c[rows, columns] = c[columns, rows] = draw
        assert np.linalg.eigvalsh(c)[0] > 0.0


@pytest.mark.slow
def test_spread_of_drawn_means_is_the_joint_standard_error_of_predictions() -> None:
    fit = fitted("ar1")
    drawn = fit.predictive(STRONG, 800, 2, of="mean").select("^sim_.*$").to_numpy()
    known = fit.predict(STRONG, std_error=True, uncertainty="joint")["prediction_std_error"]
    assert_allclose(drawn.std(1), known, rtol=0.15)


def test_predictive_responses_are_correlated_as_residuals_are() -> None:
    """Given one mean, neighbours of a series differ by less than rows that are far apart."""
    frame = pl.DataFrame({"id": np.repeat(np.arange(60), 8), "t": np.tile(np.arange(8), 60)})
    frame = frame.with_columns(y=pl.Series(np.random.default_rng(1).standard_normal(480)))
    at = {"rho(id)": 0.8, "phi": 2.0, "Intercept": 0.0}
    fit = polars_glmm.fit(frame, "y ~ 1", residual="ar1(t | id)", fixed=at)
    drawn = fit.predictive(frame, 40, 3).select("^sim_.*$").to_numpy().reshape(60, 8, 40)
    assert np.corrcoef(drawn[:, 1:].ravel(), drawn[:, :-1].ravel())[0, 1] == pytest.approx(0.8, abs=0.02)
    assert drawn.std() == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("effects", ["", " + (1 | id)"])
def test_checks_are_of_whitened_residuals(effects: str) -> None:
    """What correlation the model has is gone from them, and their squares are held against n − tr(H)."""
    fit = polars_glmm.fit(STRONG, f"y ~ x{effects}", residual="ar1(t | id)")
    table = fit.check(("dispersion", "autocorrelation"), n=20, rng=1, time="t")
    dispersion, autocorrelation = table["statistic"].to_list()
    rows = fit.augment(STRONG).sort("id", "t")
    white = rows["resid_normalized"].to_numpy()
    left = len(white) - fit.glance(conditional=True)["df_effective"][0]
    assert dispersion == pytest.approx(white @ white / left, rel=1e-9)
    assert dispersion == pytest.approx(1.0, abs=1e-4)  # by REML it is one

    def one_step(name: str) -> float:
        pairs = rows.select(pl.col(name), before=pl.col(name).shift(1).over("id")).drop_nulls().to_numpy()
        return float(np.corrcoef(pairs.T)[0, 1])

    assert autocorrelation == pytest.approx(one_step("resid_normalized"), abs=1e-9)
    assert abs(autocorrelation) < 0.5 * abs(one_step("resid_pearson"))


def test_checks_without_effects_whiten_what_stands_about_the_fixed_part() -> None:
    """By AR(1) written out: (e_t - rho^d e_s)/sqrt(1 - rho^2d) of a row d steps after the one before it."""
    fit = fitted("ar1")
    sigma, rho = fit.dispersion()["estimate"].to_list()
    e = fit.augment(STRONG).sort("id", "t").select("id", "t", e=(pl.col("y") - pl.col("fixed")) / sigma)
    e = e.with_columns(d=pl.col("t") - pl.col("t").shift(1).over("id"), last=pl.col("e").shift(1).over("id"))
    kept = rho ** pl.col("d")
    e = e.with_columns(white=pl.coalesce((pl.col("e") - kept * pl.col("last")) / (1.0 - kept**2).sqrt(), "e"))
    found = fit.check("uniformity", rng=1, given="zero")["statistic"][0]
    assert found == pytest.approx(kstest(e["white"].to_numpy(), "norm").statistic, abs=1e-9)
    assert found != pytest.approx(kstest(e["e"].to_numpy(), "norm").statistic, abs=1e-3)
