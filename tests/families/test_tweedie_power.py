"""The power of Tweedie's variance as a parameter: its density in all three predictors, its ends, its fit."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import polars_glmm as pg
from polars_glmm.families import Gamma, Rows, Tweedie
from polars_glmm.likelihood.marginal.separation import Faded, limit_note, limit_notes
from polars_glmm.prediction.inverse_links import mean_of, slope_of
from tests.families.conftest import named
from tests.families.five_points import STEPS, next_ones

FREE, ROWS = Tweedie(), Rows(np.array([0.0, 0.05, 1.0, 30.0, 7.0]))
LINK = FREE.parameters[2].link


@pytest.mark.parametrize("omega", [-6.0, -2.0, 0.0, 1.5, 3.5])
def test_a_density_is_that_of_the_power_held(omega):
    power = float(LINK.inverse(np.array(omega)))
    eta = np.linspace(-1.0, 1.0, 5)
    found, held = FREE.density(ROWS, (eta, 0.2, omega), 2), Tweedie(power=power).density(ROWS, (eta, 0.2), 2)
    for place, value in named(held).items():
        assert_allclose(named(found)[place], value, rtol=1e-9, atol=1e-10)
    mu, both = np.exp(eta), (np.exp(0.2), power)
    for question in (lambda f, at: f.cdf(ROWS, mu, at), lambda f, at: f.variance(mu, at),
                     lambda f, at: f.unit_deviance(ROWS, mu, at)):  # fmt: skip
        assert_allclose(question(FREE, both), question(Tweedie(power=power), both[0]), rtol=1e-12)


def test_a_density_ends_at_the_gamma():
    """At a power of 2 every positive amount has the gamma's density, and its distribution function."""
    rows, eta = Rows(ROWS.y[1:]), np.linspace(-0.5, 1.0, 4)
    found = FREE.density(rows, (eta, 0.2, 40.0), 0).f + FREE.constant(rows)
    law = stats.gamma(np.exp(-0.2), scale=np.exp(eta + 0.2))
    assert_allclose(found, law.logpdf(rows.y), rtol=2e-5, atol=2e-5)
    assert_allclose(found, Gamma().density(rows, (eta, 0.2), 0).f + Gamma().constant(rows), rtol=2e-5, atol=2e-5)
    assert_allclose(FREE.cdf(rows, np.exp(eta), (np.exp(0.2), 2.0)), law.cdf(rows.y), rtol=1e-12)
    assert_allclose(FREE.cdf(rows, np.exp(eta), (np.exp(0.2), 2.0), upper=True), law.sf(rows.y), rtol=1e-12)


@pytest.mark.parametrize("omega", [-3.0, -1.0, 0.5, 3.0])
def test_each_derivative_is_the_difference_of_the_one_below(omega):
    def at(*moved: float):
        predictors = np.full(5, 0.1 + moved[0]), 0.2 + moved[1], omega + moved[2]
        return named(FREE.density(ROWS, predictors, 3, (3, 3, 3)))

    here, h = at(0.0, 0.0, 0.0), 1e-3
    for k in range(3):
        near = [at(*(times * h * np.eye(3)[k])) for times in STEPS]
        for one in next_ones(here, near, k, h):
            assert_allclose(one.slope, one.wanted, rtol=1e-6, atol=1e-8)


def test_its_link_is_the_same_in_plans():
    eta = np.array([-30.0, -2.0, 0.0, 0.7, 8.0, 30.0])
    at, (value, first, second, third) = pl.lit(pl.Series(eta)), LINK.value(eta, 3)
    assert_allclose(pl.select(mean_of(LINK.name, at)).to_series(), value, rtol=1e-14)
    assert_allclose(pl.select(slope_of(LINK.name, at)).to_series(), first, rtol=1e-12)
    assert_allclose(LINK.inverse(LINK.forward(value[1:5])), value[1:5], rtol=1e-14)
    near = [LINK.value(eta + m * 1e-3, 2) for m in (-2, -1, 1, 2)]
    for k, wanted in enumerate((first, second, third)):
        slope = (8.0 * (near[2][k] - near[1][k]) - (near[3][k] - near[0][k])) / 12e-3
        assert_allclose(slope, wanted, rtol=1e-7, atol=1e-12)


def frame(power: float, seed: int = 1, n: int = 200, spread: float = 0.4) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    g, x = rng.integers(0, 20, n), rng.normal(size=n)
    mu = np.exp(1.0 + 0.5 * x + spread * rng.normal(size=20)[g])
    y = Tweedie(power=power).draw(rng, mu, 0.8, Rows(np.zeros(n)))
    return pl.DataFrame({"g": g, "x": x, "y": y, "amount": rng.wald(mu, 2.0), "count": rng.poisson(mu)})


@pytest.mark.slow
def test_an_estimate_is_the_best_of_the_numbers_held(tmp_path):
    data = frame(1.5)
    fit = data.glmm.fit("y ~ x + (1 | g)", family="tweedie")
    table = fit.dispersion()
    assert table["parameter"].to_list() == ["phi", "power"]
    power = table["estimate"][1]
    logliks = [data.glmm.fit("y ~ x + (1 | g)", family=Tweedie(power=power + c)).loglik for c in (-0.03, 0.0, 0.03)]
    assert_allclose(fit.loglik, logliks[1], rtol=1e-10)
    assert logliks[1] > max(logliks[0], logliks[2])
    held = data.glmm.fit("y ~ x + (1 | g)", family="tweedie", fixed={"power": 1.4})
    assert_allclose(held.loglik, data.glmm.fit("y ~ x + (1 | g)", family=Tweedie(power=1.4)).loglik, rtol=1e-10)
    low, high = table["conf_low"][1], table["conf_high"][1]
    share = [(v - 1.01) / 0.99 for v in (low, power, high)]
    logits = [np.log(v / (1.0 - v)) for v in share]
    assert_allclose(logits[2] - logits[1], logits[1] - logits[0], rtol=1e-9)
    assert 1.01 < low < power < high < 2.0
    fit.write(tmp_path / "fit.glmm")
    assert pg.read_fit(tmp_path / "fit.glmm").dispersion().equals(table)
    assert fit.predict(data[:2], kind="power")["prediction"].to_list() == [pytest.approx(power)] * 2


def test_a_power_outside_its_range_is_refused():
    with pytest.raises(pg.ModelError, match="outside its range"):
        frame(1.5).glmm.fit("y ~ x", family="tweedie", fixed={"power": 2.5})


@pytest.mark.slow
def test_amounts_without_zeros_end_at_the_gamma_with_a_note():
    """Amounts whose variance goes by mu³ leave the power no end below 2."""
    data = frame(1.5)
    with pytest.warns(pg.FitWarning, match="power is estimated at 2"):
        fit = data.glmm.fit("amount ~ x", family="tweedie")
    assert fit.dispersion().row(1) == ("power", 2.0, None, None, None)
    gamma = data.glmm.fit("amount ~ x", family="gamma")
    assert_allclose(fit.loglik, gamma.loglik, atol=0.02)
    assert_allclose(fit.fixef()["estimate"], gamma.fixef()["estimate"], rtol=1e-3)


def test_counts_end_at_the_least_power_with_a_note():
    with pytest.warns(pg.FitWarning, match="power is estimated at 1.01, the least"):
        fit = frame(1.5).glmm.fit("count ~ x", family="tweedie")
    assert fit.dispersion().row(1) == ("power", 1.01, None, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("power", [1.2, 1.5, 1.8])
def test_the_truth_is_recovered(power):
    """Of 40 draws the mean estimate is within three of its standard errors of the truth, and intervals cover."""
    found = [frame(power, seed, 400, 0.0).glmm.fit("y ~ x", family="tweedie").dispersion().row(1) for seed in range(40)]
    estimates = np.array([row[1] for row in found])
    assert abs(estimates.mean() - power) < 3.0 * estimates.std(ddof=1) / np.sqrt(40)
    assert sum(row[3] < power < row[4] for row in found) >= stats.binom(40, 0.95).ppf(1e-3)


def test_a_profile_of_the_power_ends_where_powers_held_lose_what_it_says():
    """2(ℓ − ℓ(end)) is the quantile of χ²₁, by fits that hold the end; the power held has no interval."""
    data = frame(1.5)
    fit = data.glmm.fit("y ~ x", family="tweedie")
    row = fit.confint(method="profile", which="power").row(0, named=True)
    for end in (row["conf_low"], row["conf_high"]):
        lost = 2.0 * (fit.loglik - data.glmm.fit("y ~ x", family=Tweedie(power=end)).loglik)
        assert_allclose(lost, stats.chi2(1).ppf(0.95), rtol=1e-5)
    phi = [
        data.glmm.fit("y ~ x", **named).confint(method="profile", which="phi").select("conf_low", "conf_high").row(0)
        for named in ({"family": "tweedie", "fixed": {"power": 1.4}}, {"family": Tweedie(power=1.4)})
    ]
    assert_allclose(phi[0], phi[1], rtol=1e-6)


def test_the_joint_covariance_holds_the_power():
    """glmmTMB 1.1.5, R 4.2.2: vcov(glmmTMB(y ~ x + (1 | g), family = tweedie), full = TRUE), there of logit(p − 1)."""
    fit = frame(1.5).glmm.fit("y ~ x + (1 | g)", family="tweedie")
    full = fit.vcov(full=True)
    own = full.filter(term="power")
    assert own["other_term"].to_list() == ["Intercept", "x", "g: Intercept", "phi", "power"]
    assert set(own["parameter"]) == {"logit_dispersion"}
    p = fit.dispersion()["estimate"][1]
    rescaled = LINK.value(LINK.forward(np.array(p)), 1)[1] / ((p - 1.0) * (2.0 - p))
    found = own["covariance"].to_numpy() * rescaled ** np.array([1, 1, 1, 1, 2])
    expected = [4.4871408e-04, 4.7103100e-05, -3.2170472e-03, 1.7759942e-05, 4.9346923e-02]
    sd = np.sqrt(np.array([0.00864883645, 2.8801820e-03, 0.06189434261, 7.7495921e-03, 4.9346923e-02]))
    assert_allclose(found / sd, np.array(expected) / sd, atol=2e-6)
    error = fit.dispersion()["std_error"][1]
    assert_allclose(np.sqrt(own["covariance"][-1]) * LINK.value(LINK.forward(np.array(p)), 1)[1], error, rtol=1e-10)


@pytest.mark.slow
def test_what_follows_a_fit_knows_the_power():
    data = frame(1.5)
    fit = data.glmm.fit("y ~ x + (1 | g)", family="tweedie")
    held = data.glmm.fit("y ~ x + (1 | g)", family=Tweedie(power=fit.dispersion()["estimate"][1]))
    both = [one.augment(data, quantile=True).select("fitted", "quantile_low", "quantile_high") for one in (fit, held)]
    for name in both[0].columns:
        assert_allclose(both[0][name], both[1][name], rtol=1e-5, atol=1e-6)
    found = [one.check().select("test", "statistic").rows_by_key("test", unique=True) for one in (fit, held)]
    assert found[0]["dispersion"] == pytest.approx(found[1]["dispersion"], rel=1e-4)
    errors = [one.fixef(vcov=pg.CR("g"))["std_error"].to_numpy() for one in (fit, held)]
    assert_allclose(errors[0], errors[1], rtol=0.02)
    with pytest.raises(pg.ModelError, match="expected curvature of tweedie has no closed form"):
        data.glmm.fit("y ~ x + (1 | g)", family="tweedie", method=pg.Laplace(curvature="expected"))


@pytest.mark.parametrize(("end", "says"), [(2.0, "family='gamma'"), (1.01, "rises to it.")])
def test_a_formula_of_the_power_is_another_family_at_the_upper_end_alone(end: float, says: str) -> None:
    power = next(one for one in Tweedie().parameters if one.name == "power")
    (note,) = limit_notes([(power, end, Faded(("power: Intercept",), np.eye(1), 10, 10))])
    assert says in note.text
    assert ("smaller family" in note.advice) == (end == 2.0)
    assert ("counts" in limit_note(power, end).advice) == (end == 1.01)
