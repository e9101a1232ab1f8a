"""augment(): fitted values and the textbook residuals of every family, written out."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal
from scipy.special import xlogy

from polars_glmm.errors import ColumnError, UnknownLevelError
from polars_glmm.prediction.residuals import augment

COLUMNS = ["fitted", "fixed", "resid", "resid_pearson", "resid_deviance"]
PHI = 0.7


def negative_binomial_deviance(y, mu):
    return 2 * (xlogy(y, y / mu) - (y + PHI) * np.log((y + PHI) / (mu + PHI)))


# family: formula, arguments, column of y, variance of y, squared deviance residual (McCullagh & Nelder 1989, §2.3)
FAMILIES = {
    "gaussian": ("y ~ x + (x | g)", {}, "y", lambda mu: PHI**2, lambda y, mu: (y - mu) ** 2),
    "poisson": (
        "y ~ x + (1 | g)", {}, "y", lambda mu: mu, lambda y, mu: 2 * (xlogy(y, y / mu) - (y - mu)),
    ),
    "gamma": (
        "z ~ x + (1 | g)", {}, "z", lambda mu: PHI * mu**2, lambda y, mu: 2 * ((y - mu) / mu - np.log(y / mu)),
    ),
    "inverse_gaussian": (
        "z ~ x + (1 | g)", {}, "z", lambda mu: PHI * mu**3, lambda y, mu: (y - mu) ** 2 / (mu**2 * y),
    ),
    "negative_binomial": ("y ~ x + (1 | g)", {}, "y", lambda mu: mu + mu**2 / PHI, negative_binomial_deviance),
}  # fmt: skip


def check(found: pl.DataFrame, y, mu, fixed, variance, deviance) -> None:
    assert_allclose(found["fitted"], mu, rtol=1e-12)
    assert_allclose(found["fixed"], fixed, rtol=1e-12)
    assert_allclose(found["resid"], y - mu, rtol=1e-9, atol=1e-12)
    assert_allclose(found["resid_pearson"], (y - mu) / np.sqrt(variance), rtol=1e-9, atol=1e-12)
    assert_allclose(found["resid_deviance"], np.sign(y - mu) * np.sqrt(deviance), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_residuals_are_the_textbook_formulae(made, trial, family):
    formula, arguments, response, variance, deviance = FAMILIES[family]
    fit = made(trial, formula, family=family, **arguments)
    mean, y = fit.recipe.spec.family.mean, trial[response].to_numpy()
    mu = mean(fit.eta)
    found = augment(trial, fit)
    assert_frame_equal(found.drop(COLUMNS), trial)
    check(found, y, mu, mean(fit.eta_fixed), variance(mu), deviance(y, mu))


@pytest.mark.parametrize("family", ["gaussian", "gamma", "inverse_gaussian"])
def test_precision_divides_the_variance(made, trial, family):
    formula, _, response, variance, deviance = FAMILIES[family]
    fit = made(trial, formula, family=family, precision="w")
    mean, y, w = fit.recipe.spec.family.mean, trial[response].to_numpy(), trial["w"].to_numpy()
    mu = mean(fit.eta)
    check(augment(trial, fit), y, mu, mean(fit.eta_fixed), variance(mu) / w, w * deviance(y, mu))


BINOMIAL = {
    "counts": ("s ~ x + (1 | g)", {"trials": "m"}),
    "cbind": ("cbind(s, m - s) ~ x + (1 | g)", {}),
    "proportion": ("p ~ x + (1 | g)", {"trials": "m"}),
}


@pytest.mark.parametrize("response", BINOMIAL)
def test_binomial_residuals_are_of_proportions(made, trial, response):
    formula, arguments = BINOMIAL[response]
    frame = trial.with_columns(p=pl.col("s") / pl.col("m"))
    fit = made(frame, formula, family="binomial", **arguments)
    mean, n, s = fit.recipe.spec.family.mean, frame["m"].to_numpy(), frame["s"].to_numpy()
    mu = mean(fit.eta)
    y = s / n
    deviance = 2 * (xlogy(s, y / mu) + xlogy(n - s, (1 - y) / (1 - mu)))
    check(augment(frame, fit), y, mu, mean(fit.eta_fixed), mu * (1 - mu) / n, deviance)


@pytest.mark.parametrize("response", [pl.col("flag"), pl.col("flag").cast(pl.Int8)], ids=["boolean", "zero-one"])
def test_bernoulli_outcomes(made, trial, response):
    frame = trial.with_columns(won=response)
    fit = made(frame, "won ~ x + (1 | g)", family="binomial")
    mu, y = fit.recipe.spec.family.mean(fit.eta), frame["flag"].to_numpy().astype(float)
    found = augment(frame, fit)
    assert_allclose(found["resid"], y - mu, rtol=1e-12)
    assert_allclose(found["resid_deviance"], np.sign(y - mu) * np.sqrt(-2 * np.log(np.where(y == 1, mu, 1 - mu))))


def test_a_modelled_dispersion_is_that_of_its_row(made, trial):
    fit = made(trial, "y ~ x + (1 | g)", "phi ~ t")
    sigma = np.exp(fit.estimate.gamma @ fit.design.phi.x)
    found = augment(trial, fit)
    assert_allclose(found["resid_pearson"], (trial["y"].to_numpy() - fit.eta) / sigma, rtol=1e-9)


@pytest.mark.parametrize("column", ["z", "x", "g", "w", "t"])
def test_anything_missing_gives_nulls(made, trial, column):
    fit = made(trial, "z ~ x + (1 | g)", "phi ~ t", family="gamma", precision="w")
    holes = trial.with_columns(pl.when(pl.int_range(pl.len()) % 3 != 0).then(pl.col(column)).name.keep())
    for frame in (holes, holes.lazy()):
        found = augment(frame, fit).lazy().collect()
        for name in COLUMNS:
            assert found[name].is_null().to_list() == holes[column].is_null().to_list()
        assert_frame_equal(found.drop(COLUMNS), holes)
        expected = augment(trial, fit).filter(holes[column].is_not_null())
        assert_frame_equal(found.filter(holes[column].is_not_null()).select(COLUMNS), expected.select(COLUMNS))


def test_an_unseen_level_raises_with_a_remedy(made, trial):
    fit = made(trial, "y ~ x + (1 | g)")
    with pytest.raises(UnknownLevelError, match=r"'g' has level 'new'.*drop these rows.*predict"):
        augment(trial.with_columns(g=pl.lit("new")), fit)
    # … but a row without a response has no residual to refuse
    unknown = trial.with_columns(g=pl.lit("new"), y=pl.lit(None, dtype=pl.Float64))
    assert augment(unknown, fit)["fitted"].null_count() == trial.height


def test_a_clash_raises_and_prefix_is_the_way_out(made, trial):
    fit = made(trial, "y ~ x + (1 | g)")
    once = augment(trial, fit)
    with pytest.raises(ColumnError, match=r"already has 'fitted'.*prefix="):
        augment(once, fit)
    assert augment(once, fit, prefix=".").columns[-5:] == [f".{name}" for name in COLUMNS]
    with pytest.raises(ColumnError, match="augment needs 'y'"):
        augment(trial.drop("y"), fit)
