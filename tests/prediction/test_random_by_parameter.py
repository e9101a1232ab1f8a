"""random= of predictions by parameter: effects on mu, zi, phi or a parameter of a curve count, or do not."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm as pg

pytestmark = pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")


@cache
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(8)
    g, x = np.repeat(np.arange(20), 20), rng.normal(size=400)
    b, c = rng.normal(size=(2, 20))
    count = rng.poisson(np.exp(1.0 + 0.3 * x + 0.5 * b[g])) * (rng.random(400) > 1.0 / (1.0 + np.exp(1.0 - c[g])))
    t = np.tile(np.arange(20.0), 20)
    curve = (8.0 + b[g]) / (1.0 + np.exp((9.0 + c[g] - t) / 2.0)) + 0.3 * rng.normal(size=400)
    return pl.DataFrame({"g": g, "x": x, "t": t, "count": count, "curve": curve})


@cache
def zip_fit() -> pg.Fit:
    return rows().glmm.fit("count ~ x + (1 | g)", "zi ~ 1 + (1 | g)", family="poisson")


def of(fit: pg.Fit, **arguments: object) -> np.ndarray:
    told = fit.predict(rows().head(50), std_error=True, **arguments)  # type: ignore[arg-type]
    return told.select("prediction", "prediction_std_error").to_numpy()


def test_a_mean_is_made_of_the_parameters_as_they_are_asked_for() -> None:
    fit = zip_fit()
    mu, zi = of(fit, kind="mu")[:, 0], of(fit, kind="zi", random="none")[:, 0]
    assert_allclose(of(fit, random={"zi": "none"})[:, 0], (1.0 - zi) * mu, rtol=1e-12)
    assert_allclose(of(fit, random={"mu": "none", "zi": "none"}), of(fit, random="none"), rtol=1e-12)
    assert_allclose(of(fit, random={"mu": ["g"], "zi": "all"}), of(fit), rtol=1e-12)
    assert_allclose(of(fit, kind="zi", random={"mu": "none"}), of(fit, kind="zi"), rtol=1e-12)


def test_effects_that_do_not_count_bring_no_error() -> None:
    """That of mu alone: the slope of the mean times the error of the link, and of zi its fixed part's."""
    fit = zip_fit()
    one, other = of(fit, random={"zi": "none"}), of(fit)
    assert np.isfinite(one).all()
    assert (np.abs(one[:, 1] - other[:, 1]) > 1e-6).all()


def test_parameters_of_a_curve_are_asked_for_one_by_one() -> None:
    fit = rows().glmm.fit("curve ~ SSlogis(t, Asym, xmid, scal)", "Asym ~ 1 + (1 | g)", "xmid ~ 1 + (1 | g)")
    alone = rows().head(50)
    asym, xmid, scal = (fit.predict(alone, kind=kind)["prediction"].to_numpy() for kind in ("Asym", "xmid", "scal"))
    fixed = fit.predict(alone, kind="xmid", random="none")["prediction"].to_numpy()
    t = alone["t"].to_numpy()
    assert_allclose(of(fit)[:, 0], asym / (1.0 + np.exp((xmid - t) / scal)), rtol=1e-10)
    assert_allclose(of(fit, random={"xmid": "none"})[:, 0], asym / (1.0 + np.exp((fixed - t) / scal)), rtol=1e-10)
    assert_allclose(of(fit, random={"xmid": "none", "Asym": "none"}), of(fit, random="none"), rtol=1e-10)


@pytest.mark.parametrize(
    ("random", "words"),
    [
        ({"phi": "all"}, "no random effects. There are some on 'mu' and 'zi'"),
        ({"zi": "some"}, "use 'all', 'none'"),
        ({"zi": ["h"]}, "is not a grouping factor"),
    ],
)
def test_what_has_no_effects_is_named(random: dict[str, object], words: str) -> None:
    with pytest.raises(pg.ModelError, match=words):
        of(zip_fit(), random=random)
