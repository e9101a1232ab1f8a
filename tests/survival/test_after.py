"""What comes after a fit of times: survival, hazards, medians, residuals, draws, and the same model as counts."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose
from polars.testing import assert_frame_equal

import polars_glmm
from polars_glmm.errors import ColumnError, ModelError
from polars_glmm.families.event_quantities import event_quantity
from polars_glmm.linalg.differences import jacobian
from tests.survival.frames import times

FRAME = times()
FORMULA = "surv(time, event) ~ x + (1 | g)"
FAMILIES = ["exponential", "weibull", polars_glmm.Weibull(metric="ph"), "lognormal", "loglogistic", "gompertz", "gamma"]


@pytest.fixture(params=FAMILIES, ids=str)
def fit(request):
    return polars_glmm.fit(FRAME, FORMULA, family=request.param)


@pytest.mark.one_in(3)
def test_hazards_are_what_survival_says(fit):
    """S = exp(−H), h = H', S(median) = ½; one row for each time, in order."""
    grid, h = [0.5, 1.0, 2.0, 4.0], 1e-5
    head = FRAME.head(3)
    at = lambda kind, times: fit.predict(head, kind=kind, times=times)["prediction"].to_numpy()
    survival, cumulative = at("survival", grid), at("cumulative_hazard", grid)
    assert fit.predict(head, kind="survival", times=grid)["prediction_time"].to_list() == grid * 3
    assert_allclose(survival, np.exp(-cumulative), rtol=1e-12)
    assert (np.diff(survival.reshape(3, 4), axis=1) < 0.0).all()
    moved = [at("cumulative_hazard", [t + d for t in grid]) for d in (h, -h)]
    assert_allclose(at("hazard", grid), (moved[0] - moved[1]) / (2.0 * h), rtol=1e-6)
    medians = fit.predict(head, kind="median", name="half")
    assert_allclose(fit.predict(medians, kind="survival", times="half")["prediction"], 0.5, rtol=1e-12)
    assert at("survival", [0.0]).tolist() == [1.0] * 3


def test_standard_errors_of_medians_count_the_shape(fit):
    """As those of `predictions` do; of an exponential and a lognormal median it has no part."""
    head = FRAME.head(2)
    link = fit.predict(head, kind="link", std_error=True)
    half = fit.predict(head, kind="median", std_error=True, interval="confidence")
    if fit.spec.family.name in ("exponential", "lognormal"):
        expected = half["prediction"] * link["prediction_std_error"]
        assert_allclose(half["prediction_std_error"], expected, rtol=1e-7)
    unit = fit.predict(head, kind="median", random="none", std_error=True)["prediction_std_error"]
    assert_allclose(unit, fit.predictions(head, average=False, kind="median")["std_error"], rtol=1e-6)
    assert (half["prediction_low"] < half["prediction"]).all()
    assert (half["prediction_high"] > half["prediction"]).all()


@pytest.mark.one_in(5)
def test_survival_of_the_population_is_the_average_over_random_effects(fit):
    """∫ S(t | b)φ(b) db by 150 nodes, and its error by the delta method in all that is estimated, by differences."""
    head, grid = FRAME.head(2), [0.0, 0.5, 2.0]
    made = fit.predict(head, kind="survival", times=grid, random="integrate", interval="confidence", std_error=True)
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    family, x = fit.spec.family, np.column_stack([np.ones(2), head["x"].to_numpy()])

    def averages(at):
        beta, sd = at[:2], np.exp(at[2])
        phi = None if len(at) == 3 else link.inverse(np.asarray(at[3]))
        shape = None if phi is None else np.full(2, phi)
        every = [
            event_quantity(family, "survival", x @ beta + sd * z, shape, np.full(2, t))[0] for t in grid for z in nodes
        ]
        return (weights @ np.reshape(every, (3, len(nodes), 2)) / np.sqrt(2.0 * np.pi)).T.ravel()

    link = family.parameters[-1].link
    phi = [] if fit.dispersion().is_empty() else [float(link.forward(np.asarray(fit.dispersion()["estimate"][0])))]
    at = np.array([*fit.fixef()["estimate"], np.log(fit.varcorr()["std_dev"][0]), *phi])
    assert_allclose(made["prediction"], averages(at), rtol=1e-8)
    if not phi or family.has_phi:  # vcov() has phi only
        slopes = jacobian(averages, at, np.full(len(at), 1e-4))
        vcov = fit.vcov(full=True)["covariance"].to_numpy().reshape(len(at), len(at))
        errors = np.sqrt(np.einsum("kr,kl,lr->r", slopes, vcov, slopes))
        assert_allclose(made["prediction_std_error"], errors, rtol=1e-5, atol=1e-12)
    low, value, high = (made[f"prediction{end}"].to_numpy() for end in ("_low", "", "_high"))
    assert (low <= value + 1e-12).all()
    assert (value <= high + 1e-12).all()
    assert_allclose([low[0], high[0]], 1.0, rtol=1e-12)


def test_a_mean_that_is_infinite_is_null():
    heavy = polars_glmm.fit(FRAME, FORMULA, family="loglogistic", fixed={"phi": 0.9})
    assert heavy.predict(FRAME.head(2))["prediction"].to_list() == [None, None]
    assert heavy.predict(FRAME.head(2), kind="median")["prediction"].null_count() == 0


def test_martingale_residuals_are_events_less_cumulative_hazards(fit):
    found = fit.augment(FRAME, quantile=True, rng=1)
    hazard = fit.predict(FRAME, kind="cumulative_hazard", times="time")["prediction"]
    assert_allclose(found["resid"], FRAME["event"].cast(pl.Float64) - hazard, rtol=1e-10, atol=1e-12)
    events = FRAME["event"]
    assert_allclose(found["quantile_low"], 1.0 - np.exp(-hazard.to_numpy()), rtol=1e-9)
    assert_allclose(found["quantile_high"].filter(~events), 1.0)
    assert (found["resid_deviance"].sign() == found["resid"].sign()).all()
    assert_frame_equal(found, FRAME.lazy().glmm.augment(fit, quantile=True, rng=1).collect())


def test_draws_stand_in_the_distribution_that_is_predicted(fit):
    long = pl.concat([FRAME.head(1)] * 4000)
    drawn = long.glmm.simulate(fit, rng=3, random="conditional")
    p = np.sort(fit.predict(drawn, kind="survival", times="sim_1")["prediction"].to_numpy())
    assert np.abs(p - (np.arange(4000) + 0.5) / 4000).max() < 1.63 / np.sqrt(4000)


def test_a_level_without_an_event_is_said_to_run_off():
    blind = FRAME.with_columns(event=pl.col("event") & (pl.col("arm") == "a"))
    with pytest.warns(polars_glmm.FitWarning, match=r"separation.*arm"):
        fit = polars_glmm.fit(blind, "surv(time, event) ~ arm + (1 | g)", family="weibull")
    assert fit.fixef()["std_error"].to_list()[1] is None


def test_a_constant_hazard_is_a_poisson_count_with_an_offset():
    rows = polars_glmm.split_times(FRAME, [])
    counts = polars_glmm.fit(rows, "events ~ x + offset(log(exposure)) + (1 | g)", family="poisson")
    hazards = polars_glmm.fit(FRAME, FORMULA, family=polars_glmm.Weibull(metric="ph"), fixed={"phi": 1.0})
    assert_allclose(counts.fixef()["estimate"], hazards.fixef()["estimate"], rtol=1e-6)
    shift = float(FRAME.filter("event")["time"].log().sum())
    assert counts.loglik == pytest.approx(hazards.loglik + shift, abs=1e-7)


def test_pieces_hold_all_of_the_time_and_every_event():
    late = FRAME.with_columns(begun=pl.col("time") / 3)
    for entry, whole in ((None, FRAME["time"]), ("begun", FRAME["time"] * 2 / 3)):
        rows = polars_glmm.split_times(late, [1.0, 2.5, 6.0], entry=entry)
        assert rows["exposure"].sum() == pytest.approx(whole.sum())
        assert rows["events"].sum() == FRAME["event"].sum()
        assert (rows["exposure"] > 0.0).all()
        lazy = polars_glmm.split_times(late.lazy(), [1.0, 2.5, 6.0], entry=entry)
        assert isinstance(lazy, pl.LazyFrame)
        assert_frame_equal(lazy.collect(), rows)


def test_what_cannot_be_cut_or_predicted_is_said():
    with pytest.raises(ModelError, match="increasing numbers above 0"):
        polars_glmm.split_times(FRAME, [2.0, 1.0])
    with pytest.raises(ColumnError, match="events"):
        polars_glmm.split_times(FRAME.with_columns(events=1), [2.0])
    fit = polars_glmm.fit(FRAME, "surv(time, event) ~ x", family="weibull")
    for arguments, words in (
        ({"kind": "survival"}, "needs times="),
        ({"kind": "median", "times": [1.0]}, "times= is of"),
        ({"kind": "hazard", "times": [-1.0]}, "not negative"),
        ({"kind": "hazard", "times": [1.0], "random": "integrate"}, "no average of hazards"),
    ):
        with pytest.raises(ModelError, match=words):
            fit.predict(FRAME, **arguments)
    with pytest.raises(ColumnError, match="no numeric column"):
        fit.predict(FRAME, kind="hazard", times="arm")
    with pytest.raises(ModelError, match="censored"):
        fit.bootstrap(n=2, rng=1)
