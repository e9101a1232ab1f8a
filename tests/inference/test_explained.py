"""R², intraclass correlations, principal components, exact tests of a variance, criteria and pooled imputations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import datasets
from polars_glmm.errors import FitWarning, ModelError
from polars_glmm.inference.rlrt import eigenvalues, null_draws
from tests.references import uses

SLEEP = datasets.load("sleepstudy")


def quiet(frame: pl.DataFrame, *formulas: str, **arguments: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return polars_glmm.fit(frame, *formulas, **arguments)


# how much

R2 = uses.entries("r2")


@pytest.mark.parametrize("name", R2)
def test_r2_agrees_with_the_references(name: str) -> None:
    entry = R2[name]
    table = uses.fit(entry).r2()
    assert table["method"].to_list() == [row["method"] for row in entry["results"]["r2"]]
    for got, want in zip(table.iter_rows(named=True), entry["results"]["r2"], strict=True):
        for column in entry["tolerance"]["r2"]:
            assert got[column] == uses.close(entry, "r2", column, want[column]), (want["method"], column)
        assert got["icc_unadjusted"] == pytest.approx(got["r2_conditional"] - got["r2_marginal"])


def test_without_random_effects_marginal_r2_is_that_of_least_squares() -> None:
    fit = quiet(SLEEP, "Reaction ~ Days", method="ml")
    row = fit.r2().row(0, named=True)
    eta = fit.augment(SLEEP)["fitted"].var()
    assert row["r2_marginal"] == row["r2_conditional"] == pytest.approx(eta / (eta + fit.estimate.phi**2))
    assert row["icc"] == 0.0


def test_an_intraclass_correlation_is_that_of_two_observations() -> None:
    fit = quiet(datasets.load("pastes"), "strength ~ 1 + (1 | batch/cask)")
    table = fit.icc()
    batch, cask = (float(one) for one in fit.varcorr()["estimate"][:2])
    total = batch + cask + fit.estimate.phi**2
    found = {tuple(sorted(group.split(":"))): icc for group, icc in table.select("group", "icc").rows()}
    assert found["batch",] == pytest.approx(batch / total)
    assert found["batch", "cask"] == pytest.approx((batch + cask) / total)
    assert table.filter(group="batch")["design_effect"][0] == pytest.approx(1.0 + 5.0 * batch / total)
    counted = quiet(datasets.load("pastes").with_columns(f=pl.lit(2)), "strength ~ 1 + (1 | batch)", frequency="f")
    assert counted.icc()["mean_size"][0] == 12.0


def _amounts() -> pl.DataFrame:
    """Counts and amounts over one factor; performance read them from a file."""
    rng = np.random.default_rng(12)
    g = np.repeat(np.arange(30), 12)
    x, u = rng.normal(size=360).round(3), rng.normal(size=30) * 0.6
    mu = np.exp(1.2 + 0.5 * x + u[g])
    counts = rng.poisson(rng.gamma(mu / 1.3, 1.3))
    rng.poisson(mu / 0.8)
    amounts = [rng.gamma(2.0, 0.75, size=j).sum() for j in rng.poisson(mu / 1.5)]
    share = 1.0 / (1.0 + np.exp(1.5) / mu)
    shares = np.clip(rng.beta(6.0 * share, 6.0 * (1.0 - share)), 1e-4, 1.0 - 1e-4).round(6)
    trials = rng.binomial(10, rng.beta(4.0 * share, 4.0 * (1.0 - share)))
    return pl.DataFrame(
        {"g": g, "x": x, "counts": counts, "amounts": np.round(amounts, 6), "shares": shares, "trials": trials, "n": 10}
    )


@pytest.mark.parametrize(
    ("response", "family", "residual", "marginal", "conditional"),
    [
        ("counts", "negative_binomial1", 0.48089598, 0.23417013, 0.51576620),
        pytest.param("counts", "generalized_poisson", 0.48598580, 0.23521206, 0.51644778, marks=pytest.mark.slow),
        pytest.param("amounts", "tweedie", 0.52710263, 0.21882131, 0.55993423, marks=pytest.mark.slow),
    ],
)
def test_on_the_log_scale_the_variation_counts(
    response: str, family: str, residual: float, marginal: float, conditional: float
) -> None:
    """performance 0.10.2, R 4.2.2: r2(glmmTMB(counts ~ x + (1 | g), family = nbinom1)), at exp(β₀) of the null fit."""
    table = quiet(_amounts(), f"{response} ~ x + (1 | g)", family=family).r2()
    assert table["method"].to_list() == ["lognormal", "lognormal_unit", "delta", "trigamma"]
    row = table.row(1, named=True)
    found = row["var_residual"], row["r2_marginal"], row["r2_conditional"]
    assert_allclose(found, (residual, marginal, conditional), rtol=3e-5)


@pytest.mark.slow
def test_shares_vary_on_the_logit_scale_as_draws_of_them_do() -> None:
    """Var(logit y) of a beta law at the null model's mean is exact; the delta method is that of a concentrated law."""
    found = quiet(_amounts(), "shares ~ x + (1 | g)", family="beta")
    null = quiet(_amounts(), "shares ~ 1 + (1 | g)", family="beta")
    mu, phi = 1.0 / (1.0 + np.exp(-null.estimate.beta[0])), found.estimate.phi
    table = found.r2()
    drawn = np.random.default_rng(1).beta(mu * phi, (1.0 - mu) * phi, size=200_000)
    assert table["method"].to_list() == ["trigamma", "delta_null", "delta_mean_fitted"]
    assert table["var_residual"][0] == pytest.approx(np.var(np.log(drawn / (1.0 - drawn))), rel=0.01)
    assert table["var_residual"][1] == pytest.approx(1.0 / (mu * (1.0 - mu) * (1.0 + phi)))


@pytest.mark.slow
def test_a_trial_of_a_row_whose_trials_go_together_is_one_trial() -> None:
    """P(y = 1) is the logistic of its predictor whatever phi, so the latent variance is the logistic's."""
    table = quiet(_amounts(), "trials ~ x + (1 | g)", family="beta_binomial", trials="n").r2()
    assert table["method"][0] == "theoretical"
    assert table["var_residual"][0] == pytest.approx(np.pi**2 / 3.0)


def test_each_category_has_shares_of_its_own_log_odds() -> None:
    frame = _amounts().with_columns(kind=pl.col("counts").clip(0, 2).cast(pl.String))
    fit = quiet(frame, "kind ~ x + (1 | g)", family="categorical")
    table, slopes = fit.r2(), fit.fixef().filter(term="x")["estimate"].to_numpy()
    assert table["category"].to_list() == ["1", "2"]
    assert_allclose(table["var_fixed"], slopes**2 * frame["x"].var(), rtol=1e-9)
    assert_allclose(table["var_random"], fit.varcorr()["estimate"], rtol=1e-9)
    assert_allclose(table["icc"], fit.icc()["icc"], rtol=1e-12)


def test_a_residual_variance_without_definition_is_refused() -> None:
    with pytest.raises(ModelError, match="gamma with the inverse link is not defined"):
        quiet(SLEEP, "Reaction ~ Days + (1 | Subject)", family="gamma", link="inverse").r2()
    with pytest.raises(ModelError, match="this model has none"):
        quiet(SLEEP, "Reaction ~ Days").icc()


REPCA = uses.entries("repca")


@pytest.mark.parametrize("name", REPCA)
def test_principal_components_agree_with_the_references(name: str) -> None:
    entry = REPCA[name]
    fit = uses.fit(entry)
    table = fit.repca()
    for got, want in zip(table.iter_rows(named=True), entry["results"]["repca"], strict=True):
        assert (got["group"], got["component"]) == (want["group"], want["component"])
        for column in ("std_dev_relative", "proportion"):
            assert got[column] == uses.close(entry, "repca", column, want[column])
    loadings = np.array([[one["value"] for one in row] for row in table["loading"]])
    sigma = fit.estimate.factors[0].covariances[0]
    assert_allclose(loadings.T @ np.diag(table["std_dev"] ** 2) @ loadings, sigma, rtol=1e-10)
    assert table["cumulative"][-1] == pytest.approx(1.0)


# which

RLRT = uses.entries("rlrt")


@pytest.mark.parametrize("name", RLRT)
def test_exact_tests_agree_with_the_references(name: str) -> None:
    entry = RLRT[name]
    fit = uses.fit(entry)
    term = None if entry["model"]["null"] is None else {
        "rlrt_pastes_batch": "batch", "rlrt_sleepstudy_slope": "(0 + Days | Subject)",
    }[name]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        row = polars_glmm.rlrt(fit, term, n=10_000, rng=1).row(0, named=True)
    (want,) = entry["results"]["rlrt"]
    for column in ("statistic", "p_value"):
        assert row[column] == uses.close(entry, "rlrt", column, want[column])
    assert row["chibar_p"] == pytest.approx(want["chibar_p"], rel=1e-3, abs=1e-12)
    assert row["method"] == ("exact" if term is None else "pseudo")


def test_draws_of_the_null_distribution_are_suprema() -> None:
    rng = np.random.default_rng(2)
    z = np.kron(np.eye(8), np.ones(5))
    x = np.stack([np.ones(40), rng.normal(size=40)])
    values = eigenvalues(x, z)
    dense = np.linalg.eigvalsh(z @ (np.eye(40) - x.T @ np.linalg.solve(x @ x.T, x)) @ z.T)
    assert_allclose(values, np.sort(dense)[::-1][: len(values)], rtol=1e-9)
    # by brute force: the restricted likelihood itself, maximised over a fine grid, for responses of the null model
    draws = null_draws(values, 38, 4000, np.random.default_rng(3))
    p0 = np.eye(40) - x.T @ np.linalg.solve(x @ x.T, x)
    basis = np.linalg.svd(p0)[0][:, :38]
    inside = basis.T @ z.T @ z @ basis
    mu, vectors = np.linalg.eigh(inside)
    grid = np.concatenate([[0.0], np.exp(np.linspace(-9, 6, 600))])
    squares = (rng.normal(size=(1000, 38)) @ vectors) ** 2
    d = squares @ (1.0 / (1.0 + grid[:, None] * np.maximum(mu, 0.0))).T
    brute = (38 * np.log(squares.sum(1)[:, None] / d) - np.log1p(grid[:, None] * np.maximum(mu, 0.0)).sum(1)).max(1)
    assert (draws < 1e-8).mean() == pytest.approx((brute < 1e-8).mean(), abs=0.06)
    for q in (0.8, 0.9, 0.95):
        share = (draws > np.quantile(brute, q)).mean()
        assert share == pytest.approx(1.0 - q, abs=4.0 * np.sqrt(q * (1 - q) * (1 / 1000 + 1 / 4000)))


def test_what_has_no_exact_test_is_refused_with_what_has() -> None:
    with pytest.raises(ModelError, match="several variances"):
        polars_glmm.rlrt(quiet(SLEEP, "Reaction ~ Days + (Days | Subject)"))
    with pytest.raises(ModelError, match="gaussian models with identity link"):
        polars_glmm.rlrt(quiet(SLEEP, "Reaction ~ Days + (1 | Subject)", family="gamma", link="log"))
    with pytest.raises(ModelError, match="name one of the random terms"):
        polars_glmm.rlrt(quiet(SLEEP, "Reaction ~ Days + (1 | Subject)"), "Subjects")
    with pytest.raises(ModelError, match="not a dict"):
        polars_glmm.rlrt({})


def test_weights_of_akaike_are_relative_likelihoods() -> None:
    ml = {
        "level": quiet(SLEEP, "Reaction ~ Days + (1 | Subject)", method="ml"),
        "slope": quiet(SLEEP, "Reaction ~ Days + (Days | Subject)", method="ml"),
        "log": quiet(SLEEP, "Reaction ~ Days + (1 | Subject)", family="gamma", link="log"),
    }
    table = polars_glmm.compare(ml)
    assert table["name"][0] == "slope"
    aicc = {name: fit.glance()["aicc"][0] for name, fit in ml.items()}
    best = min(aicc.values())
    for row in table.iter_rows(named=True):
        assert row["delta"] == pytest.approx(aicc[row["name"]] - best)
        assert row["weight"] / table["weight"][0] == pytest.approx(np.exp(-0.5 * row["delta"]))
    assert table["cumulative"][-1] == pytest.approx(1.0)
    assert polars_glmm.compare(list(ml.values()), by="bic")["name"][0] == ml["slope"].formula
    assert polars_glmm.compare([ml["level"], ml["level"]])["name"].n_unique() == 2
    with pytest.raises(ModelError, match="different data"):
        polars_glmm.compare([ml["level"], quiet(SLEEP[:-9], "Reaction ~ Days + (1 | Subject)", method="ml")])
    with pytest.raises(ModelError, match="REML log-likelihoods"):
        polars_glmm.compare([quiet(SLEEP, f"Reaction ~ {x} + (1 | Subject)") for x in ("Days", "1")])
    with pytest.raises(ModelError, match="by='dic'"):
        polars_glmm.compare(ml, by="dic")


# how certain, with values missing

POOL = uses.entries("pool")


def imputed(entry: Any) -> pl.DataFrame:
    """The frames of all imputations, one under the other."""
    given = entry["data"]
    frame, rows = uses.data(entry), np.array(given["rows_1_based"]) - 1
    response = given["response"]
    parts = []
    for number, values in enumerate(given["values"]):
        y = frame[response].cast(pl.Float64).to_numpy().copy()
        y[rows] = values
        parts.append(frame.with_columns(pl.Series(response, y), imputation=pl.lit(number)))
    return pl.concat(parts)


@pytest.mark.parametrize("name", POOL)
def test_pooled_estimates_agree_with_the_references(name: str) -> None:
    entry = POOL[name]
    model, frame = entry["model"], imputed(entry)
    if len(entry["data"]["values"]) != frame["imputation"].n_unique():
        pytest.fail("the values of the entry are not a list per imputation")
    fits = quiet(frame, model["formula"], by="imputation")
    dfcom = float(entry["call"].partition("dfcom = ")[2].split()[0].rstrip(".,;"))
    table = polars_glmm.pool(fits, dfcom=dfcom)
    for want in entry["results"]["pool"]:
        got = table.filter(term=want["term"]).row(0, named=True)
        for column in entry["tolerance"]["pool"]:
            assert got[column] == uses.close(entry, "pool", column, want[column]), (want["term"], column)
    rubin = polars_glmm.pool(fits, df="rubin")
    assert_allclose(rubin["df"], [row["df_rubin"] for row in entry["results"]["pool"]], rtol=5e-3)


def test_equal_imputations_pool_to_the_fit() -> None:
    fit = quiet(SLEEP, "Reaction ~ Days + (1 | Subject)")
    table = polars_glmm.pool([fit, fit, fit], df="normal")
    normal = fit.fixef(df="normal")
    for column in ("estimate", "std_error", "statistic", "p_value", "conf_low", "conf_high"):
        assert_allclose(table[column], normal[column], rtol=1e-12)
    assert table["between"].to_list() == [0.0, 0.0]
    assert table["fmi"].to_list() == [0.0, 0.0]
    assert polars_glmm.pool([fit.fixef(), fit.fixef()]).columns == polars_glmm.pool([fit, fit]).columns
    with pytest.raises(ModelError, match="at least two imputations"):
        polars_glmm.pool([fit])
    with pytest.raises(ModelError, match="other rows"):
        polars_glmm.pool([fit, quiet(SLEEP, "Reaction ~ 1 + (1 | Subject)")])


def test_a_collection_has_each_table() -> None:
    frame = datasets.load("chickweight").filter(pl.col.Diet.cast(pl.String).is_in(["1", "2"]))
    fits = polars_glmm.fit(frame, "weight ~ Time + (1 | Chick)", by="Diet")
    for verb in ("r2", "icc", "repca"):
        table = getattr(fits, verb)()
        assert table.columns[0] == "Diet"
        assert table.height == 2


# several parameters over imputations, and models averaged


def imputations(m: int, noise: float = 6.0) -> list[Any]:
    """Fits to sleepstudy with some reactions drawn anew, by REML."""
    rng, fits = np.random.default_rng(5), []
    for _ in range(m):
        drawn = pl.Series(rng.normal(size=SLEEP.height) * noise * (np.arange(SLEEP.height) % 3 == 0))
        fits.append(quiet(SLEEP.with_columns(Reaction=pl.col("Reaction") + drawn), "Reaction ~ Days + (1 | Subject)"))
    return fits


def test_one_parameter_by_d1_is_the_pooled_t_squared() -> None:
    fits = imputations(5)
    found = polars_glmm.pool_test(fits, "Days").row(0, named=True)
    pooled = polars_glmm.pool(fits).filter(term="Days").row(0, named=True)
    assert found["statistic"] == pytest.approx(pooled["statistic"] ** 2, rel=1e-6)
    assert found["riv"] == pytest.approx(pooled["riv"], rel=1e-6)
    assert (found["method"], found["num_df"], found["n_imputations"]) == ("D1", 1, 5)


def test_equal_imputations_are_tested_as_the_fit() -> None:
    """Without variance between imputations D1 is Wald's F, D2 and D3 the likelihood ratio over its parameters."""
    large = quiet(SLEEP, "Reaction ~ Days + I(Days**2) + (1 | Subject)", method="ml")
    small = quiet(SLEEP, "Reaction ~ 1 + (1 | Subject)", method="ml")
    terms = ["Days", "I(Days**2)"]
    names = large.fixef()["term"].to_list()[1:]
    wald = large.test(names, joint=True, df="normal")["statistic"].item()
    assert len(terms) == len(names)
    d1 = polars_glmm.pool_test([large] * 3, names).row(0, named=True)
    assert d1["statistic"] == pytest.approx(wald / 2, rel=1e-9)
    assert d1["den_df"] is None
    ratio = 2 * (large.loglik - small.loglik)
    for method in ("D2", "D3"):
        found = polars_glmm.pool_test([large] * 3, [small] * 3, method).row(0, named=True)
        assert found["statistic"] == pytest.approx(ratio / 2, rel=1e-6)


def test_likelihood_ratios_and_wald_tests_nearly_agree_over_imputations() -> None:
    large = imputations(6)
    small = [one.update("Reaction ~ 1 + (1 | Subject)") for one in large]
    d3, d1 = polars_glmm.pool_test(large, small), polars_glmm.pool_test(large, "Days")
    assert d3["riv"].item() == pytest.approx(d1["riv"].item(), rel=0.3)
    assert d3["statistic"].item() == pytest.approx(d1["statistic"].item(), rel=0.35)


def test_variance_components_are_pooled_on_their_own_scales() -> None:
    fits = imputations(4)
    found = polars_glmm.pool(fits, which="random")
    sd = np.array([one.varcorr()["std_dev"].to_numpy() for one in fits])
    assert_allclose(found["estimate"], np.exp(np.log(sd).mean(0)), rtol=1e-10)
    assert_allclose(found["between"], np.log(sd).var(0, ddof=1), rtol=1e-6)
    assert (found["conf_low"] > 0).all()
    assert found["group"].to_list() == ["Subject", "Residual"]


def test_an_imputation_that_failed_is_named() -> None:
    frame = pl.concat([SLEEP.with_columns(imputation=pl.lit(k)) for k in range(3)])
    frame = frame.with_columns(
        Reaction=pl.when(pl.col("imputation") == 1).then(250.0).otherwise(pl.col("Reaction"))
    )
    many = quiet(frame, "Reaction ~ Days + (1 | Subject)", by="imputation")
    with pytest.raises(ModelError, match="the fit of imputation 1 failed"):
        polars_glmm.pool(many)


def test_averages_by_hand() -> None:
    fits = {x: quiet(SLEEP, f"Reaction ~ {x} + (1 | Subject)", method="ml") for x in ("1", "Days", "Days + I(Days**2)")}
    weights = {row["name"]: row["weight"] for row in polars_glmm.compare(fits).iter_rows(named=True)}
    full = polars_glmm.average(fits)
    own = {x: fit.fixef(df="normal") for x, fit in fits.items()}
    days = {x: own[x].filter(term="Days").row(0, named=True) for x in ("Days", "Days + I(Days**2)")}
    mean = sum(weights[x] * row["estimate"] for x, row in days.items())
    variance = sum(weights[x] * (row["std_error"] ** 2 + (row["estimate"] - mean) ** 2) for x, row in days.items())
    variance += weights["1"] * mean**2
    got = full.filter(term="Days").row(0, named=True)
    assert (got["estimate"], got["std_error"]) == pytest.approx((mean, variance**0.5), rel=1e-9)
    assert got["weight"] == pytest.approx(1 - weights["1"])
    conditional = polars_glmm.average(fits, kind="conditional").filter(term="Days").row(0, named=True)
    assert conditional["estimate"] == pytest.approx(mean / (1 - weights["1"]), rel=1e-9)
    one = polars_glmm.average({"only": fits["Days"]})
    assert_allclose(one["std_error"], own["Days"]["std_error"], rtol=1e-12)
