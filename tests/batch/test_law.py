"""The law of `by=`: collection[key] is the fit on the filtered frame, whichever route the key took."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose

import polars_glmm
from polars_glmm import AGQ, Fit, FitCollection, fit
from polars_glmm.errors import ColumnError, ConvergenceError, FitWarning, GlmmError, ModelError
from tests.batch.frames import N_KEYS, many, spoiled

SAME = 1e-6
"""Of the estimates, in standard errors."""
SAME_ERROR = 5e-5
"""Of variances of estimates: forward differences of gradients at modes that are exact to 1e-9 know them to that."""
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("count ~ x + (1 | group)", {"family": "poisson"}),
    ("count ~ 0 + f + x + (1 | group)", {"family": "poisson"}),
    ("count ~ x + f + w + (1 | group)", {"family": "poisson", "method": AGQ(nodes=5)}),
    ("count ~ x + (1 + t | group)", {"family": "poisson"}),
    ("count ~ x + (1 + t || group)", {"family": "poisson", "method": AGQ(nodes=3)}),
    ("count ~ log(exposure) + I(x * t) + (0 + t | group)", {"family": "poisson"}),
    ("count ~ x + offset(log(exposure)) + (1 | group)", {"family": "poisson", "frequency": "weight"}),
    ("count ~ poly(x, 2) + (1 | group)", {"family": "poisson"}),
    ("count ~ x + (1 | group) + (1 | f)", {"family": "poisson"}),
    ("count ~ x", {"family": "poisson"}),
    ("over ~ x + (1 | group)", {"family": "negative_binomial"}),
    ("size ~ x + w + (1 | group)", {"family": "gamma", "precision": "precision"}),
    ("size ~ x + (1 | group)", {"family": "inverse_gaussian"}),
    ("hit ~ x + (1 | group)", {"family": "binomial"}),
    ("hit ~ x + f + (1 | group)", {"family": "binomial", "link": "probit", "method": AGQ(nodes=4)}),
    ("wins ~ x * f + (1 | group)", {"family": "binomial", "trials": "trials"}),
    ("cbind(wins, trials - wins) ~ x + (1 | group:f)", {"family": "binomial", "link": "cloglog"}),
    ("size ~ x + (1 | group)", {"family": "gaussian", "link": "log"}),
    ("level ~ x + w + (1 | group)", {}),
    ("level ~ x + (1 + t | group)", {"method": "ml", "precision": "precision"}),
    ("level ~ x + f", {}),
]


def ids(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def together(frame: pl.DataFrame, formula: str, options: dict[str, Any]) -> FitCollection:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return fit(frame, formula, by="key", **options)


def alone(frame: pl.DataFrame, key: int, formula: str, options: dict[str, Any]) -> Fit | GlmmError:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        try:
            return fit(frame.filter(key=key), formula, **options)
        except GlmmError as error:
            return error


def assert_same_table(one: pl.DataFrame, other: pl.DataFrame, rtol: float, atol: float) -> None:
    assert one.schema == other.schema
    assert one.height == other.height
    for name, dtype in one.schema.items():
        if dtype == pl.Float64:
            a, b = one[name].fill_null(np.nan).to_numpy(), other[name].fill_null(np.nan).to_numpy()
            assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)
        else:
            assert one[name].to_list() == other[name].to_list(), name


def assert_same_fit(one: Fit, other: Fit, same_error: float = SAME_ERROR) -> None:
    """Everything a fit says, but the time it took; same_error: of variances of estimates."""
    assert_allclose(one.loglik, other.loglik, rtol=SAME)
    error = np.sqrt(np.diag(other.estimate.report_vcov))
    known = np.isfinite(error)
    assert_allclose((one.estimate.report - other.estimate.report)[known] / error[known], 0.0, atol=SAME)
    assert_allclose(one.estimate.report[~known], other.estimate.report[~known], rtol=SAME, atol=SAME)
    ratio = (one.estimate.report_vcov - other.estimate.report_vcov) / np.outer(error, error)
    assert_allclose(ratio[known][:, known], 0.0, atol=same_error)
    assert (np.isnan(np.diag(one.estimate.report_vcov)) == ~known).all()
    size = float(np.abs(other.fixef()["estimate"].fill_null(0.0)).max() or 0.0) + 1.0
    assert_same_table(one.fixef(), other.fixef(), same_error, same_error * size)
    assert_same_table(one.varcorr(), other.varcorr(), 10 * same_error, same_error)
    assert_same_table(one.dispersion(), other.dispersion(), same_error, same_error)
    assert_same_table(one.ranef(), other.ranef(), 1e-5, SAME)
    assert_same_table(one.glance().drop("seconds"), other.glance().drop("seconds"), SAME, SAME)
    assert one.vcov(full=True).drop("covariance").equals(other.vcov(full=True).drop("covariance"))
    assert one.notes == other.notes
    assert one.groups == other.groups
    assert_allclose(one.fingerprint.moments, other.fingerprint.moments, rtol=1e-12)
    assert one.recipe.predictors == other.recipe.predictors
    assert dict(one.recipe.categoricals) == dict(other.recipe.categoricals)
    for a, b in zip(one.recipe.factors, other.recipe.factors, strict=True):
        assert a.levels.equals(b.levels)
        assert a.terms == b.terms
    a, b = one.certificate, other.certificate
    assert a.exact == b.exact
    assert a.decrement < 1e-6 or b.decrement >= 1e-6
    if b.smallest_curvature is not None:
        assert_allclose(a.smallest_curvature, b.smallest_curvature, rtol=max(1e-4, same_error))
    for a, b in zip(one.estimate.factors, other.estimate.factors, strict=True):
        assert (a.mode_slope is None) == (b.mode_slope is None)
        if a.mode_slope is not None:
            assert_allclose(a.mode_slope, b.mode_slope, rtol=1e-3, atol=1e-4)
    if other.estimate.null_loglik is not None:
        assert_allclose(one.estimate.null_loglik, other.estimate.null_loglik, rtol=SAME)


@pytest.mark.one_in(24)
@pytest.mark.parametrize("frame", [many(), spoiled()], ids=["regular", "spoiled"])
@pytest.mark.parametrize(("formula", "options"), ROUTES, ids=ids)
def test_every_key_is_the_fit_of_its_rows(frame: pl.DataFrame, formula: str, options: dict[str, Any]) -> None:
    collection = together(frame, formula, options)
    assert len(collection) == frame["key"].n_unique()
    status = collection.status()
    for key in frame["key"].unique().sort():
        own = alone(frame, key, formula, options)
        state = status.row(by_predicate=pl.col("key") == key, named=True)
        if isinstance(own, GlmmError):
            assert state["status"] == "failed"
            with pytest.raises(type(own)) as caught:
                collection[key]
            assert str(caught.value) == str(own)
            continue
        assert state["status"] == ("singular" if own.singular else "ok")
        assert_same_fit(collection[key], own)


ALONE = ("count ~ poly(x, 2) + (1 | group)", "count ~ x", "level ~ x + f")
"""Formulas whose keys are fitted one by one."""


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("formula", "options"), ROUTES, ids=ids)
def test_what_is_usual_is_fitted_together(formula: str, options: dict[str, Any]) -> None:
    together_with = int((together(many(), formula, options).outcomes.batch_of >= 0).sum())
    assert together_with == 0 if formula in ALONE else together_with >= N_KEYS - 1


@pytest.mark.one_in(12)
@pytest.mark.parametrize(("formula", "options"), ROUTES, ids=ids)
def test_the_tables_of_a_collection_are_those_of_its_fits(formula: str, options: dict[str, Any]) -> None:
    collection = together(spoiled(), formula, options)
    for verb in ("fixef", "varcorr", "dispersion", "ranef", "glance"):
        whole = getattr(collection, verb)()
        parts = [getattr(one, verb)().insert_column(0, pl.lit(key).alias("key")) for key, one in collection]
        own = pl.concat(parts).with_columns(pl.col("key").cast(whole.schema["key"]))
        assert_same_table(whole, own, 1e-12, 1e-14)
    again = pickle.loads(pickle.dumps(collection))  # noqa: S301
    for (key, one), (other, two) in zip(collection, again, strict=True):
        assert key == other
        assert one.fixef().equals(two.fixef())
        assert one.ranef().equals(two.ranef())
        assert two.rows is None


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("formula", "options"),
    [
        ("count ~ x + offset(scale(t)) + (1 | group)", {"family": "poisson"}),
        ("level ~ x + offset(center(t)) + (1 | group)", {}),
        ("scale(level) ~ x + (1 | group)", {}),
        ("I(wins / trials) ~ x + (1 | group)", {"family": "binomial", "trials": "trials"}),
        ("cbind(wins, trials - wins) ~ x + (1 | group)", {"family": "binomial"}),
    ],
)
def test_whatever_learns_from_rows_learns_from_those_of_its_key(formula: str, options: dict[str, Any]) -> None:
    """In the offset and in the response too."""
    frame = many()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        together = fit(frame, formula, by="key", **options)
        for key in (0, 5):
            alone = fit(frame.filter(key=key), formula, **options)
            assert together[key].loglik == pytest.approx(alone.loglik, abs=1e-6)
            assert_allclose(together[key].fixef()["estimate"], alone.fixef()["estimate"], atol=1e-5)


@pytest.mark.slow
def test_modes_of_a_density_that_is_not_concave_are_found_to_rounding() -> None:
    """Floored curvatures make Newton's method linear: the log-likelihood of both engines is that of the exact modes."""
    rng = np.random.default_rng(11)
    keys, groups, rows = 8, 5, 8
    k, g = np.repeat(np.arange(keys), groups * rows), np.tile(np.repeat(np.arange(groups), rows), keys)
    x = rng.normal(size=len(k))
    y = rng.gamma(3.0, np.exp(0.3 + 0.4 * x + 0.7 * rng.normal(size=(keys, groups))[k, g]) / 3.0)
    frame = pl.DataFrame({"k": k, "g": g, "x": x, "y": y})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        together = fit(frame, "y ~ 1 + (0 + x | g)", family="inverse_gaussian", by="k")
        for key in set(range(keys)) - {2}:  # of which Laplace's approximation has no bound
            alone = fit(frame.filter(k=key), "y ~ 1 + (0 + x | g)", family="inverse_gaussian")
            assert together[key].loglik == pytest.approx(alone.loglik, abs=1e-7)
        with pytest.raises(ConvergenceError, match="mode of a level is about to vanish"):
            fit(frame.filter(k=2), "y ~ 1 + (0 + x | g)", family="inverse_gaussian")


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_keys_that_no_signed_64_bits_hold() -> None:
    frame = many()
    plain = fit(frame, "level ~ x + (1 | group)", by="key")
    for dtype, shift in ((pl.UInt64, 2**63), (pl.Int128, 2**100)):
        shifted = pl.Series("key", [shift + key for key in range(N_KEYS)], dtype=dtype).gather(frame["key"])
        moved = fit(frame.with_columns(shifted), "level ~ x + (1 | group)", by="key")
        assert moved.keys["key"].dtype == dtype
        assert_allclose(moved.glance()["loglik"], plain.glance()["loglik"], rtol=1e-12)


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_a_key_that_is_not_a_number_is_missing() -> None:
    """As it is in pandas, and in every column of a model."""
    frame = many().with_columns(pl.when(pl.col("key") == 3).then(float("nan")).otherwise("key").alias("key"))
    together = fit(frame, "level ~ x + (1 | group)", by="key")
    null = fit(frame.with_columns(pl.col("key").fill_nan(None)), "level ~ x + (1 | group)", by="key")
    assert together.keys.equals(null.keys)
    assert_allclose(together.glance()["loglik"], null.glance()["loglik"], rtol=1e-12)
    with pytest.raises(KeyError, match="No model has the key nan"):
        together[float("nan")]
    with pytest.raises(KeyError, match="not text"):
        together["5.0"]


@pytest.mark.filterwarnings("ignore::polars_glmm.FitWarning")
def test_arguments_that_do_not_fit_are_refused_in_words() -> None:
    frame = many()
    for by, told in ((["key", "key"], "twice"), (pl.col("key"), "make the column first"), (3, "make the column first")):
        with pytest.raises(ModelError, match=told):
            fit(frame, "level ~ x + (1 | group)", by=by)  # type: ignore[call-overload]
    for data in (frame, frame.lazy(), frame.clear()):
        with pytest.raises(ColumnError, match="Did you mean 'x'"):
            fit(data, "level ~ xx + (1 | group)", by="key")
    with pytest.raises(ModelError, match="takes one fit"):
        polars_glmm.simulate(frame, fit(frame, "level ~ x + (1 | group)", by="key"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"by= is an argument of fit\(\)"):
        polars_glmm.objective(frame, "level ~ x + (1 | group)", by="key")


def test_counts_without_overdispersion_have_the_poisson_limit_in_every_key() -> None:
    frame, formula, options = many(), "count ~ 1 + x + (1 | group)", {"family": "negative_binomial"}
    found = together(frame, formula, options)
    phi = found.dispersion().sort("key")["estimate"].to_numpy()
    assert np.isinf(phi).any()
    for key in np.flatnonzero(np.isinf(phi))[:3].tolist():
        one = alone(frame, key, formula, options)
        assert isinstance(one, Fit)
        assert found[key].loglik == pytest.approx(one.loglik, abs=1e-6)
        assert np.isinf(one.dispersion()["estimate"][0])
