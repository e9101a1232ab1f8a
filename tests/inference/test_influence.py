"""Groups and rows left out: references, brute force, one step against refits, conditional AIC, tables by key."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import datasets
from polars_glmm.errors import ColumnError, ModelError
from tests.references import uses

INFLUENCE = uses.entries("influence")


@cache
def fitted(name: str) -> Any:
    return uses.fit(INFLUENCE[name])


@pytest.mark.one_in(3)
@pytest.mark.reference
@pytest.mark.parametrize("name", INFLUENCE)
def test_groups_left_out_are_those_of_the_reference(name: str) -> None:
    entry, fit = INFLUENCE[name], fitted(name)
    group = entry["model"]["group"]
    found = {row["level"]: row for row in fit.influence(group).iter_rows(named=True)}
    for want in entry["results"]["groups"]:
        got = found[want["level"]]
        assert got["n_obs"] == want["n"]
        assert got["loglik"] == uses.close(entry, "groups", "loglik_without", want["loglik_without"])
        for column in ("cooks_distance", "mdffits", "elpd"):
            if want[column] is not None:
                assert got[column] == uses.close(entry, "groups", column, want[column])
        for column in ("covratio", "covtrace"):
            assert got[column] == pytest.approx(want[column], rel=1e-2, abs=1e-3)


@pytest.mark.one_in(3)
@pytest.mark.reference
@pytest.mark.parametrize("name", INFLUENCE)
def test_estimates_without_a_group_are_those_of_the_reference(name: str) -> None:
    entry, fit = INFLUENCE[name], fitted(name)
    found = fit.influence_terms(entry["model"]["group"])
    fixed = {(r["level"], r["term"]): r for r in found.filter(pl.col("parameter") == "mu").iter_rows(named=True)}
    for want in entry["results"]["fixef"]:
        got = fixed[want["level"], want["term"]]
        for column in ("estimate", "std_error"):
            assert got[column] == uses.close(entry, "fixef", column, want[column])
        assert got["dfbetas"] == pytest.approx(want["dfbetas"], rel=5e-3, abs=5e-3)
    random = {(r["level"], r["factor"], r["term"], r["other_term"]): r["estimate"] for r in found.iter_rows(named=True)}
    for want in entry["results"]["varcorr"]:
        residual = want["group"] == "Residual"
        key = (None, "phi", None) if residual else (want["group"], want["term"], want["other_term"] or None)
        assert random[want["level"], *key] == uses.close(entry, "varcorr", "sdcor", want["sdcor"])


@pytest.mark.reference
@pytest.mark.parametrize("name", [name for name, entry in INFLUENCE.items() if "leverage" in entry["results"]])
def test_leverages_are_those_of_the_reference(name: str) -> None:
    entry, fit = INFLUENCE[name], fitted(name)
    frame = uses.data(entry)
    made, cases = fit.augment(frame, leverage=True), fit.influence(method="case")
    lazy = fit.augment(frame.lazy(), leverage=True, prefix="a_").collect()
    for want in entry["results"]["leverage"]:
        i = want["row"] - 1
        for value in (made["leverage"][i], cases["leverage"][i], lazy["a_leverage"][i]):
            assert value == uses.close(entry, "leverage", "leverage", want["leverage"])


def two_way(n_groups: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    size = rng.integers(3, 9, n_groups)
    g = np.repeat(np.arange(n_groups), size)
    x = rng.normal(size=len(g)) + 0.5 * rng.normal(size=n_groups)[g]
    eta = 0.5 + 0.4 * x + 0.7 * rng.normal(size=n_groups)[g]
    return pl.DataFrame({"x": x, "g": g, "y": eta + rng.normal(size=len(g)), "k": rng.poisson(np.exp(eta))})


@pytest.mark.slow
@pytest.mark.parametrize("formula", ["y ~ x + (1 | g)", "k ~ x + (1 | g)"])
def test_one_step_comes_nearer_to_the_refits_as_there_are_more_groups(formula: str) -> None:
    """The median relative error of Cook's distance falls, and is a few percent where there are many groups."""
    family = "poisson" if formula.startswith("k") else "gaussian"
    errors = []
    for n_groups in (12, 60):
        fit = polars_glmm.fit(two_way(n_groups, 4), formula, family=family)
        exact, near = fit.influence(), fit.influence(method="one_step")
        assert near["level"].to_list() == exact["level"].to_list()
        error = np.abs(near["cooks_distance"] / exact["cooks_distance"] - 1.0)
        errors.append(float(error.median()))
        assert_allclose(near["elpd"], exact["elpd"], rtol=0.05)
    assert errors[1] < errors[0]
    assert errors[1] < 0.05


def test_one_step_is_exact_for_fixed_effects_where_the_variances_do_not_matter() -> None:
    """Balanced data: β̂ is that of least squares whatever the variances."""
    fit = polars_glmm.fit(datasets.load("sleepstudy"), "Reaction ~ Days + (Days | Subject)")
    exact, near = (fit.influence_terms(method=method) for method in ("exact", "one_step"))
    mu = pl.col("parameter") == "mu"
    assert_allclose(near.filter(mu)["estimate"], exact.filter(mu)["estimate"], rtol=1e-6)


def test_a_row_left_out_by_leverage_is_the_generalised_least_squares_without_it() -> None:
    """Brute force at the estimated variances, V built densely."""
    frame = two_way(10, 2)
    fit = polars_glmm.fit(frame, "y ~ x + (1 | g)")
    x = np.column_stack([np.ones(frame.height), frame["x"].to_numpy()])
    g, y = frame["g"].to_numpy(), frame["y"].to_numpy()
    tau, sigma = fit.varcorr()["estimate"].to_list()
    v = tau * (g[:, None] == g) + sigma * np.eye(len(y))

    def gls(keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inverse = np.linalg.inv(v[np.ix_(keep, keep)])
        information = x[keep].T @ inverse @ x[keep]
        return np.linalg.solve(information, x[keep].T @ inverse @ y[keep]), information

    beta, information = gls(np.arange(len(y)))
    cases = fit.influence(method="case")
    for i in (0, 7, 20):
        change = beta - gls(np.delete(np.arange(len(y)), i))[0]
        assert cases["cooks_distance"][i] == pytest.approx(change @ information @ change / 2, rel=1e-6)


def test_any_column_may_be_left_out_and_a_coefficient_that_goes_with_it_is_null() -> None:
    herds = datasets.load("cbpp")
    fit = polars_glmm.fit(herds, "cbind(incidence, size - incidence) ~ period + (1 | herd)", family="binomial")
    found = fit.influence("period")
    assert found["level"].to_list() == ["1", "2", "3", "4"]
    assert found["n_obs"].sum() == herds.height
    assert found["cooks_distance"].null_count() == 4
    terms = fit.influence_terms("period").filter(pl.col("level") == "2", pl.col("parameter") == "mu")
    assert terms["estimate"].is_null().to_list() == [False, True, False, False]
    with pytest.raises(ColumnError, match="neither a grouping factor"):
        fit.influence("farm")
    with pytest.raises(ModelError, match="method='jackknife' is not known"):
        fit.influence(method="jackknife")
    with pytest.raises(ModelError, match="only grouping factor"):
        fit.influence("period", "one_step")
    pastes = polars_glmm.fit(datasets.load("pastes"), "strength ~ 1 + (1 | batch) + (1 | batch:cask)")
    with pytest.raises(ModelError, match="needs the name of what is left out"):
        pastes.influence()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("fixed", [{"Days": 10.0}, {"sd(Subject: Intercept)": 30.0}, {"phi": 25.0}])
def test_what_a_fit_holds_is_held_without_a_group(fixed: dict[str, float]) -> None:
    frame = datasets.load("sleepstudy")
    fit = polars_glmm.fit(frame, "Reaction ~ Days + (1 | Subject)", fixed=fixed)
    rest = polars_glmm.fit(frame.filter(pl.col("Subject") != "309"), "Reaction ~ Days + (1 | Subject)", fixed=fixed)
    found = fit.influence().filter(level="309")
    assert found["loglik"][0] == pytest.approx(rest.loglik, abs=1e-6)
    assert (fit.influence_terms()["change"].abs() < 1e-12).sum() >= 18


def test_conditional_aic_of_a_linear_model_is_its_aic() -> None:
    """Without random effects ρ = p: −2ℓ + 2(p + 1)."""
    sleep = datasets.load("sleepstudy")
    plain = polars_glmm.fit(sleep, "Reaction ~ Days", method="ml").glance(conditional=True).row(0, named=True)
    assert plain["df_effective"] == pytest.approx(2.0)
    assert plain["caic"] == pytest.approx(plain["aic"])
    mixed = polars_glmm.fit(sleep, "Reaction ~ Days + (Days | Subject)")
    row = mixed.glance(conditional=True).row(0, named=True)
    leverage = mixed.augment(sleep, leverage=True)["leverage"]
    assert row["df_effective"] == pytest.approx(leverage.sum())
    assert 2.0 < row["df_effective"] < 36.0
    assert row["loglik_conditional"] > mixed.loglik
    assert mixed.glance().columns == row_columns(mixed)


def row_columns(fit: Any) -> list[str]:
    return fit.glance(conditional=True).columns[:-3]


def test_tables_of_a_collection_are_those_of_its_fits_with_keys_in_front() -> None:
    ticks = datasets.load("grouseticks")
    fits = polars_glmm.fit(ticks, "TICKS ~ cHEIGHT + (1 | LOCATION)", family="poisson", by="YEAR")
    for ask in (
        lambda one: one.influence(method="one_step"),
        lambda one: one.influence_terms(method="one_step"),
        lambda one: one.laplace_error(),
        lambda one: one.check("uniformity", rng=1),
    ):
        whole = ask(fits)
        for key, one in fits:
            assert whole.filter(pl.col("YEAR") == key).drop("YEAR").equals(ask(one))
    for asked in ("score", "count_table"):
        whole = getattr(fits, asked)(ticks)
        for key, one in fits:
            own = getattr(one, asked)(ticks.filter(pl.col("YEAR") == key))
            assert whole.filter(pl.col("YEAR") == key).drop("YEAR").equals(own)
    with pytest.raises(ModelError, match="No row of the frame"):
        fits.count_table(ticks.head(0))
