"""The confidence band of the mean has the reference distribution of the coefficients: t where fixef() has t."""

from __future__ import annotations

import polars as pl
import pytest
from numpy.testing import assert_allclose

from polars_glmm import datasets

SLEEP = datasets.load("sleepstudy")
NEW = pl.DataFrame({"Days": [0.0, 3.0, 20.0]})


def ends(frame: pl.DataFrame) -> list[float]:
    return [*frame["prediction_low"], *frame["prediction_high"]]


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("random", ["(Days | Subject)", "(1 | Subject)"])
def test_the_band_at_any_point_is_the_interval_of_the_intercept_counted_from_there(method, random):
    def formula(at: float) -> str:
        return f"Reaction ~ I(Days - {at:g}) + {random}"

    intervals = [SLEEP.glmm.fit(formula(at), method=method).fixef() for at in NEW["Days"]]
    expected = [*(table["conf_low"][0] for table in intervals), *(table["conf_high"][0] for table in intervals)]
    many = pl.concat([SLEEP.with_columns(k=pl.lit(k)) for k in range(5)])
    collection = many.glmm.fit(formula(0), method=method, by="k")
    options = {"random": "none", "interval": "confidence"}
    for fit in (SLEEP.glmm.fit(formula(0), method=method), SLEEP.lazy().glmm.fit(formula(0), method=method)):
        assert_allclose(ends(fit.predict(NEW, **options)), expected, rtol=1e-6)
        assert_allclose(ends(fit.predict(NEW.lazy(), **options).collect()), expected, rtol=1e-6)
    keyed = NEW.join(pl.DataFrame({"k": [4, 0, 2]}), how="cross")
    for rows in collection.predict(keyed, **options).partition_by("k"):
        assert_allclose(ends(rows), expected, rtol=1e-6)


def test_without_random_effects_the_band_has_n_minus_p():
    fit = SLEEP.glmm.fit("Reaction ~ Days")
    table, band = fit.fixef(), fit.predict(NEW, interval="confidence")
    assert table["df"][0] == 178
    interval = table.select("conf_low", "conf_high").row(0)
    assert_allclose([band["prediction_low"][0], band["prediction_high"][0]], interval)


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_raw_powers_of_years_have_the_standard_errors_of_poly():
    """x'Vx with V of raw cubes cancels to nothing; in the basis of the computation it keeps its digits."""
    frame = SLEEP.with_columns(year=pl.col("Days") + 2010, count=(pl.col("Reaction") / 50).round())
    new = pl.DataFrame({"year": [2010, 2014, 2019]})
    options = {"random": "none", "std_error": True, "interval": "confidence"}
    for response, arguments in (("Reaction", {}), ("count", {"family": "poisson"})):
        raw = frame.glmm.fit(f"{response} ~ year + I(year^2) + I(year^3) + (1 | Subject)", **arguments)
        poly = frame.glmm.fit(f"{response} ~ poly(year, 3) + (1 | Subject)", **arguments)
        assert_allclose(raw.predict(new, **options).to_numpy(), poly.predict(new, **options).to_numpy(), rtol=1e-5)


def test_an_error_inside_a_lazy_prediction_says_nothing_of_the_plan():
    fit = SLEEP.glmm.fit("Reaction ~ Days + (1 | Subject)")
    plan = fit.predict(pl.LazyFrame({"Days": [1], "Subject": ["someone"]}))
    for engine in ("in-memory", "streaming"):
        with pytest.raises(ValueError, match="'someone'") as caught:
            plan.collect(engine=engine)
        assert "__glmm" not in str(caught.value)
        assert "occurred" not in str(caught.value)
