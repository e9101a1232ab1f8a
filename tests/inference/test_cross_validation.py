"""Cross-validation: densities of what was left out are differences of likelihoods, and agree with refits elsewhere."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal, norm

import polars_glmm
from polars_glmm import datasets
from polars_glmm.errors import FitWarning, ModelError
from tests.references import uses

SLEEP = datasets.load("sleepstudy")
INFLUENCE = {name: entry for name, entry in uses.entries("influence").items() if entry["results"]["groups"][0]["elpd"]}


def quiet(frame: pl.DataFrame, *formulas: str, **arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(frame, *formulas, **arguments)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", INFLUENCE)
def test_densities_of_groups_left_out_agree_with_the_references(name: str) -> None:
    entry = INFLUENCE[name]
    fit = uses.fit(entry)
    table = fit.cross_validate(f"group:{entry['model']['group']}")
    found = {row["fold"]: row for row in table.iter_rows(named=True)}
    for want in entry["results"]["groups"]:
        got = found[want["level"]]
        assert got["n_obs"] == want["n"]
        assert got["elpd"] == uses.close(entry, "groups", "elpd", want["elpd"])
        assert got["status"] == "ok"


def test_rows_of_known_groups_are_foretold_given_the_others() -> None:
    fit = quiet(SLEEP, "Reaction ~ Days + (1 | Subject)", method="ml")
    table = fit.cross_validate(4, rng=3)
    order = np.random.default_rng(3).permutation(180)
    fold = np.empty(180, dtype=int)
    fold[order] = np.arange(180) % 4
    y, x = SLEEP["Reaction"].to_numpy(), SLEEP["Days"].to_numpy()
    subject = SLEEP["Subject"].cast(pl.String).to_numpy()
    for number in range(4):
        out = fold == number
        again = quiet(SLEEP.filter(pl.Series(~out)), "Reaction ~ Days + (1 | Subject)", method="ml")
        beta, (sigma,), phi = again.estimate.beta, again.estimate.factors[0].covariances, again.estimate.phi
        v = sigma[0, 0] * (subject[:, None] == subject) + phi**2 * np.eye(180)
        mean = beta[0] + beta[1] * x
        weight = np.linalg.solve(v[np.ix_(~out, ~out)], v[np.ix_(~out, out)])
        given = mean[out] + weight.T @ (y[~out] - mean[~out])
        spread = v[np.ix_(out, out)] - weight.T @ v[np.ix_(~out, out)]
        row = table.row(number, named=True)
        assert row["elpd"] == pytest.approx(multivariate_normal(given, spread).logpdf(y[out]), rel=1e-5)
        predicted = again.predict(SLEEP.filter(pl.Series(out)))["prediction"].to_numpy()
        assert row["rmse"] == pytest.approx(np.sqrt(np.mean((y[out] - predicted) ** 2)), rel=1e-4)


def test_without_random_effects_densities_are_those_of_rows() -> None:
    few = SLEEP[:30]
    fit = quiet(few, "Reaction ~ Days", method="ml")
    table = fit.cross_validate(30, rng=1)
    rows = np.random.default_rng(1).permutation(30)
    again = quiet(few.filter(pl.int_range(pl.len()) != int(rows[0])), "Reaction ~ Days", method="ml")
    left = few.row(int(rows[0]), named=True)
    mean = again.estimate.beta @ [1.0, left["Days"]]
    assert table["elpd"][0] == pytest.approx(norm(mean, again.estimate.phi).logpdf(left["Reaction"]), rel=1e-7)


def test_levels_go_into_folds_together() -> None:
    fit = quiet(datasets.load("pastes"), "strength ~ 1 + (1 | batch/cask)")
    table = fit.cross_validate(5, "batch", rng=2)
    assert table["n_obs"].to_list() == [12] * 5
    alone = fit.cross_validate("group:batch")
    assert alone["fold"].to_list() == list("ABCDEFGHIJ")
    assert alone["elpd"].is_finite().all()
    both = fit.cross_validate(5, "batch", rng=2)
    assert_allclose(both["elpd"], table["elpd"])


def test_a_fold_without_which_a_coefficient_is_lost_says_so() -> None:
    rng = np.random.default_rng(0)
    g = np.repeat(np.arange(6), 5)
    frame = pl.DataFrame({"g": g, "x": (g == 0).astype(float), "y": rng.normal(size=30) + rng.normal(size=6)[g]})
    table = quiet(frame, "y ~ x + (1 | g)").cross_validate("group:g")
    assert table.filter(fold="0")["status"].to_list() == ["failed"]
    assert table["elpd"].null_count() == 1


def test_folds_that_are_none_are_refused() -> None:
    fit = quiet(SLEEP, "Reaction ~ Days + (1 | Subject)")
    for folds, says in ((1, "folds=1"), ("Subject", "'group:NAME'"), (181, "there are 180 rows")):
        with pytest.raises(ModelError, match=says):
            fit.cross_validate(folds)
    with pytest.raises(ModelError, match="Did you mean 'Subject'"):
        fit.cross_validate("group:Subjekt")
